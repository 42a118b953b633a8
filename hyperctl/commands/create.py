"""`create`, and the options it shares with `run`."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click
from click.core import ParameterSource

from hyperctl import images, output, podfile
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, command
from hyperctl.spec import SpecOptions, container_from_options, pod_from_options

_OPTIONS = (
    click.option("-p", "--podfile", default="", metavar="FILE", help="Read the pod from a file (- is stdin)."),
    click.option("-y", "--yaml", is_flag=True, help="The file is YAML, not JSON."),
    click.option("--name", default="", help="Name of the pod and its container."),
    click.option("--workdir", default="", metavar="DIR", help="Working directory in the container."),
    click.option("-t", "--tty", is_flag=True, help="Give the container a terminal."),
    click.option("--read-only", is_flag=True, help="Make the container's root file system read-only."),
    click.option("--cpu", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs of the VM."),
    click.option(
        "--memory", type=click.IntRange(min=1), default=128, show_default=True, help="Memory of the VM in MiB."
    ),
    click.option("--env", multiple=True, metavar="KEY=VALUE", help="Set an environment variable (repeat)."),
    click.option("--entrypoint", default="", metavar="WORD", help="Replace the image's entrypoint."),
    click.option(
        "--restart",
        type=click.Choice(["never", "onFailure", "always"]),
        default="never",
        show_default=True,
        help="When to start the container again.",
    ),
    click.option("--log-driver", default="", metavar="NAME", help="Where the output is kept."),
    click.option("--log-opt", multiple=True, metavar="KEY=VALUE", help="Option of the log driver (repeat)."),
    click.option("--publish", multiple=True, metavar="[tcp|udp:]HOST:CONTAINER", help="Publish a port (repeat)."),
    click.option("--label", multiple=True, metavar="KEY=VALUE", help="Set a label (repeat)."),
    click.option("-v", "--volume", multiple=True, metavar="[HOST:]CONTAINER[:ro|rw]", help="Mount a volume (repeat)."),
)


def spec_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that describe a pod; they arrive together as the argument `options`."""

    @wraps(function)
    def gather(*args: Any, **named: Any) -> Any:
        options = SpecOptions(**{field: named.pop(field) for field in SpecOptions._fields})
        return function(*args, options=options, **named)

    wrapped: Callable[..., Any] = gather
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def read_podfile(ctx: click.Context, options: SpecOptions, words: tuple[str, ...], shape: Any) -> dict[str, Any]:
    """Read the file of -p, when nothing on the command line contradicts it.

    Raises:
        UsageProblem: it cannot be read, or an option or argument would be lost.

    """
    if words:
        raise UsageProblem(f"'{words[0]}' can not be used together with --podfile")
    for field in SpecOptions._fields:
        typed = ctx.get_parameter_source(field) == ParameterSource.COMMANDLINE
        if typed and field not in {"podfile", "yaml"}:
            raise UsageProblem(f"--{field.replace('_', '-')} can not be used together with --podfile")
    return podfile.load(options.podfile, yaml=options.yaml, shape=shape)


def read_pod(ctx: click.Context, options: SpecOptions, words: tuple[str, ...], *, local: bool) -> dict[str, Any]:
    """Give the pod of a file or of the command line.

    Raises:
        UsageProblem: there is neither, or something is wrong with it.

    """
    if options.podfile:
        pod = read_podfile(ctx, options, words, podfile.POD)
        pod.setdefault("log", {})
        return pod
    if options.yaml:
        raise UsageProblem("--yaml needs --podfile")
    if not words:
        raise UsageProblem(f"'{ctx.command_path}' needs an image, or --podfile")
    image, *arguments = words
    _check_image(image)
    return pod_from_options(options, image, arguments, local=local)


def _check_image(image: str) -> None:
    if image.startswith("-"):
        raise UsageProblem(f"'{image}' stands where the image must be: options go before it")


@command(
    "create",
    "hyperctl create --name web1 --publish 8080:80 nginx",
    "hyperctl create -p web.pod",
    "hyperctl create -c --name helper web1 busybox sleep 1000   # a container in the pod web1",
    own_options_first=True,
)
@spec_options
@click.option("-c", "--container", is_flag=True, help="Create a container in a pod: POD IMAGE [COMMAND...].")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[POD] IMAGE [COMMAND...]")
@click.pass_context
def create_command(ctx: click.Context, options: SpecOptions, container: bool, words: tuple[str, ...]) -> None:
    """Create a pod, or with -c a container in a pod, without starting it.

    Options after the image belong to the command.
    """
    app: App = ctx.obj
    client = app.client
    if container:
        _create_container(ctx, options, words)
        return
    pod = read_pod(ctx, options, words, local=client.endpoint.local)
    pod_id = images.create(lambda: client.create_pod(pod), client, images.of_pod(pod))
    output.say(f"Pod ID is {pod_id}")


def _create_container(ctx: click.Context, options: SpecOptions, words: tuple[str, ...]) -> None:
    client = ctx.obj.client
    if not words:
        raise UsageProblem("'hyperctl create -c' needs a pod")
    pod, *rest = words
    if options.podfile:
        spec = read_podfile(ctx, options, tuple(rest), podfile.CONTAINER)
    elif not rest:
        raise UsageProblem("'hyperctl create -c' needs an image, or --podfile")
    else:
        image, *arguments = rest
        _check_image(image)
        spec = container_from_options(options, image, arguments, local=client.endpoint.local)
    wanted = [spec["image"]] if spec.get("image") else []
    container_id = images.create(lambda: str(client.create_container(pod, spec)), client, wanted)
    output.say(f"Container ID is {container_id}")
