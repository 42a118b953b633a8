"""From Docker's ``/containers/create`` to a pod of one container.

The policy of this dialect stands here: a container is a pod of its own with the same id, unless its network mode is
``container:X``; what a VM cannot have is refused or warned about by name, never dropped without a word.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hyperd.api.docker.limits import read_limits, vm_size
from hyperd.api.docker.mounts import Mounts, read_mounts
from hyperd.api.docker.refusals import refuse, warn
from hyperd.container.logconf import OPTIONS as LOG_OPTIONS
from hyperd.errors import InvalidInput
from hyperd.spec.limits import NANO
from hyperd.spec.model import (
    ContainerSpec,
    Healthcheck,
    LogSpec,
    NetworkAttachment,
    PodSpec,
    PortSpec,
    Security,
    Ulimit,
    UserSpec,
)

OWNER = "docker"
REQUEST = "docker.request"  # annotation of a container: what its client asked for, as JSON
DEFAULT_NETWORKS = ("", "default", "bridge")
RESTART = {
    "": "never",
    "no": "never",
    "always": "always",
    "on-failure": "onFailure",
    "unless-stopped": "unless-stopped",
}
_NAME = re.compile(r"/?[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PORT = re.compile(r"(\d{1,5}(?:-\d{1,5})?)(?:/(tcp|udp|sctp))?")


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be made.

    Args:
        pod: of one container. joins: id or name of the container whose pod it joins instead, or empty.
        warnings: for the client. volumes: named ones that are made with the container.

    """

    pod: PodSpec
    joins: str = ""
    warnings: tuple[str, ...] = ()
    mounts: Mounts = field(default_factory=Mounts)

    @property
    def container(self) -> ContainerSpec:
        """Return its container."""
        return self.pod.containers[0]


def new_id() -> str:
    """Return a new id, 64 hexadecimal digits."""
    return secrets.token_hex(32)


