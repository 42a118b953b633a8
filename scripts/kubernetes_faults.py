"""What ``try-kubernetes`` looks at: nodes that are cut off, a hyperd that is killed again and again, and a crowd."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from kubernetes_cluster import Node
from kubernetes_view import View, deployment, pod, pods_of

BETWEEN_KILLS = 4.0
CROWD = 40
TICKS = os.sysconf("SC_CLK_TCK")


class Faults:
    """The checks; each is a method that can be named."""

    def __init__(self, view: View) -> None:
        self.view, self.cluster, self.image = view, view.cluster, view.image
        self.look = view.look

    # -- nodes that are cut off

    def cut(self) -> None:
        """A node is cut off, then its kubelet ends: pods come up elsewhere, and end there when the node is back."""
        if len(self.cluster.nodes) < 2:
            return
        first, second = self.cluster.nodes[:2]
        self.cluster.apply(deployment("far", self.image, 4))
        self.look("a deployment of 4", lambda: self.view.settled("far", 4))
        self.cluster.renew_controllers()
        second.plug(False)
        self._comes_up_elsewhere("a pulled cable", second)
        second.plug(True)
        self._is_back(second)
        self.cluster.renew_controllers()
        first.kubelet.end()
        self._comes_up_elsewhere("a kubelet that has ended", first)
        first.kubelet.start()
        self._is_back(first)
        self.view.gone("deployment/far")

    def _comes_up_elsewhere(self, fault: str, node: Node) -> None:
        self.look(f"{fault}: {node.name} is not ready", lambda: self._node_ready(node) != "True")
        self.look(
            "its pods come up elsewhere",
            lambda: self.view.ready("far") == self._placed("far", node) == 4,
        )
        self.look(f"the virtual machines of {node.name} run on", lambda: len(pods_of(node)) > 0, seconds=1)

    def _is_back(self, node: Node) -> None:
        self.look(f"{node.name} is back", lambda: self._node_ready(node) == "True")
        self.look("it has only the pods that it shall have", lambda: self.view.settled("far", 4) and self._agrees(node))

    def _node_ready(self, node: Node) -> str:
        conditions = self.cluster.get("node", node.name)["status"]["conditions"]
        return next(str(one["status"]) for one in conditions if one["type"] == "Ready")

    def _placed(self, app: str, without: Node) -> int:
        """Return how many pods of an application that do not end are on other nodes."""
        pods = [one for one in self.view.pods(app) if "deletionTimestamp" not in one["metadata"]]
        return sum(one["spec"].get("nodeName") not in (None, without.name) for one in pods)

    def _agrees(self, node: Node) -> bool:
        """Return whether a node's hyperd has as many pods as the cluster has placed there."""
        pods = self.cluster.get("pods")["items"]
        ended = ("Succeeded", "Failed")
        placed = [one for one in pods if one["spec"].get("nodeName") == node.name]
        return len(pods_of(node)) == sum(one["status"]["phase"] not in ended for one in placed)

    # -- hyperd is killed

    def storm(self) -> None:
        """hyperd is killed with -9 every few seconds while a deployment is scaled and rolled out, and a job runs."""
        counts = [
            pod(f"count-{node.name}", self.image, "i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done")
            for node in self.cluster.nodes
        ]
        for one, node in zip(counts, self.cluster.nodes, strict=True):
            one["spec"]["nodeName"] = node.name
        names = [one["metadata"]["name"] for one in counts]
        self.cluster.apply(deployment("storm", self.image, 2), *counts)
        self.look("pods that count, and a deployment of 2", lambda: all(self.view.ready(one) for one in names))
        with self._kills() as kills:
            self.view.scale("storm", 20, seconds=300)
            self.view.scale("storm", 5, seconds=300)
            self._job()
            self.cluster.kubectl("set", "env", "deployment/storm", "VERSION=2")
            self.look("a rolling update", self._rolled_out, seconds=300)
        print(f"  hyperd was killed {len(kills)} times", flush=True)
        for name, node in zip(names, self.cluster.nodes, strict=True):
            self.look(f"{name} has counted on, no line is lost", partial(self._counted, name))
            self.look(f"{node.name} has only the pods that it shall have", partial(self._agrees, node))
        self.view.gone("deployment/storm", *(f"pod/{name}" for name in names))

    @contextmanager
    def _kills(self) -> Iterator[list[str]]:
        """Kill the daemons in turn, and start them again, until the block ends; yield who was killed."""
        over, killed = threading.Event(), list[str]()

        def storm() -> None:
            while not over.wait(BETWEEN_KILLS):
                node = self.cluster.nodes[len(killed) % len(self.cluster.nodes)]
                node.daemon.kill()
                killed.append(node.name)
                node.start_daemon()

        thread = threading.Thread(target=storm)
        thread.start()
        try:
            yield killed
        finally:
            over.set()
            thread.join()

    def _job(self) -> None:
        template = pod("sums", self.image, "echo $((6*7))", restartPolicy="Never")
        spec = {"completions": 6, "parallelism": 3, "template": {"spec": template["spec"]}}
        self.cluster.apply({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "sums"}, "spec": spec})
        done = partial(self.cluster.get, "job", "sums")
        self.look("a job of 6 completes", lambda: done()["status"].get("succeeded") == 6, seconds=300)
        self.view.gone("job/sums")

    def _rolled_out(self) -> bool:
        fresh = [{"name": "VERSION", "value": "2"}]
        envs = [one["spec"]["containers"][0].get("env") for one in self.view.pods("storm")]
        return self.view.settled("storm", 5) and envs == [fresh] * 5

    def _counted(self, name: str) -> bool:
        numbers = [int(line) for line in self.view.logs(name).splitlines()]
        return self.view.restarts(name) == 0 and numbers == list(range(1, len(numbers) + 1))

    # -- a crowd

    def crowd(self) -> None:
        """A deployment of 40, and what the time goes into."""
        self.cluster.apply(deployment("crowd", self.image, 0))
        before, idle, began = _spent(), _idle(), time.monotonic()
        if self.view.scale("crowd", CROWD, seconds=600):
            took = time.monotonic() - began
            rest = (_idle() - idle) / took / (os.cpu_count() or 1)
            print(f"  {CROWD} replicas ready after {took:.1f} s; the CPUs were idle for {rest:.0%}; of them took")
            spent = _spent() - before
            for name, seconds in spent.most_common(8):
                print(f"    {seconds:6.1f} s  {name}", flush=True)
        self.view.scale("crowd", 0)
        self.view.gone("deployment/crowd")


def _idle() -> float:
    """Return for how many seconds CPUs of this machine had nothing to do."""
    return int(Path("/proc/stat").read_text().split()[4]) / TICKS


def _spent() -> Counter[str]:
    """Return the CPU time of all programs of this machine, with that of their children that have ended, in seconds."""
    spent: Counter[str] = Counter()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                head, _, tail = (entry / "stat").read_text().rpartition(")")
                spent[head.partition("(")[2]] += sum(int(word) for word in tail.split()[11:15]) / TICKS
    return spent
