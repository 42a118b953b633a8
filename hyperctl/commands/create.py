"""`create`, and the options it shares with `run`."""

from __future__ import annotations

from collections.abc import Sequence

from hyperctl import images, output, podfile
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.spec import SpecOptions, container_from_options, pod_from_options

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

SPEC_OPTIONS = (
    Option("-p", "--podfile", metavar="FILE", complete="file", text="Read the pod from a file (- is stdin)."),
    Option("-y", "--yaml", flag=True, text="The file is YAML, not JSON; so are names in .yaml and .yml."),
    Option("--name", metavar="NAME", text="Name of the pod and its container."),
    Option("--workdir", metavar="DIR", text="Working directory in the container."),
    Option("-t", "--tty", flag=True, text="Give the container a terminal."),
    Option("--read-only", flag=True, text="Make the container's root file system read-only."),
    Option("--cpu", metavar="N", default=1, text="CPUs of the VM."),
    Option("--memory", metavar="MB", default=128, text="Memory of the VM in MiB."),
    Option("--env", many=True, metavar="KEY=VALUE", text="Set an environment variable (repeat)."),
    Option("--entrypoint", metavar="WORD", text="Replace the image's entrypoint."),
    Option("--restart", choices=("never", "onFailure", "always"), default="never", text="When to start it again."),
    Option("--log-driver", metavar="NAME", complete="logs", text="Where the output is kept."),
    Option("--log-opt", many=True, metavar="KEY=VALUE", text="Option of the log driver (repeat)."),
    Option("--publish", many=True, metavar="[tcp|udp:]HOST:CONTAINER", text="Publish a port (repeat)."),
    Option("--label", many=True, metavar="KEY=VALUE", text="Set a label (repeat)."),
    Option(
        "-v", "--volume", many=True, metavar="[HOST:]CONTAINER[:ro|rw]", complete="dir", text="Mount a volume (repeat)."
    ),
)


def read_podfile(options: SpecOptions, words: Sequence[str], shape: dict[str, Any]) -> dict[str, Any]:
    """Read the file of -p, when nothing on the command line would be lost by it.

    Raises:
        UsageProblem: it cannot be read, or an option or argument contradicts it.

    """
    if words:
        raise UsageProblem(f"'{words[0]}' can not be used together with --podfile")
    for option in SPEC_OPTIONS[2:]:
        if getattr(options, option.field) != option.default:
            raise UsageProblem(f"{option.names[-1]} can not be used together with --podfile")
    yaml = options.yaml or options.podfile.endswith((".yaml", ".yml"))
    return podfile.load(options.podfile, yaml=yaml, shape=shape)


def read_pod(options: SpecOptions, words: Sequence[str], *, local: bool) -> dict[str, Any]:
    """Give the pod of a file or of the command line.

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


def _check_image(image: str) -> None:
    if image.startswith("-"):
        raise UsageProblem(f"'{image}' stands where the image must be: options go before it")


@command(
    "create",
    *SPEC_OPTIONS,
    Option("-c", "--container", flag=True, text="Create a container in a pod: POD IMAGE [COMMAND...]."),
    Argument("words", "[POD] IMAGE [COMMAND...]", default="", many=True, complete="command"),
    examples=(
        "hyperctl create --name web1 --publish 8080:80 nginx",
        "hyperctl create -p web.pod",
        "hyperctl create -c --name helper web1 busybox sleep 1000   # a container in the pod web1",
    ),
    own_options_first=True,
)
def create_command(app: App, *, container: bool, words: tuple[str, ...], **typed: Any) -> None:
    """Create a pod, or with -c a container in a pod, without starting it.

    Options after the image belong to the command. A missing image is pulled.
    """
    options, client = SpecOptions(**typed), app.client
    if container:
        _create_container(app, options, words)
        return
    pod = read_pod(options, words, local=client.endpoint.local)
    pod_id = images.create(lambda: client.create_pod(pod), client, images.of_pod(pod))
    output.say(f"Pod ID is {pod_id}")


def _create_container(app: App, options: SpecOptions, words: tuple[str, ...]) -> None:
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
    container_id = images.create(lambda: client.create_container(pod, spec), client, wanted)
    output.say(f"Container ID is {container_id}")
