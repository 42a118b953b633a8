"""Looking at containers: lists, descriptions, what each runs."""

from __future__ import annotations

import contextlib
from typing import Any

from hyperd.container.plan import Program, merge_program
from hyperd.container.process import GuestProcess
from hyperd.container.records import ContainerRecords
from hyperd.container.states import phase
from hyperd.container.views import ContainerView, container_object, container_status
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError, NotFound
from hyperd.image.service import ImageInfo, ImageService
from hyperd.spec.model import VolumeRef
from hyperd.vm.service import VmService
from hyperd.volume.catalog import image_volumes

SETTLE_WAIT = 1.0


class ContainerLooks:
    """The part of the container service that changes nothing."""

    def __init__(self, *, records: ContainerRecords, images: ImageService, vms: VmService) -> None:
        self.records = records
        self._images = images
        self._vms = vms
        self._processes: dict[str, GuestProcess] = {}

    def views(self, *, pod_id: str = "", vm_id: str = "") -> list[ContainerView]:
        """List containers, by pod or VM where given."""
        if vm_id:
            vm = next((view for view in self._vms.views(vm_id=vm_id)), None)
            if vm is None or not vm.pod_id or (pod_id and pod_id != vm.pod_id):
                return []
            pod_id = vm.pod_id
        rows = self.records.listed(pod_id)
        return [ContainerView(id=row.id, name=row.name, pod_id=row.pod_id, status=phase(row)) for row in rows]

    def info(self, name: str) -> dict[str, Any]:
        """Give ``ContainerInfo``. Errors: NotFound, InvalidInput."""
        row = self.records.find(name)
        process = self._processes.get(row.id)
        if process is not None and process.hub.ended and process.finished.wait(SETTLE_WAIT):
            # Its output is at its end: a client that has just seen that asks how it ended.
            row = self.records.get(row.id)
        return {
            "container": self.describe(row),
            "createdAt": int(row.created_at),
            "podID": row.pod_id,
            "status": container_status(row),
        }

    def describe(self, row: ContainerRow) -> dict[str, Any]:
        """Give the ``Container`` object of a row."""
        spec = self.records.spec(row)
        program: Program | None = None
        with contextlib.suppress(HyperError):
            program = self.program(row)
        return container_object(row, spec, program, self.volume_refs(row))

    def volume_refs(self, row: ContainerRow) -> tuple[VolumeRef, ...]:
        """Give every volume that a container mounts, those of its image included."""
        spec = self.records.spec(row)
        with contextlib.suppress(NotFound):
            return (*spec.volumes, *image_volumes(spec, self._images.get(row.image_id).config, row.id))
        return spec.volumes

    def program(self, row: ContainerRow) -> Program:
        """Give what a container runs. Errors: ImageNotFound, InvalidInput."""
        pod = self.records.pod_spec(row.pod_id)
        image: ImageInfo = self._images.get(row.image_id)
        return merge_program(self.records.spec(row), image.config, hostname=pod.hostname, pod_tty=pod.tty)
