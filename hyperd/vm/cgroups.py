"""Control groups of the host (cgroups(7)): each VM's processes in one of their own, with limits.

Both versions are used, whichever the host has: a hierarchy for each controller (v1), or one for all (v2). Groups of v1
lie below the daemon's own, so that what bounds the daemon's service bounds its VMs, too. A group of v2 that has
processes can have no groups with controllers below it; there they lie below the root, as Docker's do.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import threading
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import structlog

from hyperd.errors import HostFault, InvalidInput, NotFound

log = structlog.get_logger(__name__)

# What a VM's processes need beside the guest's memory: QEMU 60-90 MiB, its translated code up to 64 MiB, buffers of
# what is written; and for each page of the guest's memory 24 bytes of page tables and the like, at most a 32nd.
MEMORY_OVERHEAD = 256 * 2**20
MEMORY_SHARE = 32
# QEMU has a thread for each CPU, up to 64 for disks and as many for shared directories; a virtiofsd has 64.
PIDS = 512
CPUS_OVERHEAD = 1.0  # what QEMU's other threads may use beside the guest's CPUs

_CONTROLLERS = ("memory", "pids", "cpu", "blkio")  # by the names of v1; v2 says io for the last one
_NAMES_OF_V2 = {"blkio": "io"}
_PERIOD = 100_000  # microseconds, of CPU quotas
_SHARES = (2, 262_144)  # bounds of cpu.shares
_WEIGHTS = (1, 10_000)  # bounds of cpu.weight
_PREFIX = "hyperd-"
_ROUNDS = 8  # looks for processes that were started while others were moved
_ENDS_WITHIN = 2.0  # seconds for the last process of a group to end


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What the processes of a VM may use together.

    Args:
        memory: bytes. pids: processes and threads.
        weight: of its CPU time when others want some, too; 1.0 for a VM with one CPU.
        cpus: how many CPUs' time it can have at most.

    """

    memory: int
    pids: int
    weight: float
    cpus: float


