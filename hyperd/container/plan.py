"""The plan of a container, computed from image and specification.

Root file system, namespaces, limits and program. Sources of the rules: OCI image specification (config), Docker's
defaults for capabilities, devices and read-only paths.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperd.agent.plan import (
    MS_BIND,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
    MS_STRICTATIME,
    Op,
    Plan,
)
from hyperd.container import isolation
from hyperd.container.files import PlannedFile
from hyperd.container.volumes import Mounted
from hyperd.errors import InvalidInput
from hyperd.guest import layout
from hyperd.image.model import container_defaults
from hyperd.spec.model import MAX_NOFILE, ContainerSpec, Security, Ulimit

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
_LINKS = (
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
)
_RLIMITS = {
    "cpu": 0, "fsize": 1, "data": 2, "stack": 3, "core": 4, "rss": 5, "nproc": 6, "nofile": 7, "memlock": 8, "as": 9,
    "locks": 10, "sigpending": 11, "msgqueue": 12, "nice": 13, "rtprio": 14, "rttime": 15,
}  # fmt: skip
_PLAIN = Security()
IN_ROOT = "root:"  # the agent resolves such a mount target below OPENROOT
SHM = "/dev/shm"  # noqa: S108  # shared by the containers of a pod, as their IPC namespace is


@dataclass(frozen=True, kw_only=True)
class Program:
    """What a container runs, after image and specification were merged.

    Args:
        user: ``name[:group]``, empty = root.

    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    workdir: str
    user: str
    groups: tuple[str, ...]
    tty: bool


@dataclass(frozen=True, kw_only=True)
class RootFs:
    """Where a container's files come from: ``layers`` are mount points in the guest, bottom first."""

    container_id: str
    layers: Sequence[str]
    volumes: Sequence[Mounted] = ()  # outer paths first


@dataclass(frozen=True, kw_only=True)
class GuestProgram:
    """A program of the guest's own root, shown in a container."""

    target: str
    source: str

    def add_to(self, plan: Plan) -> None:
        """Append the steps."""
        plan.bind(self.source, IN_ROOT + self.target, readonly=True)


def merge_program(spec: ContainerSpec, image_config: Mapping[str, Any], *, hostname: str, pod_tty: bool) -> Program:
    """Merge the image's defaults and the specification.

    A given entrypoint drops the image's command, as Docker does. Errors: InvalidInput when nothing is left to run.
    """
    image = container_defaults(image_config)
    entrypoint = tuple(spec.entrypoint) or image.entrypoint
    if spec.entrypoint == ("",):  # Docker's way to say: none, not even the image's
        entrypoint = ()
    command = tuple(spec.command) or (() if spec.entrypoint else image.command)
    argv = entrypoint + command
    if not argv:
        raise InvalidInput(
            f"container {spec.name} has nothing to run",
            details=f"the image {spec.image} has no command and the specification gives none",
            resolution="give a command",
        )
    tty = pod_tty if spec.tty is None else (spec.tty or pod_tty)
    env = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        env["TERM"] = "xterm"
    for item in image.env:
        key, _, value = item.partition("=")
        env[key] = value
    env = {key: value for key, value in env.items() if key not in spec.unset_envs}
    env.update(spec.envs)
    user = image.user
    if spec.user.name or spec.user.group:
        name = spec.user.name or user.partition(":")[0] or "0"
        user = name + (f":{spec.user.group}" if spec.user.group else "")
    if spec.user.additional_groups and not user:
        user = "0"
    return Program(
        argv=argv,
        env=env,
        workdir=spec.workdir or image.workdir or "/",
        user=user,
        groups=spec.user.additional_groups,
        tty=tty,
    )


def cgroup(process: str) -> str:
    """Return the control group of a container's run, below the root of cgroup v2."""
    return f"hyper/{process}"


def cgroup_dir(process: str) -> str:
    """Return the directory of that group in the guest."""
    return f"/sys/fs/cgroup/{cgroup(process)}"


