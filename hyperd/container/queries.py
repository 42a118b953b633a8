"""Looking at containers: lists, descriptions, what each runs."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

from hyperd.config.model import Config
from hyperd.container import healthstate
from hyperd.container.brief import ContainerBrief
from hyperd.container.links import Links
from hyperd.container.logconf import LogSettings, log_settings
from hyperd.container.logdrivers import FORMS
from hyperd.container.model import Container, ContainerSummary, Mount
from hyperd.container.plan import Program, merge_program
from hyperd.container.process import GuestProcess
from hyperd.container.records import ContainerRecords
from hyperd.container.signals import StopSignal, stop_signal
from hyperd.container.states import LIVE, ContainerState
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError, NotFound
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver, Reach
from hyperd.spec.model import ContainerSpec, PodSpec, VolumeRef, VolumeSpec
from hyperd.vm.model import PAUSED
from hyperd.vm.service import VmService
from hyperd.volume.catalog import image_volumes, volumes_of

SETTLE_WAIT = 1.0


class ContainerQueries:
    """The part of the container service that changes nothing.

    Args:
        processes: of containers by id, as the service keeps them.

    """

    def __init__(
        self,
        *,
        config: Config,
        records: ContainerRecords,
        images: ImageService,
        network: NetworkDriver,
        vms: VmService,
        processes: Mapping[str, GuestProcess],
    ) -> None:
        self._config = config
        self._records = records
        self._images = images
        self._network = network
        self._vms = vms
        self._processes = processes
        self.links = Links(records=records, images=images, network=network)

    def reconfigure(self, config: Config) -> None:
        """Use other defaults from now on."""
        self._config = config

    def summaries(self, *, pod_id: str = "", vm_id: str = "") -> list[ContainerSummary]:
        """List containers with little of each, by pod or VM where given."""
        if vm_id:
            vm = next((view for view in self._vms.views(vm_id=vm_id)), None)
            if vm is None or not vm.pod_id or (pod_id and pod_id != vm.pod_id):
                return []
            pod_id = vm.pod_id
        return [
            ContainerSummary(
                id=row.id,
                name=row.name,
                pod_id=row.pod_id,
                state=ContainerState(row.state),
                exit_code=row.exit_code,
            )
            for row in self._records.listed(pod_id)
        ]

    def briefs(self, owner: str) -> tuple[ContainerBrief, ...]:
        """List the containers of pods that an API has made, oldest first."""
        return self._records.briefs(owner)

    def inspect(self, name: str) -> Container:
        """Return a container by name, id or unique beginning of an id. Errors: NotFound, InvalidInput."""
        row = self._records.find(name)
        process = self._processes.get(row.id)
        if process is not None and process.hub.ended and process.finished.wait(SETTLE_WAIT):
            # Its output is at its end: a client that has just seen that asks how it ended.
            row = self._records.get(row.id)
        return self.describe(row)

    def all(self) -> list[Container]:
        """Return every container, oldest first."""
        found, rows = [], self._records.all()
        reach = self._network.reach({row.pod_id for row in rows})
        for row in rows:
            with contextlib.suppress(NotFound):  # its pod has just been removed
                found.append(self.describe(row, reach=reach[row.pod_id]))
        return found

    def of_pod(self, pod_id: str) -> list[Container]:
        """Return a pod's containers in their order; none for an unknown pod."""
        return [self.describe(row) for row in self._records.of_pod(pod_id)]

    def describe(self, row: ContainerRow, *, reach: Reach | None = None) -> Container:
        """Return the container of a row; ``reach``: that of its pod, where it is known. Errors: NotFound (its pod)."""
        reach = reach or self._network.reach({row.pod_id})[row.pod_id]
        spec, pod = self._records.spec(row), self._records.pod_spec(row.pod_id)
        program: Program | None = None
        with contextlib.suppress(HyperError):
            program = self.program(row)
        process = self._processes.get(row.id)
        vm = self._vms.of_pod(row.pod_id)
        driver, path = "", None
        with contextlib.suppress(HyperError):
            settings = self.log_settings(row)
            driver, path = settings.driver, settings.path if settings.driver in FORMS else None
        stops_by = self.stop_signal(row)
        return Container(
            id=row.id,
            name=row.name,
            pod_id=row.pod_id,
            spec=spec,
            image_id=row.image_id,
            image_name=row.image_name,
            program=program,
            state=ContainerState(row.state),
            exit_code=row.exit_code,
            pid=process.pid if process is not None and row.state == ContainerState.RUNNING else 0,
            user_ids=tuple(row.user_ids),
            paused=vm is not None and vm.state == PAUSED and row.state in LIVE,
            killed=row.killed,
            oom_killed=row.oom_killed,
            error=row.error,
            stop_signal=stops_by.number,
            warnings=_warnings(stops_by),
            created_at=row.created_at,
            started_at=row.started_at,
            finished_at=row.finished_at,
            run_count=row.run_count,
            restart_count=row.restart_count,
            restart_at=row.restart_at,
            restart_policy=spec.restart_policy or pod.restart_policy or "never",
            labels=spec.labels,
            health=healthstate.load(row.health),
            mounts=self._mounts(row, spec, pod),
            log_driver=driver,
            log_path=path,
            ports=reach.ports,
            addresses=reach.addresses if vm else (),
            hostname=pod.hostname,
        )

    def volume_refs(self, row: ContainerRow) -> tuple[VolumeRef, ...]:
        """Return every volume that a container mounts, those of its image included."""
        spec = self._records.spec(row)
        return (*spec.volumes, *self._image_volumes(row, spec))

    def program(self, row: ContainerRow) -> Program:
        """Return what a container runs. Errors: ImageNotFound, InvalidInput."""
        pod = self._records.pod_spec(row.pod_id)
        image: Image = self._images.get(row.image_id)
        return merge_program(self._records.spec(row), image.config, hostname=pod.hostname, pod_tty=pod.tty)

    def linked_program(self, row: ContainerRow) -> Program:
        """Return what a container runs, with the variables of its links as they are now. Errors: as for program."""
        return self.links.added(self.program(row), self._records.pod_spec(row.pod_id), row.name)

    def stop_signal(self, row: ContainerRow) -> StopSignal:
        """Return the signal that stops a container."""
        config: Mapping[str, Any] = {}
        with contextlib.suppress(NotFound):
            config = self._images.get(row.image_id).config
        return stop_signal(self._records.spec(row), config)

    def log_settings(self, row: ContainerRow) -> LogSettings:
        """Return how a container's output is kept. Errors: NotFound, NotSupported, InvalidInput."""
        pod = self._records.pod_spec(row.pod_id)
        return log_settings(self._config, pod, row.pod_id, row.id, self._records.spec(row))

    def _image_volumes(self, row: ContainerRow, spec: ContainerSpec) -> tuple[VolumeRef, ...]:
        with contextlib.suppress(NotFound):
            return image_volumes(spec, self._images.get(row.image_id).config, row.id)
        return ()

    def _mounts(self, row: ContainerRow, spec: ContainerSpec, pod: PodSpec) -> tuple[Mount, ...]:
        volumes = volumes_of(pod.volumes, [spec])
        own = [_mount(ref, volumes.get(ref.volume) or VolumeSpec()) for ref in spec.volumes]
        return (
            *own,
            *(Mount(volume=ref.volume, path=ref.path, from_image=True) for ref in self._image_volumes(row, spec)),
        )


def _mount(ref: VolumeRef, volume: VolumeSpec) -> Mount:
    return Mount(
        volume=ref.volume,
        path=ref.path,
        read_only=ref.read_only,
        format=volume.format,
        source=volume.source,
        propagation=ref.propagation,
    )


def _warnings(stops_by: StopSignal) -> tuple[str, ...]:
    if not stops_by.unknown:
        return ()
    return (f"the stop signal {stops_by.unknown} is not known; SIGTERM is sent instead",)
