"""A small Kubernetes API server that keeps objects, with controllers that make pods of them at once.

It is for tests of what is above the API. What real clusters do, scripts/try-cloud-kubernetes looks at.
"""

from __future__ import annotations

import copy
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from tests.support.cloud import CloudProcess
from tests.support.ports import free_port

Json = dict[str, Any]
NOW = "2026-01-02T03:04:05Z"
CLUSTER_WIDE = ("nodes", "namespaces")
KEPT = ("deployments", "statefulsets", "daemonsets", "jobs")
SERVICE = "hypercloud.io/service"


class FakeCluster:
    """Objects, and a server for them; ``stop`` and ``start`` take it away and bring it back at the same port."""

    def __init__(self, nodes: tuple[str, ...] = ("one", "two")) -> None:
        self.port = free_port()
        self.lock = threading.Condition(threading.RLock())
        self.objects: dict[tuple[str, str], Json] = {}
        self.history: list[tuple[int, str, str, Json]] = []  # version, plural, what, object
        self.version = 0
        self.addresses = 0
        self.refuse = ""  # a plural whose changes are refused
        self.server: ThreadingHTTPServer | None = None
        for name in nodes:
            self.put("nodes", _node(name))
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def cloud(self, root: Path, *, more: str = "") -> CloudProcess:
        """Start a hypercloud over it, which whoever asked for it stops; ``more``: lines of its ``[kubernetes]``."""
        config = root / "kubeconfig"
        config.write_text(self.kubeconfig(), encoding="utf-8")
        return CloudProcess(root, tables=f'[kubernetes]\nconfig = "{config}"\n{more}').start()

    def start(self) -> None:
        server = ThreadingHTTPServer(("127.0.0.1", self.port), type("Handler", (_Handler,), {"cluster": self}))
        server.daemon_threads = True
        self.server = server
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def stop(self) -> None:
        server, self.server = self.server, None
        if server is not None:
            server.shutdown()
            server.server_close()
        with self.lock:
            self.lock.notify_all()

    def kubeconfig(self) -> str:
        """The file with which it is reached, as JSON."""
        return json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                "users": [{"name": "u", "user": {"token": "secret"}}],
                "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "x",
            }
        )

    # -- for tests

    def all(self, plural: str) -> list[Json]:
        with self.lock:
            return [copy.deepcopy(one) for (kind, _), one in sorted(self.objects.items()) if kind == plural]

    def pods(self, service: str) -> list[Json]:
        return [one for one in self.all("pods") if one["metadata"]["labels"].get(SERVICE) == service]

    def finish(self, pod: str, code: int) -> None:
        """Have a pod's program end."""
        with self.lock:
            found = copy.deepcopy(self.objects["pods", pod])
            status = found["status"]
            status["phase"] = "Failed" if code else "Succeeded"
            status["containerStatuses"][0]["state"] = {"terminated": {"exitCode": code, "finishedAt": NOW}}
            self.put("pods", found)

    def remove(self, plural: str, name: str) -> None:
        with self.lock:
            self.delete(plural, name)

    # -- keeping

    def put(self, plural: str, thing: Json) -> Json:
        with self.lock:
            key = (plural, str(thing["metadata"]["name"]))
            self.version += 1
            before = self.objects.get(key)
            metadata = thing["metadata"]
            metadata.setdefault("uid", before["metadata"]["uid"] if before else str(uuid.uuid4()))
            metadata.setdefault("creationTimestamp", NOW)
            metadata["resourceVersion"] = str(self.version)
            if plural == "services" and thing["spec"].get("clusterIP") != "None":
                self.addresses += 1
                thing["spec"].setdefault("clusterIP", f"10.96.0.{self.addresses}")
                if thing["spec"].get("type") == "NodePort":
                    for number, port in enumerate(thing["spec"]["ports"]):
                        port.setdefault("nodePort", 30_000 + 10 * self.addresses + number)
            self.objects[key] = thing
            self._tell("MODIFIED" if before else "ADDED", plural, thing)
            return thing

    def delete(self, plural: str, name: str) -> Json | None:
        thing = self.objects.pop((plural, name), None)
        if thing is not None:
            self.version += 1
            thing["metadata"]["resourceVersion"] = str(self.version)
            self._tell("DELETED", plural, thing)
        return thing

    def _tell(self, what: str, plural: str, thing: Json) -> None:
        self.history.append((self.version, plural, what, copy.deepcopy(thing)))
        self.lock.notify_all()

    # -- controllers

    def control(self) -> None:
        """Have as many pods as there are to be, each of its template."""
        with self.lock:
            owners = {}
            for plural in KEPT:
                for thing in self.all(plural):
                    owners[thing["metadata"]["uid"]] = thing
                    self._pods_of(plural, thing)
            for pod in self.all("pods"):
                owner = next(iter(pod["metadata"].get("ownerReferences", [])), None)
                if owner is not None and owner["uid"] not in owners:
                    self.delete("pods", pod["metadata"]["name"])

    def _pods_of(self, plural: str, owner: Json) -> None:
        spec, template = owner["spec"], owner["spec"]["template"]
        mine = [one for one in self.all("pods") if _owner(one) == owner["metadata"]["uid"]]
        for pod in [one for one in mine if one["metadata"]["annotations"].get("template") != _digest(template)]:
            self.delete("pods", pod["metadata"]["name"])
            mine.remove(pod)
        places = [one["metadata"]["name"] for one in self.all("nodes") if _takes(one, template["spec"])]
        wanted = len(places) if plural == "daemonsets" else 1 if plural == "jobs" else spec.get("replicas", 1)
        for pod in mine[wanted:]:
            self.delete("pods", pod["metadata"]["name"])
        for index in range(len(mine), wanted):
            place = places[index % len(places)] if places else ""
            self.put("pods", _pod(plural, owner, index, place))
        ready = sum(one["status"]["phase"] == "Running" for one in self.all("pods") if _owner(one) == _uid(owner))
        status: Json = {"observedGeneration": owner["metadata"].get("generation", 1)}
        if plural == "daemonsets":
            names = ("desiredNumberScheduled", "updatedNumberScheduled", "currentNumberScheduled")
            status |= dict.fromkeys(names, wanted) | {"numberReady": ready}
        elif plural != "jobs":
            status |= dict.fromkeys(("replicas", "updatedReplicas"), wanted) | {"readyReplicas": ready}
            status |= {"currentRevision": "a", "updateRevision": "a"}
        if owner.get("status") != status:
            self.put(plural, {**owner, "status": status})


