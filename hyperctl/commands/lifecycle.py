"""`start`, `stop`, `restart`, `rm`, `kill`, `pause` and `unpause`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from hyperctl import output
from hyperctl.api.errors import ApiError, HyperctlError, OperationFailed, UsageProblem
from hyperctl.command import App, Argument, Option, command


def for_each(names: Iterable[str], action: Callable[[str], None], complaint: Callable[[str, str], str]) -> int:
    """Do something with every name, go on after a refusal, and give the exit status.

    Args:
        names: pods, containers or images.
        action: called with each.
        complaint: makes the line for stderr from a name and an error's text.

    """
    status = 0
    for name in names:
        try:
            action(name)
        except (ApiError, OperationFailed) as error:
            output.complain(complaint(name, str(error)))
            status = HyperctlError.exit_status
    return status


@command(
    "start",
    Argument("name", "POD|CONTAINER", complete="pod/container"),
    Option("-c", "--container", flag=True, text="The name is a container's."),
    examples=("hyperctl start web1", "hyperctl start -c web1-nginx"),
)
def start_command(app: App, *, name: str, container: bool) -> None:
    """Start a pod with all its containers, or one container."""
    if container:
        app.client.start_container(name)
        output.say(f"Successfully started container {name}")
    else:
        app.client.start_pod(name)
        output.say(f"Successfully started the Pod({name})")


@command(
    "stop",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    examples=("hyperctl stop web1 web2", "hyperctl stop -c web1-nginx"),
)
def stop_command(app: App, *, names: tuple[str, ...], container: bool) -> int:
    """Stop pods, or containers; what was created stays and can be started again."""

    def stop(name: str) -> None:
        app.client.stop_pod(name)
        output.say(f"Successfully shutdown the POD: {name}!")

    if container:
        return for_each(names, app.client.stop_container, lambda name, text: f"fail to stop container {name}: {text}")
    return for_each(names, stop, lambda name, text: f"fail to stop pod {name}: {text}")


@command(
    "restart",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    Option("-t", "--time", metavar="SECONDS", text="Before SIGKILL; of containers only."),
    examples=("hyperctl restart web1", "hyperctl restart -c -t 30 web1-nginx"),
)
def restart_command(app: App, *, names: tuple[str, ...], container: bool, time: str) -> int:
    """Stop pods, or containers, if they run, and start them again."""
    if time and not (container and time.isascii() and time.isdecimal()):
        raise UsageProblem("--time takes a number of seconds, with --container")

    def restart(name: str) -> None:
        app.client.stop_pod(name)
        app.client.start_pod(name)
        output.say(f"Successfully restarted the Pod({name})")

    def restart_container(name: str) -> None:
        app.client.restart_container(name, grace=int(time) if time else None)
        output.say(f"Successfully restarted container {name}")

    if container:
        return for_each(names, restart_container, lambda name, text: f"fail to restart container {name}: {text}")
    return for_each(names, restart, lambda name, text: f"fail to restart pod {name}: {text}")


@command(
    "rm",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    examples=("hyperctl rm web1 web2", "hyperctl rm -c web1-nginx"),
)
def rm_command(app: App, *, names: tuple[str, ...], container: bool) -> int:
    """Remove pods, or containers; what runs is stopped first."""

    def remove(name: str) -> None:
        app.client.remove_pod(name)
        output.say(f"Pod({name}) is successfully deleted!")

    def remove_container(name: str) -> None:
        app.client.remove_container(name)
        output.say(f"container {name} is successfully deleted!")

    if container:
        return for_each(names, remove_container, lambda name, text: f"container {name} delete failed: {text}")
    return for_each(names, remove, lambda name, text: f"Pod({name}) delete failed: {text}")


@command(
    "kill",
    Argument("names", "CONTAINER|POD...", many=True, complete="container/pod"),
    Option("-p", "--pod", flag=True, text="The names are pods': the signal goes to all their containers."),
    Option("-s", "--signal", default="KILL", complete="signal", text="Number or name."),
    examples=("hyperctl kill web1-nginx", "hyperctl kill -s TERM web1-nginx", "hyperctl kill -p web1"),
)
def kill_command(app: App, *, names: tuple[str, ...], pod: bool, signal: str) -> int:
    """Send a signal to containers, or pods."""
    number = signal_number(signal)
    kill = app.client.kill_pod if pod else app.client.kill_container
    what = "pod" if pod else "container"
    return for_each(names, lambda name: kill(name, number), lambda name, text: f"fail to kill {what} {name}: {text}")


@command("pause", Argument("pod", "POD", complete="pod"), examples=("hyperctl pause web1",))
def pause_command(app: App, *, pod: str) -> None:
    """Pause a pod: its VM stands still and keeps its memory."""
    app.client.pause_pod(pod)


@command("unpause", Argument("pod", "POD", complete="pod"), examples=("hyperctl unpause web1",))
def unpause_command(app: App, *, pod: str) -> None:
    """Let a paused pod go on."""
    app.client.unpause_pod(pod)


def signal_number(text: str) -> int:
    """Read `9`, `KILL` or `SIGKILL`, in any case.

    Raises:
        UsageProblem: there is no such signal.

    """
    import signal

    if text.isascii() and text.isdecimal() and 0 < int(text) <= 64:
        return int(text)
    name = text.upper()
    try:
        return signal.Signals[name if name.startswith("SIG") else f"SIG{name}"].value
    except KeyError:
        raise UsageProblem(f"Invalid signal: {text}") from None
