"""Names typed without saying what they are names of: a pod's first, else a container's, also as `ps -q` prints it."""

from __future__ import annotations

from hyperctl.api.errors import ApiError, NotFound, UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from hyperctl.api.client import Client

    Action = Callable[[str], None]
    Answer = TypeVar("Answer")

_SHORT = 12  # digits of an id that lists print; shorter beginnings may be names: `db`, `cafe`


def container(client: Client, name: str) -> list[str] | None:
    """Return the row of a container by its name, its id, or the twelve first digits of that; None when there is none.

    The daemon takes shorter beginnings of ids. Here a pod's name that is mistyped, or gone, would mean another thing.
    """
    for row in client.list_items("container"):
        if name in row[:2] or (len(name) >= _SHORT and row[0].startswith(name)):
            return row
    return None


def pod_of(client: Client, name: str) -> str:
    """Return the pod whose only container this is; empty when it has others."""
    row = container(client, name)
    if row is None or len(client.list_items("container", pod=row[2])) != 1:
        return ""
    return row[2]


def of_pod(client: Client, name: str, ask: Callable[[str], Answer]) -> Answer:
    """Ask for something of a pod, named by itself or by one of its containers.

    Raises:
        NotFound: the refusal for the pod; there is neither.

    """
    try:
        return ask(name)
    except NotFound:
        row = _row(client, name)
        if row is None:
            raise
        return ask(row[2])


def or_else(refusal: NotFound, action: Action, name: str) -> None:
    """Do the other thing with a name; when there is none either, the refusal is what is said.

    Raises:
        NotFound: the refusal.

    """
    try:
        action(name)
    except NotFound:
        raise refusal from None


def pod_else_container(client: Client, of_pod: Action, of_container: Action) -> Action:
    """Return what does the first with the name of a pod, the second with that of a container; pods come first.

    It raises the refusal for the pod when there is neither.
    """

    def run(name: str) -> None:
        try:
            of_pod(name)
        except NotFound as error:
            if _row(client, name) is None:
                raise
            or_else(error, of_container, name)

    return run


def pod_else_its_container(client: Client, of_pod: Action) -> Action:
    """Return what does something with a pod, named by itself or by its only container."""

    def of_container(name: str) -> None:
        pod = pod_of(client, name)
        if not pod:
            raise UsageProblem(f"{name} is one of several containers of a pod: name the pod, to mean all of them")
        of_pod(pod)

    return pod_else_container(client, of_pod, of_container)


def _row(client: Client, name: str) -> list[str] | None:
    """Return the row of a container; None, too, when the daemon does not tell."""
    try:
        return container(client, name)
    except ApiError:
        return None