def limits(*, vcpu: int, memory: int) -> Limits:
    """Return the limits of a VM with so many CPUs and MiB: what a guest can do by itself never reaches them."""
    guest = memory * 2**20
    return Limits(
        memory=guest + guest // MEMORY_SHARE + MEMORY_OVERHEAD,
        pids=PIDS + vcpu,
        weight=float(vcpu),
        cpus=vcpu + CPUS_OVERHEAD,
    )


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A hierarchy that is mounted.

    Args:
        mount: where. version: 1 or 2.
        controllers: that it has, of those used here.
        own: the group of this process, below ``mount``.

    """

    mount: Path
    version: int
    controllers: tuple[str, ...]
    own: PurePosixPath

    def group(self, path: PurePosixPath) -> Path:
        """Return the directory of a group."""
        return self.mount / path.relative_to("/")


def trees(proc: Path = Path("/proc/self")) -> list[Tree]:
    """Return the hierarchies with controllers that are used here; each controller is in one. Errors: HostFault."""
    try:
        mounts = (proc / "mountinfo").read_text().splitlines()
        groups = dict(line.split(":", 2)[1:] for line in (proc / "cgroup").read_text().splitlines())
    except (OSError, ValueError) as error:
        raise HostFault("the host's control groups cannot be found", details=str(error)) from error
    found: list[Tree] = []
    for line in mounts:
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        if kind not in ("cgroup", "cgroup2"):
            continue
        root, mount = (_unescaped(word) for word in before.split(" ")[3:5])
        version, names = (1, rest.rpartition(" ")[2].split(",")) if kind == "cgroup" else (2, _of_v2(Path(mount)))
        new = tuple(one for one in _CONTROLLERS if one in names and not any(one in tree.controllers for tree in found))
        if new:
            path = next((path for known, path in groups.items() if set(known.split(",")) & set(new)), "")
            own = _below(path or groups.get("", "/"), root)
            found.append(Tree(mount=Path(mount), version=version, controllers=new, own=own))
    return found


def _unescaped(text: str) -> str:
    return text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")


def _of_v2(mount: Path) -> list[str]:
    try:
        words = (mount / "cgroup.controllers").read_text().split()
    except OSError:
        return []
    return ["blkio" if word == "io" else word for word in words]


def _below(path: str, root: str) -> PurePosixPath:
    """Return a group below what is mounted; the top, where it is outside."""
    with contextlib.suppress(ValueError):
        inside = PurePosixPath("/") / PurePosixPath(path).relative_to(root)
        if ".." not in inside.parts:
            return inside
    return PurePosixPath("/")


class Groups:
    """The groups of one daemon's VMs.

    Args:
        root: the daemon's directory; others have other groups.
        parent: group in all hierarchies that the daemon's lie in; empty = see the module's docstring.
        hierarchies: those of the host.

    """

    def __init__(self, root: Path, *, parent: str = "", hierarchies: Sequence[Tree] = ()) -> None:
        self._name = f"{_PREFIX}{hashlib.sha256(os.fsencode(root)).hexdigest()[:12]}"
        self._parent = checked(parent) if parent else None
        self._trees = list(hierarchies)
        self._lock = threading.Lock()
        self._elsewhere: dict[str, PurePosixPath] = {}  # parents of VMs that are not in ours
        self._weights: dict[str, float] = {}
        self.obstacles: dict[str, str] = {}

    @classmethod
    def of_host(cls, root: Path, *, parent: str = "") -> Groups:
        """Return those of this host, open; nothing is possible where ``obstacles`` says so. Errors: InvalidInput."""
        try:
            found = trees()
        except HostFault as error:
            groups = cls(root, parent=parent)
            groups.obstacles = dict.fromkeys(_CONTROLLERS, error.details or str(error))
            return groups
        groups = cls(root, parent=parent, hierarchies=found)
        groups.open()
        return groups

    def open(self) -> None:
        """Make what the groups lie in; ``obstacles`` tells of controllers for which that cannot be done."""
        usable = []
        for tree in self._trees:
            try:
                _make(tree, self._directory(tree))
                usable.append(tree)
            except OSError as error:
                self.obstacles |= dict.fromkeys(tree.controllers, f"{error.filename}: {error.strerror}")
        self._trees = usable
        known = {one for tree in usable for one in tree.controllers}
        missing = [one for one in _CONTROLLERS if one not in known and one not in self.obstacles]
        self.obstacles |= dict.fromkeys(missing, "no hierarchy with it is mounted")

    def close(self) -> None:
        """Remove what no VM is in any more."""
        for tree in self._trees:
            with contextlib.suppress(OSError):
                tree.group(self._directory(tree)).rmdir()

    def told(self) -> str:
        """Return for people what is limited, and why something is not."""
        why = sorted({f"not {one} ({reason})" for one, reason in self.obstacles.items()})
        return "; ".join([", ".join(self.controllers) or "nothing", *why])

    @property
    def controllers(self) -> tuple[str, ...]:
        """What is limited, by names of v1."""
        return tuple(one for one in _CONTROLLERS if any(one in tree.controllers for tree in self._trees))

    def make(self, vm: str, wanted: Limits, *, parent: str = "") -> None:
        """Make the group of a VM. On failure nothing is left.

        Args:
            vm: its id. wanted: of all of its processes.
            parent: group that it shall lie in, in all hierarchies; made where it is missing. Empty = the daemon's.

        Errors: HostFault, InvalidInput (parent).

        """
        with self._lock:
            self._weights[vm] = wanted.weight
            if parent:
                self._elsewhere[vm] = checked(parent)
        try:
            for tree in self._trees:
                path = self._of(tree, vm)
                _make(tree, path)
                for name, value in _settings(tree, wanted):
                    _write(tree.group(path) / name, value)
        except OSError as error:
            self.remove(vm)
            raise HostFault(
                f"the processes of VM {vm} cannot be limited", details=f"{error.filename}: {error.strerror}"
            ) from error

    def fits(self, parent: str, wanted: Limits) -> bool:
        """Return whether a group bounds memory at no less than a VM may use; one that is missing bounds nothing.

        Errors: InvalidInput.
        """
        path = checked(parent)
        for tree in self._trees:
            if "memory" not in tree.controllers:
                continue
            name = "memory.limit_in_bytes" if tree.version == 1 else "memory.max"
            for group in (path, *path.parents):
                with contextlib.suppress(OSError, ValueError):  # it is missing, or "max"
                    if int((tree.group(group) / name).read_text()) < wanted.memory:
                        return False
        return True

    def move(self, vm: str, wanted: Limits, *, parent: str) -> None:
        """Put a VM's processes, wherever they are, into a group that lies in another one.

        Arguments as for ``make``. On failure they are where they were. Errors: HostFault, InvalidInput.
        """
        with self._lock:
            before = self._elsewhere.get(vm)
        if checked(parent) == before:
            return
        old = [(tree, self._of(tree, vm)) for tree in self._trees]
        moved: list[tuple[Path, Path]] = []
        try:
            self.make(vm, wanted, parent=parent)
            moved = [(tree.group(path), tree.group(self._of(tree, vm))) for tree, path in old]
            for ways in moved:
                _carry(*ways)
        except (HostFault, OSError) as error:
            for source, target in reversed(moved):
                with contextlib.suppress(OSError):
                    _carry(target, source)
                    target.rmdir()
            with self._lock:
                self._weights[vm] = wanted.weight
                self._elsewhere.pop(vm, None)
                if before is not None:
                    self._elsewhere[vm] = before
            if isinstance(error, HostFault):
                raise
            raise HostFault(
                f"the processes of VM {vm} cannot be put into the group {parent}",
                details=f"{error.filename}: {error.strerror}",
            ) from error
        for tree, path in old:
            with contextlib.suppress(OSError):
                tree.group(path).rmdir()

    @contextlib.contextmanager
    def opened(self, vm: str, uid: int) -> Iterator[tuple[Path, ...]]:
        """Let a process of a user enter the group of a VM by itself while the block runs.

        Yield the files that a process with a single thread writes ``0`` to. Of v1 only: with v2 who moves must be
        allowed to change the groups above, too.
        """
        files: list[Path] = []
        for tree in self._trees:
            file = tree.group(self._of(tree, vm)) / "tasks"
            if tree.version == 1:
                with contextlib.suppress(OSError):  # it cannot enter then, and is put in
                    os.chown(file, uid, -1)
                    files.append(file)
        try:
            yield tuple(files)
        finally:
            for file in files:
                with contextlib.suppress(FileNotFoundError):  # the VM has ended, and its group with it
                    os.chown(file, 0, -1)

    def put(self, vm: str, pid: int) -> None:
        """Put a process into the group of a VM, if it is not there; what it starts later is there, too.

        Errors: HostFault, NotFound.
        """
        for tree in self._trees:
            file = tree.group(self._of(tree, vm)) / "cgroup.procs"
            try:
                if str(pid) not in file.read_text().split():
                    file.write_text(f"{pid}\n")
            except ProcessLookupError as error:
                raise NotFound(f"process {pid} of VM {vm} has ended") from error
            except OSError as error:
                details = f"{file}: {error.strerror}"
                raise HostFault(f"process {pid} of VM {vm} cannot be limited", details=details) from error

    def adopt(self, vm: str, pid: int) -> None:
        """Know the group of a VM of an earlier daemon again, by its process."""
        try:
            lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except OSError:
            return
        for line in lines:
            path = PurePosixPath(line.split(":", 2)[2])
            if path.name == vm and path.parent.name != self._name:
                with self._lock:
                    self._elsewhere[vm] = path.parent

    def weigh(self, vm: str, part: float) -> None:
        """Let a VM that this daemon has made have a part of its weight. Best effort: never fails."""
        with self._lock:
            weight = self._weights.get(vm)
        for tree in self._trees:
            if "cpu" in tree.controllers and weight is not None:
                name, value = _weight(tree, weight * part)
                with contextlib.suppress(OSError):
                    _write(tree.group(self._of(tree, vm)) / name, value)

    def remove(self, vm: str) -> None:
        """Remove the group of a VM whose processes end now; none is fine. ``reconcile`` tries again what stays."""
        until = time.monotonic() + _ENDS_WITHIN
        for tree in self._trees:
            directory = tree.group(self._of(tree, vm))
            while True:
                try:
                    directory.rmdir()
                except FileNotFoundError:
                    pass
                except OSError as error:
                    if time.monotonic() < until:
                        time.sleep(0.02)  # nothing tells of the end of processes that are not ours
                        continue
                    log.warning("vm.group_left", path=str(directory), error=error.strerror)
                break
        with self._lock:
            self._elsewhere.pop(vm, None)
            self._weights.pop(vm, None)

    def names(self) -> set[str]:
        """Return the VMs that have groups, but for those that lie elsewhere."""
        found = set()
        for tree in self._trees:
            with contextlib.suppress(OSError):
                found |= {entry.name for entry in tree.group(self._directory(tree)).iterdir() if entry.is_dir()}
        return found

    def reconcile(self, vms: Collection[str]) -> None:
        """Remove the groups of VMs that there are no more."""
        left = self.names() - set(vms)
        for tree in self._trees:
            for vm in left:
                with contextlib.suppress(OSError):
                    (tree.group(self._directory(tree)) / vm).rmdir()

    def _directory(self, tree: Tree) -> PurePosixPath:
        """Return the group that those of this daemon's VMs lie in."""
        if self._parent is not None:
            return self._parent / self._name
        return (tree.own if tree.version == 1 else PurePosixPath("/")) / self._name

    def _of(self, tree: Tree, vm: str) -> PurePosixPath:
        with self._lock:
            parent = self._elsewhere.get(vm)
        return (self._directory(tree) if parent is None else parent) / vm


