"""Containers of services as the cluster has them: a row for each pod, whose uuid is the pod's own.

The cluster makes and removes pods by itself; here is only noted what there is. A pod that a list no longer has is
looked for once more by its name before it counts as gone, because lists are read in more than one thread.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import structlog
from sqlalchemy import select

from hypercloud.action.service import ActionService, Caller, Request
from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import EngineFacts, EngineSpec
from hypercloud.engine.monitor import EngineObserver
from hypercloud.errors import CloudError
from hypercloud.event.bus import Bus, Change
from hypercloud.kube import manifest, parse
from hypercloud.kube.client import Json, KubeClient
from hypercloud.workload import states
from hypercloud.workload.model import MOVING, Destroy, Goal, ServiceSpec, State, decode
from hypercloud.workload.store import Store, Transaction
from hypercloud.workload.watch import NODE_STATES

log = structlog.get_logger(__name__)

Ports = Mapping[tuple[int, str], int]  # inner port and protocol -> the port of every node


class Mirror(EngineObserver):
    """Keeps rows true.

    Args:
        store: the rows.
        client: of the cluster.
        nodes: gives the ids of nodes by their names.
        actions: for what must be done then.
        bus: is told of nodes.
        wake: tells the reconciler.

    """

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        *,
        nodes: Callable[[], Mapping[str, str]],
        actions: ActionService,
        bus: Bus,
        wake: Callable[[], None],
    ) -> None:
        self._store = store
        self._client = client
        self._nodes = nodes
        self._actions = actions
        self._bus = bus
        self._wake = wake
        self._lock = threading.Lock()
        self._outer: dict[str, Ports] = {}  # by the service's uuid

    # -- being told --------------------------------------------------------------------------------------------------

    def on_health(self, engine: EngineSpec, facts: EngineFacts) -> None:
        """Tell who watches the nodes."""
        self._bus.publish(Change(kind="node", action="update", uuid=engine.id, state=NODE_STATES[facts.health]))

    def on_pod(self, pod: Json, *, gone: bool) -> None:
        """Take over what has become of one pod."""
        self._take_all([pod], gone=gone)
        self._wake()

    def on_pods(self, pods: Sequence[Json]) -> None:
        """Take over everything: what is there, and what is not any more."""
        self._take_all(pods)
        with self._store.reading() as tx:
            rows = tx.session.scalars(select(ContainerRow).where(ContainerRow.state != State.TERMINATED)).all()
        self._forget(rows, pods)
        self._wake()

    def see(self, service: str, pods: Sequence[Json]) -> None:
        """Take over the pods of one service, all of them. Errors: EngineError."""
        self._take_all(pods)
        with self._store.reading() as tx:
            rows = tx.containers(service)
        self._forget(rows, pods)

    def review(self, service: str, succeeded: bool) -> None:
        """Look at what happened to a service's containers while an action on it was open."""
        del succeeded
        with self._store.writing() as tx:
            for row in tx.containers(service):
                self._destroy_if_wanted(tx, row)
        self._wake()

    def renew_ports(self, service: str) -> None:
        """Look at a service's published ports anew the next time."""
        with self._lock:
            self._outer.pop(service, None)

    # -- taking over -------------------------------------------------------------------------------------------------

    def _forget(self, rows: Sequence[ContainerRow], pods: Sequence[Json]) -> None:
        known = {parse.text(parse.table(one, "metadata"), "uid") for one in pods}
        for row in [one for one in rows if one.uuid not in known and one.docker_id]:
            pod = self._client.find("Pod", row.docker_id or "")
            if pod is not None and parse.text(parse.table(pod, "metadata"), "uid") == row.uuid:
                continue
            with self._store.writing() as tx:
                self._end(tx, tx.container(row.uuid))

    def _take_all(self, pods: Sequence[Json], *, gone: bool = False) -> None:
        nodes = self._nodes()
        for pod in pods:
            uuid = parse.labels(parse.table(pod, "metadata")).get(manifest.SERVICE, "")
            if not uuid:
                continue
            with self._store.reading() as tx:
                service = tx.session.get(ServiceRow, uuid)
            if service is None or service.state == State.TERMINATED:
                continue
            outer = {} if gone else self._outer_ports(service)
            with self._store.writing() as tx:
                self._take(tx, tx.service(uuid), pod, nodes, outer, gone=gone)

    def _take(
        self, tx: Transaction, service: ServiceRow, pod: Json, nodes: Mapping[str, str], outer: Ports, *, gone: bool
    ) -> None:
        uid = parse.text(parse.table(pod, "metadata"), "uid")
        row = tx.session.get(ContainerRow, uid)
        if row is None:
            if gone or not uid:
                return
            row = self._add(tx, service, pod)
        if row.state == State.TERMINATED:
            return
        if gone:
            self._end(tx, row)
            return
        spec = decode(row.spec)
        row.engine = nodes.get(parse.text(parse.table(pod, "spec"), "nodeName")) or row.engine
        row.private_ip = parse.text(parse.table(pod, "status"), "podIP") or row.private_ip
        row.ports = _ports(spec, pod, outer)
        self._set_state(tx, row, pod)
        self.settle(tx, service.uuid)
        self._destroy_if_wanted(tx, row)

    def _set_state(self, tx: Transaction, row: ContainerRow, pod: Json) -> None:
        how = parse.state(pod)
        own = next(iter(parse.things(parse.table(pod, "status"), "containerStatuses")), {})
        now = parse.table(own, "state")
        if how.going:
            row.goal = Goal.GONE
            tx.set_container(row, State.TERMINATING)
        elif how.running:
            row.exit_code, row.exit_msg, row.stopped = None, None, None
            row.started = parse.when(parse.table(now, "running").get("startedAt")) or row.started or time.time()
            row.deployed = row.deployed or row.started
            tx.set_container(row, State.RUNNING)
        elif how.ended and not _is_of_job(pod):
            row.exit_code, row.exit_msg = how.exit_code, how.trouble[:1000] or "the cluster has given it up"
            tx.set_container(row, State.TERMINATED)  # such as evicted: another takes its place
        elif how.ended or how.restarting:
            row.exit_code, row.exit_msg = how.exit_code, how.trouble[:1000] or None
            ended = parse.table(now, "terminated") or parse.table(parse.table(own, "lastState"), "terminated")
            row.stopped = parse.when(ended.get("finishedAt")) or row.stopped or time.time()
            tx.set_container(row, State.STOPPED)
        else:
            row.exit_msg = how.trouble[:1000] or None
            tx.set_container(row, State.STARTING)

    def _end(self, tx: Transaction, row: ContainerRow) -> None:
        if row.state != State.TERMINATED:
            if row.goal != Goal.GONE:
                row.exit_msg = "it was removed from the cluster"
            tx.set_container(row, State.TERMINATED)
            self.settle(tx, row.service)

    def _add(self, tx: Transaction, service: ServiceRow, pod: Json) -> ContainerRow:
        metadata = parse.table(pod, "metadata")
        number = _number(pod) or _free_number(tx, service.uuid)
        created = parse.when(metadata.get("creationTimestamp")) or time.time()
        row = ContainerRow(
            uuid=parse.text(metadata, "uid"),
            namespace=service.namespace,
            service=service.uuid,
            number=number,
            name=f"{service.name}-{number}",
            engine=None,
            docker_id=parse.text(metadata, "name"),
            revision=_whole(parse.annotation(pod, manifest.REVISION)),
            generation=_whole(parse.annotation(pod, manifest.GENERATION)),
            volumes_of=service.uuid,
            goal=Goal.RUNNING,
            state=State.STARTING,
            exit_code=None,
            exit_msg=None,
            spec=service.spec,
            envvars=_variables(pod),
            links=[],
            ports=[],
            image_env=[],
            private_ip=None,
            created=created,
            deployed=None,
            started=None,
            stopped=None,
            destroyed=None,
        )
        tx.session.add(row)
        tx.session.flush()
        tx.set_container(row, State.STARTING, verb="create")
        return row

    def settle(self, tx: Transaction, service: str, *, force: bool = False) -> None:
        """Derive a service's state from its containers, unless the reconciler is at work on it."""
        row = tx.service(service)
        if row.state == State.TERMINATED or (row.state in MOVING and not force):
            return
        live = [one for one in tx.containers(service) if one.goal != Goal.GONE]
        state = states.of_service((one.state for one in live), row.target)
        if not live and row.stopped is not None and row.stopped >= (row.started or 0.0):
            state = State.STOPPED  # stopped containers do not stay
        tx.set_service(row, state)
        if row.stack:
            tx.settle_stack(row.stack)

    def _destroy_if_wanted(self, tx: Transaction, row: ContainerRow) -> None:
        """Remove a container whose program has ended for good, if its service says so."""
        spec = decode(row.spec)
        ended = row.state == State.STOPPED and row.goal == Goal.RUNNING and manifest.kind_of(spec) == "Job"
        wanted = spec.autodestroy is Destroy.ALWAYS or (spec.autodestroy is Destroy.ON_SUCCESS and row.exit_code == 0)
        if ended and wanted and not tx.is_waited_for(row):
            row.goal = Goal.GONE
            tx.set_container(row, State.TERMINATING)
            self._actions.add(
                tx.session,
                Caller(namespace=row.namespace, user=row.namespace, is_user=False),
                Request(
                    name="Container Terminate",
                    kind="container",
                    object=row.uuid,
                    operation="container.terminate",
                    arguments={"service": row.service},
                ),
            )

    def _outer_ports(self, service: ServiceRow) -> Ports:
        """Return the ports that the cluster has chosen for a service."""
        spec = decode(service.spec)
        if not any(one.published and not one.outer for one in spec.ports):
            return {}
        with self._lock:
            known = self._outer.get(service.uuid)
        if known is not None:
            return known
        found: dict[tuple[int, str], int] = {}
        with contextlib.suppress(CloudError):
            name = manifest.outer_name(manifest.object_name(service.name, service.uuid))
            made = self._client.find("Service", name)
            for one in parse.things(parse.table(made or {}, "spec"), "ports"):
                key = (parse.whole(one.get("port")), parse.text(one, "protocol").lower())
                found[key] = parse.whole(one.get("nodePort"))
            if made is not None:
                with self._lock:
                    self._outer[service.uuid] = found
        return found


