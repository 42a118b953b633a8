"""Pods made and removed for commands, so that no signal leaves one that nobody knows of."""

from __future__ import annotations

from collections.abc import Callable

from hyperctl import images, output, terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import HyperctlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def create(
    client: Client,
    pod: dict[str, Any],
    *,
    when: str,
    names: list[str] | None = None,
    note: Callable[[str], object] | None = None,
) -> tuple[str, Callable[[], None]]:
    """Create a pod; a signal during the call itself waits, lest nobody knows what was created.

    While an image is pulled signals act at once.

    Args:
        client: the daemon.
        pod: as the API takes it.
        when: images are pulled (`images.create`).
        names: the images that may be pulled; None for all of the pod.
        note: gets the pod's id while signals still wait.

    Returns:
        The pod's id, and the function that raises for a signal that came.

    """
    checks: list[Callable[[], None]] = []

    def make() -> str:
        with terminal.patient() as check:
            checks.append(check)
            pod_id = str(client.create_pod(pod))
            if note is not None:
                note(pod_id)
            return pod_id

    return images.create(make, client, images.of_pod(pod) if names is None else names, when=when), checks[-1]


def undo(client: Client, *pods: str) -> None:
    """Remove pods after a failure or at a command's end; signals wait, and what cannot be removed is told on stderr."""
    with terminal.patient():
        client.close()  # a connection of its own: the shared one may have been idle for as long as a container ran
        for pod in pods:
            try:
                client.remove_pod(pod)
            except HyperctlError as error:
                output.complain(f"failed to rm pod, {error}")
