"""From the configurations of sandboxes and containers to specifications.

What a VM cannot have is refused by name, never dropped without a word.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

from hyperd.api.cri import kept
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.isolation import UNCONFINED
from hyperd.container.pidns import OF_POD
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import (
    CniSpec,
    ContainerSpec,
    Limits,
    LogSpec,
    PodSpec,
    PortSpec,
    Resource,
    Security,
    UserSpec,
    VolumeRef,
    VolumeSpec,
)
from hyperd.vm import cgroups

OWNER = "cri"
HANDLERS = ("", "hyperd")  # names of RuntimeClasses' handlers
HOST_DIRECTORY = "vfs"
LOG_DRIVER = "cri"
_CFS_PERIOD = 100_000  # microseconds
_GUEST = 64  # MiB of a VM for its kernel and agent
_MAX_PROFILE = 1 << 20  # bytes
_NAMESPACES = {"network": "hostNetwork", "pid": "hostPID", "ipc": "hostIPC"}
_SIGNALS = (
    "", "SIGABRT", "SIGALRM", "SIGBUS", "SIGCHLD", "SIGCHLD", "SIGCONT", "SIGFPE", "SIGHUP", "SIGILL", "SIGINT",
    "SIGIO", "SIGABRT", "SIGKILL", "SIGPIPE", "SIGIO", "SIGPROF", "SIGPWR", "SIGQUIT", "SIGSEGV", "SIGSTKFLT",
    "SIGSTOP", "SIGSYS", "SIGTERM", "SIGTRAP", "SIGTSTP", "SIGTTIN", "SIGTTOU", "SIGURG", "SIGUSR1", "SIGUSR2",
    "SIGVTALRM", "SIGWINCH", "SIGXCPU", "SIGXFSZ", "SIGRTMIN",
    *(f"SIGRTMIN+{number}" for number in range(1, 16)), *(f"SIGRTMAX-{number}" for number in range(14, 0, -1)),
    "SIGRTMAX",
)  # fmt: skip  # by the numbers of the interface's enum Signal


def read_sandbox(
    config: pb.PodSandboxConfig, *, ident: str, handler: str, default_vcpu: int, default_memory: int, cni: bool = False
) -> PodSpec:
    """Return the pod of a sandbox.

    Args:
        config: of the sandbox. ident: id of the pod. handler: of the RuntimeClass.
        default_vcpu, default_memory: size of a VM (MiB) whose pod names no limits.
        cni: plugins make its network.

    Errors: InvalidInput, NotSupported.

    """
    if handler not in HANDLERS:
        raise InvalidInput(f"unknown runtime handler {handler[:100]!r}", resolution="use hyperd, or none")
    if not config.metadata.name or not config.metadata.uid:
        raise InvalidInput("the sandbox has no metadata: name and uid are needed")
    security = config.linux.security_context
    _check_namespaces(security.namespace_options)
    if security.namespace_options.pid == pb.TARGET:
        raise InvalidInput("a sandbox has no container whose processes it could see")
    if security.HasField("run_as_group") and not security.HasField("run_as_user"):
        raise InvalidInput("run_as_group needs run_as_user")
    _refuse_selinux(security.selinux_options)
    ports = tuple(_port(one) for one in config.port_mappings if one.host_port)
    return PodSpec(
        id=ident,
        owner=OWNER,
        hostname=config.hostname,
        restart_policy="never",
        labels=dict(config.labels),
        annotations=kept.of_sandbox(config, handler),
        resource=_size(config.linux, default_vcpu, default_memory),
        portmappings=() if cni else ports,
        cni=_cni(config, ident, ports) if cni else None,
        dns=tuple(config.dns_config.servers),
        dns_search=tuple(config.dns_config.searches),
        dns_options=tuple(config.dns_config.options),
        cgroup_parent=_group(config.linux.cgroup_parent),
    )


def read_container(config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig, *, ident: str) -> ContainerSpec:
    """Return the specification of a container.

    Args:
        config: of the container. sandbox: what was kept of its sandbox. ident: id of the container.

    Errors: InvalidInput, NotSupported.

    """
    if not config.metadata.name:
        raise InvalidInput("the container has no metadata: a name is needed")
    if not config.image.image:
        raise InvalidInput("the container has no image")
    if config.devices or config.CDI_devices:
        raise NotSupported("devices of the host cannot be given to a virtual machine here")
    if not 0 <= config.stop_signal < len(_SIGNALS):
        raise InvalidInput(f"unknown stop signal {config.stop_signal}")
    security = config.linux.security_context
    user = _user(security)
    log_path = _log_path(config, sandbox)
    return ContainerSpec(
        id=ident,
        name=ident,
        image=config.image.image,
        entrypoint=tuple(config.command),
        command=tuple(config.args),
        workdir=config.working_dir,
        envs=tuple((one.key, one.value) for one in config.envs),
        tty=config.tty,
        open_stdin=config.stdin,
        stdin_once=config.stdin_once,
        user=user,
        volumes=tuple(_mount(one) for one in config.mounts),
        labels=dict(config.labels),
        annotations=kept.of_container(config),
        sysctl=dict(sandbox.linux.sysctls),
        restart_policy="never",
        stop_signal=_SIGNALS[config.stop_signal],
        log_path=log_path,
        log=LogSpec(type=LOG_DRIVER) if log_path else None,
        read_only=security.readonly_rootfs,
        limits=read_limits(config.linux.resources),
        oom_score_adj=config.linux.resources.oom_score_adj,
        pid_namespace=_pids(security),
        security=_security(security, given=config.linux.HasField("security_context")),
    )


def _log_path(config: pb.ContainerConfig, sandbox: pb.PodSandboxConfig) -> str:
    """Return the path of the log; empty when the client names none. Errors: InvalidInput."""
    if not sandbox.log_directory or not config.log_path:
        return ""
    path = os.path.normpath(os.path.join(sandbox.log_directory, config.log_path))  # noqa: PTH118 - no link is looked at
    if not path.startswith("/"):
        raise InvalidInput(f"the directory for logs {sandbox.log_directory[:300]!r} is not absolute")
    return path


def read_limits(given: pb.LinuxContainerResources) -> Limits:
    """Return the limits. Errors: NotSupported (huge pages, keys of cgroup v2)."""
    if any(one.limit for one in given.hugepage_limits):
        raise NotSupported("huge pages cannot be given to a container here")
    # The kernel of a guest ends all of a container when it runs out of memory, or one process: its own choice.
    unknown = sorted(set(given.unified) - {"memory.oom.group"})
    if unknown:
        raise NotSupported(f"{unknown[0]} of cgroup v2 cannot be set here", details=", ".join(unknown))
    if given.cpuset_mems not in ("", "0"):
        raise NotSupported(f"memory nodes {given.cpuset_mems[:40]!r}: a virtual machine has one, number 0")
    return Limits(
        memory=max(0, given.memory_limit_in_bytes),
        memory_swap=given.memory_swap_limit_in_bytes,
        cpu_period=given.cpu_period if given.cpu_quota > 0 else 0,
        cpu_quota=max(0, given.cpu_quota),
        cpu_shares=given.cpu_shares,
        cpuset=given.cpuset_cpus,
    )


def _group(parent: str) -> str:
    """Return a control group's path; kubelet with systemd's driver names a slice alone. Errors: InvalidInput."""
    if parent.endswith(".slice") and "/" not in parent:
        words = parent.removesuffix(".slice").split("-")
        if not all(words):
            raise InvalidInput("the control group of the sandbox is no slice", details=repr(parent[:100]))
        parent = "".join(f"/{'-'.join(words[: number + 1])}.slice" for number in range(len(words)))
    return str(cgroups.checked(parent)) if parent else ""


def _size(linux: pb.LinuxPodSandboxConfig, default_vcpu: int, default_memory: int) -> Resource:
    """Return the size of the VM: the pod's limits and the overhead of its RuntimeClass, or the daemon's default."""
    wanted, overhead = linux.resources, linux.overhead
    vcpu, memory = default_vcpu, default_memory
    if wanted.cpu_quota > 0:
        vcpu = max(1, -(-wanted.cpu_quota // (wanted.cpu_period or _CFS_PERIOD)))
    if wanted.memory_limit_in_bytes > 0:
        extra = _extra(wanted.memory_limit_in_bytes, overhead.memory_limit_in_bytes)
        memory = max(default_memory, -(-wanted.memory_limit_in_bytes // 2**20) + extra)
    return Resource(vcpu=vcpu, memory=memory)


def _extra(limit: int, overhead: int) -> int:
    """Return what the guest gets beyond a pod's memory limit, MiB.

    That is the whole overhead, as the pod's group on the host bounds nothing then that has it for QEMU. One that is
    large enough for both is shared: the VM can be in the pod's group.
    """
    if overhead <= 0:
        return _GUEST
    memory = -(-limit // 2**20) + _GUEST
    if cgroups.limits(vcpu=1, memory=memory).memory <= limit + overhead:
        return _GUEST
    return -(-overhead // 2**20)


def _cni(config: pb.PodSandboxConfig, ident: str, ports: tuple[PortSpec, ...]) -> CniSpec:
    """Return what plugins are told of a sandbox, in the words that Kubernetes' runtimes use. Errors: InvalidInput."""
    metadata = config.metadata
    args = {
        "IgnoreUnknown": "1",
        "K8S_POD_NAMESPACE": metadata.namespace,
        "K8S_POD_NAME": metadata.name,
        "K8S_POD_INFRA_CONTAINER_ID": ident,
        "K8S_POD_UID": metadata.uid,
    }
    for key, value in args.items():
        if ";" in value or "=" in value or "\0" in value:
            raise InvalidInput(f"network plugins (CNI) cannot be told {key} {value[:100]!r}")
    dns = config.dns_config
    return CniSpec(
        args=args,
        ports=ports,
        dns=tuple(dns.servers),
        dns_search=tuple(dns.searches),
        dns_options=tuple(dns.options),
    )


