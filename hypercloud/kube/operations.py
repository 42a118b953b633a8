"""Carrying out one operation on a cluster. Everything here may be cut off at any point and begun again from the top.

What is to be stands in the database, what the cluster was told in its objects, whose names follow from the rows; each
step looks at what is there, or says what is to be and changes nothing when it is so.
"""

from __future__ import annotations

import contextlib
from typing import Any

from hypercloud.account.keys import KeyService
from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import Health
from hypercloud.errors import EngineError, EngineUnreachable, NotFound, NotSupported
from hypercloud.kube import limits, manifest, parse
from hypercloud.kube.client import Json, KubeClient
from hypercloud.kube.machines import KubeMachines
from hypercloud.kube.manifest import Plan
from hypercloud.kube.mirror import Mirror
from hypercloud.kube.planner import Planner
from hypercloud.kube.rollout import Rollout
from hypercloud.workload import stackwise
from hypercloud.workload.carrier import dispatch
from hypercloud.workload.deployer import Job
from hypercloud.workload.describe import managed_volumes
from hypercloud.workload.model import ServiceSpec, State, decode
from hypercloud.workload.store import Store

REST = ("Service", "Secret", "PersistentVolumeClaim")  # what a service has beside its workload


class KubeOperations:
    """All operations by their names, over a cluster; see ``hypercloud.workload.carrier.Carrier``.

    Args:
        store: what should be.
        client: of the cluster.
        machines: nodes and pods.
        mirror: keeps the rows of containers.
        planner: makes plans.
        rollout: waits.
        keys: tokens that end with their service.

    """

    def __init__(
        self,
        store: Store,
        client: KubeClient,
        *,
        machines: KubeMachines,
        mirror: Mirror,
        planner: Planner,
        rollout: Rollout,
        keys: KeyService,
    ) -> None:
        self._store = store
        self._client = client
        self._machines = machines
        self._mirror = mirror
        self._planner = planner
        self._rollout = rollout
        self._keys = keys

    # -- what cannot be ----------------------------------------------------------------------------------------------

    def check(self, spec: ServiceSpec) -> None:
        """Refuse a service that no pods can be. Errors: Conflict."""
        limits.check(spec)

    def check_container(self, operation: str) -> None:
        """Refuse what a cluster does not do with one pod. Errors: NotSupported."""
        if operation != "redeploy":
            raise NotSupported(
                f"a cluster does not {operation} one container of a service",
                details="its service keeps as many as it is to have",
                resolution="redeploy the container, or scale, stop or terminate the service",
            )

    def check_node(self, operation: str) -> None:
        """Refuse what is the cluster's administrator's. Errors: NotSupported."""
        if operation != "health-check":
            raise NotSupported(
                f"a cluster's node is not changed from here ({operation})",
                details="other things may run on it than what hypercloud knows",
                resolution="kubectl drain, kubectl delete node",
            )

    # -- by name -----------------------------------------------------------------------------------------------------

    def run(self, operation: str, target: str, arguments: dict[str, Any], job: Job) -> None:
        """Carry out an operation on an object. Errors: CloudError; Canceled."""
        handlers = {
            "service": self._service,
            "stack": self._stack,
            "container": self._container,
            "node": self._node,
        }
        dispatch(handlers, operation, target, arguments, job)

    def settle(self, action: str, operation: str, target: str, arguments: dict[str, Any]) -> None:
        """Let states follow from the pods again, however the operation of an action ended."""
        del action
        kind = operation.partition(".")[0]
        if kind == "stack":
            for service in arguments.get("services", ()):
                self._settle(str(service))
            with self._store.writing() as tx:
                tx.settle_stack(target, force=True)
        elif kind in {"service", "container"}:
            self._settle(str(arguments.get("service", target)), force=kind == "service")

    def _settle(self, service: str, *, force: bool = True) -> None:
        with contextlib.suppress(EngineError):  # without the cluster the rows stay as they were
            self._rollout.pods(service)
        with self._store.writing() as tx:
            self._mirror.settle(tx, service, force=force)

    # -- services ----------------------------------------------------------------------------------------------------

    def _service(self, verb: str, service: str, arguments: dict[str, Any], job: Job) -> None:
        with self._store.reading() as tx:
            row = tx.service(service)
        if row.state == State.TERMINATED:
            return
        self._need_namespace(job)
        if verb in {"start", "scale"}:
            self._have(row, job)
        elif verb == "stop":
            self._stop(row, job)
        elif verb == "redeploy":
            if not arguments.get("reuse_volumes", True):
                self._drop_volumes(row, job)
            self._put(row, job)
        elif verb == "terminate":
            self._terminate(row, job)

    def _have(self, row: ServiceRow, job: Job) -> None:
        """Have so many containers of what there is, or make it: a changed specification waits for a redeploy."""
        there = [kind for kind, _ in self._workloads(row.uuid)]
        if there and there[0] != "Job":
            self._resize(row, there[0], job)
        else:
            self._put(row, job)

    def _resize(self, row: ServiceRow, kind: str, job: Job) -> None:
        """Have a workload keep as many pods as its service is to have."""
        name = manifest.object_name(row.name, row.uuid)
        if kind == "DaemonSet":
            self._client.merge(kind, name, manifest.held(None))
        else:
            job.log(f"{kind} {name}: {row.target} containers")
            self._client.merge(kind, name, {"spec": {"replicas": row.target}})
        self._rollout.running(row.uuid, kind, name, job)

    def _put(self, row: ServiceRow, job: Job) -> None:
        """Make everything that a service is, as its specification says."""
        plan = self._planner.full(row, job)
        self._planner.inner_service(row)
        outer = manifest.outer_service(plan)
        if outer is None:
            self._client.delete("Service", manifest.outer_name(plan.object))
        else:
            self._client.apply("Service", outer)
        self._mirror.renew_ports(row.uuid)
        kind = manifest.kind_of(plan.spec)
        others = [
            (other, _name(thing))
            for other, thing in self._workloads(row.uuid)
            if other != kind or (kind == "StatefulSet" and not _same_claims(plan, thing))
        ]
        for other, name in others:
            job.log(f"removing {other} {name}: the service is another kind of object now")
            self._client.delete(other, name, foreground=True)
        if others:
            self._rollout.gone(row.uuid, job)
        if kind == "Job":
            self._put_jobs(row, plan, job)
            return
        job.log(f"{kind} {plan.object}: {plan.spec.image}")
        self._client.apply(kind, manifest.workload(plan))
        if kind == "DaemonSet":
            self._client.merge(kind, plan.object, manifest.held(None))
        self._rollout.running(row.uuid, kind, plan.object, job)

    def _put_jobs(self, row: ServiceRow, plan: Plan, job: Job) -> None:
        """Have one Job for each container, of this generation; the highest numbers go first."""
        there = {_number(thing): thing for kind, thing in self._workloads(row.uuid) if kind == "Job"}
        numbers = sorted(there)
        for number in numbers[plan.target :]:
            self._drop_job(plan, number, job)
        kept = numbers[: plan.target]
        free = (number for number in range(1, plan.target + len(kept) + 1) if number not in kept)
        wanted = sorted([*kept, *(next(free) for _ in range(plan.target - len(kept)))])
        for index, number in enumerate(wanted, start=1):
            old = there.get(number)
            if old is not None and parse.annotation(old, manifest.GENERATION) != str(plan.generation):
                self._drop_job(plan, number, job)
                old = None
            if old is None:
                for claim in manifest.claims(plan, number):
                    self._client.apply("PersistentVolumeClaim", claim)
                job.log(f"Job {manifest.job_name(plan, number)}: {plan.spec.image}")
                self._client.apply("Job", manifest.job(plan, number))
            if plan.spec.sequential:
                self._rollout.begun(row.uuid, index, job)
        self._rollout.begun(row.uuid, plan.target, job)

    def _drop_job(self, plan: Plan, number: int, job: Job) -> None:
        name = manifest.job_name(plan, number)
        job.log(f"removing Job {name}")
        self._client.delete("Job", name)
        self._rollout.gone(plan.uuid, job, labels=f"{manifest.NUMBER}={number}")

    def _stop(self, row: ServiceRow, job: Job) -> None:
        """Take all pods away; the workload stays, and tells how many there were."""
        for kind, thing in self._workloads(row.uuid):
            name = _name(thing)
            job.log(f"stopping {kind} {name}: what its containers wrote outside of volumes is lost")
            if kind == "Job":
                self._client.delete(kind, name)
            elif kind == "DaemonSet":
                self._client.merge(kind, name, manifest.held("true"))
            else:
                note = {"annotations": {manifest.REPLICAS: str(row.target)}}
                self._client.merge(kind, name, {"metadata": note, "spec": {"replicas": 0}})
        self._rollout.gone(row.uuid, job)

    def _terminate(self, row: ServiceRow, job: Job) -> None:
        for kind, thing in self._workloads(row.uuid):
            job.log(f"removing {kind} {_name(thing)}")
            self._client.delete(kind, _name(thing))
        self._rollout.gone(row.uuid, job)
        for kind in REST:
            for thing in self._client.objects(kind, manifest.selector(row.uuid))[0]:
                self._client.delete(kind, _name(thing))
        self._keys.revoke_container(row.uuid)
        with self._store.writing() as tx:
            tx.terminate_service(tx.service(row.uuid))

    def _drop_volumes(self, row: ServiceRow, job: Job) -> None:
        """Take away the volumes of a service, for which its containers must go first."""
        if not managed_volumes(decode(row.spec), row.uuid):
            return
        claims, _ = self._client.objects("PersistentVolumeClaim", manifest.selector(row.uuid))
        for kind, thing in self._workloads(row.uuid):
            self._client.delete(kind, _name(thing), foreground=True)
        self._rollout.gone(row.uuid, job)
        for one in claims:
            job.log(f"removing volume {_name(one)}")
            self._client.delete("PersistentVolumeClaim", _name(one))

    def _workloads(self, service: str) -> list[tuple[str, Json]]:
        """Return kind and object of all that a service's pods come from. Errors: EngineError."""
        found = []
        for kind in manifest.WORKLOADS:
            things, _ = self._client.objects(kind, manifest.selector(service))
            found += [(kind, one) for one in things if "deletionTimestamp" not in parse.table(one, "metadata")]
        return found

    def _need_namespace(self, job: Job) -> None:
        """Make our namespace, unless it is there or we may not even look."""
        name = self._client.namespace
        try:
            if self._client.find("Namespace", name) is None:
                job.log(f"making the namespace {name}")
                self._client.apply("Namespace", {"metadata": {"name": name}})
        except EngineUnreachable:
            raise
        except EngineError as error:
            job.log(str(error))

    # -- stacks, containers, nodes -----------------------------------------------------------------------------------

    def _stack(self, verb: str, stack: str, arguments: dict[str, Any], job: Job) -> None:
        stackwise.run(self._store, verb, stack, arguments, job, operate=self._service, settle=self._settle)

    def _container(self, verb: str, container: str, arguments: dict[str, Any], job: Job) -> None:
        del arguments
        with self._store.reading() as tx:
            row = tx.container(container)
            service = tx.service(row.service)
        if row.state == State.TERMINATED:
            return
        plan = self._planner.bare(service)
        if manifest.kind_of(decode(row.spec)) == "Job":
            self._drop_job(plan, row.number, job)
            if verb == "redeploy":
                self._put(service, job)
        elif verb == "redeploy":
            self._replace(row, job)

    def _replace(self, row: ContainerRow, job: Job) -> None:
        """Have a pod made anew by what keeps it."""
        pod = self._client.find("Pod", row.docker_id or "")
        if pod is not None and parse.text(parse.table(pod, "metadata"), "uid") == row.uuid:
            job.log(f"removing pod {row.docker_id}: another takes its place")
            self._client.delete("Pod", row.docker_id or "")
        for kind, thing in self._workloads(row.service):
            self._rollout.running(row.service, kind, _name(thing), job)

    def _node(self, verb: str, node: str, arguments: dict[str, Any], job: Job) -> None:
        del arguments
        self.check_node(verb)
        try:
            facts = self._machines.check(node)
        except NotFound as error:
            raise EngineError("the node is no longer in the cluster", details=str(error)) from error
        job.log(f"{self._machines.engine(node).spec.name}: {facts.health} {facts.error}".strip())
        if facts.health is Health.DOWN:
            raise EngineError("the node is not ready", details=facts.error)


def _name(thing: Json) -> str:
    return parse.text(parse.table(thing, "metadata"), "name")


def _number(thing: Json) -> int:
    found = parse.text(parse.table(parse.table(thing, "metadata"), "labels"), manifest.NUMBER)
    return int(found) if found.isdecimal() else 0


def _same_claims(plan: Plan, thing: Json) -> bool:
    """Say whether a StatefulSet has the volumes of a plan: they cannot be changed."""
    there = {_name(dict(one)) for one in parse.things(parse.table(thing, "spec"), "volumeClaimTemplates")}
    return there == {name for name, _ in managed_volumes(plan.spec, plan.uuid)}