class _Handler(BaseHTTPRequestHandler):
    cluster: FakeCluster
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _parts(self) -> tuple[str, str, str, dict[str, str]]:
        url = urlsplit(self.path)
        words = url.path.strip("/").split("/")[2 if url.path.startswith("/api/") else 3 :]
        if words[:1] == ["namespaces"] and len(words) > 2:
            words = words[2:]
        words += ["", "", ""]
        return words[0], words[1], words[2], {key: one[0] for key, one in parse_qs(url.query).items()}

    def do_GET(self) -> None:
        if self.path == "/version":
            self._answer(200, {"gitVersion": "v1.36.0"})
            return
        plural, name, verb, query = self._parts()
        if query.get("watch"):
            self._watch(plural, int(query["resourceVersion"]))
            return
        with self.cluster.lock:
            if not name:
                found = [one for one in self.cluster.all(plural) if _matches(one, query.get("labelSelector", ""))]
                version = str(self.cluster.version)
                self._answer(200, {"items": found, "metadata": {"resourceVersion": version}})
                return
            thing = self.cluster.objects.get((plural, name))
        if thing is None:
            self._answer(404, {"message": f'{plural} "{name}" not found'})
        elif verb == "log":
            self._text(b"2026-01-02T03:04:05.678901234Z begun\n2026-01-02T03:04:06Z <b>on</b>\n")
        else:
            self._answer(200, thing)

    def do_PATCH(self) -> None:
        plural, name, _, _ = self._parts()
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.cluster.lock:
            if plural == self.cluster.refuse:
                self._answer(422, {"message": f"{plural} are refused by a policy"})
                return
            before = copy.deepcopy(self.cluster.objects.get((plural, name)))
            if before is None and "apply" not in self.headers["Content-Type"]:
                self._answer(404, {"message": f'{plural} "{name}" not found'})
                return
            thing = _merged(before or {}, body)
            if "apply" in self.headers["Content-Type"] and "template" in body.get("spec", {}):
                thing["spec"]["template"] = body["spec"]["template"]
            if before is None or thing != before:
                generation = (before or {}).get("metadata", {}).get("generation", 0) + 1
                thing["metadata"]["generation"] = generation
                thing = self.cluster.put(plural, thing)
            self.cluster.control()
            self._answer(200, thing)

    def do_DELETE(self) -> None:
        plural, name, _, _ = self._parts()
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.cluster.lock:
            thing = self.cluster.delete(plural, name)
            self.cluster.control()
        self._answer(200 if thing else 404, thing or {"message": f'{plural} "{name}" not found'})

    def _answer(self, status: int, body: Json) -> None:
        self._text(json.dumps(body).encode(), status, "application/json")

    def _text(self, data: bytes, status: int = 200, kind: str = "text/plain") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _watch(self, plural: str, version: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        cluster = self.cluster
        server = cluster.server
        self.close_connection = True
        while cluster.server is server:
            with cluster.lock:
                news = [one for one in cluster.history if one[0] > version]
                if not news:
                    cluster.lock.wait(0.5)
                    continue
            for number, kind, what, thing in news:
                version = max(version, number)
                if kind == plural:
                    line = json.dumps({"type": what, "object": thing}).encode() + b"\n"
                    try:
                        self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
                    except OSError:
                        return


def _merged(base: Json, change: Json) -> Json:
    found = dict(base)
    for key, value in change.items():
        if value is None:
            found.pop(key, None)
        elif isinstance(value, dict):
            inner = found.get(key)
            found[key] = _merged(inner if isinstance(inner, dict) else {}, value)
        else:
            found[key] = value
    return found


def _matches(thing: Json, selector: str) -> bool:
    labels = thing["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, _, value in (one.partition("=") for one in selector.split(",") if one))


def _owner(pod: Json) -> str:
    return str(next(iter(pod["metadata"].get("ownerReferences", [])), {}).get("uid", ""))


def _uid(thing: Json) -> str:
    return str(thing["metadata"]["uid"])


def _digest(template: Json) -> str:
    return json.dumps(template, sort_keys=True)


def _takes(node: Json, pod: Json) -> bool:
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in (pod.get("nodeSelector") or {}).items())


def _node(name: str) -> Json:
    return {
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "status": {
            "capacity": {"cpu": "4", "memory": "4096Mi"},
            "conditions": [{"type": "Ready", "status": "True", "lastHeartbeatTime": NOW}],
            "addresses": [{"type": "InternalIP", "address": "192.0.2.7"}],
            "nodeInfo": {"containerRuntimeVersion": "hyperd://0.1", "kubeletVersion": "v1.36.0"},
            "images": [{"names": ["registry/busybox@sha256:00", "registry/busybox:1"], "sizeBytes": 1234}],
        },
    }


def _pod(plural: str, owner: Json, index: int, place: str) -> Json:
    template = copy.deepcopy(owner["spec"]["template"])
    metadata = template["metadata"]
    name = owner["metadata"]["name"]
    metadata["name"] = f"{name}-{index}" if plural == "statefulsets" else f"{name}-{uuid.uuid4().hex[:5]}"
    metadata["annotations"]["template"] = _digest(owner["spec"]["template"])
    kind = {"statefulsets": "StatefulSet", "jobs": "Job"}.get(plural, "ReplicaSet")
    metadata["ownerReferences"] = [{"kind": kind, "uid": _uid(owner), "name": name}]
    missing = "missing" in template["spec"]["containers"][0]["image"]
    status: Json = {"phase": "Running", "podIP": "10.217.0.9"}
    status["containerStatuses"] = [{"state": {"running": {"startedAt": NOW}}}]
    if missing:
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        status = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}
    if not place:
        reason = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/2 nodes"}
        status = {"phase": "Pending", "conditions": [reason]}
    template["spec"]["nodeName"] = place
    return {"metadata": metadata, "spec": template["spec"], "status": status}