def _port(given: pb.PortMapping) -> PortSpec:
    if given.protocol == pb.SCTP:
        raise NotSupported("SCTP ports cannot be published")
    return PortSpec(
        container_port=str(given.container_port),
        host_port=str(given.host_port),
        protocol=pb.Protocol.Name(given.protocol).lower(),
        host_ip=given.host_ip,
    )


def _check_namespaces(options: pb.NamespaceOption) -> None:
    for name, word in _NAMESPACES.items():
        if getattr(options, name) == pb.NODE:
            raise NotSupported(
                f"{word}: a container in a virtual machine cannot be in a namespace of the host",
                resolution="run this pod with another RuntimeClass",
            )
        if getattr(options, name) == pb.TARGET and name != "pid":
            raise NotSupported(f"the {name} namespace of another container cannot be joined")
    if options.userns_options.uids or options.userns_options.gids:
        raise NotSupported("user namespaces are not supported", details="the virtual machine is the boundary")


def _pids(security: pb.LinuxContainerSecurityContext) -> str:
    """Return whose processes a container sees. Errors: InvalidInput."""
    options = security.namespace_options
    if not security.HasField("namespace_options") or options.pid not in (pb.POD, pb.TARGET):
        return ""
    if options.pid == pb.POD:
        return OF_POD
    if not options.target_id:
        raise InvalidInput("the process namespace of another container needs target_id")
    return str(options.target_id)


