"""Containers in Docker's words: rows of ``ps`` and the object of ``inspect``, of every version."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hyperd.api.docker import words
from hyperd.api.docker.create import REQUEST
from hyperd.api.docker.network_views import Attachment, endpoint
from hyperd.api.docker.refusals import RUNTIME
from hyperd.api.docker.versions import Version
from hyperd.container.model import Container, Health, Mount
from hyperd.container.states import ContainerState
from hyperd.image.model import ContainerDefaults
from hyperd.network.ports import PortMapping
from hyperd.spec.model import ContainerSpec, Healthcheck, PodSpec

_RESTART = {
    "": "no",
    "never": "no",
    "always": "always",
    "onFailure": "on-failure",
    "unless-stopped": "unless-stopped",
}
_NANO = 1_000_000_000
HOST_PATH_FORMATS = ("vfs",)
DEFAULT_SHM = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A container with what is shown beside it.

    Args:
        container: as the services know it. pod: the specification of its pod.
        image: what its image says for containers, nothing when the image is gone. image_name: as ``ps`` shows it.
        attachments: the networks it is on. gateway: of the default bridge.
        volume_paths: of named volumes on the host, by name.
        sizes: bytes of its writable layer and of its whole root file system, where they were asked for.

    """

    container: Container
    pod: PodSpec
    image: ContainerDefaults
    image_name: str
    attachments: Sequence[Attachment] = ()
    volume_paths: Mapping[str, str] | None = None
    sizes: tuple[int, int] | None = None

    @cached_property
    def asked(self) -> Mapping[str, Any]:
        """Return what a Docker client asked for; empty for containers of other APIs."""
        text = self.container.spec.annotations.get(REQUEST, "")
        return dict(json.loads(text)) if text else {}


def state_word(container: Container) -> str:
    """Return one of created, running, paused, restarting, exited."""
    if container.paused and container.live:
        return "paused"
    if container.restart_at is not None:
        return "restarting"
    if container.state == ContainerState.CREATED:
        return "created"
    return "running" if container.live else "exited"


def status_text(container: Container, version: Version, *, now: float | None = None) -> str:
    """Return the text of ``docker ps``: ``Up 3 hours``, ``Exited (0) 2 minutes ago``; before 1.9 ``Exit 0``."""
    now = time.time() if now is None else now
    word = state_word(container)
    ended = words.human(now - container.finished_at) if container.finished_at else "Less than a second"
    if word == "created":
        return "Created"
    if word == "restarting":
        return f"Restarting ({container.exit_code or 0}) {ended} ago"
    if word == "exited":
        if version < (1, 10):
            return f"Exit {container.exit_code or 0}"
        return f"Exited ({container.exit_code or 0}) {ended} ago"
    up = "Up " + words.human(now - (container.started_at or now))
    if word == "paused":
        return f"{up} (Paused)"
    if container.health is not None:
        state = container.health.state
        return f"{up} (health: starting)" if state == "starting" else f"{up} ({state})"
    return up


def command_text(container: Container) -> str:
    """Return the command line as ``docker ps`` shows it."""
    argv = container.program.argv if container.program else container.spec.command
    return " ".join(argv)


def path_and_args(container: Container) -> tuple[str, list[str]]:
    """Return the program and its arguments."""
    argv = list(container.program.argv if container.program else container.spec.command)
    return (argv[0], argv[1:]) if argv else ("", [])


def labels(shown: Shown) -> dict[str, str]:
    """Return the labels of the image and of the container, which win."""
    return {**shown.image.labels, **shown.container.labels}


def network_mode(shown: Shown) -> str:
    """Return ``HostConfig.NetworkMode``."""
    asked = str((shown.asked.get("HostConfig") or {}).get("NetworkMode") or "")
    if asked:
        return asked
    if shown.pod.network_disabled:
        return "none"
    return shown.pod.networks[0].network if shown.pod.networks else "bridge"


# -- docker ps


