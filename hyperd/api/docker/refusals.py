"""What a container in a VM of its own cannot have: refused with the reason, or warned about by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from hyperd.errors import InvalidInput, NotSupported

_HOST_NAMESPACES = {
    "NetworkMode": ("network", "its network is that of its VM", "publish ports with -p"),
    "PidMode": ("process", "its processes are those of its VM", "leave --pid out"),
    "IpcMode": ("IPC", "its shared memory is that of its VM", "leave --ipc out"),
    "UTSMode": ("UTS", "its hostname is that of its VM", "leave --uts out"),
    "UsernsMode": ("user", "its users are those of its VM", "leave --userns out"),
    "CgroupnsMode": ("cgroup", "its cgroups are those of its VM", "leave --cgroupns out"),
}
_ACCEPTED_MODES = {
    "IpcMode": ("", "private", "shareable"),
    "PidMode": ("",),
    "UTSMode": ("",),
    "UsernsMode": ("",),
    "CgroupnsMode": ("", "private"),
}
RUNTIME = "hyper"  # the name of the one there is
_RUNTIMES = ("", RUNTIME, "runc", "io.containerd.runc.v2")
# Values of --security-opt by key, None: any.
_SECURITY_VALUES: dict[str, tuple[str, ...] | None] = {
    "seccomp": None,
    "no-new-privileges": ("", "true", "false"),
    "systempaths": ("unconfined",),
    "label": ("disable", ""),
    "apparmor": ("unconfined", "docker-default"),
}
_WARNED = {
    "BlkioWeight": "the weight of block I/O",
    "BlkioWeightDevice": "the weight of block I/O of devices",
    "BlkioDeviceReadBps": "the read rate of devices",
    "BlkioDeviceWriteBps": "the write rate of devices",
    "BlkioDeviceReadIOps": "the read operations of devices",
    "BlkioDeviceWriteIOps": "the write operations of devices",
    "CpusetMems": "memory nodes",
    "KernelMemory": "the limit of kernel memory",
    "CpuRealtimePeriod": "the real-time period",
    "CpuRealtimeRuntime": "the real-time runtime",
    "OomKillDisable": "disabling the OOM killer",
    "CgroupParent": "the parent cgroup: the VM's processes have a cgroup of their own",
}


def refuse(given: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    """Refuse what cannot be had. Errors: NotSupported, InvalidInput."""
    for key, (kind, reason, advice) in _HOST_NAMESPACES.items():
        if host[key] == "host":
            raise NotSupported(
                f"a container cannot share the {kind} namespace of the host",
                details=f"it runs in a virtual machine: {reason}",
                resolution=advice,
            )
    for key, accepted in _ACCEPTED_MODES.items():
        mode = host[key]
        if key == "PidMode" and mode.startswith("container:"):
            _check_pids(host)
            continue
        if mode.startswith("container:") and host["NetworkMode"] == mode:
            continue  # the containers of one pod share what they have in common
        if mode not in accepted:
            raise NotSupported(f"{key} {mode[:80]!r} is not supported", details="every container has a VM of its own")
    _refuse_devices(host)
    if host["Runtime"] not in _RUNTIMES:
        raise InvalidInput(f"unknown or invalid runtime name: {host['Runtime'][:60]}")
    if host["Isolation"] not in ("", "default", "hyperv"):
        raise InvalidInput(f"invalid isolation {host['Isolation'][:40]!r} on Linux")
    if host["StorageOpt"]:
        raise NotSupported("--storage-opt is not supported", details="the size of disks is a setting of the daemon")
    for option in host["SecurityOpt"]:
        _check_security(option)
    if host["NetworkMode"].startswith("container:"):
        _refuse_in_a_pod(given, host)


def _check_pids(host: Mapping[str, Any]) -> None:
    """Refuse to see the processes of a container in another VM. Errors: NotSupported, InvalidInput."""
    if not host["PidMode"].partition(":")[2]:
        raise InvalidInput("--pid: container: needs the name of a container")
    if not host["NetworkMode"].startswith("container:"):
        raise NotSupported(
            f"PidMode {host['PidMode'][:80]!r} is not supported alone",
            details="a container sees processes of its own VM only",
            resolution=f"add --network {host['PidMode'][:80]}, which puts it into the VM of that container",
        )


# Of a container that has the network of another: what that one decides.
_NOT_IN_A_POD = {
    "Hostname": "hostname and the network mode",
    "Domainname": "domain name and the network mode",
    "MacAddress": "mac-address and the network mode",
    "PortBindings": "port publishing and the container type network mode",
    "PublishAllPorts": "port publishing and the container type network mode",
    "ExposedPorts": "port exposing and the container type network mode",
    "Dns": "dns and the network mode",
    "DnsOptions": "dns options and the network mode",
    "DnsSearch": "dns search and the network mode",
    "ExtraHosts": "custom host-to-IP mapping and the network mode",
    "Links": "container type network can't be used with links",
}


def _refuse_in_a_pod(given: Mapping[str, Any], host: Mapping[str, Any]) -> None:
    for key, words in _NOT_IN_A_POD.items():
        if host.get(key) or (key not in host and given.get(key)):
            raise InvalidInput(f"conflicting options: {words}", details=f"{key} is that of the other container")


def _refuse_devices(host: Mapping[str, Any]) -> None:
    for device in host["Devices"]:
        raise NotSupported(
            f"the host's device {device['PathOnHost'][:100]} cannot be given to a container",
            details="it runs in a virtual machine, which has devices of its own",
            resolution="use --privileged for the devices of its VM",
        )
    if host["DeviceRequests"]:
        raise NotSupported("devices of the host such as GPUs cannot be given to a container in a virtual machine")


def _check_security(option: str) -> None:
    key, _, value = option.partition("=") if "=" in option else option.partition(":")
    if key == "apparmor" and value not in ("unconfined", "docker-default"):
        raise NotSupported("AppArmor profiles are not supported", details="the VM's kernel has no AppArmor")
    if key == "label" and value not in ("disable", ""):
        raise NotSupported(
            f"SELinux labels are not supported: {option[:100]}", details="the VM's kernel has no SELinux"
        )
    values = _SECURITY_VALUES.get(key, ())
    if values is not None and value not in values:
        raise InvalidInput(f"invalid --security-opt: {option[:100]!r}")


def refuse_update(given: Mapping[str, Any]) -> None:
    """Refuse what cannot be changed of a container. Errors: NotSupported."""
    _refuse_devices(given)
    if given["DeviceCgroupRules"]:
        raise NotSupported("the device cgroup rules of a container cannot be changed", resolution="create another one")
    if given["Ulimits"]:
        raise NotSupported("the ulimits of a container cannot be changed", resolution="create it with other ones")


def warn_resources(given: Mapping[str, Any]) -> Iterator[str]:
    """Yield a warning for each of ``Resources`` that has no effect here."""
    for key, words in _WARNED.items():
        if given[key]:
            yield f"{words} cannot be set in a virtual machine: {key} was discarded."
    if given["MemorySwappiness"] not in (None, -1):
        yield "swappiness cannot be set in a virtual machine: MemorySwappiness was discarded."


def warn(given: Mapping[str, Any], host: Mapping[str, Any], has_ipv6: Callable[[str], bool]) -> Iterator[str]:
    """Yield a warning for each setting that has no effect here; ``has_ipv6`` tells it of a network."""
    yield from warn_resources(host)
    if given["Image"] and host["Privileged"] and host["SecurityOpt"]:
        yield "SecurityOpt has no effect on a privileged container."
    for name, point in given["NetworkingConfig"]["EndpointsConfig"].items():
        if point and point["IPAMConfig"]["IPv6Address"] and not has_ipv6(name):
            yield f"IPv6 is not enabled on network {name[:100]}: IPv6Address was discarded."
        for key in (point or {}).get("DriverOpts", ()):
            yield f"The option {key[:100]} of the endpoint on {name[:100]} has no effect here."
