"""Named volumes: made, listed, removed. Each has a directory of the host, so several pods can use it at a time.

``<root>/volumes/NAME`` is what VMs get; the files are in its ``_data``, which is made whole when a container's image
fills it: a copy that was cut short leaves no half of it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import secrets
import shutil
import stat
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path

import structlog
from sqlalchemy import func, select
from sqlalchemy.orm import Session

from hyperd.db.models import VolumeRefRow, VolumeRow
from hyperd.db.session import Database
from hyperd.errors import Busy, Conflict, HostFault, HyperError, InvalidInput, NotFound, NotSupported
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.spec.model import VolumeSpec
from hyperd.volume.model import NamedVolume, NamedVolumeSpec, VolumeKind

log = structlog.get_logger(__name__)

DATA = "_data"
GONE = ".gone-"  # how the names of directories begin whose volumes are removed already
DRIVER = "local"
MAX_VOLUMES = 10_000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,239}")  # files that are called after a volume have an ending, too
_FILL_TIMEOUT = 300.0  # seconds that a start waits for another one that copies an image's files
_MNT_DETACH = 2
_TMPFS_HAS = ("size", "nr_blocks", "nr_inodes", "mode", "uid", "gid")
_TMPFS_IS = ("rw", "nosuid", "nodev")  # always


class VolumeService:
    """See the module's docstring.

    Args:
        directory: of the volumes.
        database: of the daemon.
        events: is told of volumes that come and go.

    """

    def __init__(self, *, directory: Path, database: Database, events: EventBus) -> None:
        self._directory = directory
        self._database = database
        self._events = events
        self._lock = threading.RLock()  # a volume is not made or used while it is being removed, and the reverse
        self._filled = threading.Condition()
        self._filling: set[str] = set()
        self._held: Counter[str] = Counter()  # by who is about to make a container with them

    # -- looking

    def all(self) -> list[NamedVolume]:
        """Return every volume, by name."""
        with self._database.reading() as session:
            rows = session.scalars(select(VolumeRow).order_by(VolumeRow.name)).all()
            users = defaultdict[str, list[str]](list)
            for ref in session.scalars(select(VolumeRefRow).order_by(VolumeRefRow.container_id)):
                users[ref.volume].append(ref.container_id)
            return [_value(row, users[row.name]) for row in rows]

    def get(self, name: str) -> NamedVolume:
        """Return a volume. Errors: NotFound."""
        with self._database.reading() as session:
            query = select(VolumeRefRow.container_id).filter_by(volume=name).order_by(VolumeRefRow.container_id)
            return _value(self._row(session, name), session.scalars(query))

    def size(self, name: str) -> int:
        """Return the bytes that go with a volume; it reads the whole directory. Errors: NotFound.

        They are none where the files are not the volume's own: of a server, or of a directory of the host.
        """
        volume = self.get(name)
        if volume.kind in (VolumeKind.NFS, VolumeKind.BIND):
            return 0
        total = 0
        for root, _, files in os.walk(volume.mountpoint):
            for file in files:
                try:
                    total += os.lstat(f"{root}/{file}").st_blocks * 512
                except FileNotFoundError:
                    continue
        return total

    # -- changing

    def create(self, spec: NamedVolumeSpec) -> NamedVolume:
        """Make a volume, or return the one of this name if it is of the same driver and options.

        On failure nothing is left. Errors: InvalidInput, Conflict, NotSupported (driver or option), HostFault.
        """
        name = spec.name or secrets.token_hex(32)
        check_name(name)
        if spec.driver not in ("", DRIVER):
            raise NotSupported(f"volume driver {spec.driver!r} is not supported", resolution=f"use {DRIVER}")
        kind = _kind(spec)
        with self._lock:
            if not self._insert(name, spec, kind):
                return self.get(name)
            try:
                failpoint("volume.create.row_written")
                self.prepare(name)
                failpoint("volume.create.prepared")
            except BaseException:
                shutil.rmtree(self._drop(name), ignore_errors=True)
                raise
            made = self.get(name)
        self._events.publish("volume", "create", name, driver=DRIVER)
        log.info("volume.created", volume=name, kind=kind.value)
        return made

    def remove(self, name: str) -> None:
        """Remove a volume with its files. Errors: NotFound, Conflict (a container uses it), HostFault."""
        with self._lock:
            volume = self.get(name)
            if volume.used_by:
                raise Conflict(
                    f"volume {name} is in use",
                    details="by container " + ", ".join(one[:12] for one in volume.used_by),
                    resolution="remove the containers first",
                )
            if self._held[name]:
                raise Conflict(f"volume {name} is in use", details="a container with it is being made")
            left = self._drop(name)
            failpoint("volume.delete.row_deleted")
        self._events.publish("volume", "destroy", name, driver=volume.driver)
        log.info("volume.removed", volume=name)
        _delete(left)
        failpoint("volume.delete.files_deleted")

    def prune(self, chosen: Callable[[NamedVolume], bool] = lambda volume: volume.anonymous) -> dict[str, int]:
        """Remove the volumes that no container uses and that are chosen; return their names and sizes in bytes."""
        removed = {}
        for volume in self.all():
            if volume.used_by or not chosen(volume):
                continue
            try:
                size = self.size(volume.name)
                self.remove(volume.name)
            except (NotFound, Conflict) as error:  # somebody was quicker
                log.info("volume.not_pruned", volume=volume.name, reason=str(error))
                continue
            except HostFault as error:  # the others can go
                log.error("volume.not_pruned", volume=volume.name, error=str(error))
                continue
            removed[volume.name] = size
        return removed

    # -- containers that use them

    @contextlib.contextmanager
    def held(self, names: Collection[str]) -> Iterator[None]:
        """Keep volumes, made already or not, from being removed in the block, which makes a container with them."""
        with self._lock:
            self._held.update(names)
        try:
            yield
        finally:
            with self._lock:
                self._held.subtract(names)
                self._held += Counter()  # those of 0 go

    def use(self, container_id: str, names: Iterable[str]) -> None:
        """Note which volumes a container uses; those that do not exist are made. Errors: as for ``create``."""
        for name in dict.fromkeys(names):
            with self._lock:
                if not self._exists(name):
                    self.create(NamedVolumeSpec(name=name))
                with self._database.session() as session:
                    if session.get(VolumeRefRow, (name, container_id)) is None:
                        session.add(VolumeRefRow(volume=name, container_id=container_id))
                failpoint("volume.use.ref_written")

    def used_by(self, container_id: str) -> list[str]:
        """Return the names of the volumes that a container uses."""
        with self._database.reading() as session:
            return list(session.scalars(select(VolumeRefRow.volume).filter_by(container_id=container_id)))

    def uses(self) -> set[tuple[str, str]]:
        """Return every use that is noted: the volume's name and the container's id."""
        with self._database.reading() as session:
            return {(row.volume, row.container_id) for row in session.scalars(select(VolumeRefRow))}

    def drop_anonymous(self, names: Iterable[str]) -> None:
        """Remove those of these volumes that have no name of their own and that no container uses any more."""
        for name in names:
            try:
                if self.get(name).anonymous:
                    self.remove(name)
            except (NotFound, Conflict):
                continue

    def definition(self, name: str) -> VolumeSpec:
        """Return what a pod needs to mount a volume; its name is empty. Errors: NotFound."""
        volume = self.get(name)
        options = volume.options
        if volume.kind == VolumeKind.BIND:
            return VolumeSpec(source=options["device"], format="vfs")
        if volume.kind == VolumeKind.NFS:
            return VolumeSpec(source=_export(options), format="nas")
        return VolumeSpec(source=name, format="volume")

    def prepare(self, name: str) -> Path:
        """Return the directory that VMs get of a volume, which is there then. Errors: NotFound, HostFault."""
        return self._prepare(self.get(name))

    def _prepare(self, volume: NamedVolume) -> Path:
        name, directory = volume.name, self._directory / volume.name
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700, exist_ok=True)
            failpoint("volume.create.directory_made")
            if volume.kind == VolumeKind.TMPFS and not os.path.ismount(directory):
                _mount_tmpfs(directory, volume.options.get("o", ""))
            if name not in self._filling:
                _make_data(directory)
        except OSError as error:
            raise HostFault(f"the directory of volume {name} cannot be made", details=str(error)) from error
        return directory

    def begin_fill(self, name: str) -> bool:
        """Claim the filling of a volume that is empty; ``end_fill`` must follow when it is True.

        A start that fills it at this moment is waited for. Errors: Busy.
        """
        with self._filled:
            if not self._filled.wait_for(lambda: name not in self._filling, _FILL_TIMEOUT):
                raise Busy(f"volume {name} is being filled by another container")
            with self._database.session() as session:
                if self._row(session, name).populated:
                    return False
            try:
                with contextlib.suppress(FileNotFoundError):
                    (self._directory / name / DATA).rmdir()  # only if nothing is in it
            except OSError:
                self._note_populated(name)
                return False
            self._filling.add(name)
            failpoint("volume.fill.begun")
            return True

    def end_fill(self, name: str, *, good: bool) -> None:
        """Say that the filling is over. One that failed is made again by the next start.

        What cannot be noted or made now, because a disk is full, is by the next one: those who wait shall not.
        """
        with self._filled:
            self._filling.discard(name)
            self._filled.notify_all()
            try:
                if good:
                    self._note_populated(name)
                    failpoint("volume.fill.noted")
                _make_data(self._directory / name)
            except (HyperError, OSError) as error:
                log.warning("volume.fill_not_noted", volume=name, error=str(error))

    def recover(self) -> None:
        """Make missing directories of volumes again, delete those of removed volumes, tell of those of none.

        A volume whose directory cannot be made is none of the others': whoever uses it is told.
        """
        names = set()
        for volume in self.all():
            names.add(volume.name)
            try:
                self._prepare(volume)
            except HyperError as error:
                log.error("volume.not_prepared", volume=volume.name, error=str(error))
        for directory in self._directory.glob("*"):
            if directory.name.startswith(GONE):
                try:
                    _delete(directory)
                except HostFault as error:
                    log.error("volume.files_left", directory=str(directory), error=str(error))
            elif directory.name not in names:
                log.warning("volume.stranger_left", directory=str(directory))

    # -- inside

    def _insert(self, name: str, spec: NamedVolumeSpec, kind: VolumeKind) -> bool:
        """Make a volume's row; False when it is there. Errors: Conflict."""
        with self._database.session() as session:
            row = session.get(VolumeRow, name)
            if row is not None:
                if dict(row.options) != dict(spec.options):
                    raise Conflict(f"volume {name} exists with other options", details=str(dict(row.options)))
                return False
            if (session.scalar(select(func.count()).select_from(VolumeRow)) or 0) >= MAX_VOLUMES:
                raise Conflict(f"there are {MAX_VOLUMES} volumes already", resolution="remove some")
            row = VolumeRow(
                name=name,
                driver=DRIVER,
                kind=kind.value,
                mountpoint=spec.options["device"] if kind == VolumeKind.BIND else str(self._directory / name / DATA),
                anonymous=spec.anonymous or not spec.name,
                populated=kind == VolumeKind.TMPFS and _says_owner_or_mode(spec.options),
                labels=dict(spec.labels),
                options=dict(spec.options),
                created_at=time.time(),
            )
            session.add(row)
            return True

    def _exists(self, name: str) -> bool:
        with self._database.reading() as session:
            return session.get(VolumeRow, name) is not None

    def _note_populated(self, name: str) -> None:
        with self._database.session() as session:
            row = session.get(VolumeRow, name)
            if row is not None:
                row.populated = True

    def _row(self, session: Session, name: str) -> VolumeRow:
        row = session.get(VolumeRow, name)
        if row is None:
            raise NotFound(f"volume {name} not found")
        return row

    def _drop(self, name: str) -> Path:
        """Take a volume's directory away, then its row; return where its files are, which nobody sees any more.

        A daemon that dies in between has an empty volume. Errors: HostFault, OutOfSpace; the volume stays then, with
        its files (but those of a tmpfs).
        """
        directory, left = self._directory / name, self._directory / f"{GONE}{secrets.token_hex(16)}"
        if os.path.ismount(directory):
            _umount(directory)
        try:
            directory.rename(left)
            failpoint("volume.delete.directory_renamed")
        except FileNotFoundError:
            pass
        except OSError as error:
            raise HostFault(f"the files of volume {name} cannot be removed", details=str(error)) from error
        try:
            with self._database.session() as session:
                row = session.get(VolumeRow, name)
                if row is not None:
                    session.delete(row)
        except BaseException:
            with contextlib.suppress(OSError):
                left.rename(directory)
            raise
        return left


