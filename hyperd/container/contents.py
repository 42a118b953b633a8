"""A container's files: status, archives in and out, what has changed, everything as an archive.

Programs of the agent do the work inside a guest: that of the pod while it runs, else one of its own that gets the pod's
disk for as long as it takes. The host mounts nothing.
"""

from __future__ import annotations

import errno
import os
import posixpath
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

from hyperd.agent import bulk
from hyperd.agent.plan import MS_RDONLY, Op, Plan
from hyperd.agent.programs import PROGRAM, GuestTool, new_name
from hyperd.config.model import Config
from hyperd.container.locks import PodLocks
from hyperd.container.plan import IN_ROOT
from hyperd.container.processes import ProcessTable
from hyperd.container.pump import Write, pumped
from hyperd.container.queries import ContainerQueries
from hyperd.container.records import ContainerRecords
from hyperd.container.states import LIVE, ContainerState
from hyperd.container.volumes import Mounted, PodVolumes
from hyperd.db.models import ContainerRow
from hyperd.errors import AgentError, Forbidden, HyperError, InvalidInput, NotAlive, NotFound
from hyperd.guest import layout
from hyperd.image.layer.compression import decompressed
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

# What a container's start makes in its root only to mount something there.
MOUNT_POINTS = ("dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf")
MAX_PATH = 4096
SETTLE_WAIT = 1.0  # seconds for the record of a run's end
MAX_ARCHIVE = 2**40  # bytes, not compressed
MAX_LIST = 64 * 2**20  # bytes of a list of changes
Cancel = Callable[[], bool]


def never() -> bool:
    """Tell that nobody cancels."""
    return False


@dataclass(frozen=True, kw_only=True)
class PathStat:
    """A file of a container, links not followed.

    Args:
        mode: ``st_mode`` of Linux, with the type. mtime: seconds since 1970.
        link: where a symbolic link leads, as it says. target: as an absolute path of the container, links followed.

    """

    name: str
    mode: int
    size: int
    mtime: float
    link: str = ""
    target: str = ""


class ChangeKind(StrEnum):
    """What has happened to a path of the image."""

    MODIFIED = "modified"
    ADDED = "added"
    DELETED = "deleted"


@dataclass(frozen=True, kw_only=True)
class Change:
    """A path that differs from the image."""

    path: str
    kind: ChangeKind


_KINDS = {"C": ChangeKind.MODIFIED, "A": ChangeKind.ADDED, "D": ChangeKind.DELETED}


@dataclass(frozen=True, kw_only=True)
class _Place:
    """A path of a container: ``name`` in ``directory``, ``.`` for the directory itself; ``shown``: its last part."""

    directory: str
    name: str
    shown: str
    whole: str


@dataclass(frozen=True, kw_only=True)
class _View:
    """Where a container's files are for a program in ``vm``: ``root``, after the steps that ``prepare`` adds."""

    vm: Vm
    root: str
    prepare: Callable[[Plan], None]
    upper: str
    lower: Sequence[str]