def row(shown: Shown, version: Version) -> dict[str, Any]:
    """Return a row of ``GET /containers/json``."""
    container = shown.container
    found: dict[str, Any] = {
        "Id": container.id,
        "Names": ["/" + container.name],
        "Image": shown.image_name,
        "Command": command_text(container),
        "Created": int(container.created_at),
        "Ports": ports_row(shown),
        "Status": status_text(container, version),
        "Labels": labels(shown),
    }
    if version >= (1, 21):
        found["ImageID"] = container.image_id
    if version >= (1, 23):
        found["State"] = state_word(container)
        found["Mounts"] = [mount_object(mount, shown) for mount in container.mounts]
    if version >= (1, 20):
        found["HostConfig"] = {"NetworkMode": network_mode(shown)}
    if version >= (1, 21):
        found["NetworkSettings"] = {"Networks": networks(shown)}
    if shown.sizes is not None or version < (1, 19):
        found["SizeRw"], found["SizeRootFs"] = shown.sizes or (0, 0)
    return found


def ports_row(shown: Shown) -> list[dict[str, Any]]:
    """Return ``Ports`` of a row: published ones and those that are only exposed."""
    published = _published(shown)
    found: list[dict[str, Any]] = [
        {
            "IP": ip,
            "PrivatePort": mapping.container_port,
            "PublicPort": mapping.host_port,
            "Type": mapping.protocol,
        }
        for mapping in published
        for ip in _host_ips(mapping, shown)
    ]
    known = {(mapping.container_port, mapping.protocol) for mapping in published}
    if shown.container.live:
        for text in exposed(shown):
            port, _, protocol = text.partition("/")
            if port.isascii() and port.isdigit() and (int(port), protocol) not in known:
                found.append({"PrivatePort": int(port), "Type": protocol})
    return found


def _published(shown: Shown) -> Sequence[PortMapping]:
    return shown.container.ports if shown.container.live else ()


def _host_ips(mapping: PortMapping, shown: Shown) -> tuple[str, ...]:
    """Return the addresses of the host that a port answers on, in the words that clients know for "all"."""
    if mapping.host_ip:
        return (mapping.host_ip,)
    leads_to = next((one for one in shown.attachments if one.gateway), None)
    ipv6 = leads_to is not None and leads_to.address6
    return ("0.0.0.0", "::") if ipv6 else ("0.0.0.0",)  # noqa: S104 - told, not listened on


def exposed(shown: Shown) -> list[str]:
    """Return the exposed ports: the image's, those asked for, and published ones."""
    found = [*shown.image.exposed_ports, *(shown.asked.get("ExposedPorts") or {})]
    found += [f"{mapping.container_port}/{mapping.protocol}" for mapping in shown.container.ports]
    return list(dict.fromkeys(text if "/" in text else f"{text}/tcp" for text in found))


# -- docker inspect


def inspect(shown: Shown, version: Version, *, driver: str) -> dict[str, Any]:
    """Return the object of ``GET /containers/X/json``.

    Args:
        shown: the container.
        version: of the API; old ones had other names for some keys.
        driver: name of the storage driver.

    """
    container = shown.container
    path, arguments = path_and_args(container)
    found: dict[str, Any] = {
        "Id": container.id,
        "Created": words.rfc3339(container.created_at),
        "Path": path,
        "Args": arguments,
        "State": state_object(container, version),
        "Image": container.image_id if version >= (1, 22) else container.image_id.removeprefix("sha256:"),
        "ResolvConfPath": "/etc/resolv.conf",
        "HostnamePath": "/etc/hostname",
        "HostsPath": "/etc/hosts",
        "LogPath": str(container.log_path or ""),
        "Name": "/" + container.name,
        "RestartCount": container.restart_count,
        "Driver": driver,
        "Platform": "linux",
        "MountLabel": "",
        "ProcessLabel": "",
        "AppArmorProfile": "",
        "ExecIDs": None,
        "HostConfig": host_config(shown),
        "GraphDriver": {"Data": None, "Name": driver},
        "Mounts": [mount_object(mount, shown) for mount in container.mounts],
        "Config": config_object(shown, version),
        "NetworkSettings": network_settings(shown, version),
    }
    if shown.sizes is not None:
        found["SizeRw"], found["SizeRootFs"] = shown.sizes
    if version < (1, 24):
        found |= _of_old(shown)
    return found


def _of_old(shown: Shown) -> dict[str, Any]:
    """Return keys that only old clients know."""
    mounts = shown.container.mounts
    return {
        "ID": shown.container.id,
        "SysInitPath": "",
        "ExecDriver": "hyper-vm",
        "Volumes": {mount.path: mount_object(mount, shown)["Source"] for mount in mounts},
        "VolumesRW": {mount.path: not mount.read_only for mount in mounts},
    }


