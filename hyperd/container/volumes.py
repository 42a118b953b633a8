"""Volumes of a pod: checked when it is created, shared when its VM boots, mounted when a container needs them.

New volumes (no source) are directories of the pod's own disk and need none of this. ``Vm.shares`` and ``Vm.volumes``
say what a VM has; they are in its row, so a new daemon knows.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy import select

from hyperd.agent.plan import MNT_DETACH, MS_BIND, MS_RDONLY, Op, Plan
from hyperd.capabilities import Holder
from hyperd.config.model import Config
from hyperd.container.records import ContainerRecords
from hyperd.container.states import ContainerState
from hyperd.db.models import ContainerRow, PodRow
from hyperd.db.session import Database
from hyperd.db.spec_cache import stored_container, stored_pod
from hyperd.errors import AgentError, Conflict, DriverError, HyperError, InvalidInput, NotFound, NotSupported
from hyperd.guest import layout
from hyperd.spec.model import ContainerSpec, PodSpec, VolumeRef, VolumeSpec
from hyperd.vm.driver import SHARED_TAG, DiskSpec, RbdSource, ShareSpec
from hyperd.vm.model import NO_FILES, HostFiles, Vm
from hyperd.vm.service import VmService
from hyperd.volume import catalog, images, share, virtiofs
from hyperd.volume.hostpath import HostObject
from hyperd.volume.service import DATA, VolumeService, check_name
from hyperd.volume.sources import Sources

log = structlog.get_logger(__name__)

# Measured with both kernels: larger messages bring nothing; cache=mmap keeps nothing but what programs map, so that
# changes of the host are seen at once.
_9P = "trans=virtio,version=9p2000.L,msize=262144,cache=mmap,access=client"
_SHARED = "\0shared"  # among Vm.volumes: the shared directory; no volume has that name
_FSTYPES = ("ext4", "squashfs", "erofs", "xfs", "btrfs", "vfat")
_DATA = "_data"  # where the original kept a volume's files in an image
_NFS = ("vers=4.2", "vers=4.1", "vers=4.0,clientaddr=0.0.0.0", "vers=3,nolock,proto=tcp,mountproto=tcp")
_NFS_TIMEOUT = 60.0
# What the kernel says when a server or an image is not of the kind that was tried.
_TRY_NEXT = (errno.EINVAL, errno.ENODEV, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EPROTO)


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A volume as a container mounts it: ``source`` in the guest's root, ``path`` in the container."""

    source: str
    path: str
    read_only: bool = False
    is_file: bool = False
    made: bool = True  # exists already; otherwise the container's plan makes it
    copy_up: bool = False  # filled with what the image has at the path when it is made


