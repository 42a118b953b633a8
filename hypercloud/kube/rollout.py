"""Waiting until a cluster has done what it was told, with what keeps it from that."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypercloud.errors import EngineError, EngineUnreachable, NoEngine
from hypercloud.kube import manifest, parse
from hypercloud.kube.client import Json, KubeClient
from hypercloud.kube.mirror import Mirror
from hypercloud.workload.deployer import Job

LOOK = 0.3  # seconds between two looks
TROUBLE = 1 / 20  # of the patience: so long may something keep a container from running before an action gives up
AWAY = 20.0  # seconds that the cluster may not answer in the meantime


class Rollout:
    """Waits for a service's pods.

    Args:
        client: of the cluster.
        mirror: is shown the pods at each look, so that the rows are right when the wait is over.
        patience: seconds.

    """

    def __init__(self, client: KubeClient, mirror: Mirror, patience: float) -> None:
        self._client = client
        self._mirror = mirror
        self._patience = patience

    def pods(self, service: str) -> list[Json]:
        """Return the pods of a service, and have the rows follow them. Errors: EngineError."""
        found, _ = self._client.objects("Pod", manifest.selector(service))
        self._mirror.see(service, found)
        return found

    def running(self, service: str, kind: str, name: str, job: Job) -> None:
        """Wait until a workload is as it was told to be, and only its pods are left.

        Errors: EngineError with what keeps it from that; NoEngine when no node takes a pod.
        """

        def over(pods: Sequence[Json]) -> bool:
            found = self._client.get(kind, name)
            wanted = _wanted(kind, found)
            if kind == "DaemonSet" and _settled(kind, found) and wanted == 0:
                raise NoEngine("no node has all tags of the service", resolution="give a node the tags")
            return _settled(kind, found) and len(pods) == wanted and all(parse.state(one).running for one in pods)

        self._wait(service, over, job)

    def begun(self, service: str, count: int, job: Job) -> None:
        """Wait until the pods of Jobs run, or have run. Errors: as running."""

        def over(pods: Sequence[Json]) -> bool:
            how = [parse.state(one) for one in pods]
            return sum((one.running or one.ended) and not one.going for one in how) == count == len(how)

        self._wait(service, over, job)

    def gone(self, service: str, job: Job, *, labels: str = "") -> None:
        """Wait until a service has no pods, or none with labels. Errors: EngineError."""

        def over(pods: Sequence[Json]) -> bool:
            key, _, value = labels.partition("=")
            return not [
                one for one in pods if not labels or parse.labels(parse.table(one, "metadata")).get(key) == value
            ]

        self._wait(service, over, job, look_for_trouble=False)

    def _wait(
        self, service: str, over: Callable[[Sequence[Json]], bool], job: Job, *, look_for_trouble: bool = True
    ) -> None:
        deadline = time.monotonic() + self._patience
        answered = time.monotonic()
        since: float | None = None
        told = ""
        while True:
            job.check()
            try:
                pods = self.pods(service)
                if over(pods):
                    return
                answered = time.monotonic()
            except EngineUnreachable:
                if time.monotonic() - answered > AWAY:
                    raise
                time.sleep(LOOK)  # nothing tells when the API server is back; AWAY bounds it
                continue
            trouble = _trouble(pods) if look_for_trouble else ""
            since = (since or time.monotonic()) if trouble else None
            if trouble and trouble != told:
                job.log(trouble)
                told = trouble
            now = time.monotonic()
            if now > deadline or (since is not None and now - since > TROUBLE * self._patience):
                _give_up(pods, trouble, look_for_trouble)
            time.sleep(LOOK)  # in the action's thread, which ``job.check`` ends; a watch would look at no clock


def _give_up(pods: Sequence[Json], trouble: str, running: bool) -> None:
    """Raise what a wait ends with. Errors: NoEngine, EngineError."""
    if "Unschedulable" in trouble:
        raise NoEngine("no node takes a container of the service", details=trouble)
    names = ", ".join(parse.text(parse.table(one, "metadata"), "name") for one in pods[:5])
    raise EngineError(
        "not all containers run" if running else "not all containers have gone",
        details=trouble or f"pods: {names}",
        resolution="the cluster goes on trying; the service's state follows",
    )


def _trouble(pods: Sequence[Mapping[str, Any]]) -> str:
    for one in pods:
        how = parse.state(one)
        if how.trouble and not how.ended and not how.going:
            return f"{parse.text(parse.table(one, 'metadata'), 'name')}: {how.trouble}"[:1500]
    return ""


def _wanted(kind: str, found: Mapping[str, Any]) -> int:
    if kind == "DaemonSet":
        return parse.whole(parse.table(found, "status").get("desiredNumberScheduled"))
    return parse.whole(parse.table(found, "spec").get("replicas"))


def _settled(kind: str, found: Mapping[str, Any]) -> bool:
    """Say whether the cluster has seen the last change of a workload, and all its pods are of it and ready."""
    status = parse.table(found, "status")
    generation = parse.whole(parse.table(found, "metadata").get("generation"))
    if parse.whole(status.get("observedGeneration")) < generation:
        return False
    wanted = _wanted(kind, found)
    keys: tuple[str, ...]
    if kind == "DaemonSet":
        keys = ("updatedNumberScheduled", "numberReady", "currentNumberScheduled")
    else:
        keys = ("updatedReplicas", "readyReplicas", "replicas")
    if kind == "StatefulSet" and wanted:
        if parse.text(status, "currentRevision") != parse.text(status, "updateRevision"):
            return False
        keys = ("readyReplicas", "replicas")
    return all(parse.whole(status.get(key)) == wanted for key in keys)
