"""Being attached to a process: window size, raw terminal, forwarded signals, exit code."""

from __future__ import annotations

from contextlib import suppress

from hyperctl import terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import HyperctlError, NotFound
from hyperctl.api.streams import Stream

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    Answer = TypeVar("Answer")


def first_container(client: Client, pod: str, refusal: HyperctlError) -> str:
    """Return the id of a pod's first container.

    Raises:
        HyperctlError: the refusal; there is no such pod, or it has no container.

    """
    rows = client.list_items("container", pod=pod)
    if not rows:
        raise refusal
    return rows[0][0]


def of_first(client: Client, name: str, ask: Callable[[str], Answer]) -> Answer:
    """Ask for something of a container; the name of a pod means its first container, unless a container has that name.

    Raises:
        NotFound: there is neither.

    """
    try:
        return ask(name)
    except NotFound as error:
        return ask(first_container(client, name, error))


def send_size(client: Client, container: str, exec_id: str = "") -> None:
    """Tell the daemon the size of our window.

    It is told before a process starts, for the process to start with it, and again when it runs: a daemon may refuse
    or forget the first.
    """
    size = terminal.window_size()
    if size is not None:
        with suppress(HyperctlError):
            client.resize(container, exec_id, rows=size[0], columns=size[1])


def converse(stream: Stream, client: Client, *, container: str, exec_id: str = "", tty: bool) -> bool:
    """Join our stdin, stdout and stderr with a process until it ends.

    Args:
        stream: the hijacked connection.
        client: for the window's size.
        container: whose terminal it is.
        exec_id: the exec, when it is not the main process.
        tty: the process has a terminal.

    Returns:
        False when the user typed the detach keys.

    """
    if not tty:
        return stream.pump(raw=False)
    with terminal.leaving(), terminal.resized() as wakeup, terminal.raw_terminal():
        send_size(client, container, exec_id)
        return stream.pump(
            raw=True,
            detach_keys=True,
            wakeup=wakeup,
            on_wakeup=lambda: send_size(client, container, exec_id),
        )


def forward_signal(client: Client, container: str, number: int) -> None:
    """Send a signal to a container over a connection of its own; one that just ended does not mind."""
    other = Client(client.endpoint)
    with suppress(HyperctlError):
        other.kill_container(container, number)
    other.close()