class ContainerContents:
    """See the module's docstring; a part of the container service."""

    def __init__(
        self,
        *,
        config: Config,
        records: ContainerRecords,
        queries: ContainerQueries,
        processes: ProcessTable,
        images: ImageService,
        vms: VmService,
        volumes: PodVolumes,
        locks: PodLocks,
    ) -> None:
        self._config = config
        self._records = records
        self._queries = queries
        self._processes = processes
        self._images = images
        self._vms = vms
        self._volumes = volumes
        self._locks = locks

    def stat(self, name: str, path: str) -> PathStat:
        """Return what a path of a container is.

        Errors: NotFound (container or path), InvalidInput, NotAlive (paused), AgentError, DriverError, Timeout.
        """
        row, place = self._records.find(name), _place(path)
        with self._view(row, volumes=True) as view:
            return _stat(view, place, cancelled=never)

    def pack(self, name: str, path: str) -> tuple[PathStat, Iterator[bytes]]:
        """Return a file or directory as a tar, with its status; a link is packed as a link.

        Members begin with the path's last part; with that of ``dir/.`` there is no such part. Errors: as for ``stat``,
        those of the packing itself from the iterator.
        """
        row, place = self._records.find(name), _place(path)
        found: list[PathStat] = []

        def work(write: Write, cancelled: Cancel) -> None:
            with self._view(row, volumes=True) as view:
                found.append(_stat(view, place, cancelled=cancelled))
                write(b"")
                words = ["--pack-path", view.root, place.directory, place.name]
                self._send(view, [*words, place.shown] if place.shown else words, write, cancelled)

        pieces = pumped("archive-get", work)
        next(pieces, b"")
        return found[0], pieces

    def unpack(
        self,
        name: str,
        path: str,
        chunks: Iterable[bytes],
        *,
        strict: bool = False,
        owner: str = "",
        cancelled: Cancel = never,
    ) -> None:
        """Unpack a tar into an existing directory of a container.

        Args:
            name: of the container. path: of the directory.
            chunks: the archive, compressed with gzip, bzip2, xz, zstd or not.
            strict: a directory is not replaced by anything else, nor anything else by a directory.
            owner: ``user[:group]`` of the container that everything is given to; empty = as the archive says.
            cancelled: asked while something is waited for.

        Errors: as for ``stat``; InvalidInput (no directory), Forbidden (read-only), AgentError (a damaged archive).

        """
        row, place = self._records.find(name), _place(path)
        with self._view(row, volumes=True) as view:
            where = _Place(directory=place.whole, name=".", shown=place.shown, whole=place.whole)
            _stat(view, where, cancelled=cancelled)
            self._require_writable(row, place.whole)
            words = ["--unpack", view.root, place.whole, owner or "-", "-", *(["copy"] if strict else [])]
            with self._carried(view, words, cancelled) as (tool, lend):
                archive = decompressed(iter(chunks), max_bytes=MAX_ARCHIVE)
                if lend is None:
                    tool.feed(archive)
                else:
                    bulk.send(tool, archive, lend)
                tool.finish("unpacking files")

    def changes(self, name: str) -> tuple[Change, ...]:
        """Return what of its image a container has changed, sorted by path. Errors: as for ``stat``."""
        row = self._records.find(name)
        if row.run_count == 0:
            return ()
        with self._view(row, volumes=False, lower_only=True) as view:
            words = [PROGRAM, "--changes", view.upper, layout.ROOTFS, *MOUNT_POINTS]
            data = _collect(view, words, "comparing files")
        found = [
            Change(path="/" + text[1:], kind=_KINDS[text[0]])
            for text in data.decode("utf-8", "surrogateescape").split("\0")
            if text and text[0] in _KINDS
        ]
        return tuple(sorted(found, key=lambda change: change.path))

    def export(self, name: str) -> Iterator[bytes]:
        """Return a container's whole file system as a tar, without what is mounted in it.

        Errors: as for ``stat``, from the iterator.
        """
        row = self._records.find(name)

        def work(write: Write, cancelled: Cancel) -> None:
            with self._view(row, volumes=False) as view:
                self._send(view, ["--pack-device", view.root], write, cancelled)

        return pumped("export", work)

    # -- inside

    @contextmanager
    def _carried(
        self, view: _View, words: Sequence[str], cancelled: Cancel
    ) -> Iterator[tuple[GuestTool, bulk.Lend | None]]:
        """Yield a program of the agent, and what lends it a disk; None when its agent knows no records.

        The disk is lent until the program has ended.
        """
        with ExitStack() as lent:
            if not view.vm.by_records:
                yield lent.enter_context(_tool(view, [PROGRAM, *words], cancelled)), None
                return
            carrier = self._vms.plugs.carrier(view.vm)
            with _tool(view, [PROGRAM, bulk.RECORDS, *words], cancelled) as tool:
                yield tool, partial(lent.enter_context, carrier)

    def _send(self, view: _View, words: Sequence[str], write: Write, cancelled: Cancel) -> None:
        with self._carried(view, words, cancelled) as (tool, lend):
            if lend is None:
                tool.feed(())
            for piece in tool.output() if lend is None else bulk.receive(tool, lend):
                write(piece)
            tool.finish("packing files")

    @contextmanager
    def _view(self, row: ContainerRow, *, volumes: bool, lower_only: bool = False) -> Iterator[_View]:
        """Yield the container's files; with ``lower_only`` ROOTFS is the image without the container's changes.

        Errors: NotAlive (paused, or between a run and its record), and as for ``boot``.
        """
        view = None if lower_only else self._running_view(row)
        with ExitStack() as used:
            if view is None:
                with ExitStack() as held:
                    held.enter_context(self._locks.locked(row.pod_id, "look at a container's files"))
                    row = self._settled(row)  # it may have been started meanwhile: its overlay is mounted then
                    view = None if lower_only else self._running_view(row)
                    if view is None:
                        if row.state in LIVE and not lower_only:
                            raise NotAlive(f"the container {row.name} is just ending", resolution="try again")
                        view = held.enter_context(self._unmounted_view(row, volumes=volumes, lower_only=lower_only))
                        used.enter_context(held.pop_all())
            try:
                yield view
            except AgentError as error:
                if view.root != layout.ROOTFS and view.root in str(error) and self._has_ended(row, view):
                    raise NotAlive(f"the container {row.name} has just ended", resolution="try again") from error
                raise

    def _has_ended(self, row: ContainerRow, view: _View) -> bool:
        """Tell whether the program of a view has gone; the news may come a moment after its files went."""
        process = self._processes.get(row.id)
        if process is not None and view.root == f"/proc/{process.pid}/root":
            return process.finished.wait(SETTLE_WAIT)
        return True

    def _settled(self, row: ContainerRow) -> ContainerRow:
        """Return a container's row as it is now; the record of an end that was just told is waited for."""
        process, row = self._processes.get(row.id), self._records.get(row.id)
        if row.state in LIVE and process is not None and not process.pid:
            process.finished.wait(SETTLE_WAIT)
            row = self._records.get(row.id)
        return row

    def _running_view(self, row: ContainerRow) -> _View | None:
        """Return the files of a container as its program sees them; None when it does not run. Errors: NotAlive."""
        process = self._processes.get(row.id)
        if row.state != ContainerState.RUNNING or process is None or not process.pid:
            return None
        vm = require_running(self._vms.of_pod(row.pod_id), row.pod_id)
        return _View(vm=vm, root=f"/proc/{process.pid}/root", prepare=lambda _plan: None, upper="", lower=())

    @contextmanager
    def _unmounted_view(self, row: ContainerRow, *, volumes: bool, lower_only: bool) -> Iterator[_View]:
        """Yield the files of a container that has no mount of its own (the pod's lock is held)."""
        image = self._images.get(row.image_id)
        with self._guest(row.pod_id, image) as vm:
            paths = [layer.path for layer in image.layers]
            self._vms.plugs.plug(vm, layers=paths)
            lower = self._vms.plugs.mount_layers(vm, paths)
            work = layout.container_dir(row.id)
            mounts: AbstractContextManager[Sequence[Mounted]] = (
                self._mounted(vm, row, image) if volumes else nullcontext(())
            )
            with mounts as mounted:

                def prepare(plan: Plan) -> None:
                    _mount(plan, work, lower, mounted, lower_only=lower_only)

                yield _View(vm=vm, root=layout.ROOTFS, prepare=prepare, upper=f"{work}/upper", lower=lower)

    @contextmanager
    def _mounted(self, vm: Vm, row: ContainerRow, image: Image) -> Iterator[Sequence[Mounted]]:
        """Yield what the container mounts; new volumes are filled by the first program, as by a start."""
        good = False
        try:
            yield self._volumes.prepare(vm, row.id, image.config)
            good = True
        finally:
            self._volumes.started(row.id, good=good)

    @contextmanager
    def _guest(self, pod_id: str, image: Image) -> Iterator[Vm]:
        """Yield a VM that has the pod's disk mounted (the pod's lock is held)."""
        vm = self._vms.of_pod(pod_id)
        if vm is not None:
            vm = require_running(vm, pod_id)
            yield vm
            return
        pod = self._records.pod_spec(pod_id)
        scratch = self._config.root / "pods" / pod_id / "scratch.img"
        scratch.parent.mkdir(parents=True, exist_ok=True)
        with self._volumes.opened(pod) as files:
            vm = self._vms.boot(
                vcpu=1,
                memory=self._config.hypervisor.default_memory,
                disks=[layer.path for layer in image.layers],
                scratch=scratch,
                files=files,
                hidden=True,
            )
        try:
            if not vm.mounted:  # a template's disk is mounted already
                vm.agent.run(layout.mount_scratch(Plan()))
            yield vm
        finally:
            self._vms.shutdown(vm)

    def _require_writable(self, row: ContainerRow, path: str) -> None:
        container = self._queries.describe(row)
        inside = [mount for mount in container.mounts if _is_below(path, mount.path.rstrip("/"))]
        mount = max(inside, key=lambda mount: len(mount.path), default=None)
        if mount.read_only if mount is not None else container.spec.read_only:
            what = f"the volume at {mount.path}" if mount is not None else "the container's root file system"
            raise Forbidden(f"{what} is read-only", details=path)