def container_plan(
    *,
    process: str,
    base: int,
    spec: ContainerSpec,
    program: Program,
    rootfs: RootFs,
    files: Sequence[PlannedFile | GuestProgram] = (),
    size: tuple[int, int] = (24, 80),
    before: Plan | None = None,
    memory: int = 0,
    pids_of: str = "",
) -> Plan:
    """Return the START plan of a container's main process.

    ``before`` has steps for the guest that come first; ``memory`` is the VM's in MiB (0 = unknown); ``pids_of`` is the
    agent's name of the process whose pid namespace it is in, empty = its own.
    """
    plan = Plan()
    plan.steps += before.steps if before is not None else []
    directory = layout.container_dir(rootfs.container_id)
    layout.make_upper(plan, directory, rootfs.layers).mkdir(layout.ROOTFS)
    plan.add(Op.PROCESS, process)
    plan.add(Op.STREAMS, base, "open" if spec.open_stdin or program.tty else "null")
    plan.add(Op.CGROUP, cgroup(process))
    isolation.limit_group(plan, cgroup_dir(process), spec.limits, memory=memory)
    isolation.allow_devices(plan, cgroup(process), spec)
    if spec.oom_score_adj:
        plan.write("/proc/self/oom_score_adj", str(spec.oom_score_adj), None)
    for key, value in spec.sysctl.items():
        plan.write("/proc/sys/" + key.replace(".", "/"), value, None)
    for volume in rootfs.volumes:
        if not volume.made and not volume.copy_up:
            plan.mkdir(volume.source, 0o777)
    if pids_of:
        plan.add(Op.PIDNS, pids_of).add(Op.UNSHARE, "mnt", "cgroup")
    else:
        plan.add(Op.UNSHARE, "mnt", "pid", "cgroup")
        if not spec.init:
            plan.add(Op.FIRST)
    lower = ":".join(reversed(rootfs.layers)) or layout.EMPTY
    options = f"lowerdir={lower},upperdir={directory}/upper,workdir={directory}/work"
    plan.mount("overlay", layout.ROOTFS, "overlay", 0, options)
    # From here on paths are the image's: the agent resolves them inside the new root, whatever links are there.
    plan.add(Op.OPENROOT, layout.ROOTFS)
    _kernel_file_systems(plan, spec)
    _mounts(plan, rootfs, files, spec)
    if spec.read_only:
        plan.mkdir(program.workdir)  # CWD makes a missing one, but not below a read-only root
    plan.add(Op.OPENROOT, "")
    if spec.read_only:
        plan.mount("none", layout.ROOTFS, "", MS_REMOUNT | MS_BIND | MS_RDONLY)
    plan.add(Op.PIVOT, layout.ROOTFS)
    isolation.hide_paths(plan, spec.security)
    if program.tty:
        plan.add(Op.TTY, *size)
    _rlimits(plan, spec.ulimits)
    _identity(plan, program, spec.security)
    return plan.argv(program.argv)


def _mounts(plan: Plan, rootfs: RootFs, files: Sequence[PlannedFile | GuestProgram], spec: ContainerSpec) -> None:
    own = {volume.path for volume in rootfs.volumes} | {file.target for file in files}
    for name in ("hosts", "hostname", "resolv.conf"):
        if f"/etc/{name}" not in own:
            plan.bind(f"{layout.ETC}/{name}", f"{IN_ROOT}/etc/{name}")
    for tmpfs in spec.tmpfs:
        isolation.mount_tmpfs(plan, tmpfs, IN_ROOT)
    for volume in rootfs.volumes:
        if volume.copy_up:
            plan.add(Op.COPYUP, volume.path, volume.source)
        if not volume.is_file:
            plan.mkdir(volume.path)
        plan.bind(volume.source, IN_ROOT + volume.path, readonly=volume.read_only)
    for file in files:
        file.add_to(plan)