def checked_name(name: str) -> str:
    """Return a name without the slash before it. Errors: InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"Invalid container name ({name[:100]}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        )
    return name.removeprefix("/")


def read_order(
    given: Mapping[str, Any],
    *,
    ident: str,
    name: str,
    exposed: Sequence[str],
    default_memory: int,
    volumes_of: Callable[[str], Mounts],
    has_ipv6: Callable[[str], bool] = lambda _network: False,
) -> Order:
    """Translate the body of ``/containers/create``.

    Args:
        given: what ``schema.Create`` read.
        ident: of the container and its pod. name: of the container, checked.
        exposed: ports that the image exposes, such as ``80/tcp``.
        default_memory: MiB of a VM whose container has no limit.
        volumes_of: gives the mounts of another container, for ``VolumesFrom``.
        has_ipv6: tells whether a network, by name or id, has IPv6 addresses.

    Errors: InvalidInput, NotSupported, NotFound (a container of VolumesFrom).

    """
    host: Mapping[str, Any] = given["HostConfig"]
    refuse(given, host)
    for text in given["ExposedPorts"]:
        if not _PORT.fullmatch(text):
            raise InvalidInput(f"invalid port specification: {text[:60]!r}")
    mode = str(host["NetworkMode"])
    joins = mode.removeprefix("container:") if mode.startswith("container:") else ""
    mounts = read_mounts(given, host, ident=ident, volumes_of=volumes_of)
    container = _container(given, host, mounts, ident=ident, name=name)
    pod = PodSpec(
        id=ident,
        owner=OWNER,
        implicit=True,
        hostname=given["Hostname"] or ident[:12],
        domainname=given["Domainname"],
        tty=False,
        restart_policy="never",
        resource=vm_size(container.limits, default_memory),
        containers=(container,),
        portmappings=read_ports(given, host, exposed),
        dns=tuple(host["Dns"]),
        dns_options=tuple(host["DnsOptions"]),
        dns_search=tuple(host["DnsSearch"]),
        extra_hosts=read_extra_hosts(host["ExtraHosts"]),
        network_disabled=given["NetworkDisabled"] or mode == "none",
        networks=read_networks(given, host, mode, has_ipv6),
    )
    return Order(pod=pod, joins=joins, warnings=tuple(warn(given, host, has_ipv6)), mounts=mounts)


def _container(
    given: Mapping[str, Any], host: Mapping[str, Any], mounts: Mounts, *, ident: str, name: str
) -> ContainerSpec:
    return ContainerSpec(
        id=ident,
        name=name,
        image=given["Image"],
        command=tuple(given["Cmd"] or ()),
        entrypoint=_entrypoint(given["Entrypoint"]),
        workdir=given["WorkingDir"],
        envs=tuple(read_env(entry) for entry in given["Env"] if "=" in entry),
        unset_envs=read_unset(given["Env"]),
        tty=given["Tty"],
        user=read_user(given["User"]),
        volumes=mounts.refs,
        tmpfs=mounts.tmpfs,
        labels=given["Labels"],
        sysctl=host["Sysctls"],
        restart_policy=read_restart(host["RestartPolicy"], auto_remove=host["AutoRemove"]),
        restart_max=(host["RestartPolicy"] or {}).get("MaximumRetryCount", 0),
        stop_signal=given["StopSignal"],
        stop_timeout=None if given["StopTimeout"] is None else float(given["StopTimeout"]),
        ulimits=tuple(Ulimit(name=u["Name"], soft=u["Soft"], hard=u["Hard"]) for u in host["Ulimits"]),
        read_only=host["ReadonlyRootfs"],
        init=host["Init"],
        open_stdin=given["OpenStdin"],
        stdin_once=given["StdinOnce"],
        limits=read_limits(host),
        security=_security(host),
        healthcheck=_health(given["Healthcheck"]),
        shm_size=host["ShmSize"],
        oom_score_adj=host["OomScoreAdj"],
        log=_log(host["LogConfig"]),
        annotations=host["Annotations"],
        auto_remove=host["AutoRemove"],
        exposed=tuple(given["ExposedPorts"]),
        device_rules=tuple(host["DeviceCgroupRules"]),
        pid_namespace=host["PidMode"].removeprefix("container:"),
    )


def read_user(text: str) -> UserSpec:
    """Read ``user[:group]``."""
    name, _, group = text.partition(":")
    return UserSpec(name=name, group=group)


def read_restart(policy: Mapping[str, Any] | None, *, auto_remove: bool) -> str:
    """Return the restart policy in the words of specifications. Errors: InvalidInput."""
    name = policy["Name"] if policy else ""
    if name not in RESTART:
        raise InvalidInput(f"invalid restart policy: unknown policy '{name[:60]}'")
    if policy and policy["MaximumRetryCount"] and name != "on-failure":
        raise InvalidInput("invalid restart policy: maximum retry count can only be used with 'on-failure'")
    if policy and policy["MaximumRetryCount"] < 0:
        raise InvalidInput("invalid restart policy: maximum retry count cannot be negative")
    if auto_remove and RESTART[name] != "never":
        raise InvalidInput("can't create 'AutoRemove' container with restart policy")
    return RESTART[name]


def read_ports(given: Mapping[str, Any], host: Mapping[str, Any], exposed: Sequence[str]) -> tuple[PortSpec, ...]:
    """Return the published ports. Errors: InvalidInput."""
    found = []
    bindings: Mapping[str, Any] = host["PortBindings"]
    for inner, entries in bindings.items():
        port, protocol = read_port(inner)
        for entry in entries or [{"HostIp": "", "HostPort": ""}]:
            outer = str(entry["HostPort"] or "")
            found.append(PortSpec(container_port=port, host_port=outer, protocol=protocol, host_ip=entry["HostIp"]))
    if host["PublishAllPorts"]:
        bound = {read_port(inner) for inner in bindings}
        for inner in dict.fromkeys((*given["ExposedPorts"], *exposed)):
            port, protocol = read_port(inner)
            if (port, protocol) not in bound:
                found.append(PortSpec(container_port=port, protocol=protocol))
    return tuple(found)


def read_port(text: str) -> tuple[str, str]:
    """Read ``80``, ``80/tcp`` or ``80-90/udp``. Errors: InvalidInput."""
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidInput(f"invalid port specification: {text[:60]!r}")
    protocol = match[2] or "tcp"
    if protocol == "sctp":
        raise InvalidInput(f"invalid port specification: {text[:60]!r}", details="SCTP ports cannot be published")
    return match[1], protocol


def read_networks(
    given: Mapping[str, Any], host: Mapping[str, Any], mode: str, has_ipv6: Callable[[str], bool]
) -> tuple[NetworkAttachment, ...]:
    """Return the networks that the container is on at its start; empty = the default bridge alone.

    ``has_ipv6`` tells whether a network has it. Errors: InvalidInput.
    """
    if mode == "none" or mode.startswith("container:") or given["NetworkDisabled"]:
        return ()
    endpoints: Mapping[str, Any] = given["NetworkingConfig"]["EndpointsConfig"]
    links = tuple(read_link(entry) for entry in host["Links"])
    first = "bridge" if mode in DEFAULT_NETWORKS else mode
    named = {("bridge" if name in DEFAULT_NETWORKS else name): (point or {}) for name, point in endpoints.items()}
    order = [first, *(name for name in named if name != first)]
    found = tuple(
        read_endpoint(
            name, named.get(name), links=links if name == first else (), mac=given["MacAddress"], ipv6=has_ipv6
        )
        for name in order
    )
    plain = NetworkAttachment(network="bridge")
    return () if found == (plain,) else found


def read_endpoint(
    network: str,
    point: Mapping[str, Any] | None,
    *,
    links: tuple[tuple[str, str], ...] = (),
    mac: str = "",
    ipv6: Callable[[str], bool],
) -> NetworkAttachment:
    """Translate ``EndpointSettings``; ``ipv6`` tells whether a network has it. Errors: InvalidInput."""
    if not point:
        return NetworkAttachment(network=network, links=links, mac=mac)
    ipam = point["IPAMConfig"]
    address6 = ipam["IPv6Address"]
    usable = bool(address6) and ipv6(network)
    return NetworkAttachment(
        network=network,
        aliases=tuple(point["Aliases"]),
        links=(*links, *(read_link(entry) for entry in point["Links"])),
        ipv4=ipam["IPv4Address"],
        ipv6=address6 if usable else "",
        unused_ipv6="" if usable else address6,
        mac=point["MacAddress"] or mac,
        link_local=tuple(ipam["LinkLocalIPs"]),
        options=point["DriverOpts"],
    )


def read_link(text: str) -> tuple[str, str]:
    """Read ``name[:alias]``. Errors: InvalidInput."""
    name, _, alias = text.partition(":")
    name = name.strip("/")
    if not name or ":" in alias:
        raise InvalidInput(f"bad format for links: {text[:100]}", resolution="give name:alias")
    return name, alias.rpartition("/")[2] or name


def read_extra_hosts(entries: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Read ``name:address``. Errors: InvalidInput."""
    return tuple(_extra_host(entry) for entry in entries)


