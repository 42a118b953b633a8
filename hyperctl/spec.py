"""From the options of `run` and `create` to the pod or container the API takes."""

from __future__ import annotations

import os
import re

from hyperctl import units
from hyperctl.api.errors import UsageProblem
from hyperctl.options import OF_POD, SpecOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PORTS = r"\d+(?:-\d+)?"
_RULE = re.compile(
    rf"(?:(?P<prefix>tcp|udp):)?(?:(?P<ip>\[[0-9a-fA-F:.]+\]|\d+\.\d+\.\d+\.\d+):)?(?:(?P<host>{_PORTS})?:)?"
    rf"(?P<container>{_PORTS})(?:/(?P<suffix>tcp|udp))?"
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RESTART = {"": "never", "no": "never", "never": "never", "onfailure": "onFailure", "on-failure": "onFailure"}
_RESTART |= {"always": "always", "unless-stopped": "unless-stopped"}
_UNLIMITED = {"unlimited", "infinity", "-1"}


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
    container = _container(options, image, command, name=name, local=local)
    container = filled({**container, "limits": filled(limits(options, alone=False))})
    log = {"type": options.log_driver, "config": pairs(options.log_opt, "--log-opt")}
    pod = {
        "id": name,
        "hostname": options.hostname,
        "labels": pairs(options.label, "--label"),
        "resource": {"vcpu": _vcpus(options), "memory": units.mebibytes(options.memory or "0") or 128},
        "containers": [container],
        "portmappings": [port_rule(text) for text in options.publish],
        "networks": _networks(options),
        "extraHosts": [extra_host(text) for text in options.add_host],
        "dns": list(options.dns),
        "dnsSearch": list(options.dns_search),
        "dnsOptions": list(options.dns_option),
    }
    return {**filled(pod), "log": filled(log)}


def container_from_options(options: SpecOptions, image: str, command: list[str], *, local: bool) -> dict[str, Any]:
    """Describe a container for a pod that exists; labels and ports belong to it.

    Raises:
        UsageProblem: an option's value has the wrong form, or is one of the pod's.

    """
    for field in OF_POD:
        if getattr(options, field):
            raise UsageProblem(f"{options.named(field)} is the pod's: give it when the pod is created")
    container = _container(options, image, command, name=options.name or generated_name(image), local=local)
    container["limits"] = filled(limits(options, alone=True))
    container["labels"] = pairs(options.label, "--label")
    container["ports"] = [port_rule(text) for text in options.publish]
    return filled(container)


def _container(options: SpecOptions, image: str, command: list[str], *, name: str, local: bool) -> dict[str, Any]:
    return filled(
        {
            "name": name,
            "image": image,
            "workdir": options.workdir,
            **restart(options.restart),
            **_stop_timeout(options.stop_timeout),
            "healthcheck": _healthcheck(options),
            "tty": options.tty,
            "envs": environment(options.env, options.env_file),
            "command": command,
            "entrypoint": [] if options.entrypoint is None else [options.entrypoint],
            "volumes": [volume(text, local=local) for text in options.volume]
            + [mount(text, local=local) for text in options.mount if not _tmpfs_mount(text)],
            "readOnly": options.read_only,
            "user": _user(options),
            "init": options.init,
            "security": _security(options),
            "tmpfs": [tmpfs(text) for text in options.tmpfs]
            + [found for text in options.mount if (found := _tmpfs_mount(text))],
            "devices": [_device(text) for text in options.device],
            "shmSize": units.size(options.shm_size) if options.shm_size else 0,
            "oomScoreAdj": _whole(options.oom_score_adj, "--oom-score-adj"),
            "StopSignal": options.stop_signal,
            "ulimits": [_ulimit(text) for text in options.ulimit],
            "sysctl": pairs(options.sysctl, "--sysctl"),
        }
    )


def generated_name(image: str) -> str:
    """Return `<image base>[-<tag>]-<10 digits>`, or `pod-<10 letters>` when that is no valid name."""
    base = image.partition("@")[0].rpartition("/")[2].replace(":", "-")
    name = f"{base}-{_digits(10)}"
    if _NAME.fullmatch(name):
        return name
    return "pod-" + "".join(_LETTERS[byte % len(_LETTERS)] for byte in os.urandom(10))


def _digits(count: int) -> str:
    """Return random digits; `random` costs more than the rest of this module to load."""
    return f"{int.from_bytes(os.urandom(8), 'big') % 10**count:0{count}}"


def _number(text: str, option: str) -> float:
    if not re.fullmatch(r"\d+(?:\.\d+)?|\.\d+", text):
        raise UsageProblem(f"'{text}' is not a number of CPUs for {option}")
    return float(text)


def _vcpus(options: SpecOptions) -> int:
    """Return the CPUs of the VM: as many as the parts that were asked for need, one when nothing was."""
    wanted = _number(options.cpus, "--cpus") if options.cpus else 0.0
    if options.cpu and not options.cpu.isdecimal():
        raise UsageProblem(f"'{options.cpu}' is not a number of CPUs for --cpu: --cpus takes parts of one")
    return max(int(options.cpu or 0), -int(-wanted // 1)) or 1


def limits(options: SpecOptions, *, alone: bool) -> dict[str, Any]:
    """Return what a container may use: what was typed of it, also 0, which takes a limit away.

    Args:
        options: what was typed.
        alone: the container goes into a pod that exists, so memory and CPUs are its own; else they are the VM's size,
            and CPUs are a limit where they are fewer than the VM's.

    Raises:
        UsageProblem: an option's value has the wrong form.

    """
    found: dict[str, Any] = {}
    if alone and options.memory:
        found["memory"] = units.size(options.memory, bare=1 << 20)
    if cpus := options.cpus or (options.cpu if alone else ""):
        number = _number(cpus, "--cpus")
        if alone or number < _vcpus(options):
            found["nanoCpus"] = round(number * 1_000_000_000)
    if options.memory_reservation:
        found["memoryReservation"] = units.size(options.memory_reservation)
    if swap := options.memory_swap:
        found["memorySwap"] = -1 if swap == "-1" else units.size(swap)
    if options.cpu_shares:
        found["cpuShares"] = _whole(options.cpu_shares, "--cpu-shares")
    if options.cpuset_cpus:
        found["cpusetCpus"] = options.cpuset_cpus
    if options.pids_limit:
        found["pids"] = _whole(options.pids_limit, "--pids-limit")
    return found


def _whole(text: str, option: str) -> int:
    """Read a number, 0 for nothing."""
    if not text:
        return 0
    if not re.fullmatch(r"-?\d{1,9}", text):
        raise UsageProblem(f"'{text}' is not a number for {option}")
    return int(text)


def _security(options: SpecOptions) -> dict[str, Any]:
    found: dict[str, Any] = {
        "privileged": options.privileged,
        "capAdd": [capability(text) for text in options.cap_add],
        "capDrop": [capability(text) for text in options.cap_drop],
    }
    for text in options.security_opt:
        name, _, value = text.replace(":", "=", 1).partition("=")
        if name == "no-new-privileges" and value in {"", "true", "false"}:
            found["noNewPrivileges"] = value != "false"
        elif name == "seccomp" and value:
            found["seccomp"] = value if value == "unconfined" else _file(value)
        else:
            raise UsageProblem(
                f"'{text}' is not known to --security-opt: use no-new-privileges, seccomp=unconfined or seccomp=FILE"
            )
    return filled(found)


def capability(text: str) -> str:
    """Return a capability's name as the API takes it: `net_admin` and `CAP_NET_ADMIN` are `NET_ADMIN`."""
    return text.upper().removeprefix("CAP_")


def _file(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def tmpfs(text: str) -> dict[str, Any]:
    """Read `PATH[:OPTIONS]`, the options being `size=`, `mode=` and flags such as `ro`, `noexec`.

    Raises:
        UsageProblem: it has another form.

    """
    path, _, words = text.partition(":")
    if not path.startswith("/"):
        raise UsageProblem(f"'{text}' is not a tmpfs: use PATH[:size=64m,mode=1777,ro], PATH being absolute")
    found: dict[str, Any] = {"path": path}
    flags = []
    for word in filter(None, words.split(",")):
        name, equals, value = word.partition("=")
        if name == "size" and equals:
            found["size"] = units.size(value)
        elif name == "mode" and equals:
            found["mode"] = value
        else:
            flags.append(word)
    return filled({**found, "options": flags})


def _tmpfs_mount(text: str) -> dict[str, Any] | None:
    """Read `type=tmpfs,target=PATH[,tmpfs-size=...][,tmpfs-mode=...]` of --mount; None for another type."""
    words = dict(part.partition("=")[::2] for part in text.split(","))
    if words.pop("type", "") != "tmpfs":
        return None
    target = words.pop("target", "") or words.pop("destination", "") or words.pop("dst", "")
    options = []
    for key, name in (("tmpfs-size", "size"), ("tmpfs-mode", "mode")):
        if key in words:
            options.append(f"{name}={words.pop(key)}")
    if _read_only(words):
        options.append("ro")
    if words or not target:
        raise UsageProblem(
            f"'{text}' is not a mount: use type=tmpfs,target=/path[,tmpfs-size=64m][,tmpfs-mode=1777][,readonly]"
        )
    return tmpfs(f"{target}:{','.join(options)}")


def _device(text: str) -> dict[str, Any]:
    source, _, rest = text.partition(":")
    target, _, permissions = rest.partition(":")
    if target and not target.startswith("/"):
        target, permissions = "", target
    if not source.startswith("/") or not set(permissions) <= set("rwm"):
        raise UsageProblem(f"'{text}' is not a device: use DEVICE[:PATH[:rwm]]")
    return filled({"source": source, "target": target, "permissions": permissions})


def _networks(options: SpecOptions) -> list[dict[str, Any]]:
    if "host" in options.network:
        raise UsageProblem("--network host cannot be had: a pod is a machine of its own")
    if "none" in options.network and (len(options.network) > 1 or options.ip or options.ip6 or options.network_alias):
        raise UsageProblem("--network none means no network at all: it goes with no other, no --ip and no alias")
    if "none" in options.network and options.publish:
        raise UsageProblem("--publish needs a network: leave --network none out")
    if not options.network and (options.ip or options.ip6 or options.network_alias):
        raise UsageProblem("--ip and --network-alias belong to a network: --network NAME")
    if (options.ip or options.ip6) and len(options.network) > 1:
        raise UsageProblem("--ip is for one network; hyperctl network connect --ip adds others")
    return [attachment(name, ip=options.ip, ip6=options.ip6, aliases=options.network_alias) for name in options.network]


def attachment(network: str, *, ip: str = "", ip6: str = "", aliases: Sequence[str] = ()) -> dict[str, Any]:
    """Return how a pod is on a network, as the API takes it."""
    return filled({"network": network, "ip": ip, "ip6": ip6, "aliases": list(aliases)})


def extra_host(text: str) -> dict[str, str]:
    """Read `NAME:IP`.

    Raises:
        UsageProblem: a part is missing.

    """
    name, _, ip = text.partition(":")
    if not name or not ip:
        raise UsageProblem(f"'{text}' is not a line of /etc/hosts: use NAME:IP")
    return {"name": name, "ip": ip.strip("[]")}


def restart_policy(text: str) -> str:
    """Read `never`, `onFailure`, `always`, or docker's `no`, `on-failure`, `unless-stopped`.

    Raises:
        UsageProblem: it is another word.

    """
    try:
        return _RESTART[text.lower()]
    except KeyError:
        raise UsageProblem(f"'{text}' is not a restart policy: use never, onFailure or always") from None


def restart(text: str) -> dict[str, Any]:
    """Read a restart policy as the API takes it, `on-failure:3` with the bound of its restarts.

    Raises:
        UsageProblem: it has another form.

    """
    policy, colon, most = text.partition(":")
    found: dict[str, Any] = {"restartPolicy": restart_policy(policy)}
    if colon:
        if found["restartPolicy"] != "onFailure" or not most.isdecimal():
            raise UsageProblem(
                f"'{text}' is not a restart policy: a number of restarts belongs to onFailure: onFailure:3"
            )
        found["restartMax"] = int(most)
    return found


def _stop_timeout(text: str) -> dict[str, Any]:
    if not text:
        return {}
    return {"stopTimeout": -1 if text == "-1" else round(units.seconds(text, "--stop-timeout"))}


def _healthcheck(options: SpecOptions) -> dict[str, Any]:
    times = {
        "interval": (options.health_interval, "--health-interval"),
        "timeout": (options.health_timeout, "--health-timeout"),
        "startPeriod": (options.health_start_period, "--health-start-period"),
        "startInterval": (options.health_start_interval, "--health-start-interval"),
    }
    typed = {key: units.seconds(*given) for key, given in times.items() if given[0]}
    found: dict[str, Any] = {key: max(1, round(value)) for key, value in typed.items() if value}
    if options.health_retries:
        found["retries"] = _whole(options.health_retries, "--health-retries")
    if options.no_healthcheck:
        if found or options.health_cmd:
            raise UsageProblem("--no-healthcheck can not be used together with other options of health checks")
        return {"disabled": True}
    if options.health_cmd:
        found |= {"command": [options.health_cmd], "shell": True}
    return found


def port_rule(text: str) -> dict[str, str]:
    """Read `[tcp|udp:][IP:][hostPort:]containerPort[/tcp|udp]`; a port may be a range.

    The daemon chooses a host port that is left out.

    Raises:
        UsageProblem: it has another form.

    """
    match = _RULE.fullmatch(text)
    if not match or (match["prefix"] and match["suffix"] not in {None, match["prefix"]}):
        raise UsageProblem(f"'{text}' is not a port rule: use [IP:][hostPort:]containerPort[/tcp|udp]")
    host, ip = match["host"], (match["ip"] or "").strip("[]")
    rule = {"containerPort": match["container"], **({"hostPort": host} if host else {})}
    return {**rule, "protocol": match["prefix"] or match["suffix"] or "tcp", **host_ip(ip)}


def host_ip(address: str) -> dict[str, str]:
    """Return the field of a port rule for an address of the host; none for every address, as is without the field."""
    return {"hostIP": address} if address not in {"", "0.0.0.0", "::"} else {}  # noqa: S104 - nothing is bound


def environment(texts: Sequence[str], files: Sequence[str] = ()) -> list[dict[str, str]]:
    """Return the variables of files and of `KEY=value`; a bare KEY takes the value hyperctl itself has, or nothing.

    Raises:
        UsageProblem: a file cannot be read, or something has no name.

    """
    lines = [line for path in files for line in _lines(path)]
    pairs: dict[str, str] = {}
    for text in (*lines, *texts):
        key, separator, value = text.partition("=")
        if not key or key.strip() != key:
            raise UsageProblem(f"'{text}' is not an environment variable: use KEY=value")
        if separator:
            pairs[key] = value
        elif key in os.environ:
            pairs[key] = os.environ[key]
    return [{"env": key, "value": value} for key, value in pairs.items()]


def _lines(path: str) -> list[str]:
    """Return the lines of a file of variables that say something."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line.rstrip("\r\n").lstrip() for line in file]
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageProblem(f"{path} is not a text in UTF-8") from error
    return [line for line in lines if line and not line.startswith("#")]


def _user(options: SpecOptions) -> dict[str, Any]:
    return user(options.user, options.group_add)


def user(text: str, groups: Sequence[str] = ()) -> dict[str, Any]:
    """Read `USER[:GROUP]`.

    Raises:
        UsageProblem: a part is empty.

    """
    name, colon, group = text.partition(":")
    if text and (not name or (colon and not group) or ":" in group):
        raise UsageProblem(f"'{text}' is not a user: use USER or USER:GROUP")
    return filled({"name": name, "group": group, "additionalGroups": list(groups)})


def _ulimit(text: str) -> dict[str, Any]:
    """Read `NAME=SOFT[:HARD]`."""
    name, _, values = text.partition("=")
    soft, colon, hard = values.partition(":")
    try:
        low, high = _limit(soft), _limit(hard if colon else soft)
    except ValueError:
        raise UsageProblem(f"'{text}' is not a limit: use NAME=SOFT[:HARD], such as nofile=1024:4096") from None
    if not name:
        raise UsageProblem(f"'{text}' is not a limit: use NAME=SOFT[:HARD], such as nofile=1024:4096")
    return {"Name": name, "Soft": low, "Hard": high}


def _limit(text: str) -> int:
    return -1 if text in _UNLIMITED else int(text)


def volume(text: str, *, local: bool) -> dict[str, Any]:
    """Read `[HOST:]PATH[:ro|rw]`: HOST is a path, or the name of a volume.

    Raises:
        UsageProblem: it has another form.

    """
    parts = text.split(":")
    mode = parts.pop() if len(parts) > 1 and _is_mode(parts[-1]) else "rw"
    path = parts[-1]
    if len(parts) > 2 or not path.startswith("/") or not parts[0]:
        raise UsageProblem(f"'{text}' is not a volume: use [HOST:]PATH[:ro|rw], PATH being absolute")
    words = mode.split(",")
    return _reference(parts[0] if len(parts) == 2 else "", path, read_only="ro" in words, local=local)


def _is_mode(text: str) -> bool:
    # z and Z are for SELinux, of which a guest has none; nothing is lost without them.
    return bool(text) and set(text.split(",")) <= {"ro", "rw", "z", "Z"}


def mount(text: str, *, local: bool) -> dict[str, Any]:
    """Read `type=bind|volume,source=...,target=...[,readonly]`.

    Raises:
        UsageProblem: it has another form.

    """
    words = dict(part.partition("=")[::2] for part in text.split(","))
    kind = words.pop("type", "volume")
    source = words.pop("source", "") or words.pop("src", "")
    target = words.pop("target", "") or words.pop("destination", "") or words.pop("dst", "")
    read_only = _read_only(words)
    if words:
        raise UsageProblem(f"--mount: '{next(iter(words))}' is not known: use type, source, target and readonly")
    if kind not in {"bind", "volume"} or not target.startswith("/") or (kind == "bind" and not source):
        raise UsageProblem(f"'{text}' is not a mount: use type=bind|volume,source=...,target=/path[,readonly]")
    if kind == "bind":
        source = os.path.abspath(source)
        if local and not os.path.lexists(source):
            raise UsageProblem(f"--mount: there is no {source}; -v makes missing directories")
    elif "/" in source:
        raise UsageProblem(f"--mount: '{source}' is not the name of a volume: a path is type=bind")
    return _reference(source, target, read_only=read_only, local=False)


def _read_only(words: dict[str, str]) -> bool:
    """Take `readonly[=true|false]`, or `ro`, from the words of --mount."""
    said = [words.pop(name) for name in ("readonly", "ro") if name in words]
    for value in said:
        if value not in {"", "true", "1", "false", "0"}:
            raise UsageProblem(f"--mount: readonly is true or false, not '{value}'")
    return any(value in {"", "true", "1"} for value in said)


def _reference(source: str, path: str, *, read_only: bool, local: bool) -> dict[str, Any]:
    """Return how a container sees a volume, defined in place.

    Args:
        source: a path of the host, the name of a volume, or empty for a new volume.
        path: in the container.
        read_only: it may not be written.
        local: make a directory that is missing.

    """
    named = bool(source) and "/" not in source and source not in {".", ".."}
    if named and not _NAME.fullmatch(source):
        raise UsageProblem(f"'{source}' is neither the name of a volume nor a path (which has a slash: ./{source})")
    if source and not named:
        source = os.path.abspath(source)
        if local:
            make_directory(source)
    base = re.sub(r"[^a-zA-Z0-9_.-]", "_", os.path.basename((source or path).rstrip("/"))) or "volume"
    name = f"{base}-{_digits(5)}"
    detail = {"name": name}
    if source:
        detail = {"name": name, "source": source, "format": "volume" if named else "vfs"}
    reference: dict[str, Any] = {"path": path, "volume": name, "detail": detail}
    if read_only:
        reference["readOnly"] = True
    return reference


def make_directory(path: str) -> None:
    """Make a missing host directory; it belongs to whoever runs hyperctl, and others may only read it.

    Raises:
        UsageProblem: it cannot be made.

    """
    if os.path.lexists(path):
        return
    try:
        os.makedirs(path)
        os.chmod(path, 0o755)  # noqa: S103 - whatever the umask is: users of the guest shall be able to read it
    except OSError as error:
        raise UsageProblem(f"cannot make the directory {path}: {error.strerror}") from error


def pairs(texts: Sequence[str], option: str) -> dict[str, str]:
    """Split `key=value`.

    Args:
        texts: what was typed.
        option: where, for the message.

    Raises:
        UsageProblem: one has no key or no value.

    """
    found = {}
    for text in texts:
        key, separator, value = text.partition("=")
        if not separator or not key:
            raise UsageProblem(f"'{text}' is not a value for {option}: use key=value")
        found[key] = value
    return found


def filled(value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields that say something, as Go's omitempty does; no time at all before SIGKILL is something."""
    return {key: item for key, item in value.items() if item or key == "stopTimeout"}
