"""`inspect`."""

from __future__ import annotations

from hyperctl.api.errors import ApiError, HyperctlError, ProtocolError
from hyperctl.command import App, Argument, Option, command
from hyperctl.listing import show_objects

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# In the order in which they are tried: a pod of one container and that container have one name.
_PLACES = {
    "pod": ("/pod/info", "podName"),
    "container": ("/container/info", "container"),
    "image": ("/image/inspect", "imageId"),
}


@command(
    "inspect",
    Argument("names", "POD|CONTAINER|IMAGE...", many=True, complete="any"),
    Option("--type", field="kind", choices=("any", *_PLACES), default="any", text="What the names are names of."),
    Option("-f", "--format", field="form", metavar="json|TEMPLATE", default="json", text="How to print it."),
    examples=(
        "hyperctl inspect web1",
        "hyperctl inspect --format '{{index .status.podIP 0}}' web1",
        "hyperctl inspect --type container web1",
        "hyperctl inspect --format '{{.Config.Env}}' nginx",
    ),
)
def inspect_command(app: App, *, names: tuple[str, ...], kind: str, form: str) -> None:
    """Print everything that is known of pods, containers or images, as a JSON array or through a template.

    A name is taken for a pod's, else for a container's, else for an image's.
    """
    found = [_find(app, name, [kind] if kind in _PLACES else list(_PLACES)) for name in names]
    show_objects(found, form)


def _find(app: App, name: str, kinds: list[str]) -> dict[str, Any]:
    for kind in kinds:
        path, parameter = _PLACES[kind]
        try:
            value = app.client.value("GET", path, {parameter: name})
        except ApiError as error:
            if len(kinds) == 1 or error.status not in {400, 404}:
                raise
            continue
        if not isinstance(value, dict):
            raise ProtocolError("the daemon's answer is not a JSON object")
        return value
    raise HyperctlError(f"there is no pod, container or image {name}")
