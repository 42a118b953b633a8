"""What the checks of ``try-kubernetes`` share: the report, manifests, and a look at the cluster."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from kubernetes_cluster import Cluster, Node

Manifest = dict[str, Any]
PAGE = "mkdir -p /w; hostname > /w/index.html; exec httpd -f -p 8080 -h /w"


class Report:
    """What was seen. ``wrong`` are the names of what was not as it should be."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def look(self, what: str, test: Callable[[], bool], *, seconds: float = 120.0) -> bool:
        """Report whether something is as it should be, at the latest after so many seconds."""
        began = time.monotonic()
        reason = ""
        while True:
            try:
                good = test()
            except Exception as error:  # the report goes on
                good, reason = False, f"\n       {type(error).__name__}: {str(error)[:600]}"
            took = time.monotonic() - began
            if good or took > seconds:
                break
            time.sleep(0.3)  # the next look; there is no event for all that is looked at
        print(f"  {'yes' if good else 'NO '} {took:6.1f} s  {what}{'' if good else reason}", flush=True)
        if not good:
            self.wrong.append(what)
        return good


def pod(name: str, image: str, script: str, **fields: Any) -> Manifest:
    """Return a pod of one container that runs a shell script; ``container`` are further fields of that one."""
    container = {
        "name": "main",
        "image": image,
        "command": ["sh", "-c", script],
        "imagePullPolicy": "IfNotPresent",
        **fields.pop("container", {}),
    }
    labels = {"app": name}
    spec = {"containers": [container], "terminationGracePeriodSeconds": 1, **fields}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def deployment(name: str, image: str, replicas: int) -> Manifest:
    """Return a deployment of web servers with probes."""
    probe = {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 2}
    one = pod(name, image, PAGE, container={"readinessProbe": probe})
    spec = {
        "replicas": replicas,
        "selector": {"matchLabels": {"app": name}},
        "template": {"metadata": one["metadata"] | {"name": ""}, "spec": one["spec"]},
    }
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name}, "spec": spec}


class View:
    """What a person sees of a cluster.

    Args:
        cluster: it. report: takes what is seen. image: of the pods.

    """

    def __init__(self, cluster: Cluster, report: Report, image: str) -> None:
        self.cluster, self.image = cluster, image
        self.look = report.look

    def pod(self, name: str) -> Any:
        """Return a pod."""
        return self.cluster.get("pod", name)

    def pods(self, app: str) -> list[Any]:
        """Return the pods of an application, those that end, too."""
        return list(self.cluster.get("pods", "-l", f"app={app}")["items"])

    def ready(self, app: str) -> int:
        """Return how many pods of an application are ready, and do not end."""
        return sum(
            condition["type"] == "Ready"
            and condition["status"] == "True"
            and "deletionTimestamp" not in one["metadata"]
            for one in self.pods(app)
            for condition in one["status"].get("conditions", [])
        )

    def gone(self, *names: str) -> None:
        """Delete objects and wait for their end."""
        self.cluster.kubectl("delete", *names, "--wait=true", seconds=180)

    def logs(self, *words: str) -> str:
        """Return what ``kubectl logs`` gives."""
        return self.cluster.kubectl("logs", *words)

    def shell(self, name: str, script: str) -> str:
        """Return what a shell in a pod prints."""
        return self.cluster.kubectl("exec", name, "--", "sh", "-c", script).strip()

    def restarts(self, name: str) -> int:
        """Return how often containers of a pod were started again."""
        return sum(one["restartCount"] for one in self.pod(name)["status"]["containerStatuses"])

    def scale(self, name: str, replicas: int, *, seconds: float = 120.0) -> bool:
        """Scale a deployment, and report whether it comes to that."""
        self.cluster.kubectl("scale", f"deployment/{name}", f"--replicas={replicas}")
        return self.look(f"scaled to {replicas}", lambda: self.settled(name, replicas), seconds=seconds)

    def settled(self, name: str, replicas: int) -> bool:
        """Return whether a deployment has so many pods, all ready, and no others."""
        return len(self.pods(name)) == self.ready(name) == replicas


def pods_of(node: Node) -> list[str]:
    """Return the pods that hyperd has on a node."""
    return list(node.daemon.json("GET", "/list", item="pod")["podData"])
