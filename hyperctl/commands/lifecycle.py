"""`start`, `stop`, `restart`, `rm`, `kill`, `pause`, `unpause`, `wait`, `rename`, `update` and `labels`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable

from hyperctl import naming, output, session
from hyperctl.api.errors import ApiError, HyperctlError, NotFound, OperationFailed, UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.options import OPTIONS, SpecOptions
from hyperctl.spec import limits, pairs, restart

TYPE_CHECKING = False
MAX_GRACE = 3600  # seconds, of the daemon's API
TIME = Option("-t", "--time", metavar="SECONDS", text="Before SIGKILL; the containers' own if not given.")
if TYPE_CHECKING:
    from typing import Any


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
    surplus=True,
)
def start_command(app: App, *, name: str, container: bool) -> None:
    """Start a pod with all its containers, or one container; the id of a container does without -c."""

    def start(name: str) -> None:
        app.client.start_pod(name)
        output.say(f"Successfully started the Pod({name})")

    def start_container(name: str) -> None:
        app.client.start_container(name)
        output.say(f"Successfully started container {name}")

    (start_container if container else naming.pod_else_container(app.client, start, start_container))(name)


def _grace(text: str) -> int | None:
    """Return the seconds of `--time`, None when it was not given. Raises: UsageProblem."""
    if text and not (text.isascii() and text.isdecimal() and int(text) <= MAX_GRACE):
        raise UsageProblem(f"--time takes a number of seconds, up to {MAX_GRACE}")
    return int(text) if text else None


@command(
    "stop",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    TIME,
    examples=("hyperctl stop web1 web2", "hyperctl stop -t 30 web1", "hyperctl stop -c web1-nginx"),
)
def stop_command(app: App, *, names: tuple[str, ...], container: bool, time: str) -> int:
    """Stop pods, or containers; what was created stays and can be started again."""
    grace = _grace(time)

    def stop(name: str) -> None:
        app.client.stop_pod(name, grace=grace)
        output.say(f"Successfully shutdown the POD: {name}!")

    def stop_container(name: str) -> None:
        app.client.stop_container(name, grace=grace)

    if container:
        return for_each(names, stop_container, lambda name, text: f"fail to stop container {name}: {text}")
    either = naming.pod_else_container(app.client, stop, stop_container)
    return for_each(names, either, lambda name, text: f"fail to stop pod {name}: {text}")


@command(
    "restart",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    TIME,
    examples=("hyperctl restart web1", "hyperctl restart -c -t 30 web1-nginx"),
)
def restart_command(app: App, *, names: tuple[str, ...], container: bool, time: str) -> int:
    """Stop pods, or containers, if they run, and start them again."""
    grace = _grace(time)

    def restart(name: str) -> None:
        app.client.stop_pod(name, grace=grace)
        app.client.start_pod(name)
        output.say(f"Successfully restarted the Pod({name})")

    def restart_container(name: str) -> None:
        app.client.restart_container(name, grace=grace)
        output.say(f"Successfully restarted container {name}")

    if container:
        return for_each(names, restart_container, lambda name, text: f"fail to restart container {name}: {text}")
    either = naming.pod_else_container(app.client, restart, restart_container)
    return for_each(names, either, lambda name, text: f"fail to restart pod {name}: {text}")


@command(
    "rm",
    Argument("names", "POD|CONTAINER...", many=True, complete="pod/container"),
    Option("-c", "--container", flag=True, text="The names are containers'."),
    Option("-f", "--force", flag=True, text="What is not there is no mistake."),
    Option("-v", "--volumes", flag=True, text="Also their volumes without a name; these go anyway."),
    examples=("hyperctl rm web1 web2", "hyperctl rm -c web1-nginx", "hyperctl rm -f web1"),
)
def rm_command(app: App, *, names: tuple[str, ...], container: bool, force: bool, **_volumes: bool) -> int:
    """Remove pods, or containers; what runs is stopped first.

    The id of a container does without -c, and takes the pod along whose only one it is: rm -f $(hyperctl ps -aq)
    removes everything.
    """

    def remove(name: str) -> None:
        app.client.remove_pod(name)
        output.say(f"Pod({name}) is successfully deleted!")

    def remove_container(name: str) -> None:
        app.client.remove_container(name)
        output.say(f"container {name} is successfully deleted!")

    def remove_found(name: str) -> None:
        pod = naming.pod_of(app.client, name)
        (remove(pod) if pod else remove_container(name))

    if container:
        one = _forgiving(remove_container, forgive=force)
        return for_each(names, one, lambda name, text: f"container {name} delete failed: {text}")
    either = _forgiving(naming.pod_else_container(app.client, remove, remove_found), forgive=force)
    return for_each(names, either, lambda name, text: f"Pod({name}) delete failed: {text}")


@command(
    "kill",
    Argument("names", "CONTAINER|POD...", many=True, complete="container/pod"),
    Option("-p", "--pod", flag=True, text="The names are pods': the signal goes to all their containers."),
    Option("-s", "--signal", default="KILL", complete="signal", text="Number or name."),
    examples=("hyperctl kill web1-nginx", "hyperctl kill -s TERM web1-nginx", "hyperctl kill -p web1"),
)
def kill_command(app: App, *, names: tuple[str, ...], pod: bool, signal: str) -> int:
    """Send a signal to containers, or to all those of pods; a name that no container has is taken for a pod's."""
    number = signal_number(signal)
    what = "pod" if pod else "container"

    def kill_pod(name: str) -> None:
        app.client.kill_pod(name, number)

    def kill_container(name: str) -> None:
        try:
            app.client.kill_container(name, number)
        except NotFound as error:
            naming.or_else(error, kill_pod, name)

    kill = kill_pod if pod else kill_container
    return for_each(names, kill, lambda name, text: f"fail to kill {what} {name}: {text}")


