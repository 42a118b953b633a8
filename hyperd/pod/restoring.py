"""Pods made of archives (``hyperd.pod.archive``): the VM goes on where it was saved, with what runs in it.

The archive comes from outside. What it says of the pod is checked as a request to create one is, and what belongs to
a host is this host's: addresses, the log's place, the owner. Its VM state is read by QEMU, which is then no more than
a guest may become (``docs/security.md``).
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_network
from pathlib import Path

import structlog

from hyperd.agent.plan import Op, Plan
from hyperd.container import names
from hyperd.container.states import LIVE
from hyperd.db import spec_codec
from hyperd.errors import Busy, Conflict, HyperError, ImageNotFound, InvalidInput, NotFound, NotSupported
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.network.model import Lease
from hyperd.pod import archive, netplan
from hyperd.pod.checkpoint import Services, obstacles, out_of_space, workplace
from hyperd.pod.states import PodState
from hyperd.spec.model import ContainerSpec, LogSpec, PodSpec
from hyperd.vm.driver import Saved
from hyperd.vm.model import Restored, Vm
from hyperd.vm.scratch import check_space

log = structlog.get_logger(__name__)

_POD_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
_HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9])?")
_MAC = re.compile(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", re.IGNORECASE)
_ENTROPY = 64
SIGKILL = 9


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """A pod that was restored. ``warnings``: what is not as it was, one sentence each."""

    pod_id: str
    warnings: tuple[str, ...] = ()


class Restorer:
    """Makes pods of archives. See the module's docstring."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def restore(
        self, pieces: Iterable[bytes], *, may_fetch: bool = False, check: Callable[[PodSpec], None] = lambda _spec: None
    ) -> Outcome:
        """Make a pod of an archive; it runs.

        Args:
            pieces: the archive. may_fetch: whether the caller may let this host fetch files.
            check: raises when this host cannot have such a pod (its size).

        After a failure nothing is left. Errors: InvalidInput (no such archive, damaged), NotSupported (of another
        version or hypervisor), ImageNotFound (which ones are needed), Conflict (names, ports), OutOfSpace, TooLarge,
        Busy, Forbidden, DriverError, AgentError, Timeout, HostFault.

        """
        source = archive.Source(pieces)
        manifest = archive.read_manifest(source)
        spec = admitted(manifest.pod)
        check(spec)
        self._check(spec, manifest, may_fetch=may_fetch)
        with workplace(self._services.config) as directory:
            check_space(directory, sum(part.size for part in manifest.parts.values()))
            archive.unpack(source, manifest, directory)
            failpoint("checkpoint.restore.unpacked")
            self._compare_layers(manifest)
            with self._services.locks.locked(spec.id, "restore"):
                warnings = self._restore(spec, manifest, directory)
        log.info("pod.restored", pod=spec.id, warnings=list(warnings))
        return Outcome(pod_id=spec.id, warnings=warnings)

    def _check(self, spec: PodSpec, manifest: archive.Manifest, *, may_fetch: bool) -> None:
        """Look, before the large files come, whether this host can have such a pod."""
        if not self._services.config.network.bridge:
            raise NotSupported("a daemon with user-mode networks cannot restore pods")
        with contextlib.suppress(NotFound):
            self._services.pods.records.get(spec.id)
            raise Conflict(
                f"the pod {spec.id} exists already", resolution="remove it first; a pod is restored with its own name"
            )
        for saved in manifest.containers:
            try:
                self._services.images.get(saved.image_id)
            except NotFound as error:
                name = manifest.images.get(saved.image_id, "")
                raise ImageNotFound(
                    f"the pod needs the image {name or saved.image_id}",
                    details=saved.image_id,
                    resolution="pull or load the same image first: its id must be this one",
                    kind="image",
                    name=name or saved.image_id,
                ) from error
        for container in spec.containers:
            self._services.containers.check(
                spec, replace(container, image=_image_of(container, manifest)), may_fetch=may_fetch
            )
        self._services.containers.volumes.check(spec, spec.containers)
        self._services.pods.net.check_networks(spec)

    def _compare_layers(self, manifest: archive.Manifest) -> None:
        """Check that layers are here byte by byte: the guest remembers where in them its files are."""
        for layer in manifest.layers:
            try:
                path = self._services.images.layer_path(layer.diff_id)
                here = archive.part_of(archive.blocks(path)).sha256
            except (OSError, ValueError, HyperError) as error:
                raise ImageNotFound(
                    f"the pod needs the layer {layer.diff_id[:80]}", resolution="pull or load its image first"
                ) from error
            if here != layer.sha256:
                raise NotSupported(
                    f"the layer {layer.diff_id} was unpacked differently on the host that saved the pod",
                    details="the file has another digest; versions of squashfs tools may differ",
                )

    def _restore(self, spec: PodSpec, manifest: archive.Manifest, directory: Path) -> tuple[str, ...]:
        """Make rows, disk, network and VM; on failure nothing of them is left."""
        records = self._services.pods.records
        if records.count() >= self._services.config.max_pods:
            raise Busy(f"There have already been {self._services.config.max_pods} Pods", resolution="remove some")
        with self._services.pods.new_directory(spec.id):
            records.insert(spec)
        try:
            failpoint("checkpoint.restore.row_written")
            spec = self._services.pods.net.choose(spec)
            records.update(spec.id, spec=spec_codec.dump(spec), created_at=manifest.created_at)
            self._insert(spec, manifest)
            failpoint("checkpoint.restore.containers_written")
            scratch = self._services.pods.scratch(spec.id)
            _move(directory / archive.DISK, scratch)
            failpoint("checkpoint.restore.disk_moved")
            leases, warnings = self._reserve(spec, manifest)
            failpoint("checkpoint.restore.reserved")
            vm = self._services.vms.restore(self._wanted(spec, manifest, directory, scratch), netplan.nic_specs(leases))
            failpoint("checkpoint.restore.vm_made")
            self._services.network.plugged(spec.id)
            self._settle(vm, spec, leases, manifest)
            failpoint("checkpoint.restore.settled")
            records.update(
                spec.id, state=PodState.RUNNING, reason="", started_at=time.time(), finished_at=None, outcome=""
            )
            records.sync()
            failpoint("checkpoint.restore.row_running")
        except BaseException:
            self._services.pods.erase(spec.id)
            raise
        self._tell(spec, vm)
        return warnings

    def _tell(self, spec: PodSpec, vm: Vm) -> None:
        about = {**spec.labels, "name": spec.id, "vm": vm.id}
        self._services.events.publish("pod", "restore", spec.id, **about)
        self._services.events.publish("pod", "start", spec.id, **about)
        for row in self._services.containers.records.of_pod(spec.id):
            self._services.containers.tell("restore", row)
            if row.state in LIVE:
                self._services.containers.observers.started(row)
            elif row.restart_at is not None:
                self._services.containers.restarts.schedule(row)
        self._services.pods.net.attachments.tell_links(spec.id)

    def _insert(self, spec: PodSpec, manifest: archive.Manifest) -> None:
        for position, (container, saved) in enumerate(zip(spec.containers, manifest.containers, strict=True)):
            row = self._services.containers.records.insert(
                spec.id, container, position=position, image_id=saved.image_id
            )
            self._services.containers.records.update(
                row.id,
                state=saved.state,
                created_at=saved.created_at,
                started_at=saved.started_at,
                finished_at=saved.finished_at,
                exit_code=saved.exit_code,
                killed=saved.killed,
                oom_killed=saved.oom_killed,
                user_ids=list(saved.user_ids),
                stream_base=saved.stream_base,
                run_count=saved.run_count,
                restart_count=saved.restart_count,
                restart_at=time.time() if saved.restarts else None,
            )
            self._services.containers.files.fetch(spec.id, container, spec.files)

    def _reserve(self, spec: PodSpec, manifest: archive.Manifest) -> tuple[list[Lease], tuple[str, ...]]:
        """Reserve the addresses that the pod had, or others where these are not free."""
        if len(netplan.nics(spec)) != len(manifest.nics):
            raise InvalidInput("the archive's NICs are not those of its specification")
        warnings = []
        for slot, (nic, saved) in enumerate(zip(netplan.wishes(spec), manifest.nics, strict=True)):
            before = saved.addresses[0].partition("/")[0] if saved.addresses else ""
            lease = None
            if before and not nic.addresses:
                with contextlib.suppress(Conflict, InvalidInput, NotSupported):
                    if nic.network:
                        lease = self._services.network.attach(spec.id, replace(nic, addresses=(before,)))
                    else:
                        lease = self._services.network.allocate(spec.id, index=slot, address=before)
            lease = lease or self._services.network.attach(spec.id, nic)
            now = lease.cidr.partition("/")[0]
            if before and now != before:
                warnings.append(f"the address {before} is not free here: the pod has {now}, connections are lost")
        return self._services.pods.net.reserve(spec), tuple(warnings)

    def _wanted(self, spec: PodSpec, manifest: archive.Manifest, directory: Path, scratch: Path) -> Restored:
        layers = {str(self._services.images.layer_path(layer.diff_id)): layer for layer in manifest.layers}
        disks = {path: layer.lun for path, layer in layers.items()}
        return Restored(
            pod_id=spec.id,
            vcpu=manifest.vcpu,
            memory=manifest.memory,
            disks={str(scratch): manifest.disk_lun, **disks},
            layers={path: layer.lun for path, layer in layers.items() if layer.mounted},
            scratch=str(scratch),
            saved=Saved(state=directory / archive.MEMORY, machine=manifest.machine),
            services=bool(spec.services),
        )

    def _settle(self, vm: Vm, spec: PodSpec, leases: Sequence[Lease], manifest: archive.Manifest) -> None:
        """Make the guest a VM of this host's own, join what runs in it, and end what nobody waits for."""
        now = time.time_ns()
        plan = Plan().add(Op.TIME, now // 10**9, now % 10**9).add(Op.ENTROPY, os.urandom(_ENTROPY))
        moved = set()
        for lease, saved in zip(leases, manifest.nics, strict=True):
            if lease.mac.lower() == saved.mac.lower() and tuple(lease.cidrs) == saved.addresses:
                continue
            plan.add(Op.LINKDOWN, layout.nic_name(lease.slot))
            if lease.mac.lower() != saved.mac.lower():
                plan.add(Op.MAC, saved.mac, lease.mac)
            moved.add(lease.mac)
        plan.steps += layout.rewire(self._services.pods.net.attachments.setup(spec, leases), moved).steps
        vm.agent.run(plan)
        failpoint("checkpoint.restore.guest_told")
        self._services.pods.adopt(vm)
        known = {names.ident(one.id, one.run_count) for one in manifest.containers}
        for process in vm.agent.processes():
            if process.ident not in known:  # an exec: its client is on the other host
                with contextlib.suppress(HyperError):
                    vm.agent.signal(process.ident, SIGKILL, everyone=False)
                    vm.agent.forget(process.ident)


def admitted(spec: PodSpec) -> PodSpec:
    """Return an archive's specification as this host takes it; what is of a host is left to this one.

    Errors: InvalidInput, NotSupported.
    """
    if not _POD_ID.fullmatch(spec.id):
        raise InvalidInput("the archive's pod has no usable name", details=repr(spec.id[:80]))
    if spec.hostname and not _HOST_NAME.fullmatch(spec.hostname):
        raise InvalidInput("the archive's pod has no usable host name", details=repr(spec.hostname[:80]))
    for container in spec.containers:
        if not _CONTAINER_ID.fullmatch(container.id) or names.checked(container.name) != container.name:
            raise InvalidInput("a container of the archive has no usable id or name", details=repr(container.name[:80]))
    for one in spec.networks:
        strange = [word for word in one.aliases if not _HOST_NAME.fullmatch(word)]
        if strange or (one.mac and not _MAC.fullmatch(one.mac)):
            raise InvalidInput("a network of the archive's pod is not usable", details=repr(one.network[:80]))
    lists = spec.portmapping_white_lists
    for text in (*lists.internal_networks, *lists.external_networks):
        try:
            ip_network(text, strict=False)
        except ValueError as error:
            raise InvalidInput("a white list of the archive's pod is not usable", details=str(error)[:200]) from error
    found = obstacles(spec)
    if found:
        raise NotSupported(f"the pod {spec.id} cannot be restored", details="; ".join(found))
    containers = tuple(replace(one, log=None, log_path="") for one in spec.containers)
    return replace(
        spec, containers=containers, log=LogSpec(), owner="hyper", implicit=False, cni=None, cgroup_parent=""
    )


def _image_of(container: ContainerSpec, manifest: archive.Manifest) -> str:
    """Return the id of a container's image: names may mean another one here."""
    return next(one.image_id for one in manifest.containers if one.id == container.id)


def _move(disk: Path, scratch: Path) -> None:
    try:
        disk.rename(scratch)
    except OSError as error:
        raise out_of_space(error) from error