def state_object(container: Container, version: Version) -> dict[str, Any]:
    """Return ``State``."""
    word = state_word(container)
    found: dict[str, Any] = {
        "Status": word,
        "Running": container.live or word == "restarting",
        "Paused": word == "paused",
        "Restarting": word == "restarting",
        "OOMKilled": container.oom_killed,
        "Dead": False,
        "Pid": container.pid if container.live else 0,
        "ExitCode": container.exit_code or 0,
        "Error": container.error,
        "StartedAt": words.rfc3339(container.started_at),
        "FinishedAt": words.rfc3339(container.finished_at),
    }
    if container.health is not None:
        found["Health"] = health_object(container.health)
    if version < (1, 13):
        found["Ghost"] = False
    return found


def health_object(health: Health) -> dict[str, Any]:
    """Return ``State.Health``."""
    return {
        "Status": str(health.state),
        "FailingStreak": health.failing_streak,
        "Log": [
            {
                "Start": words.rfc3339(result.started_at),
                "End": words.rfc3339(result.finished_at),
                "ExitCode": result.exit_code,
                "Output": result.output,
            }
            for result in health.log
        ],
    }


def config_object(shown: Shown, version: Version) -> dict[str, Any]:
    """Return ``Config``: the image's settings and those of the container, merged."""
    container, asked, image = shown.container, shown.asked, shown.image
    spec = container.spec
    entrypoint = list(spec.entrypoint or image.entrypoint) or None
    command = list(spec.command or (() if spec.entrypoint else image.command)) or None
    found: dict[str, Any] = {
        "Hostname": shown.pod.hostname,
        "Domainname": shown.pod.domainname,
        "User": _user(spec) or image.user,
        "AttachStdin": bool(asked.get("AttachStdin", False)),
        "AttachStdout": bool(asked.get("AttachStdout", False)),
        "AttachStderr": bool(asked.get("AttachStderr", False)),
        "ExposedPorts": {text: {} for text in exposed(shown)} or None,
        "Tty": container.program.tty if container.program else bool(spec.tty),
        "OpenStdin": spec.open_stdin,
        "StdinOnce": spec.stdin_once,
        "Env": _env(shown),
        "Cmd": command,
        "Image": spec.image,
        "Volumes": _volumes(shown),
        "WorkingDir": spec.workdir or image.workdir,
        "Entrypoint": entrypoint if entrypoint != [""] else None,
        "OnBuild": list(image.triggers) or None,
        "Labels": labels(shown),
    }
    if found["ExposedPorts"] is None:
        del found["ExposedPorts"]
    if spec.stop_signal or image.stop_signal:
        found["StopSignal"] = spec.stop_signal or image.stop_signal
    if spec.stop_timeout is not None:
        found["StopTimeout"] = int(spec.stop_timeout)
    check = spec.healthcheck or image.healthcheck
    if check:
        found["Healthcheck"] = _healthcheck(check)
    if shown.pod.network_disabled and version >= (1, 19):
        found["NetworkDisabled"] = True
    if version < (1, 19):
        found |= _config_of_old(shown)
    return found


def _config_of_old(shown: Shown) -> dict[str, Any]:
    limits = shown.container.spec.limits
    return {
        "Memory": limits.memory,
        "MemorySwap": limits.memory_swap,
        "CpuShares": limits.cpu_shares,
        "Cpuset": limits.cpuset,
        "PortSpecs": None,
        "Dns": list(shown.pod.dns) or None,
        "VolumesFrom": "",
        "NetworkDisabled": shown.pod.network_disabled,
    }


def _user(spec: ContainerSpec) -> str:
    return spec.user.name + (f":{spec.user.group}" if spec.user.group else "")


def _env(shown: Shown) -> list[str]:
    """Return the environment: the container's entries first, as Docker does, then those of the image."""
    spec = shown.container.spec
    own = [f"{key}={value}" for key, value in spec.envs] + list(spec.unset_envs)
    names = {*dict(spec.envs), *spec.unset_envs}
    inherited = [entry for entry in shown.image.env if entry.partition("=")[0] not in names]
    return own + inherited


def _volumes(shown: Shown) -> dict[str, Any] | None:
    asked = shown.asked.get("Volumes") or {}
    return {path: {} for path in (*shown.image.volumes, *asked)} or None


