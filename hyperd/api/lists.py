"""The bodies of ``GET /list``, kept as long as nothing has changed that they show."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING

from hyperd.api.answers import env_text
from hyperd.api.hyper.container_views import phase
from hyperd.api.hyper.pod_views import list_word
from hyperd.errors import InvalidInput

if TYPE_CHECKING:
    from hyperd.engine import Engine

KEPT = 64
# What the rows of each list are read from.
TABLES = {"pod": ("pods", "vms"), "container": ("containers", "vms"), "vm": ("vms",)}


class ListBodies:
    """Makes the bodies and keeps the latest of each question.

    A body is given again only when neither a table has been written to since before it was made nor any VM has
    changed: VMs live in memory, so they are looked at each time (their table, too: a VM may have gone to another
    state and come back while the body was made).
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: dict[tuple[str, str, str], tuple[Hashable, bytes]] = {}

    def get(self, item: str, *, pod_id: str, vm_id: str) -> bytes:
        """Return the JSON text of a list; ``pod_id`` and ``vm_id`` choose, empty for all. Errors: InvalidInput."""
        if item not in TABLES:
            raise InvalidInput(f"Can not support {item[:40]} list!", resolution="use pod, container or vm")
        key, stamp = (item, pod_id, vm_id), self._stamp(item)
        kept = self._kept.get(key)
        if kept is not None and kept[0] == stamp:
            return kept[1]
        body = env_text(self._rows(item, pod_id, vm_id)).encode()
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[key] = stamp, body
        return body

    def _stamp(self, item: str) -> Hashable:
        vms = [(vm.id, vm.pod_id, vm.state, vm.hidden, vm.agent.silent) for vm in self._engine.vms.all()]
        return self._engine.database.version(*TABLES[item]), tuple(vms)

    def _rows(self, item: str, pod_id: str, vm_id: str) -> dict[str, object]:
        engine = self._engine
        if item == "pod":
            pods = engine.pods.summaries(pod_id=pod_id, vm_id=vm_id)
            return {
                "item": item,
                "podData": [f"{pod.id}:{pod.id}:{pod.vm_id}:{list_word(pod.state, pod.outcome)}" for pod in pods],
            }
        if item == "container":
            found = engine.containers.queries.summaries(pod_id=pod_id, vm_id=vm_id)
            return {"item": item, "cData": [f"{one.id}:{one.name}:{one.pod_id}:{phase(one)}" for one in found]}
        vms = engine.vms.views(pod_id=pod_id, vm_id=vm_id)
        return {"item": item, "vmData": [f"{vm.id}:{vm.pod_id}:{vm.status}" for vm in vms]}
