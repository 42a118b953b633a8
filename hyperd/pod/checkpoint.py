"""Pods saved while they run: memory, CPUs and devices of the VM, and the pod's writable disk, as one archive.

The pod stands still while both are written to files of the daemon, and goes on before the archive is sent.
``hyperd.pod.restoring`` makes a pod of an archive again.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from hyperd.config.model import Config
from hyperd.container.locks import PodLocks
from hyperd.container.service import ContainerService
from hyperd.container.states import ContainerState
from hyperd.db.models import ContainerRow
from hyperd.db.spec_cache import stored_pod
from hyperd.errors import Conflict, HostFault, HyperError, NotAlive, NotSupported, OutOfSpace
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.pod import archive
from hyperd.pod.service import PodService
from hyperd.pod.states import PodState
from hyperd.spec.model import PodSpec
from hyperd.vm.model import Vm
from hyperd.vm.scratch import MIN_FREE, copy_disk
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)

DIRECTORY = "checkpoints"  # below the daemon's root: what is being made or taken in; nothing of it is kept
# Formats of volumes that are not on the pod's own disk: files of the host, or of others.
_OUTSIDE = "it is not on the pod's own disk"


@contextmanager
def workplace(config: Config) -> Iterator[Path]:
    """Yield a new directory that goes at the end of the block. Errors: OutOfSpace, HostFault."""
    try:
        (config.root / DIRECTORY).mkdir(mode=0o700, exist_ok=True)
        directory = Path(tempfile.mkdtemp(dir=config.root / DIRECTORY))
    except OSError as error:
        raise out_of_space(error) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def out_of_space(error: OSError) -> HyperError:
    """Return what to raise for an error of the daemon's file system."""
    kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostFault
    return kind("the pod cannot be saved", details=str(error))


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


@contextmanager
def _nameless(directory: Path) -> Iterator[int]:
    """Yield a file without a name, of which a daemon that is killed leaves nothing. Errors: OSError."""
    file = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        yield file
    finally:
        os.close(file)


@dataclass(frozen=True, kw_only=True)
class Services:
    """What saving and restoring pods work with."""

    config: Config
    pods: PodService
    containers: ContainerService
    images: ImageService
    network: NetworkDriver
    vms: VmService
    locks: PodLocks
    events: EventBus