def _is_below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(f"{directory}/")


def _place(path: str) -> _Place:
    """Read a path as Docker's clients mean it: it begins at the root; ``dir/`` and ``dir/.`` must be directories.

    Errors: InvalidInput.
    """
    if not path or "\0" in path or len(path) > MAX_PATH:
        raise InvalidInput("the path is empty, too long, or has a NUL character" if path else "the path is empty")
    whole = posixpath.normpath("/" + path.lstrip("/"))
    last = posixpath.basename(whole)
    if whole == "/" or path.endswith("/."):
        return _Place(directory=whole, name=".", shown="", whole=whole)
    if path.endswith("/"):
        return _Place(directory=whole, name=".", shown=last, whole=whole)
    return _Place(directory=posixpath.dirname(whole), name=last, shown="", whole=whole)


def _mount(plan: Plan, work: str, lower: Sequence[str], mounted: Sequence[Mounted], *, lower_only: bool) -> None:
    """Add the steps that show a stopped container's files at ROOTFS, for one program alone."""
    plan.mkdir(layout.EMPTY).mkdir(f"{layout.EMPTY}.2").mkdir(layout.ROOTFS)
    layout.make_upper(plan, work, lower)
    for volume in mounted:
        if not volume.made and not volume.copy_up:
            plan.mkdir(volume.source, 0o777)
    plan.add(Op.UNSHARE, "mnt")
    stack = [*reversed(lower)]
    if lower_only:
        below = ":".join([*stack, layout.EMPTY, f"{layout.EMPTY}.2"])
        plan.mount("overlay", layout.ROOTFS, "overlay", MS_RDONLY, f"lowerdir={below}")
        return
    options = f"lowerdir={':'.join(stack) or layout.EMPTY},upperdir={work}/upper,workdir={work}/work"
    plan.mount("overlay", layout.ROOTFS, "overlay", 0, options)
    plan.add(Op.OPENROOT, layout.ROOTFS)
    for volume in mounted:
        if volume.copy_up:
            plan.add(Op.COPYUP, volume.path, volume.source)
        if not volume.is_file:
            plan.mkdir(volume.path)
        plan.bind(volume.source, IN_ROOT + volume.path, readonly=volume.read_only)
    plan.add(Op.OPENROOT, "")