@command("pause", Argument("pod", "POD", complete="pod"), examples=("hyperctl pause web1",), surplus=True)
def pause_command(app: App, *, pod: str) -> None:
    """Pause a pod: its VM stands still and keeps its memory."""
    naming.pod_else_its_container(app.client, app.client.pause_pod)(pod)


@command("unpause", Argument("pod", "POD", complete="pod"), examples=("hyperctl unpause web1",), surplus=True)
def unpause_command(app: App, *, pod: str) -> None:
    """Let a paused pod go on."""
    naming.pod_else_its_container(app.client, app.client.unpause_pod)(pod)


def _forgiving(action: Callable[[str], None], *, forgive: bool) -> Callable[[str], None]:
    """Return an action that lets be what is not there, when asked to."""

    def run(name: str) -> None:
        try:
            action(name)
        except NotFound:
            if not forgive:
                raise

    return run


@command(
    "wait",
    Argument("names", "CONTAINER|POD...", many=True, complete="container"),
    examples=("hyperctl wait web1-nginx",),
)
def wait_command(app: App, *, names: tuple[str, ...]) -> int:
    """Wait until containers have ended and print their exit codes; of a pod, its first container's."""

    def wait(name: str) -> None:
        try:
            code = app.client.exit_code(name)
        except NotFound as error:
            code = app.client.exit_code(session.first_container(app.client, name, error))
        output.say(str(code))
        sys.stdout.flush()

    return for_each(names, wait, lambda name, text: f"cannot wait for {name}: {text}")


@command(
    "rename",
    Argument("container", "CONTAINER|POD", complete="container"),
    Argument("name", "NAME"),
    examples=("hyperctl rename web1-nginx front",),
)
def rename_command(app: App, *, container: str, name: str) -> None:
    """Give a container another name (of a pod, its first one's); a pod keeps its own."""
    session.of_first(app.client, container, lambda one: app.client.rename_container(one, name))


_LIMITS = ("memory", "memory_reservation", "memory_swap", "cpus", "cpu_shares", "cpuset_cpus", "pids_limit")


@command(
    "update",
    Argument("names", "CONTAINER|POD...", many=True, complete="container"),
    *(option for option in OPTIONS if option.field in (*_LIMITS, "restart")),
    examples=("hyperctl update --memory 256m --cpus 0.5 web1", "hyperctl update --restart on-failure:3 web1"),
)
def update_command(app: App, *, names: tuple[str, ...], **typed: Any) -> int:
    """Return containers other limits and another restart policy, also while they run; what is not named stays.

    Of a pod, its first container's. The size of a pod's VM is not changed: a limit above it has no effect.
    """
    options = SpecOptions(**typed, cpu="")
    found = limits(options, alone=True)
    if options.restart:
        found |= restart(options.restart)
    if not found:
        raise UsageProblem("a limit is needed, such as --memory 256m")

    def update(name: str) -> None:
        session.of_first(app.client, name, lambda one: app.client.update_container(one, found))
        output.say(name)

    return for_each(names, update, lambda name, text: f"fail to update container {name}: {text}")


@command(
    "labels",
    Argument("pod", "POD", complete="pod"),
    Argument("words", "[KEY=VALUE...]", default="", many=True),
    Option("--overwrite", flag=True, text="Also labels that are there with another value."),
    examples=("hyperctl labels web1", "hyperctl labels web1 team=red", "hyperctl labels --overwrite web1 team=blue"),
)
def labels_command(app: App, *, pod: str, words: tuple[str, ...], overwrite: bool) -> None:
    """Set labels of a pod; without any, print those it has."""
    if words:
        app.client.set_labels(pod, pairs(words, "labels"), override=overwrite)
        return
    labels = (app.client.pod_info(pod).get("spec") or {}).get("labels") or {}
    output.write("".join(f"{output.clean(f'{key}={value}')}\n" for key, value in sorted(labels.items())))


def signal_number(text: str) -> int:
    """Read `9`, `KILL` or `SIGKILL`, in any case.

    Raises:
        UsageProblem: there is no such signal.

    """
    import re
    import signal

    if text.isascii() and text.isdecimal() and 0 < int(text) <= 64:
        return int(text)
    name = text.upper().removeprefix("SIG")
    # Real-time signals are counted from both ends of glibc's range; systemd in a container is stopped by RTMIN+3.
    if match := re.fullmatch(r"RTMIN(?:\+(\d{1,2}))?|RTMAX(?:-(\d{1,2}))?", name):
        number = 34 + int(match[1] or 0) if name.startswith("RTMIN") else 64 - int(match[2] or 0)
        if 34 <= number <= 64:
            return number
    try:
        return signal.Signals[f"SIG{name}"].value
    except KeyError:
        raise UsageProblem(f"Invalid signal: {text}") from None
