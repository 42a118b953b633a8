"""The nodes of a cluster and our pods on them, kept in memory and followed.

Two threads read: one nodes, one pods, each a list and then what changes. A third one asks every ``health_interval``
whether the cluster answers, and cuts the others off when it does not: they begin anew, so that nothing is missed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import structlog

from hypercloud.engine.client import EngineClient
from hypercloud.engine.machines import Lines, Session
from hypercloud.engine.model import Engine, EngineContainer, EngineFacts, EngineSpec, Health
from hypercloud.engine.monitor import EngineMonitor, EngineObserver
from hypercloud.errors import CloudError, Conflict, EngineUnreachable, InvalidInput, NotFound, NotSupported
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal
from hypercloud.kube import parse
from hypercloud.kube.client import Json, KubeClient, Stream
from hypercloud.kube.manifest import TAG
from hypercloud.kube.streams import PodLog, PodSession

log = structlog.get_logger(__name__)

NO_DOCKER = "the cluster's nodes have no Docker API: hypercloud runs with the back end kubernetes"
LOG_LIMIT = 2**26  # bytes of a log that is not followed


class PodObserver(Protocol):
    """Who is told of pods, in another thread."""

    def on_pod(self, pod: Json, *, gone: bool) -> None:
        """Take note of a pod."""

    def on_pods(self, pods: Sequence[Json]) -> None:
        """Take note of all pods there are."""


class KubeMachines:
    """Nodes and pods of a cluster; see ``hypercloud.engine.machines.Machines``.

    Args:
        client: of the cluster.
        interval: seconds between looks whether it answers.
        journal: is told what happens to pods.

    """

    indirect = "containers of a cluster are kept by their service"
    unread = "hypercloud has no figures of a cluster's containers; kubectl top pod shows them"

    def __init__(self, client: KubeClient, interval: float, journal: Journal) -> None:
        self._client = client
        self._interval = interval
        self._journal = journal
        self._lock = threading.Lock()
        self._nodes: dict[str, Json] = {}  # by name
        self._pods: dict[str, Json] = {}  # by uid
        self._error = ""  # why the cluster does not answer; empty = it does
        self._observers: list[EngineObserver] = []
        self._pod_observers: list[PodObserver] = []
        self._streams: dict[str, Stream] = {}
        self._closed = threading.Event()

    # -- watching ----------------------------------------------------------------------------------------------------

    def observe(self, observer: EngineObserver) -> None:
        """Have an observer told of the nodes' health from now on."""
        self._observers.append(observer)

    def observe_pods(self, observer: PodObserver) -> None:
        """Have an observer told of pods from now on."""
        self._pod_observers.append(observer)

    def open(self, *, first_start: bool) -> None:
        """Begin to watch."""
        del first_start
        for name, target in (
            ("kube-ping", self._ping_always),
            ("kube-nodes", lambda: self._follow_always("Node", self._all_nodes, self._one_node)),
            ("kube-pods", lambda: self._follow_always("Pod", self._all_pods, self._one_pod)),
        ):
            threading.Thread(target=target, name=name, daemon=True).start()

    def close(self) -> None:
        """Stop watching; the threads end by themselves."""
        self._closed.set()
        self._cut()
        self._client.close()

    def _cut(self) -> None:
        for one in list(self._streams.values()):
            one.close()

    def _ping_always(self) -> None:
        while not self._closed.is_set():
            try:
                self._client.ping()
            except CloudError as error:
                self._set_error(str(error))
                self._cut()
            except Exception:
                log.exception("kube.ping_failed")
            else:
                self._set_error("")
            self._closed.wait(self._interval)

    def _set_error(self, error: str) -> None:
        with self._lock:
            before, self._error = self._error, error
        if bool(before) != bool(error):
            log.info("kube.health", answers=not error, reason=error)
            for one in self.engines():
                for observer in self._observers:
                    observer.on_health(one.spec, one.facts)

    def _follow_always(
        self, kind: str, everything: Callable[[list[Json]], None], one: Callable[[str, Json], None]
    ) -> None:
        while not self._closed.is_set():
            try:
                self._follow(kind, everything, one)
            except EngineUnreachable as error:
                self._set_error(str(error))
            except CloudError as error:
                log.warning("kube.watch_ended", kind=kind, error=str(error))
            except Exception:
                log.exception("kube.watch_failed", kind=kind)
            self._closed.wait(min(1.0, self._interval))

    def _follow(self, kind: str, everything: Callable[[list[Json]], None], one: Callable[[str, Json], None]) -> None:
        found, version = self._client.objects(kind)
        everything(found)
        while not self._closed.is_set():
            stream = self._client.watch(kind, version)
            self._streams[kind] = stream
            try:
                for what, thing in stream.events():
                    version = parse.text(parse.table(thing, "metadata"), "resourceVersion") or version
                    if what != "BOOKMARK":
                        one(what, thing)
            finally:
                self._streams.pop(kind, None)
                stream.close()
            if self._error:
                return  # it was cut off; everything is read anew

    def _all_nodes(self, found: list[Json]) -> None:
        with self._lock:
            self._nodes = {_name(one): one for one in found}
        self._set_error("")
        for engine in self.engines():
            for observer in self._observers:
                observer.on_health(engine.spec, engine.facts)

    def _one_node(self, what: str, thing: Json) -> None:
        name = _name(thing)
        with self._lock:
            before = self._nodes.pop(name, None)
            if what != "DELETED":
                self._nodes[name] = thing
        now = parse.node(thing)
        if before is None or what == "DELETED" or parse.node(before).facts.health is not now.facts.health:
            log.info("kube.node", node=name, health=str(now.facts.health), reason=now.facts.error)
            for observer in self._observers:
                observer.on_health(now.spec, now.facts)

    def _all_pods(self, found: list[Json]) -> None:
        with self._lock:
            self._pods = {_uid(one): one for one in found}
        for observer in self._pod_observers:
            observer.on_pods(found)

    def _one_pod(self, what: str, pod: Json) -> None:
        gone = what == "DELETED"
        with self._lock:
            before = self._pods.pop(_uid(pod), None)
            if not gone:
                self._pods[_uid(pod)] = pod
        self._tell(before, pod, gone=gone)
        for observer in self._pod_observers:
            observer.on_pod(pod, gone=gone)

    def _tell(self, before: Json | None, pod: Json, *, gone: bool) -> None:
        """Write into the journal what has happened to a pod, as an engine tells it of a container."""
        was, now = before is not None and parse.state(before).running, parse.state(pod).running
        words = [
            word
            for word, true in (
                ("create", before is None and not gone),
                ("start", now and not was and not gone),
                ("die", was and (gone or not now)),
                ("destroy", gone),
            )
            if true
        ]
        if words:
            seen = parse.container(pod, {})
            node = parse.text(parse.table(pod, "spec"), "nodeName")
            for word in words:
                self._journal.add(
                    Record(type=word, tags=("kubernetes",), engine=node, container=seen.id, image=seen.image)
                )

    # -- looking -----------------------------------------------------------------------------------------------------

    def engines(self) -> list[Engine]:
        """Return all nodes by name."""
        with self._lock:
            nodes, error = list(self._nodes.values()), self._error
        found = [parse.node(one) for one in nodes]
        if error:
            found = [
                dataclasses.replace(one, facts=dataclasses.replace(one.facts, health=Health.DOWN, error=error))
                for one in found
            ]
        return sorted(found, key=lambda one: one.spec.name)

    def engine(self, key: str) -> Engine:
        """Return a node by id or name. Errors: NotFound."""
        found = next((one for one in self.engines() if key in (one.spec.id, one.spec.name)), None)
        if found is None:
            raise NotFound("the node does not exist", details=key[:100])
        return found

    def monitors(self) -> list[EngineMonitor]:
        """Return nobody: what pods use is not asked."""
        return []

    def nodes(self) -> dict[str, str]:
        """Return the ids of the nodes by name."""
        with self._lock:
            return {name: _uid(one) for name, one in self._nodes.items()}

    def containers(self) -> list[EngineContainer]:
        """Return the pods of our namespace that are on a node, while the cluster answers."""
        nodes = self.nodes()
        with self._lock:
            pods = [] if self._error else list(self._pods.values())
        return [one for one in (parse.container(pod, nodes) for pod in pods) if one.engine]

    def container(self, prefix: str) -> EngineContainer:
        """Return a pod by id, the beginning of its id, or its name. Errors: NotFound, Conflict."""
        known = self.containers()
        found = [one for one in known if prefix in (one.id, one.name)]
        if not found and prefix:
            found = [one for one in known if one.id.startswith(prefix)]
        if not found:
            raise NotFound("the container does not exist", details=prefix[:100])
        if len(found) > 1:
            raise Conflict("more than one container has an id that begins so", details=prefix[:100])
        return found[0]

    def images(self, key: str) -> list[Mapping[str, Any]]:
        """Return a node's images, as far as it tells the cluster of them. Errors: NotFound."""
        name = self.engine(key).spec.name
        with self._lock:
            return parse.images(self._nodes.get(name, {}))

    def _pod(self, container: str) -> str:
        """Return the name of a pod that is given by its id or name. Errors: NotFound."""
        with self._lock:
            pods = self._pods
            pod = pods.get(container) or next((one for one in pods.values() if _name(one) == container), None)
        if pod is None:
            raise NotFound("the container does not exist", details=container[:100])
        return _name(pod)

    def logs(self, container: EngineContainer) -> bytes:
        """Return what a pod has written so far. Errors: NotFound, EngineError."""
        lines = PodLog(self._client, self._pod(container.id), tail=None, follow=False)
        found = bytearray()
        with contextlib.closing(lines):
            for line in lines:
                found += line.text.encode()
                if len(found) > LOG_LIMIT:
                    del found[: -LOG_LIMIT // 2]
        return bytes(found)

    def output(self, engine: str, container: str, *, tty: bool, tail: int, follow: bool) -> Lines:
        """Return a pod's output. Errors: NotFound, EngineError."""
        del engine, tty
        return PodLog(self._client, self._pod(container), tail=tail, follow=follow)

    def session(self, engine: str, container: str, command: list[str]) -> Session:
        """Run a program with a terminal in a pod. Errors: NotFound, EngineError."""
        del engine
        return PodSession(self._client, self._pod(container), command)

    # -- changing ----------------------------------------------------------------------------------------------------

    def client(self, key: str) -> EngineClient:
        """Say that nodes have no Docker API. Errors: NotFound, NotSupported."""
        self.engine(key)
        raise NotSupported(NO_DOCKER)

    def delete(self, container: EngineContainer) -> None:
        """Remove a pod; what keeps it makes another. Errors: EngineError."""
        self._client.delete("Pod", container.name)

    def add(self, spec: EngineSpec) -> Engine:
        """Say who adds nodes. Errors: NotSupported."""
        raise NotSupported(
            f"{spec.name} cannot be added to the cluster", details="nodes come by their kubelet", resolution="start one"
        )

    def remove(self, key: str) -> None:
        """Say who removes nodes. Errors: NotFound, NotSupported."""
        raise NotSupported(
            f"{self.engine(key).spec.name} is not taken out of the cluster from here",
            details="other things may run on it than what hypercloud knows",
            resolution="kubectl drain, kubectl delete node",
        )

    def update(self, key: str, *, nickname: str | None = None, labels: Sequence[str] | None = None) -> Engine:
        """Give a node other tags. Errors: NotFound, InvalidInput, EngineError; NotSupported for a nickname."""
        engine = self.engine(key)
        if nickname is not None and nickname not in {"", engine.spec.name}:
            raise NotSupported("a node of a cluster has no nickname")
        if labels is None:
            return engine
        foreign = [one for one in labels if "=" in one and one not in engine.spec.labels]
        if foreign:
            raise InvalidInput(
                "labels KEY=VALUE of nodes are the cluster's", details=foreign[0][:100], resolution="kubectl label node"
            )
        mine = {f"{TAG}{one}": "" for one in labels if "=" not in one}
        with self._lock:
            node = self._nodes[engine.spec.name]
        before = {key for key in parse.table(parse.table(node, "metadata"), "labels") if key.startswith(TAG)}
        changed = {**dict.fromkeys(before - mine.keys()), **mine}
        self._one_node("MODIFIED", self._client.merge("Node", engine.spec.name, {"metadata": {"labels": changed}}))
        return self.engine(engine.spec.id)

    def check(self, key: str) -> EngineFacts:
        """Ask the cluster for a node now; return what it says. Errors: NotFound, EngineError."""
        began = time.monotonic()
        found = parse.node(self._client.get("Node", self.engine(key).spec.name)).facts
        return dataclasses.replace(found, response_time=time.monotonic() - began)


def _name(thing: Mapping[str, Any]) -> str:
    return parse.text(parse.table(thing, "metadata"), "name")


def _uid(thing: Mapping[str, Any]) -> str:
    return parse.text(parse.table(thing, "metadata"), "uid")