def exec_plan(
    *,
    process: str,
    base: int,
    container_process: str,
    program: Program,
    limits: Sequence[Ulimit] = (),
    security: Security = _PLAIN,
    privileged: bool = False,
    size: tuple[int, int] = (24, 80),
) -> Plan:
    """Return the START plan of an additional process in a running container.

    ``limits`` and ``security`` are the container's; ``privileged``: it has all capabilities and no seccomp program.
    """
    plan = Plan()
    plan.add(Op.PROCESS, process)
    plan.add(Op.STREAMS, base, "open")
    plan.add(Op.JOIN, container_process)
    if program.tty:
        plan.add(Op.TTY, *size)
    _rlimits(plan, limits)
    _identity(plan, program, security, privileged=privileged)
    return plan.argv(program.argv)


def vm_exec_plan(*, process: str, base: int, command: Sequence[str]) -> Plan:
    """Return the START plan of a process in the guest's own root."""
    plan = Plan()
    plan.add(Op.PROCESS, process)
    plan.add(Op.STREAMS, base, "open")
    plan.env({"PATH": DEFAULT_PATH, "HOME": "/"})
    return plan.argv(command)


def _kernel_file_systems(plan: Plan, spec: ContainerSpec) -> None:
    safe = MS_NOSUID | MS_NODEV | MS_NOEXEC
    for path in ("/proc", "/dev", "/sys", "/etc"):
        plan.mkdir(path)
    plan.mount("proc", f"{IN_ROOT}/proc", "proc", safe)
    readonly = 0 if spec.security.privileged else MS_RDONLY
    plan.mount("sysfs", f"{IN_ROOT}/sys", "sysfs", safe | readonly)
    plan.mount("cgroup2", f"{IN_ROOT}/sys/fs/cgroup", "cgroup2", safe | readonly)
    # Filled to the brim it must not take the memory of the other containers.
    plan.mount("tmpfs", f"{IN_ROOT}/dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=5%")
    for name, major, minor in _DEVICES:
        plan.add(Op.MKNOD, f"/dev/{name}", "20666", major, minor)
    for target, name in _LINKS:
        plan.add(Op.SYMLINK, target, f"/dev/{name}")
    plan.mkdir("/dev/pts").mkdir(SHM, 0o1777).mkdir("/dev/mqueue")
    options = "newinstance,ptmxmode=0666,mode=0620,gid=5"
    plan.mount("devpts", f"{IN_ROOT}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, options)
    if spec.shm_size:
        plan.mount("shm", IN_ROOT + SHM, "tmpfs", safe, f"mode=1777,size={spec.shm_size}")
    else:
        plan.mount(SHM, IN_ROOT + SHM, "", MS_BIND)
    plan.mount("mqueue", f"{IN_ROOT}/dev/mqueue", "mqueue", safe)
    isolation.make_devices(plan, spec)


def _rlimits(plan: Plan, limits: Sequence[Ulimit]) -> None:
    given = {limit.name.lower(): limit for limit in limits}
    for name, limit in given.items():
        if name not in _RLIMITS:
            raise InvalidInput(f"unknown ulimit {name}", resolution="one of " + ", ".join(_RLIMITS))
        soft, hard = limit.soft, limit.hard
        if name == "nofile":  # the kernel refuses more than fs.nr_open, also when it is called unlimited
            soft, hard = (MAX_NOFILE if value < 0 else value for value in (soft, hard))
        plan.add(Op.RLIMIT, _RLIMITS[name], soft, hard)
    if "nofile" not in given:
        plan.add(Op.RLIMIT, _RLIMITS["nofile"], MAX_NOFILE, MAX_NOFILE)


def _identity(plan: Plan, program: Program, security: Security, *, privileged: bool = False) -> None:
    plan.env(program.env)
    plan.add(Op.CWD, program.workdir)
    groups = (*program.groups, *security.group_add)
    user = program.user or "0"
    if security.image_groups and (":" in user or security.image_groups != "all"):  # else as the agent does it
        user += f"{'' if ':' in user else ':'}:{security.image_groups}"
    if program.user or groups or user != "0":
        plan.add(Op.USER, user, *groups)
    isolation.restrict_program(plan, security, privileged=privileged)
    plan.add(Op.UMASK, "022")
