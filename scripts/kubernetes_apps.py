"""What ``try-kubernetes`` looks at: applications of several pods, which a Service or a StatefulSet holds together."""

from __future__ import annotations

import urllib.request
from functools import partial
from typing import Any

from kubernetes_cluster import Node
from kubernetes_view import PAGE, Manifest, View, deployment, pod

ADDRESS = "$SERVED_SERVICE_HOST $SERVED_SERVICE_PORT"  # kubelet tells pods the addresses of services
ASKS = 40  # so often that nobody is left out by chance


class Apps:
    """The checks; each is a method that can be named."""

    def __init__(self, view: View) -> None:
        self.view, self.cluster, self.image = view, view.cluster, view.image
        self.look = view.look

    # -- service

    def service(self) -> None:
        """A Service through kube-proxy: one address for all replicas, and a port of the nodes."""
        if self.cluster.binaries.proxy is None:
            print("  not looked at: there is no kube-proxy", flush=True)
            return
        ports = [{"port": 80, "targetPort": 8080}]
        spec = {"type": "NodePort", "selector": {"app": "served"}, "ports": ports}
        self.cluster.apply({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "served"}, "spec": spec})
        clients = [
            pod(f"asks-{node.name}", self.image, "exec sleep 10000", nodeName=node.name) for node in self.cluster.nodes
        ]
        self.cluster.apply(_on_all_nodes(deployment("served", self.image, 3)), *clients)
        self.look("a deployment of 3 behind a service", lambda: self.view.settled("served", 3))
        for client in clients:
            name = client["metadata"]["name"]
            self.look(f"{name} gets answers of all 3 at the service's address", partial(self._reaches_all, name))
        for node in self.cluster.nodes:
            self.look(f"a port of {node.name} gives their answers", partial(self._answers_at, node))
        one = self._names()[0]
        self.look("a replica asks itself by way of the service", partial(self._reaches_all, one))
        self.view.shell(one, "rm /w/index.html")
        first = clients[0]["metadata"]["name"]
        self.look("one that is not ready is not asked", lambda: self._reached(first) == set(self._names()) - {one})
        self.view.gone(f"pod/{one}")
        self.look("its successor is", lambda: self.view.settled("served", 3) and self._reaches_all(first))
        self.view.gone("service/served", "deployment/served", *(f"pod/{one['metadata']['name']}" for one in clients))

    def _names(self) -> list[str]:
        return sorted(one["metadata"]["name"] for one in self.view.pods("served"))

    def _reached(self, client: str) -> set[str]:
        """Return who answers a pod that asks many times."""
        ask = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {ADDRESS} | tail -n 1 || echo nobody"
        return set(self.view.shell(client, f"i=0; while [ $((i+=1)) -le {ASKS} ]; do {ask}; done").split())

    def _reaches_all(self, client: str) -> bool:
        return self._reached(client) == set(self._names())

    def _answers_at(self, node: Node) -> bool:
        port = self.cluster.get("service", "served")["spec"]["ports"][0]["nodePort"]
        answers = set()
        for _ in range(ASKS):
            with urllib.request.urlopen(f"http://{node.address}:{port}/", timeout=5) as answer:
                answers.add(answer.read().decode().strip())
        return answers == set(self._names())

    # -- stateful set

    def stateful(self) -> None:
        """A StatefulSet: each replica has a name and a local volume of its own, and keeps them."""
        nodes = self.cluster.nodes
        self.cluster.apply(_storage_class(), *(_volume(node) for node in nodes), _stateful_set(self.image, len(nodes)))
        names = [f"db-{number}" for number in range(len(nodes))]
        self.look("a stateful set has all replicas", lambda: self.view.ready("db") == len(nodes))
        self.look("each on the node of its volume", lambda: {self._node_of(one) for one in names} == self._all_nodes())
        for name in names:
            self.view.shell(name, f"echo kept by {name} > /data/note")
        where = self._node_of("db-0")
        before = self.view.pod("db-0")["metadata"]["uid"]
        self.view.gone("pod/db-0")
        self.look("a replica that is deleted comes again", lambda: self._is_new("db-0", before))
        self.look(
            "on the same node with what it had written",
            lambda: self._node_of("db-0") == where and self.view.shell("db-0", "cat /data/note") == "kept by db-0",
        )
        self.look("both lives are in the volume", lambda: self.view.shell("db-0", "cat /data/lives") == "db-0\ndb-0")
        self.view.gone("statefulset/db")
        self.look("its pods go with it", lambda: not self.view.pods("db"))
        self.view.gone("pvc", "--all")
        self.view.gone("pv", "--all")
        self.view.gone("storageclass/here")

    def _node_of(self, name: str) -> str:
        return str(self.view.pod(name)["spec"]["nodeName"])

    def _all_nodes(self) -> set[str]:
        return {node.name for node in self.cluster.nodes}

    def _is_new(self, name: str, uid: str) -> bool:
        return self.view.ready("db") == len(self.cluster.nodes) and self.view.pod(name)["metadata"]["uid"] != uid


def _on_all_nodes(one: Manifest) -> Manifest:
    spread = {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
    labels = one["spec"]["selector"]
    one["spec"]["template"]["spec"]["topologySpreadConstraints"] = [spread | {"labelSelector": labels}]
    return one


def _storage_class() -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "here"},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }


def _volume(node: Node) -> Manifest:
    """Return a volume that is a directory of a node."""
    place = node.directory / "volume"
    place.mkdir(exist_ok=True)
    host = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node.name]}
    spec = {
        "capacity": {"storage": "1Gi"},
        "accessModes": ["ReadWriteOnce"],
        "persistentVolumeReclaimPolicy": "Retain",
        "storageClassName": "here",
        "local": {"path": str(place)},
        "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [host]}]}},
    }
    return {"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": f"on-{node.name}"}, "spec": spec}


def _stateful_set(image: str, replicas: int) -> Manifest:
    probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1}
    mounts = [{"name": "data", "mountPath": "/data"}]
    container = {"readinessProbe": probe, "volumeMounts": mounts}
    one = pod("db", image, f"hostname >> /data/lives; {PAGE}", container=container)
    claim: dict[str, Any] = {
        "metadata": {"name": "data"},
        "spec": {
            "accessModes": ["ReadWriteOnce"],
            "storageClassName": "here",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }
    spec = {
        "serviceName": "db",
        "replicas": replicas,
        "selector": {"matchLabels": {"app": "db"}},
        "template": {"metadata": one["metadata"] | {"name": ""}, "spec": one["spec"]},
        "volumeClaimTemplates": [claim],
    }
    return {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db"}, "spec": spec}