def _is_of_job(pod: Mapping[str, Any]) -> bool:
    return manifest.NUMBER in parse.table(parse.table(pod, "metadata"), "labels")


def _number(pod: Mapping[str, Any]) -> int:
    """Return which container of its service a pod is, where its name or label tells; 0 where it does not."""
    metadata = parse.table(pod, "metadata")
    if label := parse.text(parse.table(metadata, "labels"), manifest.NUMBER):
        return _whole(label)
    owners = {parse.text(one, "kind") for one in parse.things(metadata, "ownerReferences")}
    last = parse.text(metadata, "name").rpartition("-")[2]
    return int(last) + 1 if "StatefulSet" in owners and last.isdecimal() else 0


def _free_number(tx: Transaction, service: str) -> int:
    used = {one.number for one in tx.containers(service) if one.goal != Goal.GONE}
    return next(number for number in range(1, len(used) + 2) if number not in used)


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 10 else 0


def _variables(pod: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of a pod that stand in it, as its program sees them."""
    uid = parse.text(parse.table(pod, "metadata"), "uid")
    main = next(iter(parse.things(parse.table(pod, "spec"), "containers")), {})
    return {
        parse.text(one, "name"): manifest.expanded(parse.text(one, "value"), {manifest.POD_ID: uid})
        for one in parse.things(main, "env")
        if "value" in one
    }


def _ports(spec: ServiceSpec, pod: Mapping[str, Any], outer: Ports) -> list[dict[str, Any]]:
    """Return all ports of a container, published ones with their node's."""
    fixed = {(one.container_port, one.proto): one.port for one in parse.ports(pod) if one.port}
    known = {(one.inner, one.protocol) for one in spec.ports}
    reached = {key: port for key, port in (*outer.items(), *fixed.items()) if port and key in known}
    return [
        {
            "inner": inner,
            "protocol": proto,
            "outer": reached.get((inner, proto), 0),
            "published": (inner, proto) in reached,
        }
        for inner, proto in sorted(known)
    ]
