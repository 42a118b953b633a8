"""What ``try-kubernetes`` looks at: static pods of a kubelet alone, and the things that people do in a cluster."""

from __future__ import annotations

import os
import pty
import re
import select
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from kubernetes_cluster import Node
from kubernetes_view import PAGE, Manifest, Report, View, deployment, pod, pods_of

REPLICAS = 5  # of the deployment that most checks look at


class Checks:
    """The checks of a cluster; each is a method that can be named."""

    def __init__(self, view: View) -> None:
        self.view, self.cluster, self.image = view, view.cluster, view.image
        self.look = view.look

    def deployment(self) -> None:
        """A Deployment of two replicas, scaled to twenty and to five."""
        self.cluster.apply(deployment("web", self.image, 2))
        self.look("a deployment has 2 replicas", lambda: self.view.settled("web", 2))
        self.view.scale("web", 20)
        names = {one["spec"]["nodeName"] for one in self.view.pods("web")}
        self.look("on all nodes", lambda: names == {node.name for node in self.cluster.nodes})
        self.look("all of them answer", lambda: all(self._fetch(one) for one in self.view.pods("web")), seconds=30)
        self.view.scale("web", REPLICAS)

    def rollout(self) -> None:
        """A rolling update of the deployment."""
        self.cluster.kubectl("set", "env", "deployment/web", "VERSION=2")
        self.cluster.kubectl("rollout", "status", "deployment/web", "--timeout=150s", seconds=180)
        fresh = [{"name": "VERSION", "value": "2"}]
        self.look(
            "a rolling update replaces all pods",
            lambda: [one["spec"]["containers"][0].get("env") for one in self.view.pods("web")] == [fresh] * REPLICAS,
        )

    def _fetch(self, one: Any) -> bool:
        with urllib.request.urlopen(f"http://{one['status']['podIP']}:8080/", timeout=5) as answer:
            return bool(answer.read().decode().strip() == one["metadata"]["name"])

    def volumes(self) -> None:
        """Config map with an update, secret, projected token, emptyDirs, subPath."""
        config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"key": "one"}}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": {"password": "hidden"}}
        volumes = [
            {"name": "config", "configMap": {"name": "c"}},
            {"name": "secret", "secret": {"secretName": "s"}},
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "disk", "emptyDir": {}},
        ]
        places = {"config": "/config", "secret": "/secret", "memory": "/memory", "disk": "/disk"}
        mounts = [{"name": name, "mountPath": path} for name, path in places.items()]
        mounts.append({"name": "config", "mountPath": "/key", "subPath": "key"})
        one = pod("volumes", self.image, "exec sleep 10000", volumes=volumes, container={"volumeMounts": mounts})
        self.cluster.apply(config, secret, one)
        self.look("a pod with volumes is ready", lambda: self.view.ready("volumes") == 1)
        inside = partial(self.view.shell, "volumes")
        self.look(
            "config map, subPath and secret", lambda: inside("cat /config/key /key /secret/password") == "oneonehidden"
        )
        signed = "/var/run/secrets/kubernetes.io/serviceaccount/token"
        self.look("a token of the service account", lambda: inside(f"cut -d. -f1 {signed}").startswith("ey"))
        self.look(
            "emptyDirs can be written",
            lambda: inside("echo x > /memory/f && echo y > /disk/f && cat /memory/f /disk/f") == "x\ny",
        )
        self.cluster.apply(config | {"data": {"key": "two"}})
        self.look("an update of the config map is seen in the pod", lambda: inside("cat /config/key") == "two")
        self.view.gone("pod/volumes", "configmap/c", "secret/s")

    def probes(self) -> None:
        """Liveness and readiness probes, exec and http."""
        script = f"touch /alive /ready; ({PAGE}) & exec sleep 10000"
        probes = {
            "livenessProbe": {"exec": {"command": ["cat", "/alive"]}, "periodSeconds": 2, "failureThreshold": 1},
            "readinessProbe": {"exec": {"command": ["cat", "/ready"]}, "periodSeconds": 2, "failureThreshold": 1},
            "startupProbe": {"httpGet": {"port": 8080, "path": "/"}, "periodSeconds": 1, "failureThreshold": 60},
        }
        self.cluster.apply(pod("probes", self.image, script, container=probes))
        self.look("a pod with probes is ready", lambda: self.view.ready("probes") == 1)
        self.view.shell("probes", "rm /ready")
        self.look("it is not when its readiness probe fails", lambda: self.view.ready("probes") == 0)
        self.view.shell("probes", "touch /ready")
        self.look("and is again", lambda: self.view.ready("probes") == 1)
        self.view.shell("probes", "rm /alive")
        self.look("a failed liveness probe restarts the container", lambda: self.view.restarts("probes") == 1)
        self.look("and it is ready again", lambda: self.view.ready("probes") == 1)
        self.view.gone("pod/probes")

    def streams(self) -> None:
        """logs -f, exec with and without a terminal, cp, attach, port-forward."""
        script = "i=0; while [ $i -lt 20 ]; do i=$((i+1)); echo line $i; sleep 0.2; done; " + PAGE
        self.cluster.apply(pod("streams", self.image, script, container={"stdin": True}))
        self.look("a pod for streams runs", lambda: self.view.pod("streams")["status"]["phase"] == "Running")
        self.look("logs -f follows", self._follows)
        self.look("exec gives output, input and exit code", self._exec)
        self.look("exec -it has a terminal", self._terminal)
        self.look("cp there and back", self._copies)
        self.look("port-forward", self._forwards)
        self.view.gone("pod/streams")

    def _follows(self) -> bool:
        words = self.cluster.kubectl_words("logs", "-f", "streams")
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as follow:
            lines = [line.strip() for line in islice(follow.stdout or (), 20)]  # the next line never comes
            follow.kill()
        return lines == [f"line {number}" for number in range(1, 21)]

    def _exec(self) -> bool:
        words = self.cluster.kubectl_words("exec", "-i", "streams", "--", "sh", "-c", "cat; echo err >&2; exit 7")
        done = subprocess.run(words, input=b"in" * 100_000, capture_output=True, check=False, timeout=60)
        return done.returncode == 7 and done.stdout == b"in" * 100_000 and done.stderr.startswith(b"err\n")

    def _terminal(self) -> bool:
        words = self.cluster.kubectl_words(
            "exec", "-it", "streams", "--", "sh", "-c", "test -t 0 && stty size; read x; echo got $x"
        )
        main, other = pty.openpty()
        subprocess.run(["stty", "rows", "33", "cols", "77"], stdin=other, check=True)
        with subprocess.Popen(words, stdin=other, stdout=other, stderr=other, start_new_session=True) as child:
            os.close(other)
            seen, deadline, sent = b"", time.monotonic() + 60, False
            while time.monotonic() < deadline and b"got hello" not in seen:
                if select.select([main], [], [], 1)[0]:
                    try:
                        seen += os.read(main, 4096)
                    except OSError:
                        break
                if b"33 77" in seen and not sent:
                    sent = bool(os.write(main, b"hello\n"))
            child.wait(30)
        os.close(main)
        return b"33 77" in seen and b"got hello" in seen

    def _copies(self) -> bool:
        place = self.cluster.directory / "copied"
        source = place.with_name("original")
        source.write_bytes(os.urandom(300_000))
        self.cluster.kubectl("cp", str(source), "streams:/tmp/there")
        self.cluster.kubectl("cp", "streams:/tmp/there", str(place))
        return place.read_bytes() == source.read_bytes()

    def _forwards(self) -> bool:
        words = self.cluster.kubectl_words("port-forward", "pod/streams", ":8080", "--address=127.0.0.1")
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as forward:
            try:
                found = re.search(r"127\.0\.0\.1:(\d+)", next(iter(forward.stdout or ()), ""))
                if not found:
                    return False
                with urllib.request.urlopen(f"http://127.0.0.1:{found[1]}/", timeout=20) as answer:
                    return bool(answer.read() == b"streams\n")
            finally:
                forward.terminate()

    def jobs(self) -> None:
        """Init containers and a Job; how ends are told."""
        mounts = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
        first = {"name": "first", "image": self.image, "command": ["sh", "-c", "echo made > /shared/file"], **mounts}
        one = pod(
            "init",
            self.image,
            "cat /shared/file; exec sleep 10000",
            initContainers=[first],
            volumes=[{"name": "shared", "emptyDir": {}}],
            container=mounts,
        )
        self.cluster.apply(one)
        self.look("a pod with an init container is ready", lambda: self.view.ready("init") == 1)
        self.look("it has what the init container made", lambda: self.view.logs("init") == "made\n", seconds=10)
        template = pod("job", self.image, "echo $((6*7))", restartPolicy="Never")
        spec = {"completions": 3, "parallelism": 2, "template": {"spec": template["spec"]}}
        self.cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "job"}, "spec": spec})
        self.look("a job of 3 completes", lambda: self.cluster.get("job", "job")["status"].get("succeeded") == 3)
        self.look("its output is there", lambda: self.view.logs("job/job").endswith("42\n"), seconds=20)
        limits = {"resources": {"limits": {"memory": "20Mi"}}}
        self.cluster.apply(
            pod("fails", self.image, "echo why > /dev/termination-log; exit 3", restartPolicy="Never"),
            pod("eats", self.image, "exec tail /dev/zero", restartPolicy="Never", container=limits),
        )
        self.look("an exit code and a message of the end", lambda: self._end("fails") == ("Error", 3, "why\n"))
        self.look("out of memory", lambda: self._end("eats") == ("OOMKilled", 137, ""))
        self.view.gone("pod/init", "pod/fails", "pod/eats")
        self.view.gone("job/job")

    def _end(self, name: str) -> tuple[str, int, str]:
        (status,) = self.view.pod(name)["status"]["containerStatuses"]
        ended = status["state"]["terminated"]
        return ended["reason"], ended["exitCode"], ended.get("message", "")

    def restarts(self) -> None:
        """Kubelet is ended, hyperd is killed: pods go on."""
        node = self.cluster.nodes[0]
        count = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done"
        self.cluster.apply(pod("count", self.image, count, nodeName=node.name))
        self.look("a pod that counts is ready", lambda: self.view.ready("count") == 1)
        self._kubelet_again(node)
        self.look("kubelet restarted: the pod goes on", lambda: self._counts() and self.view.restarts("count") == 0)
        node.daemon.kill()
        time.sleep(3)  # so long kubelet has no runtime, and notices
        node.start_daemon()
        self.look("hyperd killed with -9: the pod goes on", lambda: self._counts() and self.view.restarts("count") == 0)
        self._work_goes_on(node)
        self.cluster.kubectl("delete", "pod/count", "--wait=false")
        node.daemon.kill()
        node.start_daemon()
        self.look("a pod that is deleted while hyperd is killed goes", lambda: not self.view.pods("count"))

    def _kubelet_again(self, node: Node) -> None:
        node.kubelet.end()
        node.kubelet.start()

    def _work_goes_on(self, node: Node) -> None:
        self.cluster.apply(pod("after", self.image, "echo after", restartPolicy="Never", nodeName=node.name))
        self.look("new pods start there", lambda: self.view.logs("after") == "after\n")
        self.view.gone("pod/after")

    def _counts(self) -> bool:
        numbers = [int(line) for line in self.view.logs("count").splitlines()]
        before = len(numbers)
        time.sleep(1)  # it counts ten times a second
        later = [int(line) for line in self.view.logs("count").splitlines()]
        return len(later) > before and later == list(range(1, len(later) + 1))

    def drain(self) -> None:
        """A node is drained and taken back."""
        if len(self.cluster.nodes) < 2:
            return
        node = self.cluster.nodes[1].name
        self.cluster.kubectl("drain", node, "--ignore-daemonsets", "--force", "--timeout=150s", seconds=180)
        self.look("a node is drained: its pods are elsewhere", lambda: self._elsewhere("web", node))
        self.cluster.kubectl("uncordon", node)

    def _elsewhere(self, app: str, node: str) -> bool:
        return self.view.settled(app, REPLICAS) and all(one["spec"]["nodeName"] != node for one in self.view.pods(app))

    def ends(self) -> None:
        """Everything is deleted: no VM is left."""
        self.cluster.kubectl("delete", "deployment,statefulset,job,pod", "--all", "--wait=true", seconds=180)
        for node in self.cluster.nodes:
            self.look(f"no pod is left on {node.name}", partial(_is_empty, node))


