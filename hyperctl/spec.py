"""From the options of `run` and `create` to the pod or container the API takes."""

from __future__ import annotations

import os
import re

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_RULE = re.compile(r"(?:(tcp|udp):)?(\d+(?:-\d+)?)?:(\d+(?:-\d+)?)")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class SpecOptions:
    """The options `run` and `create` share, as they were typed; memory is in MiB."""

    podfile: str
    yaml: bool
    name: str
    workdir: str
    tty: bool
    read_only: bool
    cpu: int
    memory: int
    env: tuple[str, ...]
    entrypoint: str
    restart: str
    log_driver: str
    log_opt: tuple[str, ...]
    publish: tuple[str, ...]
    label: tuple[str, ...]
    volume: tuple[str, ...]

    def __init__(self, **typed: Any) -> None:
        self.__dict__.update(typed)


def pod_from_options(options: SpecOptions, image: str, command: list[str], *, local: bool) -> dict[str, Any]:
    """Describe a pod of one container.

    Args:
        options: what was typed.
        image: the image's name.
        command: arguments for its entrypoint.
        local: the daemon is on this machine, so missing host directories are made here.

    Raises:
        UsageProblem: an option's value has the wrong form.

    """
    name = options.name or generated_name(image)
    container = container_from_options(options, image, command, name=name, local=local)
    log = {"type": options.log_driver, "config": _pairs(options.log_opt, "--log-opt")}
    pod = {
        "id": name,
        "labels": _pairs(options.label, "--label"),
        "resource": {"vcpu": options.cpu, "memory": options.memory},
        "containers": [container],
        "portmappings": [port_rule(text) for text in options.publish],
    }
    return {**_filled(pod), "log": _filled(log)}


def container_from_options(
    options: SpecOptions, image: str, command: list[str], *, name: str = "", local: bool
) -> dict[str, Any]:
    """Describe a container; labels and ports belong to it only when it goes into a pod that exists (no `name`).

    Raises:
        UsageProblem: an option's value has the wrong form.

    """
    container = {
        "name": name or options.name or generated_name(image),
        "image": image,
        "workdir": options.workdir,
        "restartPolicy": options.restart,
        "tty": options.tty,
        "envs": [pair for text in options.env if (pair := _environment(text))],
        "command": command,
        "entrypoint": [options.entrypoint] if options.entrypoint else [],
        "volumes": [_volume(text, local=local) for text in options.volume],
        "readOnly": options.read_only,
    }
    if not name:
        container["labels"] = _pairs(options.label, "--label")
        container["ports"] = [port_rule(text) for text in options.publish]
    return _filled(container)


def generated_name(image: str) -> str:
    """Give `<image base>[-<tag>]-<10 digits>`, or `pod-<10 letters>` when that is no valid name."""
    base = image.partition("@")[0].rpartition("/")[2].replace(":", "-")
    name = f"{base}-{_digits(10)}"
    if _NAME.fullmatch(name):
        return name
    return "pod-" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(10))


def _digits(count: int) -> str:
    """Give random digits; `random` costs more than the rest of this module to load."""
    return f"{int.from_bytes(os.urandom(8), 'big') % 10**count:0{count}}"


def port_rule(text: str) -> dict[str, str]:
    """Read `[tcp|udp:][hostPort]:containerPort`; a port may be a range. The daemon chooses a host port left out.

    Raises:
        UsageProblem: it has another form.

    """
    match = _RULE.fullmatch(text)
    if not match:
        raise UsageProblem(f"'{text}' is not a port rule: use [tcp|udp:]hostPort:containerPort")
    protocol, host, container = match.groups()
    return {"containerPort": container, **({"hostPort": host} if host else {}), "protocol": protocol or "tcp"}


def _environment(text: str) -> dict[str, str] | None:
    """Read `KEY=value`; a bare KEY takes the value hyperctl itself has, or nothing."""
    key, separator, value = text.partition("=")
    if not key:
        raise UsageProblem(f"'{text}' is not an environment variable: use KEY=value")
    if not separator:
        if key not in os.environ:
            return None
        value = os.environ[key]
    return {"env": key, "value": value}


def _volume(text: str, *, local: bool) -> dict[str, Any]:
    """Read `[host:]container[:ro|rw]`."""
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and parts[-1] in {"ro", "rw"} else "rw"
    path = parts[-1]
    if len(parts) > 2 or not path.startswith("/") or not parts[0]:
        raise UsageProblem(f"'{text}' is not a volume: use [host:]container[:ro|rw] with absolute paths")
    source = os.path.abspath(parts[0]) if len(parts) == 2 else ""
    base = re.sub(r"[^a-zA-Z0-9_.-]", "_", os.path.basename((source or path).rstrip("/"))) or "volume"
    name = f"{base}-{_digits(5)}"
    detail = {"name": name}
    if source:
        if local:
            _make_directory(source)
        detail = {"name": name, "source": source, "format": "vfs"}
    reference: dict[str, Any] = {"path": path, "volume": name, "detail": detail}
    if mode == "ro":
        reference["readOnly"] = True
    return reference


def _make_directory(path: str) -> None:
    """Make a missing host directory that every user of a guest may write."""
    if os.path.lexists(path):
        return
    try:
        os.makedirs(path)
        os.chmod(path, 0o777)  # noqa: S103 - the documented mode: users of a guest are not users of the host
    except OSError as error:
        raise UsageProblem(f"cannot make the directory {path}: {error.strerror}") from error


def _pairs(texts: tuple[str, ...], option: str) -> dict[str, str]:
    pairs = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageProblem(f"'{text}' is not a value for {option}: use key=value")
        pairs[key] = value
    return pairs


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    """Leave out what is empty, as Go's omitempty does."""
    return {key: item for key, item in value.items() if item}