@contextmanager
def _tool(view: _View, words: Sequence[str], cancelled: Cancel) -> Iterator[GuestTool]:
    agent = view.vm.agent
    ident, base = new_name(), agent.new_base()
    plan = Plan().add(Op.PROCESS, ident).add(Op.STREAMS, base, "open")
    view.prepare(plan)
    plan.argv(words)
    with GuestTool(agent, ident=ident, base=base, cancelled=cancelled) as tool:
        tool.start(plan)
        yield tool


def _collect(view: _View, words: Sequence[str], what: str, *, cancelled: Cancel = never) -> bytes:
    data = bytearray()
    with _tool(view, words, cancelled) as tool:
        tool.feed(())
        for piece in tool.output():
            data += piece
            if len(data) > MAX_LIST:
                raise AgentError(f"{what} gives over {MAX_LIST} bytes")
        tool.finish(what)
    return bytes(data)


def _stat(view: _View, place: _Place, *, cancelled: Cancel) -> PathStat:
    words = [PROGRAM, "--stat", view.root, place.directory, place.name]
    parts = _collect(view, words, "looking at a file", cancelled=cancelled).decode("utf-8", "replace").split("\0")
    if parts[0].startswith("!"):
        raise _path_error(int(parts[0][1:] or 0), place)
    try:
        mode, size, seconds, nano = parts[0].split()
        found = PathStat(
            name=posixpath.basename(place.whole) or "/",
            mode=int(mode, 8),
            size=int(size),
            mtime=int(seconds) + int(nano) / 1e9,
            link=parts[1],
            target=parts[2] or (posixpath.normpath(posixpath.join(place.directory, parts[1])) if parts[1] else ""),
        )
    except (ValueError, IndexError) as error:
        raise AgentError("the guest describes a file in a strange way", details=str(error)) from error
    if place.name == "." and not stat.S_ISDIR(found.mode):
        raise _path_error(errno.ENOTDIR, place)
    return found


def _path_error(number: int, place: _Place) -> HyperError:
    if number == errno.ENOENT:
        return NotFound(f"there is no {place.whole} in the container")
    if number in (errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
        return InvalidInput(f"{place.whole}: {os.strerror(number)}")
    return AgentError(f"{place.whole} cannot be looked at", errno=number, details=os.strerror(number))