def _user(security: pb.LinuxContainerSecurityContext) -> UserSpec:
    by_number, by_name = security.HasField("run_as_user"), bool(security.run_as_username)
    if by_number and by_name:
        raise InvalidInput("run_as_user and run_as_username exclude each other")
    if security.HasField("run_as_group") and not (by_number or by_name):
        raise InvalidInput("run_as_group needs run_as_user or run_as_username")
    name = str(security.run_as_user.value) if by_number else security.run_as_username
    return UserSpec(name=name, group=str(security.run_as_group.value) if security.HasField("run_as_group") else "")


def _security(given_security: pb.LinuxContainerSecurityContext, *, given: bool) -> Security:
    one = given_security
    _check_namespaces(one.namespace_options)
    if one.capabilities.add_ambient_capabilities:
        raise NotSupported("ambient capabilities are not supported")
    _refuse_selinux(one.selinux_options)
    if one.apparmor.profile_type == pb.SecurityProfile.Localhost or one.apparmor_profile.startswith("localhost/"):
        raise NotSupported("AppArmor profiles of the host do not exist in the guest's kernel")
    return Security(
        privileged=one.privileged,
        cap_add=tuple(name.upper().removeprefix("CAP_") for name in one.capabilities.add_capabilities),
        cap_drop=tuple(name.upper().removeprefix("CAP_") for name in one.capabilities.drop_capabilities),
        seccomp=UNCONFINED if one.privileged else _seccomp(one),  # Docker keeps a profile, this interface does not
        no_new_privileges=one.no_new_privs,
        # A list cannot be told from none, and "procMount: Unmasked" sends none.
        masked_paths=tuple(one.masked_paths) if given else None,
        readonly_paths=tuple(one.readonly_paths) if given else None,
        group_add=tuple(str(group) for group in one.supplemental_groups),
        image_groups="none" if one.supplemental_groups_policy == pb.Strict else "all",
    )