def _value(row: VolumeRow, users: Iterable[str]) -> NamedVolume:
    return NamedVolume(
        name=row.name,
        driver=row.driver,
        kind=VolumeKind(row.kind),
        mountpoint=row.mountpoint,
        anonymous=row.anonymous,
        created_at=datetime.fromtimestamp(row.created_at, UTC),
        labels=dict(row.labels),
        options=dict(row.options),
        used_by=tuple(users),
    )


def _make_data(directory: Path) -> None:
    """Make the directory that containers see, unless it is there; their users may enter it, as under Docker.

    In a tmpfs it is what the tmpfs was to be: containers do not see the root of that.
    """
    data, mode = directory / DATA, 0o755  # whatever the umask is; on the host nobody gets to it
    try:
        data.mkdir(mode=0o700)
    except FileExistsError:
        return
    if os.path.ismount(directory):
        root = directory.stat()
        os.chown(data, root.st_uid, root.st_gid)
        mode = stat.S_IMODE(root.st_mode)
    data.chmod(mode)


def _delete(directory: Path) -> None:
    """Delete what is left of a removed volume. Errors: HostFault."""
    try:
        shutil.rmtree(directory)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise HostFault(
            "the volume is removed, but its files cannot be deleted",
            details=f"{directory}: {error}",
            resolution="the daemon's next start tries it again",
        ) from error