def _healthcheck(check: Healthcheck) -> dict[str, Any]:
    if check.disabled:
        return {"Test": ["NONE"]}
    found: dict[str, Any] = {}
    if check.argv:
        found["Test"] = ["CMD-SHELL" if check.shell else "CMD", *check.argv]
    for key, value in (
        ("Interval", check.interval),
        ("Timeout", check.timeout),
        ("StartPeriod", check.start_period),
        ("StartInterval", check.start_interval),
    ):
        if value:
            found[key] = int(value * _NANO)
    if check.retries:
        found["Retries"] = check.retries
    return found


def host_config(shown: Shown) -> dict[str, Any]:
    """Return ``HostConfig``: what is in force, and what was asked for where only the client's own words say it."""
    return {
        **_UNUSED_HOST_KEYS,
        **_host_basics(shown),
        **_host_network(shown),
        **_host_security(shown),
        **_host_limits(shown.container.spec),
    }


# Keys that clients read and that mean nothing in a virtual machine.
_UNUSED_HOST_KEYS: dict[str, Any] = {
    "BlkioWeight": 0,
    "BlkioWeightDevice": None,
    "BlkioDeviceReadBps": None,
    "BlkioDeviceWriteBps": None,
    "BlkioDeviceReadIOps": None,
    "BlkioDeviceWriteIOps": None,
    "Cgroup": "",
    "CgroupParent": "",
    "CgroupnsMode": "private",
    "CpuCount": 0,
    "CpuPercent": 0,
    "CpuRealtimePeriod": 0,
    "CpuRealtimeRuntime": 0,
    "CpusetMems": "",
    "DeviceRequests": None,
    "Devices": [],
    "IOMaximumBandwidth": 0,
    "IOMaximumIOps": 0,
    "IpcMode": "private",
    "LxcConf": [],
    "MemorySwappiness": None,
    "OomKillDisable": False,
    "StorageOpt": None,
    "UTSMode": "",
    "UsernsMode": "",
}


def _asked_host(shown: Shown) -> Mapping[str, Any]:
    return shown.asked.get("HostConfig") or {}


def _host_basics(shown: Shown) -> dict[str, Any]:
    container, spec, asked = shown.container, shown.container.spec, _asked_host(shown)
    return {
        "Annotations": {key: value for key, value in spec.annotations.items() if key != REQUEST} or None,
        "AutoRemove": spec.auto_remove,
        "Binds": asked.get("Binds"),
        "ConsoleSize": asked.get("ConsoleSize") or [0, 0],
        "ContainerIDFile": asked.get("ContainerIDFile", ""),
        "Init": spec.init or None,
        "LogConfig": {
            "Type": container.log_driver or "json-file",
            "Config": dict(spec.log.config) if spec.log else {},
        },
        "Isolation": asked.get("Isolation", ""),
        "Mounts": asked.get("Mounts") or None,
        "ReadonlyRootfs": spec.read_only,
        "RestartPolicy": {"Name": _RESTART.get(spec.restart_policy, "no"), "MaximumRetryCount": spec.restart_max},
        "Runtime": asked.get("Runtime") or RUNTIME,
        "ShmSize": spec.shm_size or DEFAULT_SHM,
        "Sysctls": dict(spec.sysctl) or None,
        "Tmpfs": asked.get("Tmpfs") or None,
        "VolumeDriver": asked.get("VolumeDriver", ""),
        "VolumesFrom": asked.get("VolumesFrom"),
    }


def _host_network(shown: Shown) -> dict[str, Any]:
    container, pod = shown.container, shown.pod
    pids = container.spec.pid_namespace
    links = [f"/{name}:/{container.name}/{alias}" for network in pod.networks for name, alias in network.links]
    return {
        "Dns": list(pod.dns),
        "DnsOptions": list(pod.dns_options),
        "DnsSearch": list(pod.dns_search),
        "ExtraHosts": [f"{name}:{address}" for name, address in pod.extra_hosts] or None,
        "Links": links or None,
        "NetworkMode": network_mode(shown),
        "PidMode": f"container:{pids}" if pids and shown.asked else "",
        "PortBindings": _bindings(shown),
        "PublishAllPorts": bool(_asked_host(shown).get("PublishAllPorts", False)),
    }