def _seccomp(one: pb.LinuxContainerSecurityContext) -> str:
    """Return the profile; without one system calls are not filtered, as the interface says."""
    path = one.seccomp.localhost_ref
    if not one.HasField("seccomp"):
        words = {"": UNCONFINED, "unconfined": UNCONFINED, "runtime/default": "", "docker/default": ""}
        if one.seccomp_profile_path in words:
            return words[one.seccomp_profile_path]
        path = one.seccomp_profile_path.removeprefix("localhost/")
    elif one.seccomp.profile_type == pb.SecurityProfile.RuntimeDefault:
        return ""
    elif one.seccomp.profile_type == pb.SecurityProfile.Unconfined:
        return UNCONFINED
    if not path.startswith("/"):
        raise InvalidInput(f"seccomp: {path[:300]!r} is no absolute path of a profile")
    try:
        with Path(path).open(encoding="utf-8") as file:
            text = file.read(_MAX_PROFILE + 1)
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"the seccomp profile {path[:300]} cannot be read", details=str(error)) from error
    if len(text) > _MAX_PROFILE:
        raise InvalidInput(f"the seccomp profile {path[:300]} is larger than {_MAX_PROFILE} bytes")
    return text


def _refuse_selinux(options: pb.SELinuxOption) -> None:
    if options.user or options.role or options.type or options.level:
        raise NotSupported("SELinux labels do not exist in the guest's kernel")


def _mount(given: pb.Mount) -> VolumeRef:
    path = given.container_path
    if given.HasField("image"):
        raise NotSupported(f"mount {path[:300]}: images cannot be mounted")
    if not path.startswith("/"):
        raise InvalidInput(f"mount {path[:300]!r}: the path in the container is not absolute")
    if given.uidMappings or given.gidMappings:
        raise NotSupported(f"mount {path[:300]}: ids cannot be mapped")
    if given.propagation != pb.PROPAGATION_PRIVATE:
        mode = pb.MountPropagation.Name(given.propagation)
        raise NotSupported(f"mount {path[:300]}: {mode} is not possible between host and virtual machine")
    if given.recursive_read_only and not given.readonly:
        raise InvalidInput(f"mount {path[:300]}: recursive_read_only needs readonly")
    source = os.path.realpath(given.host_path) if given.host_path.startswith("/") else ""
    if not source or not Path(source).exists():
        raise InvalidInput(f"mount {path[:300]}: the host's path {given.host_path[:300]!r} does not exist")
    detail = host_volume(source)
    return VolumeRef(path=path, volume=detail.name, read_only=given.readonly, detail=detail)


def host_volume(source: str) -> VolumeSpec:
    """Return the volume that a directory or file of the host is."""
    name = f"host-{hashlib.sha256(os.fsencode(source)).hexdigest()[:16]}"
    return VolumeSpec(name=name, source=source, format=HOST_DIRECTORY)


def has_labels(labels: Mapping[str, str], selector: Mapping[str, str]) -> bool:
    """Return whether labels have everything that a selector wants."""
    return all(labels.get(key) == value for key, value in selector.items())