class Checkpoints:
    """Saves pods. See the module's docstring."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def recover(self) -> None:
        """Remove what a killed daemon has left."""
        shutil.rmtree(self._services.config.root / DIRECTORY, ignore_errors=True)

    def make(self, pod_id: str, *, pause: bool = False, cancelled: Callable[[], bool]) -> Iterator[bytes]:
        """Save a pod that runs or is paused; yield the archive.

        Args:
            pod_id: the pod.
            pause: it stays paused after that, so that it can go on elsewhere; else it is as before.
            cancelled: asked again and again; the pod goes on then, and nothing is left.

        Whatever fails, the pod goes on as before. Errors: NotFound, NotAlive, NotSupported (it has what cannot be
        saved; told before anything happens), OutOfSpace, DriverError, Timeout, Cancelled, HostFault.

        """
        with workplace(self._services.config) as directory:
            manifest = self._save(pod_id, directory, pause=pause, cancelled=cancelled)
            failpoint("checkpoint.make.saved")
            yield from archive.written(manifest, directory / archive.MEMORY, directory / archive.DISK)

    def write(self, pod_id: str, path: Path, *, cancelled: Callable[[], bool]) -> None:
        """Save a pod into a file of this host, which is there whole or not at all.

        The file system must have files without a name (O_TMPFILE), which those of disks and of memory have.

        Errors: as for ``make``; Conflict when the file exists.
        """
        try:
            with _nameless(path.parent) as file:
                for piece in self.make(pod_id, cancelled=cancelled):
                    _write_all(file, piece)
                os.fsync(file)
                place = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
                try:  # a link of linkat(2), which replaces nothing
                    os.link(f"/proc/self/fd/{file}", path, src_dir_fd=place, follow_symlinks=True)
                finally:
                    os.close(place)
        except FileExistsError as error:
            raise Conflict(f"{path} exists already") from error
        except OSError as error:
            raise out_of_space(error) from error

    def _save(self, pod_id: str, directory: Path, *, pause: bool, cancelled: Callable[[], bool]) -> archive.Manifest:
        with self._services.locks.locked(pod_id, "checkpoint"), ExitStack() as stack:
            row = self._services.pods.records.get(pod_id)
            vm = self._services.vms.of_pod(pod_id)
            if row.state not in (PodState.RUNNING, PodState.PAUSED) or vm is None:
                raise NotAlive(f"the pod {pod_id} is not running")
            spec, rows = stored_pod(row.spec), self._services.containers.records.of_pod(pod_id)
            whole = replace(
                spec, containers=tuple(replace(self._services.containers.records.spec(one), id=one.id) for one in rows)
            )
            self._refuse(whole, vm, rows)
            scratch = self._services.pods.scratch(pod_id)
            stack.enter_context(self._services.vms.plugs.without_carrier(vm))
            if row.state == PodState.RUNNING:
                self._services.vms.plugs.drop_layers(
                    vm, {self._services.images.layer_path(one) for one in self._needed(rows)}
                )
                self._services.vms.plugs.drop_spare(vm, scratch)
            manifest = self._describe(whole, vm, rows, scratch, created_at=row.created_at)
            self._check_space(vm, scratch, directory)
            if pause and row.state == PodState.RUNNING:
                self._services.pods.pause(pod_id)
            try:
                manifest = self._write(vm, manifest, scratch, directory, cancelled=cancelled)
            except BaseException:
                if pause and row.state == PodState.RUNNING:
                    self._services.pods.unpause(pod_id)
                raise
        log.info("pod.saved", pod=pod_id, memory=manifest.parts[archive.MEMORY].size)
        self._services.events.publish("pod", "checkpoint", pod_id, **{**row.labels, "name": pod_id})
        return manifest

    def _write(
        self,
        vm: Vm,
        manifest: archive.Manifest,
        scratch: Path,
        directory: Path,
        *,
        cancelled: Callable[[], bool],
    ) -> archive.Manifest:
        """Let the VM stand still, write its state, and copy its disk."""
        memory, disk = directory / archive.MEMORY, directory / archive.DISK
        with self._services.vms.standing(vm):
            stopped_at = time.time()
            try:
                with memory.open("xb") as file:
                    macs = [nic.mac for nic in manifest.nics]
                    machine = self._services.vms.save(vm, file.fileno(), macs, cancelled=cancelled)
            except OSError as error:
                raise out_of_space(error) from error
            failpoint("checkpoint.make.memory_written")
            copy_disk(scratch, disk)
            failpoint("checkpoint.make.disk_copied")
        log.info("pod.stood_still", pod=vm.pod_id, ms=round((time.time() - stopped_at) * 1e3))
        try:
            size, extents = archive.data_of(disk)
            parts = {
                archive.MEMORY: archive.part_of(archive.blocks(memory)),
                archive.DISK: archive.part_of(archive.blocks(disk, extents)),
            }
        except OSError as error:
            raise out_of_space(error) from error
        return replace(manifest, machine=machine, saved_at=stopped_at, disk_size=size, extents=extents, parts=parts)

    def _describe(
        self, spec: PodSpec, vm: Vm, rows: list[ContainerRow], scratch: Path, *, created_at: float
    ) -> archive.Manifest:
        images = {row.image_id: row.image_name for row in rows}
        layers = {str(self._services.images.layer_path(diff_id)): diff_id for diff_id in self._needed(rows)}
        lun = vm.disks.get(str(scratch), vm.disks.get(vm.spare_disk))
        strange = [path for path, number in vm.disks.items() if path not in layers and number != lun]
        if lun is None or strange:
            raise NotSupported("the pod's VM has disks that cannot be saved", details=", ".join(strange))
        mounted = {path: layers[path] for path in vm.layers}
        return archive.Manifest(
            pod=spec,
            created_at=created_at,
            saved_at=0.0,
            machine=archive.NO_MACHINE,
            vcpu=vm.vcpu,
            memory=vm.memory,
            containers=tuple(_saved(row) for row in rows),
            images=images,
            layers=tuple(
                archive.SavedLayer(
                    diff_id=layers[path],
                    sha256=archive.part_of(archive.blocks(Path(path))).sha256,
                    lun=number,
                    mounted=path in mounted,
                )
                for path, number in vm.disks.items()
                if path in layers
            ),
            nics=tuple(
                archive.SavedNic(mac=lease.mac, addresses=tuple(lease.cidrs))
                for lease in self._services.network.leases(spec.id)
            ),
            disk_lun=lun,
            disk_size=0,
            extents=(),
        )

    def _needed(self, rows: list[ContainerRow]) -> list[str]:
        """Return the layers of the containers' images."""
        return list(
            dict.fromkeys(one.diff_id for row in rows for one in self._services.images.get(row.image_id).layers)
        )

    def _refuse(self, spec: PodSpec, vm: Vm, rows: list[ContainerRow]) -> None:
        """Refuse a pod with what cannot be saved, by name. Errors: NotSupported, Conflict."""
        found = obstacles(spec)
        found += [f"{name}: {_OUTSIDE}" for name in sorted({*vm.shares, *vm.images}) if name not in " ".join(found)]
        if not self._services.config.network.bridge:
            found.append("its network is inside QEMU (user-mode): the host's side of it cannot be saved")
        if found:
            raise NotSupported(f"the pod {spec.id} cannot be saved", details="; ".join(found))
        starting = [row.name for row in rows if row.state == ContainerState.STARTING]
        if starting:
            raise Conflict(f"the container {starting[0]} is just being started", resolution="try again")

    def _check_space(self, vm: Vm, scratch: Path, directory: Path) -> None:
        """Refuse what would fill the daemon's disk, before the pod stands still. Errors: OutOfSpace, HostFault."""
        try:
            needed = (vm.memory << 20) + scratch.stat().st_blocks * 512 + MIN_FREE
            free = shutil.disk_usage(directory).free
        except OSError as error:
            raise out_of_space(error) from error
        if free < needed:
            raise OutOfSpace(
                "there is no room to save the pod",
                details=f"{free >> 20} MiB are free below {directory.parent}, up to {needed >> 20} are needed",
                resolution="remove pods or images",
            )


def obstacles(spec: PodSpec) -> list[str]:
    """Return what of a specification cannot be saved or restored, each by its name and with the reason."""
    found = [f"volume {one.name}: {_OUTSIDE}" for one in spec.volumes if one.source]
    found += [
        f"volume {ref.volume or ref.path} of {container.name}: {_OUTSIDE}"
        for container in spec.containers
        for ref in container.volumes
        if ref.detail is not None and ref.detail.source
    ]
    found += [
        f"interface {nic.id or nic.ifname or nic.bridge}: it names a device of this host"
        for nic in spec.interfaces
        if nic.bridge or nic.ifname
    ]
    return list(dict.fromkeys(found))


def _saved(row: ContainerRow) -> archive.SavedContainer:
    return archive.SavedContainer(
        id=row.id,
        name=row.name,
        image_id=row.image_id,
        state=row.state,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        exit_code=row.exit_code,
        killed=row.killed,
        oom_killed=row.oom_killed,
        user_ids=tuple(row.user_ids or ()),
        stream_base=row.stream_base,
        run_count=row.run_count,
        restart_count=row.restart_count,
        restarts=row.restart_at is not None,
    )