def checked(parent: str) -> PurePosixPath:
    """Return a group's path. Errors: InvalidInput unless it is absolute, without dots."""
    path = PurePosixPath(parent)
    if not path.is_absolute() or ".." in path.parts or "\0" in parent:
        raise InvalidInput("The path of a control group must begin with / and have no ..", details=repr(parent[:100]))
    return path


def _make(tree: Tree, path: PurePosixPath) -> None:
    """Make a group and those that it lies in, with the controllers on. Errors: OSError."""
    if tree.version == 1:
        for one in (*reversed(path.parents), path):
            directory = tree.group(one)
            with contextlib.suppress(FileExistsError):
                directory.mkdir()
                directory.chmod(0o755)  # whatever the daemon's mask is: a QEMU enters by itself
        return
    for parent in reversed(path.parents):
        directory = tree.group(parent)
        directory.mkdir(mode=0o755, exist_ok=True)
        file = directory / "cgroup.subtree_control"
        on = file.read_text().split()
        wanted = [_NAMES_OF_V2.get(one, one) for one in tree.controllers]
        if missing := [f"+{one}" for one in wanted if one not in on]:
            _write(file, " ".join(missing))
    tree.group(path).mkdir(mode=0o755, exist_ok=True)


def _carry(source: Path, target: Path) -> None:
    """Move all processes of a group into another one; those that they start meanwhile, too. Errors: OSError."""
    for _ in range(_ROUNDS):
        try:
            pids = (source / "cgroup.procs").read_text().split()
        except FileNotFoundError:
            return
        if not pids:
            return
        for pid in pids:
            try:
                (target / "cgroup.procs").write_text(f"{pid}\n")
            except ProcessLookupError:
                continue
            except OSError as error:
                raise OSError(error.errno, error.strerror, str(target / "cgroup.procs")) from error
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(source))


def _settings(tree: Tree, wanted: Limits) -> Iterator[tuple[str, str]]:
    """Yield files of a group and what is written to them."""
    if "memory" in tree.controllers:
        yield ("memory.limit_in_bytes" if tree.version == 1 else "memory.max"), str(wanted.memory)
    if "pids" in tree.controllers:
        yield "pids.max", str(wanted.pids)
    if "cpu" in tree.controllers:
        yield _weight(tree, wanted.weight)
        quota = round(wanted.cpus * _PERIOD)
        if tree.version == 1:
            yield "cpu.cfs_period_us", str(_PERIOD)
            yield "cpu.cfs_quota_us", str(quota)
        else:
            yield "cpu.max", f"{quota} {_PERIOD}"


def _weight(tree: Tree, weight: float) -> tuple[str, str]:
    name, usual, (least, most) = ("cpu.shares", 1024, _SHARES) if tree.version == 1 else ("cpu.weight", 100, _WEIGHTS)
    return name, str(max(least, min(most, round(usual * weight))))


def _write(file: Path, text: str) -> None:
    """Write to a file of the kernel's, which is there. Errors: OSError with its name."""
    try:
        with file.open("r+") as opened:
            opened.write(text)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(file)) from error
