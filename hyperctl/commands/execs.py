"""`exec` and `attach`."""

from __future__ import annotations

from hyperctl import session, terminal
from hyperctl.api.errors import HyperctlError, NotFound, UsageProblem
from hyperctl.command import App, Argument, Option, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_POD = "pod-"  # generated pod ids contain it, and the original goes by that


@command(
    "exec",
    Option("-t", "--tty", flag=True, text="Give the command a terminal."),
    Option("-m", "--vm", flag=True, text="Run in the guest of a pod, not in a container."),
    Option("-d", "--detach", flag=True, text="Do not wait for the command."),
    Option("-i", "--interactive", flag=True, text="Pass standard input on; it always is."),
    Option("-e", "--env", many=True, metavar="KEY[=VALUE]", text="Set an environment variable (repeat)."),
    Option("--env-file", many=True, metavar="FILE", complete="file", text="Read variables from a file (repeat)."),
    Option("-u", "--user", metavar="USER[:GROUP]", text="Run as this user, by name or number."),
    Option("-w", "--workdir", metavar="DIR", text="Working directory of the command."),
    Option("--privileged", flag=True, text="Let the command do everything in the pod's VM."),
    Argument("name", "CONTAINER|POD", complete="container/pod"),
    Argument("words", "COMMAND...", many=True, default=""),
    examples=(
        "hyperctl exec web1 ls -l /",
        "hyperctl exec -it web1 sh",
        "hyperctl exec -u www-data -w /srv -e MODE=demo web1 id",
        "hyperctl exec -m web1 /sbin/busybox ps   # in the guest, outside the containers",
    ),
    own_options_first=True,
)
def exec_command(
    app: App, *, tty: bool, vm: bool, detach: bool, interactive: bool, name: str, words: tuple[str, ...], **typed: Any
) -> int:
    """Run a command in a container and end with its exit code.

    The name of a pod means its first container, unless a container has that name. With -m there is no exit code.
    """
    del interactive
    client, arguments = app.client, list(words)
    if not words:
        if vm:
            return 0  # as the original, for which nothing is no mistake in the guest
        raise UsageProblem("Missing argument 'COMMAND...': what shall run in the container?")
    more = _own(**typed)
    if vm and more:
        raise UsageProblem(f"--{next(iter(more))} is for commands in containers; in the guest everything is root's")
    if vm:
        with client.exec_vm(name, arguments) as stream:
            stream.pump(raw=True)
        return 0
    if tty and not detach:
        terminal.require_terminal()
    container = name
    if _POD in name:
        container = session.first_container(client, name, HyperctlError(f"cannot find a container in the pod {name}"))
    try:
        exec_id = client.create_exec(container, arguments, tty=tty, more=more)
    except NotFound as error:
        container = session.first_container(client, name, error)
        exec_id = client.create_exec(container, arguments, tty=tty, more=more)
    if detach:
        client.start_exec_detached(container, exec_id)
        return 0
    if tty:
        session.send_size(client, container, exec_id)
    with client.start_exec(container, exec_id) as stream:
        if not session.converse(stream, client, container=container, exec_id=exec_id, tty=tty):
            return 0
    return client.exit_code(container, exec_id)


def _own(
    *, env: tuple[str, ...], env_file: tuple[str, ...], user: str, workdir: str, privileged: bool
) -> dict[str, str | list[str]]:
    """Return what the command has for itself, as the API takes it."""
    from hyperctl import spec

    more: dict[str, str | list[str]] = {}
    if env or env_file:
        more["env"] = [f"{pair['env']}={pair['value']}" for pair in spec.environment(env, env_file)]
    if user:
        spec.user(user)
        more["user"] = user
    if workdir:
        more["workdir"] = workdir
    if privileged:
        more["privileged"] = "true"
    return more


@command(
    "attach",
    Argument("name", "CONTAINER|POD", complete="container/pod"),
    examples=("hyperctl attach web1   # ctrl-p ctrl-q leaves a container with a terminal",),
    surplus=True,
)
def attach_command(app: App, *, name: str) -> int:
    """Join stdin and output of a running container and end with its exit code."""
    client = app.client
    status: Any = None
    if _POD in name:
        info = client.pod_info(name)
        container = _first(info.get("spec"))
        statuses = (info.get("status") or {}).get("containerStatus")
        status = statuses[0] if isinstance(statuses, list) and statuses else None
    else:
        try:
            info = client.container_info(name)
        except NotFound as error:
            info = client.container_info(session.first_container(client, name, error))
        container, status = info.get("container"), info.get("status")
    _check_not_ended(name, status)
    if not isinstance(container, dict) or not container.get("containerID"):
        raise HyperctlError(f"cannot find the container {name}")
    container_id, tty = str(container["containerID"]), bool(container.get("tty"))
    if tty:
        terminal.require_terminal()
    with client.attach(container_id) as stream:
        if not session.converse(stream, client, container=container_id, tty=tty):
            return 0
    return client.exit_code(container_id)


def _check_not_ended(name: str, status: Any) -> None:
    """Refuse what has ended: nothing would ever come.

    Raises:
        HyperctlError: it has.

    """
    if not isinstance(status, dict) or status.get("phase") not in {"succeeded", "failed"}:
        return
    code = (status.get("terminated") or {}).get("exitCode", 0)
    raise HyperctlError(
        f"{name} does not run: it ended with exit code {code}. 'hyperctl logs {name}' shows what it said, "
        f"'hyperctl start' starts it again"
    )


def _first(spec: Any) -> Any:
    containers = spec.get("containers") if isinstance(spec, dict) else None
    return containers[0] if isinstance(containers, list) and containers else None