class PodVolumes:
    """See the module's docstring."""

    def __init__(
        self,
        *,
        config: Config,
        database: Database,
        records: ContainerRecords,
        vms: VmService,
        named: VolumeService,
    ) -> None:
        self._config = config
        self.named = named
        self._sources = Sources(database=database, volumes=config.root / "volumes")
        self._filling: dict[str, list[str]] = {}  # volumes that a container fills at its start
        self._records = records
        self._db = database
        self._vms = vms

    def recover(self) -> None:
        """Remove what a killed daemon has left half made, and note uses of volumes that are not noted.

        ``hyperd recover`` brings back containers, but not what uses a volume: that follows from their specifications.
        """
        share.clean_up(self._config.run)
        virtiofs.clean_up(self._config.run)
        self._remember_shared()
        noted = self.named.uses()
        for row in self._records.with_volumes():
            try:
                wanted = _named(self._records.pod_spec(row.pod_id), self._records.spec(row))
                missing = [name for name in wanted if (name, row.id) not in noted]
                self.named.use(row.id, missing)
            except HyperError as error:
                log.error("volume.use_not_noted", container=row.id, error=str(error))
                continue
            if missing:
                log.warning("volume.use_noted_again", container=row.id, volumes=missing)

    def _remember_shared(self) -> None:
        """Remember what guests could write to before such directories were remembered (an older daemon, a rebuild)."""
        remembered = self._sources.written()
        for volume in self._writable(ran=True):
            if Path(os.path.realpath(volume.source)) in remembered:
                continue
            try:
                with self._open(volume) as source:
                    self._sources.remember(source)
            except HyperError as error:  # it is away, or a guest has put a link in its way
                log.warning("volume.share_not_noted", volume=volume.name, path=volume.source, reason=str(error))

    def check(self, pod: PodSpec, containers: Sequence[ContainerSpec], *, vm: Vm | None = None) -> None:
        """Check that every volume these containers use can be had now, and with ``vm`` that it can be plugged into it.

        Errors: Conflict, InvalidInput, NotSupported.
        """
        volumes = self._volumes(pod, containers)
        own = {
            Path(os.path.realpath(volume.source))
            for name, volume in volumes.items()
            if volume.format == "vfs" and catalog.is_writable(name, containers)
        }
        for name in sorted(catalog.used(containers)):
            volume = volumes.get(name)
            if volume is None:
                raise InvalidInput(f"volume {name} does not exist in volume list.")
            if volume.source and not volume.format:
                raise InvalidInput(f"volume {name} has a source but no format", resolution="give its format")
            if volume.format == "vfs":
                writable = catalog.is_writable(name, containers)
                if vm is not None and not vm.shared:
                    _require_share(vm, name, writable=writable)
                with self._open(volume, own) as source:
                    _check_shareable(source, name)
                    if vm is not None:
                        self._require_mappable(vm, source, name)
                    if writable:
                        self._refuse_own(source.path, name)
            elif volume.format in catalog.BLOCK_FORMATS:
                if vm is not None:
                    _require_openable(vm, name)
                with self._open(volume, own) as source:
                    self._check_image(volume, source, own)
                    if vm is not None:
                        self._require_mappable(vm, source, name)
            elif volume.format == "rbd":
                if vm is not None:
                    _require_rooted(vm, name)
                catalog.ceph(volume)
            elif volume.format == catalog.NAMED:
                if vm is not None and not vm.shared:
                    _require_share(vm, name, writable=catalog.is_writable(name, containers))
                check_name(volume.source)
        for ref in (ref for container in containers for ref in container.volumes):
            if ref.subpath:
                raise NotSupported(f"volume {ref.volume}: a part of a volume (subpath) cannot be mounted")

    @contextmanager
    def made_sources(self, paths: Collection[str]) -> Iterator[None]:
        """Make directories of the host that are not there, for the container that the block makes.

        Those that were made go again when the block fails. Errors: Conflict.
        """
        with ExitStack() as stack:
            for path in paths:
                what = f"volume {path}"
                stack.enter_context(self._sources.made(path, what=what, guarded=self._guest_writable()))
            yield

    def note(self, pod: PodSpec, container_id: str, spec: ContainerSpec) -> None:
        """Note the named volumes that a container uses; those that do not exist are made.

        Errors: InvalidInput, Conflict, HostFault.
        """
        self.named.use(container_id, _named(pod, spec))

    def started(self, container_id: str, *, good: bool) -> None:
        """Learn that a container's start is over: the volumes that it filled are whole, or are filled again."""
        for name in self._filling.pop(container_id, ()):
            self.named.end_fill(name, good=good)

    @contextmanager
    def opened(self, pod: PodSpec) -> Iterator[HostFiles]:
        """Yield what of the host the pod's VM must be booted with; it is held open in the block.

        Errors: as for ``check``.
        """
        containers = self._records.specs(pod.id)
        volumes = self._volumes(pod, containers)
        names = sorted(catalog.used(containers))
        late = self._vms.shares_late
        # A pod without containers is there to be joined by any.
        unknown = NO_FILES if containers else self._vms.any_files()
        unmapped = [unknown.unmapped, *(() if containers else self._unmapped(pod))]
        with ExitStack() as stack:
            found: dict[str, HostObject] = {}
            known = {}
            for name in names:
                if volumes[name].format == "rbd":
                    unmapped.append("QEMU reads the host's configuration of Ceph")
                if volumes[name].format in catalog.BLOCK_FORMATS:
                    with self._open(volumes[name]) as image:
                        unmapped.append(self._vms.unmapped(image.fd))
                if volumes[name].format not in ("vfs", catalog.NAMED):
                    continue
                if volumes[name].format == catalog.NAMED:
                    source = stack.enter_context(self._open_named(volumes[name]))
                else:
                    source = stack.enter_context(self._open(volumes[name]))
                if volumes[name].format == "vfs" and catalog.is_writable(name, containers):
                    self._sources.remember(source)
                if late:
                    _check_shareable(source, name)
                    unmapped.append(self._vms.unmapped(source.fd))
                    continue
                unmapped.append("the guest has no directory in which files of the host appear")
                found[name] = stack.enter_context(share.shareable(source, self._config.run))
                known[name] = {
                    "readonly": not catalog.is_writable(name, containers),
                    "file": not source.is_directory,
                    "virtiofs": not self._vms.guest_has_9p,
                }
            shares = self._serve(stack, found, known) if found else []
            yield HostFiles(
                shares=tuple(shares),
                known=known,
                foreign=not late and any(catalog.has_source(volumes[name]) for name in names),
                rooted=unknown.rooted or any(volumes[name].format in catalog.OF_THE_HOST for name in names),
                unmapped=next(filter(None, unmapped), ""),
                cache=catalog.most_careful(container.cache for container in containers),
            )

    def _unmapped(self, pod: PodSpec) -> Iterator[str]:
        """Yield why volumes of a pod that has no containers yet cannot be mapped; one that is missing says nothing."""
        for volume in pod.volumes:
            if volume.format in (*catalog.BLOCK_FORMATS, "vfs"):
                with suppress(HyperError), self._open(volume) as source:
                    yield self._vms.unmapped(source.fd)

    def prepare(self, vm: Vm, container_id: str, image_config: Mapping[str, Any]) -> list[Mounted]:
        """Bring everything that one container mounts into its guest; outer paths first.

        Errors: Conflict, InvalidInput, NotSupported, AgentError, DriverError.
        """
        row = self._records.get(container_id)
        spec = self._records.spec(row)
        self.release(vm, row.pod_id)  # what a killed daemon has left
        volumes = self._volumes(self._records.pod_spec(row.pod_id), self._records.specs(row.pod_id))
        refs = [replace(ref, path=ref.path.rstrip("/")) for ref in spec.volumes]
        found = [self._one(vm, volumes, ref, container_id) for ref in refs]
        own = f"{layout.container_dir(container_id)}/volumes"
        found += [
            Mounted(source=f"{own}/{ref.volume}", path=ref.path, made=False, copy_up=True)
            for ref in catalog.image_volumes(spec, image_config, container_id)
        ]
        return sorted(found, key=lambda mounted: mounted.path.count("/"))

    # -- inside

    def _volumes(self, pod: PodSpec, containers: Sequence[ContainerSpec]) -> dict[str, VolumeSpec]:
        """Return every volume of a pod by name; named ones that are not directories of their own as what they are."""
        found = catalog.volumes_of(pod.volumes, containers)
        for name, volume in found.items():
            if volume.format == catalog.NAMED:
                with suppress(NotFound):  # it is made with the container
                    found[name] = replace(self.named.definition(volume.source), name=name)
        return found

    def _open_named(self, volume: VolumeSpec) -> HostObject:
        directory = self.named.prepare(volume.source)
        fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return HostObject(path=directory, fd=fd, mode=os.fstat(fd).st_mode)

    def _fills(self, container_id: str, volume: VolumeSpec, ref: VolumeRef) -> bool:
        """Return whether a named volume is to be filled with what the container's image has at the path."""
        if volume.format != catalog.NAMED or ref.nocopy or ref.read_only:
            return False
        if not self.named.begin_fill(volume.source):
            return False
        self._filling.setdefault(container_id, []).append(volume.source)
        return True

    def _serve(
        self, stack: ExitStack, found: Mapping[str, HostObject], known: Mapping[str, Mapping[str, bool]]
    ) -> list[ShareSpec]:
        """Make directories reachable for QEMU: by a process that holds them open, or each by a virtiofsd."""
        if not self._vms.guest_has_9p:
            servers = {
                name: stack.enter_context(
                    virtiofs.Server(directory, self._config.run, readonly=known[name]["readonly"])
                )
                for name, directory in found.items()
            }
            return [
                ShareSpec(tag=catalog.key(name), socket=server.socket, server=server.pid)
                for name, server in servers.items()
            ]
        holder = stack.enter_context(Holder([directory.fd for directory in found.values()]))
        return [
            ShareSpec(tag=catalog.key(name), path=holder.path(directory.fd), readonly=known[name]["readonly"])
            for name, directory in found.items()
        ]

    def _one(self, vm: Vm, volumes: Mapping[str, VolumeSpec], ref: VolumeRef, container_id: str) -> Mounted:
        volume = volumes.get(ref.volume)
        if volume is None:
            raise InvalidInput(f"volume {ref.volume} does not exist in volume list.")
        if not catalog.has_source(volume):
            source = layout.volume_dir(ref.volume)
            return Mounted(source=source, path=ref.path, read_only=ref.read_only, made=False)
        is_file = False
        if volume.format in ("vfs", catalog.NAMED) and vm.shared:
            return self._late(vm, volume, ref, container_id)
        if volume.format in ("vfs", catalog.NAMED):
            is_file = _require_share(vm, ref.volume, writable=not ref.read_only)
        with self._vms.changing(vm):
            if ref.volume not in vm.volumes:
                vm.volumes[ref.volume] = self._mount(vm, volume, ref)
        source = vm.volumes[ref.volume] + (f"/{share.ENTRY}" if is_file else "")
        if volume.format == catalog.NAMED:
            fills = self._fills(container_id, volume, ref)
            source = f"{source}/{DATA}"
            return Mounted(source=source, path=ref.path, read_only=ref.read_only, made=not fills, copy_up=fills)
        return Mounted(source=source, path=ref.path, read_only=ref.read_only, is_file=is_file)

    def _late(self, vm: Vm, volume: VolumeSpec, ref: VolumeRef, container_id: str) -> Mounted:
        """Let a host directory or file appear in a VM that runs, unless it is there; read-only apart from writable."""
        named = volume.format == catalog.NAMED
        fills = named and self._fills(container_id, volume, ref)
        name = catalog.shared_name(volume.name, readonly=ref.read_only)
        with self._vms.changing(vm):
            if _SHARED not in vm.volumes:
                vm.agent.run(Plan().mkdir(layout.SHARED).mount(SHARED_TAG, layout.SHARED, "9p", 0, _9P))
                vm.volumes[_SHARED] = layout.SHARED
            if name not in vm.shares:
                with self._open_named(volume) if named else self._open(volume) as source:
                    _check_shareable(source, volume.name)
                    self._require_mappable(vm, source, volume.name)
                    if not named and not ref.read_only:
                        self._sources.remember(source)
                    self._vms.plugs.share(vm, name, source.fd, readonly=ref.read_only, is_file=source.is_file)
            is_file = vm.shares[name]["file"]
        path = f"{layout.SHARED}/{name}" + (f"/{DATA}" if named else "")
        return Mounted(
            source=path,
            path=ref.path,
            read_only=ref.read_only,
            is_file=is_file,
            made=not fills,
            copy_up=fills,
        )

    def release(self, vm: Vm, pod_id: str) -> None:
        """Take away from a VM what of the host none of its pod's containers mounts any more. Errors: HostFault."""
        if not vm.shared:
            return
        used = {
            catalog.shared_name(ref.volume, readonly=ref.read_only)
            for spec in self._records.specs(pod_id)
            for ref in spec.volumes
        }
        for name in sorted(vm.shares.keys() - used):
            self._vms.plugs.unshare(vm, name)

    def _mount(self, vm: Vm, volume: VolumeSpec, ref: VolumeRef) -> str:
        if volume.format in ("vfs", catalog.NAMED):
            flags = MS_RDONLY if vm.shares[volume.name]["readonly"] else 0
            path = catalog.guest_path(volume.name)
            kind, options = ("virtiofs", "") if vm.shares[volume.name].get("virtiofs") else ("9p", _9P)
            try:
                vm.agent.run(Plan().mkdir(path).mount(catalog.key(volume.name), path, kind, flags, options))
            except AgentError as error:
                if error.errno != errno.ENODEV:
                    raise
                raise NotSupported(f"volume {volume.name}: the guest's kernel has no {kind}") from error
            return path
        if volume.format == "nas":
            return _mount_nas(vm, volume)
        return self._mount_disk(vm, volume, ref)

    def _mount_disk(self, vm: Vm, volume: VolumeSpec, ref: VolumeRef) -> str:
        what = f"volume {volume.name}"
        try:
            with self._disk(vm, volume, ref) as spec:
                lun = self._vms.plugs.plug_volume(vm, volume.name, lambda free: replace(spec, lun=free))
        except DriverError as error:
            raise NotSupported(
                f"{what}: the hypervisor cannot open it",
                details=f"{error.brief}: {error.details}",
                resolution="a Ceph image needs QEMU's rbd driver (qemu-block-extra) and this host's Ceph configuration"
                if volume.format == "rbd"
                else "check the image with qemu-img",
            ) from error
        target = catalog.guest_path(volume.name)
        flags = MS_RDONLY if ref.read_only else 0
        try:
            candidates = [(fstype, "") for fstype in ([volume.fstype] if volume.fstype else _FSTYPES)]
            _try_mounts(vm, f"lun:{lun}", target, candidates, flags, what=what)
            _enter_data(vm, target)
        except HyperError:
            vm.agent.run(Plan().add(Op.UMOUNT, target, MNT_DETACH))
            self._vms.plugs.unplug_volume(vm, volume.name)
            raise
        return target

    @contextmanager
    def _disk(self, vm: Vm, volume: VolumeSpec, ref: VolumeRef) -> Iterator[DiskSpec]:
        """Yield a volume's disk, but for its LUN. An image file is checked; if it holds nothing, it gets a file system.

        Errors: as for ``prepare``.
        """
        what = f"volume {volume.name}"
        plain = DiskSpec(lun=0, readonly=ref.read_only, cache=catalog.cache_mode(volume.cache))
        if volume.format == "rbd":
            _require_rooted(vm, volume.name)
            name, monitors = catalog.ceph(volume)
            yield replace(plain, rbd=RbdSource(name=name, monitors=monitors))
            return
        _require_openable(vm, volume.name)
        with self._open(volume) as source:
            self._check_image(volume, source)
            self._require_mappable(vm, source, volume.name)
            if volume.format == "raw" and not ref.read_only and images.is_blank(source):
                if volume.fstype not in images.MAKEABLE:
                    raise NotSupported(f"{what}: the image is empty and no {volume.fstype} can be made in it")
                images.make_file_system(source, volume.fstype, what=what)
            self._check_unused(vm, volume.name, source.path, writable=not ref.read_only)
            descriptor = source.fd if vm.mapped else -1
            yield replace(plain, path=source.path, descriptor=descriptor, fmt=volume.format)

    def _open(self, volume: VolumeSpec, guarded: Collection[Path] = ()) -> HostObject:
        """Open a source; ``guarded``: directories that guests will be able to write to, beside those they can."""
        wanted = {*guarded, *self._guest_writable()}
        return self._sources.open(volume.source, what=f"volume {volume.name}", guarded=wanted)

    def _check_image(self, volume: VolumeSpec, source: HostObject, guarded: Collection[Path] = ()) -> None:
        own = Path(os.path.realpath(self._config.root))
        images.check_image(
            source,
            volume.format,
            what=f"volume {volume.name}",
            cache=catalog.cache_mode(volume.cache),
            forbidden={own, *guarded, *self._guest_writable()},
        )

    def _refuse_own(self, path: Path, name: str) -> None:
        """Refuse to let a guest write to the daemon's own files, by a directory above them, too. Errors: Conflict."""
        root = Path(os.path.realpath(self._config.root))
        above = path in root.parents
        if above or path == root or root in path.parents:
            raise Conflict(
                f"volume {name}: {path} {'holds the files of' if above else 'belongs to'} the daemon itself",
                details=f"its root is {root}",
                resolution="use another directory, or mount it read-only",
            )

    def _check_unused(self, vm: Vm, name: str, path: Path, *, writable: bool) -> None:
        """Refuse an image that another volume of any VM writes to, or reads while this one would write."""
        for other in self._vms.all():
            for key, (used, readonly) in list(other.images.items()):
                if used == str(path) and (writable or not readonly) and (other is not vm or key != name):
                    raise Conflict(
                        f"volume {name}: the image {path} is in use",
                        details=f"by volume {key} of pod {other.pod_id}",
                        resolution="mount it read-only everywhere, or use a copy",
                    )

    def _require_mappable(self, vm: Vm, source: HostObject, name: str) -> None:
        """Refuse what cannot be mapped into the user namespace of a VM that runs. Errors: NotSupported, HostFault."""
        obstacle = self._vms.unmapped(source.fd) if vm.mapped else ""
        if obstacle:
            raise NotSupported(
                f"volume {name}: a running pod cannot be given {source.path}",
                details=f"its VM has a user namespace of its own, and {obstacle}",
                resolution="stop the pod and start it again: its VM is made without the namespace then",
            )

    def _guest_writable(self) -> Collection[Path]:
        """Return the host directories that some pod may write to."""
        return {Path(os.path.realpath(volume.source)) for volume in self._writable()}

    def _writable(self, *, ran: bool = False) -> list[VolumeSpec]:
        """Return the host directories that some pod may write to; ``ran``: of pods whose container was started."""
        with self._db.reading() as session:
            pods = {row.id: stored_pod(row.spec) for row in session.scalars(select(PodRow))}
            rows = session.scalars(select(ContainerRow)).all()
            refs = [(row.pod_id, ref) for row in rows for ref in stored_container(row.spec).volumes]
        chosen = {row.pod_id for row in rows if not ran or row.state != ContainerState.CREATED}
        found = []
        for pod_id, ref in refs:
            if ref.read_only or pod_id not in chosen:
                continue
            volume = next((volume for volume in pods[pod_id].volumes if volume.name == ref.volume), ref.detail)
            if volume is not None and volume.format == "vfs":
                found.append(volume)
        return found