def _host_security(shown: Shown) -> dict[str, Any]:
    security = shown.container.spec.security
    return {
        "CapAdd": list(security.cap_add) or None,
        "CapDrop": list(security.cap_drop) or None,
        "GroupAdd": list(security.group_add) or None,
        "MaskedPaths": None if security.masked_paths is None else list(security.masked_paths),
        "Privileged": security.privileged,
        "ReadonlyPaths": None if security.readonly_paths is None else list(security.readonly_paths),
        "SecurityOpt": _asked_host(shown).get("SecurityOpt") or None,
    }


def _host_limits(spec: ContainerSpec) -> dict[str, Any]:
    limits = spec.limits
    return {
        "CpuPeriod": limits.cpu_period,
        "CpuQuota": limits.cpu_quota,
        "CpuShares": limits.cpu_shares,
        "CpusetCpus": limits.cpuset,
        "DeviceCgroupRules": list(spec.device_rules) or None,
        "Memory": limits.memory,
        "MemoryReservation": limits.memory_reservation,
        "MemorySwap": limits.memory_swap,
        "NanoCpus": limits.cpus,
        "OomScoreAdj": spec.oom_score_adj,
        "PidsLimit": limits.pids or None,
        "Ulimits": [{"Name": one.name, "Hard": one.hard, "Soft": one.soft} for one in spec.ulimits] or None,
    }


def _bindings(shown: Shown) -> dict[str, Any]:
    asked = (shown.asked.get("HostConfig") or {}).get("PortBindings")
    if asked is not None:
        return dict(asked)
    found: dict[str, Any] = {}
    for mapping in shown.container.ports:
        key = f"{mapping.container_port}/{mapping.protocol}"
        found.setdefault(key, []).append({"HostIp": mapping.host_ip, "HostPort": str(mapping.host_port)})
    return found


def mount_object(mount: Mount, shown: Shown) -> dict[str, Any]:
    """Return an entry of ``Mounts``."""
    if mount.format in HOST_PATH_FORMATS:
        return {
            "Type": "bind",
            "Source": mount.source,
            "Destination": mount.path,
            "Mode": "ro" if mount.read_only else "",
            "RW": not mount.read_only,
            "Propagation": mount.propagation or "rprivate",
        }
    name = mount.source or mount.volume
    return {
        "Type": "volume",
        "Name": name,
        "Source": (shown.volume_paths or {}).get(name, ""),
        "Destination": mount.path,
        "Driver": "local",
        "Mode": "ro" if mount.read_only else "z",
        "RW": not mount.read_only,
        "Propagation": "",
    }


def networks(shown: Shown) -> dict[str, Any]:
    """Return the endpoints by network."""
    return {attachment.network: endpoint(attachment) for attachment in shown.attachments}


def network_settings(shown: Shown, version: Version) -> dict[str, Any]:
    """Return ``NetworkSettings``."""
    main = next((one for one in shown.attachments if one.network == "bridge"), None)
    live = shown.container.live
    ports: dict[str, Any] = dict.fromkeys(exposed(shown)) if live else {}
    for mapping in _published(shown):
        entries = [{"HostIp": ip, "HostPort": str(mapping.host_port)} for ip in _host_ips(mapping, shown)]
        key = f"{mapping.container_port}/{mapping.protocol}"
        ports[key] = [*(ports.get(key) or []), *entries]
    first = main if main is not None and live else None
    of_old = {"IpAddress": first.address if first else "", "IpPrefixLen": first.prefix if first else 0}
    return {
        **(of_old if version < (1, 10) else {}),
        "Bridge": "",
        "SandboxID": shown.container.id if live else "",
        "SandboxKey": "",
        "HairpinMode": False,
        "LinkLocalIPv6Address": "",
        "LinkLocalIPv6PrefixLen": 0,
        "Ports": ports,
        "PortMapping": None,
        "SecondaryIPAddresses": None,
        "SecondaryIPv6Addresses": None,
        "EndpointID": first.endpoint_id if first else "",
        "Gateway": first.gateway if first else "",
        "GlobalIPv6Address": "",
        "GlobalIPv6PrefixLen": 0,
        "IPAddress": first.address if first else "",
        "IPPrefixLen": first.prefix if first else 0,
        "IPv6Gateway": "",
        "MacAddress": first.mac if first else "",
        "Networks": networks(shown),
    }
