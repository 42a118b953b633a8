"""The VMs this daemon knows: in memory, and as rows that outlive it."""

from __future__ import annotations

import contextlib
import json
import random
import string
import threading
from collections.abc import Iterator
from typing import Any

import structlog
from sqlalchemy import delete, select

from hyperd.config.model import IDS_PER_VM
from hyperd.db.models import VmRow
from hyperd.db.session import Database
from hyperd.errors import Busy, HyperError, NotFound
from hyperd.vm.model import KEPT, Vm

log = structlog.get_logger(__name__)


def new_id() -> str:
    """Return an id for a VM."""
    return "vm-" + "".join(random.choices(string.ascii_letters, k=10))


class VmTable:
    """See the module's docstring. All methods are safe in any thread.

    ``lock`` guards which VMs there are, and who may take one from the pool; a VM's own ``lock`` guards what it has.
    Whoever holds both took the VM's first, or the VM is nobody's yet.
    """

    def __init__(self, database: Database) -> None:
        self.lock = threading.RLock()
        self._db = database
        self._vms: dict[str, Vm] = {}
        self._written: dict[str, str] = {}
        self._left: set[str] = set()  # rows to be deleted
        self._next_uid: int | None = None

    def add(self, vm: Vm) -> None:
        """Know a VM from now on; its row is written by the first ``changing``."""
        with self.lock:
            self._vms[vm.id] = vm

    def drop(self, vm_id: str) -> bool:
        """Forget a VM; tell whether it was known. Its row stays (``erase``)."""
        with self.lock:
            self._written.pop(vm_id, None)
            return self._vms.pop(vm_id, None) is not None

    def find(self, vm_id: str) -> Vm | None:
        """Return a VM if it is known."""
        with self.lock:
            return self._vms.get(vm_id)

    def get(self, vm_id: str) -> Vm:
        """Return a VM. Errors: NotFound."""
        vm = self.find(vm_id)
        if vm is None:
            raise NotFound(f"The VM {vm_id} doesn't exist", kind="vm", name=vm_id)
        return vm

    def all(self) -> list[Vm]:
        """Return every VM."""
        with self.lock:
            return list(self._vms.values())

    def of_pod(self, pod_id: str) -> Vm | None:
        """Return the VM of a pod, if it has one."""
        with self.lock:
            return next((vm for vm in self._vms.values() if vm.pod_id == pod_id), None)

    def give_uid(self, vm: Vm, uids: range) -> None:
        """Give a VM a user that no other has; not one that was somebody's lately.

        ``uids``: those to choose from. With a step the ids up to the next one are the VM's, too.

        Errors: Busy (there is none).
        """
        with self.lock:
            used = [(other.uid, IDS_PER_VM if other.mapped else 1) for other in self._vms.values() if other.uid]
            start = random.randrange(len(uids)) if self._next_uid is None else self._next_uid
            for step in range(len(uids)):
                number = (start + step) % len(uids)
                if all(uids[number] + uids.step <= uid or uid + count <= uids[number] for uid, count in used):
                    vm.uid, self._next_uid = uids[number], number + 1
                    return
        raise Busy("no user is left for another VM", resolution="raise hypervisor.uid_range")

    @contextlib.contextmanager
    def changing(self, vm: Vm) -> Iterator[Vm]:
        """Hold a VM's lock; at the end its row is written if it is not what it was, also when the block fails.

        What the driver or the guest does belongs between two blocks where its order with the row matters: a disk is
        written down before it is attached, and struck off after it is detached.
        """
        with vm.lock:
            try:
                yield vm
            finally:
                self._write(vm)

    def rows(self) -> dict[str, VmRow]:
        """Return the rows by id, with those of an earlier daemon."""
        with self._db.reading() as session:
            return {row.id: row for row in session.scalars(select(VmRow))}

    def erase(self, vm_id: str) -> None:
        """Delete the row of a VM that is gone; none is fine.

        One that cannot be deleted now, because a disk is full, is deleted with the next change, or by the next daemon.
        """
        with self.lock:
            self._left.add(vm_id)
        try:
            self._save(None)
        except HyperError as error:
            log.warning("vm.row_left", vm=vm_id, error=str(error))

    def _write(self, vm: Vm) -> None:
        detail: dict[str, Any] = {name: getattr(vm, name) for name in KEPT}
        row = VmRow(
            id=vm.id,
            pod_id=vm.pod_id or None,
            state=vm.state,
            vcpu=vm.vcpu,
            memory=vm.memory,
            created_at=vm.created_at,
            detail=detail,
        )
        image = json.dumps([row.pod_id, row.state, detail])
        if self._written.get(vm.id) == image or self.find(vm.id) is not vm:
            return  # as it was, or gone meanwhile
        self._save(row)
        with self.lock:
            if vm.id in self._vms:
                self._written[vm.id] = image

    def _save(self, row: VmRow | None) -> None:
        """Write a row, if one is given, and delete those of VMs that are gone: a pod has one at most."""
        with self.lock:
            left = tuple(self._left)
        with self._db.session() as session:
            if left:
                session.execute(delete(VmRow).where(VmRow.id.in_(left)))
            if row is not None:
                session.merge(row)
        with self.lock:
            self._left.difference_update(left)