def _entrypoint(words: list[str] | None) -> tuple[str, ...]:
    """``[""]`` and ``[]`` take the image's entrypoint away; null leaves it."""
    if words is None:
        return ()
    return tuple(words) or ("",)


def read_unset(entries: Sequence[str]) -> tuple[str, ...]:
    """Return the names of ``Env`` that have no value: these variables are taken away. Errors: InvalidInput."""
    names = tuple(entry for entry in entries if "=" not in entry)
    if "" in names:
        raise InvalidInput("invalid environment variable: it has no name")
    return names


def read_env(entry: str) -> tuple[str, str]:
    """Read ``NAME=value``. Errors: InvalidInput."""
    name, _, value = entry.partition("=")
    if not name:
        raise InvalidInput(f"invalid environment variable: {entry[:60]}")
    return name, value


def _extra_host(text: str) -> tuple[str, str]:
    name, mark, address = text.partition(":")
    if not mark or not name or not address:
        raise InvalidInput(f"bad format for add-host: {text[:100]!r}", resolution="give name:address")
    return name, address


def _health(given: Mapping[str, Any] | None) -> Healthcheck | None:
    if given is None:
        return None
    test = list(given["Test"])
    times = {
        "interval": given["Interval"] / NANO,
        "timeout": given["Timeout"] / NANO,
        "start_period": given["StartPeriod"] / NANO,
        "start_interval": given["StartInterval"] / NANO,
    }
    if any(value < 0 for value in times.values()) or given["Retries"] < 0:
        raise InvalidInput("Healthcheck: times and retries cannot be negative")
    if not test:
        return Healthcheck(retries=given["Retries"], **times)
    kind, *words = test
    if kind == "NONE":
        return Healthcheck(disabled=True)
    if kind not in ("CMD", "CMD-SHELL") or not words:
        raise InvalidInput(f"unknown type of healthcheck: {kind[:40]!r}", resolution="use NONE, CMD or CMD-SHELL")
    return Healthcheck(argv=tuple(words), shell=kind == "CMD-SHELL", retries=given["Retries"], **times)


def _log(given: Mapping[str, Any]) -> LogSpec | None:
    if given["Type"] and given["Type"] not in LOG_OPTIONS:
        raise InvalidInput(f"logger: no log driver named '{given['Type'][:60]}' is registered")
    if not given["Type"] and not given["Config"]:
        return None
    return LogSpec(type=given["Type"], config=given["Config"])


def _security(host: Mapping[str, Any]) -> Security:
    seccomp, no_new = "", False
    masked, readonly = host["MaskedPaths"], host["ReadonlyPaths"]
    for option in host["SecurityOpt"]:
        key, value = _security_option(option)
        if key == "seccomp":
            seccomp = value
        elif key == "no-new-privileges":
            no_new = value != "false"
        elif key == "systempaths":
            masked, readonly = [], []
    return Security(
        privileged=host["Privileged"],
        cap_add=read_capabilities(host["CapAdd"]),
        cap_drop=read_capabilities(host["CapDrop"]),
        seccomp=seccomp,
        no_new_privileges=no_new,
        masked_paths=None if masked is None else tuple(masked),
        readonly_paths=None if readonly is None else tuple(readonly),
        group_add=tuple(host["GroupAdd"]),
    )


def _security_option(option: str) -> tuple[str, str]:
    """Split ``key=value`` or ``key:value``; what is refused was refused before."""
    if option == "no-new-privileges":
        return option, "true"
    key, mark, value = option.partition("=")
    if not mark:
        key, _, value = option.partition(":")
    return key, value


def read_capabilities(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of capabilities in the words of specifications."""
    return tuple(name.upper().removeprefix("CAP_") for name in names)
