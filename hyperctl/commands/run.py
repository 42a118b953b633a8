"""`run`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from hyperctl import making, output, session, terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import ApiError, HyperctlError, UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.commands.create import read_pod
from hyperctl.options import SPEC_OPTIONS, SpecOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


_ENDLESS = {"always", "unless-stopped"}


@command(
    "run",
    *SPEC_OPTIONS,
    Option("-a", "--attach", flag=True, text="With --podfile: attach to the first container."),
    Option("-d", "--detach", flag=True, text="Do not attach."),
    Option("--rm", field="remove", flag=True, text="Remove the pod at the end, also with -d."),
    Option("-q", "--quiet", flag=True, text="With -d or --podfile: print the id alone."),
    Argument("words", "IMAGE [COMMAND...]", default="", many=True, complete="command"),
    examples=(
        "hyperctl run --rm busybox echo hello",
        "hyperctl run -t --rm busybox sh              # ctrl-p ctrl-q leaves it running",
        "hyperctl run -d --name web1 --memory 256 --publish 8080:80 nginx",
        "hyperctl run -v /srv/data:/data:ro --env MODE=demo busybox ls /data",
        "hyperctl run -p web.pod                      # add -a to attach to its first container",
    ),
    own_options_first=True,
)
def run_command(
    app: App, *, attach: bool, detach: bool, remove: bool, quiet: bool, words: tuple[str, ...], **typed: Any
) -> int:
    """Create a pod and start it.

    Without -d, hyperctl stays attached to the container and ends with its exit code: ctrl-C goes to the container,
    the third ctrl-C leaves. Options after the image belong to the command. A missing image is pulled.
    """
    options, client = SpecOptions(**typed), app.client
    began = time.monotonic()
    pod = read_pod(options, words, local=client.endpoint.local)
    attached = attach if options.podfile else not detach
    if remove and any(one.get("restartPolicy") in _ENDLESS for one in (pod, *pod.get("containers", []))):
        raise UsageProblem("--rm and --restart always can not be used together: such a pod never ends")
    if remove and not attached:
        # Nobody stays to remove it: the daemon does, when the last container has ended.
        for one in pod.get("containers", []):
            one["autoRemove"] = True
    attached = attached and bool(pod.get("containers"))  # to nothing is no mistake in the original
    tty = attached and bool(pod.get("tty") or pod["containers"][0].get("tty"))
    if tty:
        terminal.require_terminal()
    pod_id, check = making.create(client, pod, when=options.pull)
    if not attached:
        check()
        output.say(pod_id if quiet else f"POD id is {pod_id}")
        _start(client, pod_id, undo=True)
        if not quiet:
            output.say(f"Time to run a POD is {(time.monotonic() - began) * 1000:.0f} ms")
        return 0
    with _removal(client, pod_id if remove else "") as keep:
        check()
        status, ended = _attached(client, pod_id, pod, tty=tty, undo=not remove)
        if not ended:
            keep()
    return status


def _start(client: Client, pod_id: str, *, undo: bool) -> None:
    """Start the pod that was just created; with ``undo`` one whose start the daemon refuses is removed."""
    try:
        client.start_pod(pod_id)
    except ApiError:
        if undo:
            making.undo(client, pod_id)
        raise


@contextmanager
def _removal(client: Client, pod_id: str) -> Iterator[Any]:
    """Remove a pod at the end, also after an error or a signal; yields a function that keeps it.

    Args:
        client: the daemon.
        pod_id: the pod; empty removes nothing.

    """
    kept = not pod_id

    def keep() -> None:
        nonlocal kept
        kept = True

    try:
        with terminal.leaving():
            yield keep
    finally:
        if not kept:
            making.undo(client, pod_id)


def _attached(client: Client, pod_id: str, pod: dict[str, Any], *, tty: bool, undo: bool) -> tuple[int, bool]:
    """Attach, start, stay until the end; gives the exit code and whether the container has ended.

    ``undo``: a pod whose start is refused is removed here.

    The attach is answered before the start is sent: not a byte of the shortest command can be lost.
    """
    container = pod["containers"][0].get("name") or _first_container(client.pod_info(pod_id))
    with client.attach(container) as stream:
        if tty:
            session.send_size(client, container)
        _start(client, pod_id, undo=undo)
        if tty:
            if not session.converse(stream, client, container=container, tty=True):
                return 0, False
            return client.exit_code(container), True
        with terminal.forwarding(partial(session.forward_signal, client, container)):
            stream.pump(raw=False)
            return client.exit_code(container), True


def _first_container(info: dict[str, Any]) -> str:
    try:
        return str(info["spec"]["containers"][0]["containerID"])
    except (KeyError, IndexError, TypeError):
        raise HyperctlError("the daemon does not say which containers the pod has") from None