def _named(pod: PodSpec, spec: ContainerSpec) -> list[str]:
    """Return the named volumes that a container of a pod mounts. Errors: Conflict."""
    volumes = catalog.volumes_of(pod.volumes, [spec])
    found = (volumes[ref.volume] for ref in spec.volumes if ref.volume in volumes)
    return [volume.source for volume in found if volume.format == catalog.NAMED]


def _check_shareable(source: HostObject, name: str) -> None:
    if not source.is_directory and not source.is_file:
        raise Conflict(f"volume {name}: {source.path} is neither a directory nor a file")
    if source.is_file and os.geteuid() != 0:
        raise NotSupported(
            f"volume {name}: single files can be shared by a daemon that runs as root only",
            resolution="share the file's directory",
        )


def _require_openable(vm: Vm, name: str) -> None:
    """Refuse files of the host in a VM whose process has no way to open them. Errors: NotSupported."""
    if not vm.mapped:
        _require_rooted(vm, name)


def _require_rooted(vm: Vm, name: str) -> None:
    """Refuse what only a process of the daemon's user opens, in a VM that has another one. Errors: NotSupported."""
    if vm.uid:
        raise NotSupported(
            f"volume {name}: a pod that was started without such files of the host cannot be given any while it runs",
            details="its VM has a user of its own, who cannot open them",
            resolution="stop the pod and start it again, or name a volume of the host when the pod is created",
        )


