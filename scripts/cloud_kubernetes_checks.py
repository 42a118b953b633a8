"""What ``try-cloud-kubernetes`` does with a hypercloud over a cluster, and what must come of it."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any
from urllib.parse import quote

import websocket
from kubernetes_cluster import Cluster, until

from tests.support.cloud import Answer, CloudProcess

ORDER = (
    "nodes",
    "service",
    "output",
    "scale",
    "redeploy",
    "stop_and_start",
    "links",
    "jobs",
    "every_node",
    "refusals",
    "killed",
    "away",
    "stack",
    "terminate",
)
APP = "/api/app/v1"
ASKS = 20  # so often that none of two containers is left out by chance
SERVES = "sh -c 'mkdir -p /w; hostname >/w/index.html; exec httpd -f -p 6379 -h /w'"
LOOP = "sh -c 'echo begun; while :; do sleep 1; done'"


class Wrong(Exception):
    """Something is not as it should be."""


def need(true: object, seen: object = "it is not so") -> None:
    """Raise Wrong with what was seen, unless something is true."""
    if not true:
        raise Wrong(str(seen))


class CloudChecks:
    """The checks; each raises Wrong or Failed.

    Args:
        cluster: that runs.
        cloud: over it.
        image: that its nodes can pull.

    """

    def __init__(self, cluster: Cluster, cloud: CloudProcess, image: str) -> None:
        self._cluster = cluster
        self._cloud = cloud
        self._image = image
        self._web = ""  # the uuid of a service that several checks use

    # -- helpers

    def _create(self, name: str, **more: Any) -> str:
        body = {"name": name, "image": self._image, "run_command": LOOP, "autorestart": "ALWAYS", **more}
        made = self._cloud.dc("POST", f"{APP}/service/", body)
        need(made.status == 201, made.text)
        return str(made.json["uuid"])

    def _operate(self, service: str, verb: str, state: str = "Success", *, kind: str = "service") -> dict[str, Any]:
        method = ("DELETE", "") if verb == "terminate" else ("POST", f"{verb}/")
        asked = self._cloud.dc(method[0], f"{APP}/{kind}/{service}/{method[1]}")
        need(asked.status == 202, asked.text)
        done = self._action(asked)
        need(done["state"] == state, f"{done}\n{self._log(done)}")
        return done

    def _action(self, asked: Answer) -> dict[str, Any]:
        uri = asked.headers["X-DockerCloud-Action-URI"]
        until("the action is over", lambda: self._cloud.dc("GET", uri).json["end_date"] is not None, 240)
        found: dict[str, Any] = self._cloud.dc("GET", uri).json
        return found

    def _log(self, action: dict[str, Any]) -> str:
        stream = self._socket(f"{action['resource_uri']}logs/?tail=300")
        lines = []
        try:
            while text := stream.recv():
                lines.append(json.loads(text)["log"].rstrip())
        except websocket.WebSocketException:
            pass
        stream.close()
        return "\n".join(lines)

    def _socket(self, path: str) -> websocket.WebSocket:
        address = f"ws://127.0.0.1:{self._cloud.port}{path}"
        return websocket.create_connection(address, timeout=30, header=[f"Authorization: {self._cloud.basic()}"])

    def _service(self, service: str) -> dict[str, Any]:
        found: dict[str, Any] = self._cloud.dc("GET", f"{APP}/service/{service}/").json
        return found

    def _containers(self, service: str) -> list[dict[str, Any]]:
        uris = self._service(service)["containers"]
        found = [self._cloud.dc("GET", uri).json for uri in uris]
        return [one for one in found if one["state"] != "Terminated"]

    def _has(self, service: str, state: str, count: int) -> None:
        found = self._service(service)
        got = (found["state"], found["running_num_containers"])
        need(got == (state, count), f"{got}, not {(state, count)}: {found}")

    def _pods(self, service: str) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._cluster.get(
            "pods", "-n", "hypercloud", "-l", f"hypercloud.io/service={service}"
        )["items"]
        return items

    def _exec(self, container: str, command: str, end: str) -> str:
        stream = self._socket(f"{APP}/container/{container}/exec/?command={command}")
        text = ""
        while end not in text:
            text += json.loads(stream.recv())["output"]
        stream.close()
        return text

    # -- the checks

    def nodes(self) -> None:
        """The cluster's nodes are nodes; a tag of a node is a label of the cluster's."""
        until("nodes are known", lambda: len(self._nodes()) == len(self._cluster.nodes))
        found = self._nodes()
        need({one["state"] for one in found} == {"Deployed"}, found)
        first = found[0]
        changed = self._cloud.dc("PATCH", first["resource_uri"], {"tags": [*first["tags"], {"name": "fast"}]})
        need(changed.status == 200, changed.text)
        labels = self._cluster.get("node", first["nickname"])["metadata"]["labels"]
        need("tag.hypercloud.io/fast" in labels, labels)
        checked = self._cloud.dc("POST", f"{first['resource_uri']}health-check/")
        need(self._action(checked)["state"] == "Success")

    def _nodes(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._cloud.dc("GET", "/api/infra/v1/node/").json["objects"]
        return found

    def service(self) -> None:
        """A service becomes a Deployment, and runs in a VM."""
        self._web = self._create("web", container_envvars=[{"key": "COLOUR", "value": "red"}])
        self._has(self._web, "Not running", 0)
        self._operate(self._web, "start")
        self._has(self._web, "Running", 1)
        (container,) = self._containers(self._web)
        (pod,) = self._pods(self._web)
        need(container["uuid"] == pod["metadata"]["uid"], container)
        need(container["private_ip"] == pod["status"]["podIP"], container)
        need(container["state"] == "Running", container)

    def output(self) -> None:
        """Its output is read, a program runs in its container, and it knows itself."""
        (container,) = self._containers(self._web)
        stream = self._socket(f"{APP}/container/{container['uuid']}/logs/?tail=10")
        line = json.loads(stream.recv())
        stream.close()
        need(line["log"] == "begun\n", line)
        text = self._exec(container["uuid"], "env", "DOCKERCLOUD_CONTAINER_API_URI=")
        need("COLOUR=red" in text, text)
        need(container["uuid"] in self._exec(container["uuid"], "env", container["uuid"]), text)
        shipped = self._cloud.ship("GET", f"/api/containers/{container['uuid']}/logs")
        need(shipped.text == "begun\n", shipped.text)

    def scale(self) -> None:
        """It is scaled to three, and to two."""
        for count in (3, 2):
            changed = self._cloud.dc("PATCH", f"{APP}/service/{self._web}/", {"target_num_containers": count})
            need(changed.status == 200, changed.text)
            until(f"{count} run", lambda count=count: self._running(self._web, count), 120)
            need(len(self._pods(self._web)) == count)

    def _running(self, service: str, count: int) -> bool:
        found = self._service(service)
        return found["state"] == "Running" and found["running_num_containers"] == count

    def redeploy(self) -> None:
        """A change waits for a redeploy, and comes to all containers with it."""
        before = {one["uuid"] for one in self._containers(self._web)}
        changed = self._cloud.dc(
            "PATCH", f"{APP}/service/{self._web}/", {"container_envvars": [{"key": "COLOUR", "value": "$(blue)"}]}
        )
        need(changed.json["synchronized"] is False, changed.text)
        self._operate(self._web, "redeploy")
        self._has(self._web, "Running", 2)
        need(self._service(self._web)["synchronized"] is True)
        after = self._containers(self._web)
        need(not before & {one["uuid"] for one in after}, after)
        need("COLOUR=$(blue)" in self._exec(after[0]["uuid"], "env", "COLOUR="))
        one = self._operate(after[0]["uuid"], "redeploy", kind="container")
        need(one["state"] == "Success")
        self._has(self._web, "Running", 2)
        need(after[0]["uuid"] not in {found["uuid"] for found in self._containers(self._web)})

    def stop_and_start(self) -> None:
        """It is stopped, without a pod, and started with as many as before."""
        self._operate(self._web, "stop")
        self._has(self._web, "Stopped", 0)
        need(not self._pods(self._web))
        self._operate(self._web, "start")
        self._has(self._web, "Running", 2)

    def links(self) -> None:
        """A link's variables and its name lead to the other service's address, and there to all its containers."""
        ports = [{"protocol": "tcp", "inner_port": 6379}]
        store = self._create("store", run_command=SERVES, container_ports=ports, target_num_containers=2)
        front = self._create("front", linked_to_service=[{"to_service": store, "name": "db"}])
        self._operate(store, "start")
        self._operate(front, "start")
        (container,) = self._containers(front)
        values = {one["key"]: one["value"] for one in container["container_envvars"]}
        services = self._cluster.get("services", "-n", "hypercloud", "-l", f"hypercloud.io/service={store}")["items"]
        address = services[0]["spec"]["clusterIP"]
        need(values["DB_PORT_6379_TCP_ADDR"] == address, values)
        need(values["DB_1_PORT"] == f"tcp://{address}:6379", values)
        hosts = self._exec(container["uuid"], "cat%20/etc/hosts", "db")
        need(address in hosts, hosts)
        if self._cluster.binaries.proxy is None:
            print("  without connections: there is no kube-proxy", flush=True)
        else:
            self._connects(container["uuid"], {one["metadata"]["name"] for one in self._pods(store)})
        for one in (front, store):
            self._operate(one, "terminate")

    def _connects(self, container: str, answering: set[str]) -> None:
        """Need that a container gets answers of these pods, and of no others, by a link's name and by its variables."""
        # The image's busybox is static: whatever looks names up crashes in the library of C, and wget always does.
        named = r"$(awk '/[[:space:]]db([[:space:]]|$)/ { print $1 }' /etc/hosts) 6379"
        for place in (named, "$DB_PORT_6379_TCP_ADDR $DB_PORT_6379_TCP_PORT"):
            ask = (
                rf"printf 'GET / HTTP/1.0\r\n\r\n' | nc -w 5 {place} | tail -n 1 | grep . || {{ echo nobody; break; }}"
            )
            loop = f"i=0; while [ $((i+=1)) -le {ASKS} ]; do {ask}; done; echo over"
            words = quote(shlex.join(["sh", "-c", loop]))
            end = time.monotonic() + 60  # kube-proxy may need a moment, and so may their programs
            while (heard := set(self._exec(container, words, "over").split())) != {*answering, "over"}:
                need(
                    time.monotonic() < end, f"{place} leads to {sorted(answering)}, and is answered by {sorted(heard)}"
                )

    def jobs(self) -> None:
        """Without a restart its containers are Jobs: an exit code is shown, and autodestroy removes what has ended."""
        failing = self._create("failing", autorestart="OFF", run_command="sh -c 'exit 3'", target_num_containers=2)
        self._operate(failing, "start")
        until("both have ended", lambda: self._service(failing)["state"] == "Stopped", 60)
        codes = [(one["name"], one["exit_code"]) for one in self._containers(failing)]
        need(codes == [("failing-1", 3), ("failing-2", 3)], codes)
        self._operate(failing, "terminate")
        brief = self._create("brief", autorestart="OFF", autodestroy="ON_SUCCESS", run_command="true")
        self._operate(brief, "start")
        until("it is removed", lambda: not self._pods(brief) and not self._containers(brief), 60)
        self._operate(brief, "terminate")

    def every_node(self) -> None:
        """EVERY_NODE is a DaemonSet; tags choose the node."""
        everywhere = self._create("everywhere", deployment_strategy="EVERY_NODE")
        self._operate(everywhere, "start")
        nodes = {one["node"] for one in self._containers(everywhere)}
        need(len(nodes) == len(self._cluster.nodes), nodes)
        self._operate(everywhere, "stop")
        self._has(everywhere, "Stopped", 0)
        self._operate(everywhere, "start")
        need(self._cloud.dc("POST", f"{APP}/service/{everywhere}/scale/").status == 409)
        self._operate(everywhere, "terminate")
        tagged = self._create("tagged", tags=[{"name": "fast"}])
        self._operate(tagged, "start")
        where = [one["resource_uri"] for one in self._nodes() if {"name": "fast"} in one["tags"]]
        need([one["node"] for one in self._containers(tagged)] == where, where)
        self._operate(tagged, "terminate")

    def refusals(self) -> None:
        """What a cluster cannot do is refused, with the reason."""
        (first, *_) = self._containers(self._web)
        stopped = self._cloud.dc("POST", f"{APP}/container/{first['uuid']}/stop/")
        need((stopped.status, "redeploy" in stopped.text) == (405, True), stopped.text)
        swapping = {"name": "swap", "image": self._image, "memory_swap": 512, "mac_address": "02:00:00:00:00:01"}
        refused = self._cloud.dc("POST", f"{APP}/service/", swapping)
        need((refused.status, "memory_swap" in refused.text) == (409, True), refused.text)
        need(self._cloud.ship("POST", "/api/containers", {"name": self._image}).status == 501)
        need(self._cloud.add_engine("more", "http://127.0.0.1:2375").status == 501)
        lost = self._create("lost", tags=[{"name": "nowhere"}])
        log = self._log(self._operate(lost, "start", "Failed"))
        need("Unschedulable" in log, log)
        self._operate(lost, "terminate")

    def killed(self) -> None:
        """kill -9 of hypercloud in the middle of an action: the next one carries it out."""
        asked = self._cloud.dc("POST", f"{APP}/service/{self._web}/redeploy/")
        need(asked.status == 202, asked.text)
        time.sleep(0.5)  # somewhere in the middle: any point must do
        self._cloud.restart()
        need(self._action(asked)["state"] == "Success")
        self._has(self._web, "Running", 2)

    def away(self) -> None:
        """The API server dies: errors say so, what runs is not forgotten, and all is well when it is back."""
        server = self._cluster.process("kube-apiserver")
        server.end()
        until("nodes count as unreachable", lambda: {one["state"] for one in self._nodes()} == {"Unreachable"}, 60)
        self._has(self._web, "Running", 2)
        log = self._log(self._operate(self._web, "stop", "Failed"))
        need("the cluster does not answer" in log, log)
        self._has(self._web, "Running", 2)
        server.start()
        until("nodes are there again", lambda: {one["state"] for one in self._nodes()} == {"Deployed"}, 120)
        self._operate(self._web, "redeploy")
        self._has(self._web, "Running", 2)

    def stack(self) -> None:
        """A stack is made, started, scaled, redeployed, stopped, started and terminated."""
        services = [
            {"name": "db", "image": self._image, "run_command": LOOP, "autorestart": "ALWAYS", "expose": [6379]},
            {"name": "front", "image": self._image, "run_command": LOOP, "autorestart": "ALWAYS", "links": ["db"]},
        ]
        made = self._cloud.dc("POST", f"{APP}/stack/", {"name": "shop", "services": services})
        need(made.status == 201, made.text)
        stack = made.json["uuid"]
        db, front = [self._cloud.dc("GET", uri).json["uuid"] for uri in made.json["services"]]
        for verb, state in (("start", "Running"), ("redeploy", "Running"), ("stop", "Stopped"), ("start", "Running")):
            self._operate(stack, verb, kind="stack")
            found = self._cloud.dc("GET", f"{APP}/stack/{stack}/").json
            need(found["state"] == state, f"{verb}: {found}")
        self._cloud.dc("PATCH", f"{APP}/service/{front}/", {"target_num_containers": 2})
        until("front has two", lambda: self._running(front, 2), 120)
        self._operate(stack, "terminate", kind="stack")
        need(self._cloud.dc("GET", f"{APP}/stack/{stack}/").json["state"] == "Terminated")
        need(not self._pods(db))
        need(not self._pods(front))

    def terminate(self) -> None:
        """The last service is terminated, and nothing of any is left in the cluster."""
        self._operate(self._web, "terminate")
        need(self._service(self._web)["state"] == "Terminated")
        kinds = "pods,deployments,daemonsets,statefulsets,jobs,services,secrets,persistentvolumeclaims"
        left = self._cluster.get(kinds, "-n", "hypercloud", "-l", "app.kubernetes.io/managed-by=hypercloud")["items"]
        need(not left, [(one["kind"], one["metadata"]["name"]) for one in left])
