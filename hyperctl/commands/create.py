"""`create`, and the options it shares with `run`."""

from __future__ import annotations

import os
from collections.abc import Sequence

from hyperctl import images, output, podfile
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.options import OPTIONS, SPEC_OPTIONS, SpecOptions
from hyperctl.spec import container_from_options, pod_from_options, port_rule

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_BESIDE_PODFILE = ("pull", "interactive")


def read_podfile(options: SpecOptions, words: Sequence[str], shape: dict[str, Any]) -> dict[str, Any]:
    """Read the file of -p, when nothing on the command line would be lost by it.

    Raises:
        UsageProblem: it cannot be read, or an option or argument contradicts it.

    """
    _refuse_ports(options.podfile)
    if words:
        raise UsageProblem(f"'{words[0]}' can not be used together with --podfile")
    for option in OPTIONS:
        if option.field not in _BESIDE_PODFILE and getattr(options, option.field) != option.default:
            raise UsageProblem(f"{option.names[-1]} can not be used together with --podfile")
    yaml = options.yaml or options.podfile.endswith((".yaml", ".yml"))
    return podfile.load(options.podfile, yaml=yaml, shape=shape)


def read_pod(options: SpecOptions, words: Sequence[str], *, local: bool) -> dict[str, Any]:
    """Return the pod of a file or of the command line.

    Args:
        options: what was typed.
        words: the image and the words behind it.
        local: the daemon is on this machine.

    Raises:
        UsageProblem: there is neither, or something is wrong with it.

    """
    if options.podfile:
        pod = read_podfile(options, words, podfile.POD)
        pod.setdefault("log", {})
        return pod
    if options.yaml:
        raise UsageProblem("--yaml needs --podfile")
    if not words:
        raise UsageProblem("an image is needed, or --podfile")
    image, *arguments = words
    _check_image(image)
    return pod_from_options(options, image, arguments, local=local)


def _refuse_ports(name: str) -> None:
    """Refuse `-p 8080:80`, which is docker's way to publish ports; a file that has such a name is read.

    Raises:
        UsageProblem: it is meant that way.

    """
    if os.path.lexists(name):
        return
    try:
        port_rule(name)
    except UsageProblem:
        return
    raise UsageProblem(f"-p is a pod file here; publish ports with --publish {name}")


def _check_image(image: str) -> None:
    if image.startswith("-"):
        raise UsageProblem(f"'{image}' stands where the image must be: options go before it")


@command(
    "create",
    *SPEC_OPTIONS,
    Option("-c", "--container", flag=True, text="Create a container in a pod: POD IMAGE [COMMAND...]."),
    Option("-q", "--quiet", flag=True, text="Print the id alone."),
    Argument("words", "[POD] IMAGE [COMMAND...]", default="", many=True, complete="command"),
    examples=(
        "hyperctl create --name web1 --publish 8080:80 nginx",
        "hyperctl create -p web.pod",
        "hyperctl create -c --name helper web1 busybox sleep 1000   # a container in the pod web1",
        "id=$(hyperctl create -q busybox sleep 1000)",
    ),
    own_options_first=True,
)
def create_command(app: App, *, container: bool, quiet: bool, words: tuple[str, ...], **typed: Any) -> None:
    """Create a pod, or with -c a container in a pod, without starting it.

    Options after the image belong to the command. A missing image is pulled.
    """
    options, client = SpecOptions(**typed), app.client
    if container:
        container_id = _create_container(app, options, words)
        output.say(container_id if quiet else f"Container ID is {container_id}")
        return
    pod = read_pod(options, words, local=client.endpoint.local)
    pod_id = images.create(lambda: client.create_pod(pod), client, images.of_pod(pod), when=options.pull)
    output.say(pod_id if quiet else f"Pod ID is {pod_id}")


def _create_container(app: App, options: SpecOptions, words: tuple[str, ...]) -> str:
    if not words:
        raise UsageProblem("a pod is needed")
    client = app.client
    pod, *rest = words
    if options.podfile:
        spec = read_podfile(options, rest, podfile.CONTAINER)
    elif not rest:
        raise UsageProblem("an image is needed, or --podfile")
    else:
        image, *arguments = rest
        _check_image(image)
        spec = container_from_options(options, image, arguments, local=client.endpoint.local)
    wanted = [spec["image"]] if spec.get("image") else []
    return images.create(lambda: client.create_container(pod, spec), client, wanted, when=options.pull)