def check_name(name: str) -> None:
    """Check that a volume can have this name. Errors: InvalidInput."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:300]!r} is not a volume's name",
            details="letters, digits, '_', '.' and '-', the first a letter or a digit, at most 240",
            resolution="for a directory of the host give its absolute path",
        )


def _kind(spec: NamedVolumeSpec) -> VolumeKind:
    """Return what the options ask for. Errors: InvalidInput, NotSupported that name the option."""
    options = dict(spec.options)
    unknown = sorted(options.keys() - {"type", "device", "o"})
    if unknown:
        raise InvalidInput(f"volume option {unknown[0]!r} is not known", details="type, device and o are")
    kind, device = options.get("type", ""), options.get("device", "")
    words = [word for word in options.get("o", "").split(",") if word]
    if not options:
        return VolumeKind.DIRECTORY
    if kind in ("none", "") and "bind" in words:
        if not device.startswith("/"):
            raise InvalidInput("volume option device: an absolute path is needed for a bind", details=repr(device))
        others = [word for word in words if word not in ("bind", "rw", "rbind")]
        if others:
            raise NotSupported(f"volume option o={others[0]!r} is not supported for a bind")
        return VolumeKind.BIND
    if kind == "tmpfs":
        others = [word for word in words if word not in _TMPFS_IS and word.partition("=")[0] not in _TMPFS_HAS]
        if others:
            raise NotSupported(f"volume option o={others[0]!r} is not supported for tmpfs")
        return VolumeKind.TMPFS
    if kind in ("nfs", "nfs4"):
        _export(options)
        return VolumeKind.NFS
    if not kind:
        raise InvalidInput("volume option type is missing", details="none (with o=bind), tmpfs or nfs")
    raise NotSupported(
        f"volume option type={kind!r} is not supported",
        details="this host mounts no file system that is brought from outside",
        resolution="use a directory of the host, or a volume of the pod with the format raw or qcow2",
    )


def _export(options: Mapping[str, str]) -> str:
    """Return ``server:/path`` of an NFS volume. Errors: InvalidInput, NotSupported."""
    words = [word for word in options.get("o", "").split(",") if word]
    server = next((word[5:] for word in words if word.startswith("addr=")), "")
    host, _, path = options.get("device", "").rpartition(":")
    server = server or host
    known = ("addr=", "rw", "vers=", "nfsvers=", "nolock", "soft", "hard", "timeo=", "retrans=", "proto=")
    for word in words:
        if not word.startswith(known):
            raise NotSupported(f"volume option o={word!r} is not supported for nfs")
    if not server or not path.startswith("/"):
        raise InvalidInput("an nfs volume needs o=addr=SERVER and device=:/PATH")
    return f"{server}:{path}"


def _says_owner_or_mode(options: Mapping[str, str]) -> bool:
    """Return whether options of a tmpfs say whose it is: what an image has of its own would replace that."""
    return any(word.startswith(("mode=", "uid=", "gid=")) for word in options.get("o", "").split(","))


def _mount_tmpfs(directory: Path, options: str) -> None:
    words = [word for word in options.split(",") if word.partition("=")[0] in _TMPFS_HAS]
    libc = ctypes.CDLL(None, use_errno=True)
    flags = ctypes.c_ulong(0x2 | 0x4)  # MS_NOSUID, MS_NODEV
    data = ",".join(words).encode()
    if libc.mount(b"hyperd", os.fsencode(directory), b"tmpfs", flags, data) != 0:
        number = ctypes.get_errno()
        if number == errno.EINVAL:
            raise InvalidInput(f"volume option o={options[:200]!r} is not what a tmpfs takes")
        raise HostFault("a tmpfs cannot be mounted", details=os.strerror(number), resolution="check the option o")


def _umount(directory: Path) -> None:
    ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(directory), _MNT_DETACH)