def _require_share(vm: Vm, name: str, *, writable: bool) -> bool:
    """Return whether a share of a running VM is a single file. Errors: NotSupported when the VM does not have it."""
    _require_openable(vm, name)
    found = vm.shares.get(name)
    if found is None:
        raise NotSupported(
            f"volume {name}: a running pod cannot be given another host directory",
            details="its VM booted without a shared directory: a kernel without 9p, or shares.unavailable in the log",
            resolution="stop the pod and start it again, or name the volume when the pod is created",
        )
    if writable and found["readonly"]:
        raise NotSupported(
            f"volume {name}: it is shared read-only with this pod",
            resolution="stop the pod and start it again, or use it read-only",
        )
    return found["file"]


def _try_mounts(
    vm: Vm, source: str, target: str, candidates: Sequence[tuple[str, str]], flags: int, *, what: str,
    timeout: float = 30.0,
) -> None:  # fmt: skip
    """Mount with the first pair of type and options that the guest's kernel takes. Errors: Conflict, AgentError."""
    last: AgentError | None = None
    vm.agent.run(Plan().mkdir(target))
    for fstype, data in candidates:
        try:
            vm.agent.run(Plan().mount(source, target, fstype, flags, data), timeout=timeout)
        except AgentError as error:
            last = error
            if error.errno not in _TRY_NEXT:
                break
        else:
            return
    raise Conflict(
        f"{what} cannot be mounted",
        details=f"tried {', '.join(data or fstype for fstype, data in candidates)}; the guest says: {last}",
        resolution="check what it contains; the guest knows ext2, ext3, ext4, squashfs and erofs",
    ) from last


def _enter_data(vm: Vm, target: str) -> None:
    """Use the directory in which the original kept a volume's files, if the image has it."""
    try:
        vm.agent.run(Plan().mount(f"{target}/{_DATA}", target, "", MS_BIND))
    except AgentError as error:
        if error.errno not in (errno.ENOENT, errno.ENOTDIR):
            raise


def _mount_nas(vm: Vm, volume: VolumeSpec) -> str:
    what = f"volume {volume.name}"
    host, _, export = volume.source.partition(":/")
    try:
        found = socket.getaddrinfo(host.strip("[]"), 2049, type=socket.SOCK_STREAM)
    except OSError as error:
        raise Conflict(f"{what}: the server {host} is not known", details=str(error)) from error
    address = str(found[0][4][0])
    target = catalog.guest_path(volume.name)
    vm.agent.run(Plan().add(Op.MODULES, "nfs"))
    source = f"[{address}]:/{export}" if ":" in address else f"{address}:/{export}"
    _try_mounts(
        vm, source, target, [("nfs", f"{version},addr={address}") for version in _NFS], 0, what=what,
        timeout=_NFS_TIMEOUT,
    )  # fmt: skip
    return target
