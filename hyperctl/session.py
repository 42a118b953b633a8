"""Being attached to a process: window size, raw terminal, forwarded signals, exit code."""

from __future__ import annotations

from contextlib import suppress

from hyperctl import terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import HyperctlError
from hyperctl.api.streams import Stream


def send_size(client: Client, container: str, exec_id: str = "") -> bool:
    """Tell the daemon the size of our window; say whether it took it (before a start it may not)."""
    size = terminal.window_size()
    if size is None:
        return True
    try:
        client.resize(container, exec_id, rows=size[0], columns=size[1])
    except HyperctlError:
        return False
    return True


def _resend(client: Client, container: str, exec_id: str) -> None:
    send_size(client, container, exec_id)


def converse(
    stream: Stream, client: Client, *, container: str, exec_id: str = "", tty: bool, sized: bool = True
) -> bool:
    """Join our stdin, stdout and stderr with a process until it ends.

    Args:
        stream: the hijacked connection.
        client: for the window's size.
        container: whose terminal it is.
        exec_id: the exec, when it is not the main process.
        tty: the process has a terminal.
        sized: the daemon already knows the size of our window.

    Returns:
        False when the user typed the detach keys.

    """
    if not tty:
        return stream.pump(raw=False)
    with terminal.leaving(), terminal.resized() as wakeup, terminal.raw_terminal():
        if not sized:
            send_size(client, container, exec_id)
        return stream.pump(
            raw=True,
            detach_keys=True,
            wakeup=wakeup,
            on_wakeup=lambda: _resend(client, container, exec_id),
        )


def forward_signal(client: Client, container: str, number: int) -> None:
    """Send a signal to a container over a connection of its own; one that just ended does not mind."""
    other = Client(client.endpoint)
    with suppress(HyperctlError):
        other.kill_container(container, number)
    other.close()