def _is_empty(node: Node) -> bool:
    return pods_of(node) == []


@contextmanager
def static_pod(directory: Path, one: Manifest) -> Iterator[None]:
    """Put a manifest where kubelet looks for static pods; take it away at the end."""
    import json

    path = directory / f"{one['metadata']['name']}.json"
    path.write_text(json.dumps(one))
    try:
        yield
    finally:
        path.unlink()


def static_pods(node: Node, report: Report, image: str, manifests: Path) -> None:
    """Look at a kubelet without an API server."""
    one = pod("alone", image, f"echo began; {PAGE}", container={"ports": [{"containerPort": 8080, "hostPort": 18080}]})
    with static_pod(manifests, one):
        report.look("a static pod answers at its port of the host", lambda: _answers(node))
        report.look("its log is where kubelet wants it", lambda: "stdout F began" in _log_of(node))
    report.look("it goes when its manifest does", lambda: pods_of(node) == [])


def _answers(node: Node) -> bool:
    with socket.create_connection((node.address, 18080), timeout=5) as client:
        client.sendall(b"GET / HTTP/1.0\r\n\r\n")
        text = b""
        while data := client.recv(4096):
            text += data
    return b"alone" in text


def _log_of(node: Node) -> str:
    return "".join(path.read_text() for path in (node.directory / "log/pods").glob("*_alone-*/main/0.log"))
