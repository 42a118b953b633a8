"""A real hypercloud over a small Kubernetes API server; scripts/try-cloud-kubernetes has a real one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import websocket

from tests.support.cloud import Answer, CloudProcess
from tests.support.described import Described
from tests.support.kube import FakeCluster
from tests.support.until import until

APP = "/api/app/v1"
IMAGE = "registry.example.com/thing:1"


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    with FakeCluster() as made:
        yield made


@pytest.fixture(scope="module")
def server(cluster: FakeCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CloudProcess]:
    """A hypercloud over the cluster; each of its answers must be as its OpenAPI documents say."""
    made = cluster.cloud(tmp_path_factory.mktemp("cloud"), more="patience = 20.0")
    try:
        made.look = Described(made.call("GET", f"/openapi/{name}.json").json for name in ("shipyard", "dockercloud"))
        until(lambda: len(made.dc("GET", "/api/infra/v1/node/").json["objects"]) == 2)
        yield made
    finally:
        made.stop()


def create(server: CloudProcess, name: str, **more: Any) -> str:
    answer = server.dc("POST", f"{APP}/service/", {"name": name, "image": IMAGE, "autorestart": "ALWAYS", **more})
    assert answer.status == 201, answer.text
    return str(answer.json["uuid"])


def of(thing: dict[str, Any]) -> str:
    """The service that an object is of."""
    return str((thing["metadata"].get("labels") or {}).get("hypercloud.io/service"))


def operate(server: CloudProcess, service: str, verb: str, state: str = "Success", kind: str = "service") -> Answer:
    method, path = ("DELETE", "") if verb == "terminate" else ("POST", f"{verb}/")
    answer = server.dc(method, f"{APP}/{kind}/{service}/{path}")
    assert answer.status == 202, answer.text
    server.action(answer, state)
    return answer


def shown(server: CloudProcess, service: str) -> dict[str, Any]:
    found: dict[str, Any] = server.dc("GET", f"{APP}/service/{service}/").json
    return found


def containers(server: CloudProcess, service: str) -> list[dict[str, Any]]:
    found = [server.dc("GET", uri).json for uri in shown(server, service)["containers"]]
    return [one for one in found if one["state"] != "Terminated"]


def log_of(server: CloudProcess, answer: Answer) -> str:
    address = f"ws://127.0.0.1:{server.port}{answer.headers['X-DockerCloud-Action-URI']}logs/"
    stream = websocket.create_connection(address, timeout=30, header=[f"Authorization: {server.basic()}"])
    lines = []
    try:
        while text := stream.recv():
            lines.append(json.loads(text)["log"])
    except websocket.WebSocketException:
        pass
    finally:
        stream.close()
    return "".join(lines)


def test_a_service_is_a_deployment_through_its_whole_life(server: CloudProcess, cluster: FakeCluster) -> None:
    web = create(server, "web", target_num_containers=2, container_envvars=[{"key": "A", "value": "$(B)"}])
    assert shown(server, web)["state"] == "Not running"
    operate(server, web, "start")
    assert (shown(server, web)["state"], shown(server, web)["running_num_containers"]) == ("Running", 2)
    (deployment,) = [one for one in cluster.all("deployments") if of(one) == web]
    env = deployment["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "A", "value": "$$(B)"} in env
    both = containers(server, web)
    assert [one["name"] for one in both] == ["web-1", "web-2"]
    assert {one["uuid"] for one in both} == {pod["metadata"]["uid"] for pod in cluster.pods(web)}
    values = {one["key"]: one["value"] for one in both[0]["container_envvars"]}
    assert values["A"] == "$(B)"
    assert both[0]["uuid"] in values["DOCKERCLOUD_CONTAINER_API_URI"]
    assert both[0]["node"] == server.dc("GET", "/api/infra/v1/node/").json["objects"][0]["resource_uri"]

    server.dc("PATCH", f"{APP}/service/{web}/", {"target_num_containers": 3})
    until(lambda: shown(server, web)["running_num_containers"] == 3 and shown(server, web)["state"] == "Running")
    changed = server.dc("PATCH", f"{APP}/service/{web}/", {"container_envvars": [{"key": "A", "value": "2"}]})
    assert changed.json["synchronized"] is False
    operate(server, web, "redeploy")
    assert shown(server, web)["synchronized"] is True
    assert not {one["uuid"] for one in both} & {one["uuid"] for one in containers(server, web)}
    assert all(pod["spec"]["containers"][0]["imagePullPolicy"] == "Always" for pod in cluster.pods(web))

    operate(server, web, "stop")
    assert (shown(server, web)["state"], cluster.pods(web)) == ("Stopped", [])
    operate(server, web, "start")
    assert (shown(server, web)["state"], len(cluster.pods(web))) == ("Running", 3)
    one = containers(server, web)[0]["uuid"]
    operate(server, one, "redeploy", kind="container")
    assert one not in {found["uuid"] for found in containers(server, web)}
    operate(server, web, "terminate")
    assert shown(server, web)["state"] == "Terminated"
    for plural in ("deployments", "pods", "services"):
        assert not [one for one in cluster.all(plural) if of(one) == web]


def test_a_stack_with_links(server: CloudProcess, cluster: FakeCluster) -> None:
    common = {"image": IMAGE, "autorestart": "ALWAYS"}
    services = [
        {"name": "db", **common, "container_ports": [{"protocol": "tcp", "inner_port": 6379}]},
        {"name": "front", **common, "linked_to_service": [{"to_service": "db", "name": "store"}]},
    ]
    made = server.dc("POST", f"{APP}/stack/", {"name": "shop", "services": services})
    assert made.status == 201, made.text
    stack, (db, front) = made.json["uuid"], [uri.split("/")[-2] for uri in made.json["services"]]
    operate(server, stack, "start", kind="stack")
    assert server.dc("GET", f"{APP}/stack/{stack}/").json["state"] == "Running"
    (inner,) = [one for one in cluster.all("services") if of(one) == db]
    address = inner["spec"]["clusterIP"]
    (pod,) = cluster.pods(front)
    values = {one["name"]: one.get("value") for one in pod["spec"]["containers"][0]["env"]}
    assert values["STORE_PORT_6379_TCP_ADDR"] == address
    assert values["STORE_1_PORT"] == f"tcp://{address}:6379"
    assert {"ip": address, "hostnames": ["store", "db.shop"]} in pod["spec"]["hostAliases"]
    for verb, state in (("stop", "Stopped"), ("start", "Running"), ("redeploy", "Running")):
        operate(server, stack, verb, kind="stack")
        assert server.dc("GET", f"{APP}/stack/{stack}/").json["state"] == state
    operate(server, stack, "terminate", kind="stack")
    assert server.dc("GET", f"{APP}/stack/{stack}/").json["state"] == "Terminated"
    assert not cluster.pods(db) + cluster.pods(front)


def test_kinds_of_objects(server: CloudProcess, cluster: FakeCluster) -> None:
    def kinds(service: str) -> dict[str, int]:
        plurals = ("deployments", "statefulsets", "daemonsets", "jobs", "persistentvolumeclaims", "services")
        found = {
            plural: sum(
                one["metadata"]["labels"].get("hypercloud.io/service") == service for one in cluster.all(plural)
            )
            for plural in plurals
        }
        return {plural: count for plural, count in found.items() if count}

    kept = create(server, "kept", bindings=[{"container_path": "/data"}])
    operate(server, kept, "start")
    assert kinds(kept) == {"statefulsets": 1, "services": 1}
    (made,) = [one for one in cluster.all("statefulsets") if of(one) == kept]
    assert made["spec"]["volumeClaimTemplates"][0]["spec"]["resources"] == {"requests": {"storage": "1Gi"}}

    everywhere = create(server, "everywhere", deployment_strategy="EVERY_NODE")
    operate(server, everywhere, "start")
    assert (kinds(everywhere), len(cluster.pods(everywhere))) == ({"daemonsets": 1, "services": 1}, 2)
    operate(server, everywhere, "stop")
    assert (shown(server, everywhere)["state"], cluster.pods(everywhere)) == ("Stopped", [])
    operate(server, everywhere, "start")
    assert len(cluster.pods(everywhere)) == 2

    chosen = {"protocol": "tcp", "inner_port": 80, "published": True}
    ports = [chosen, {**chosen, "inner_port": 9, "outer_port": 99}]
    public = create(server, "public", container_ports=ports)
    operate(server, public, "start")
    assert kinds(public) == {"deployments": 1, "services": 2}
    (container,) = containers(server, public)
    outer = {one["inner_port"]: one["outer_port"] for one in container["container_ports"]}
    assert outer[9] == 99
    assert outer[80] >= 30_000

    operate(server, kept, "terminate")
    once = create(server, "once", autorestart="OFF", target_num_containers=2, bindings=[{"container_path": "/data"}])
    operate(server, once, "start")
    assert kinds(once) == {"jobs": 2, "persistentvolumeclaims": 2, "services": 1}
    first = next(one for one in cluster.pods(once) if one["metadata"]["labels"]["hypercloud.io/number"] == "1")
    cluster.finish(first["metadata"]["name"], 3)
    until(lambda: shown(server, once)["state"] == "Partly running")
    assert [(one["state"], one["exit_code"]) for one in containers(server, once)] == [("Stopped", 3), ("Running", None)]
    operate(server, once, "redeploy")
    assert [one["state"] for one in containers(server, once)] == ["Running", "Running"]
    # Another restart policy is another kind of object: the next redeploy changes it.
    server.dc("PATCH", f"{APP}/service/{once}/", {"autorestart": "ALWAYS"})
    operate(server, once, "redeploy")
    assert kinds(once)["statefulsets"] == 1
    assert "jobs" not in kinds(once)
    for one in (everywhere, public, once):
        operate(server, one, "terminate")
        assert kinds(one) == {}


def test_autodestroy(server: CloudProcess, cluster: FakeCluster) -> None:
    brief = create(server, "brief", autorestart="OFF", autodestroy="ON_SUCCESS", target_num_containers=2)
    operate(server, brief, "start")
    for pod, code in zip(cluster.pods(brief), (0, 1), strict=True):
        cluster.finish(pod["metadata"]["name"], code)
    until(lambda: [one["exit_code"] for one in containers(server, brief)] == [1])
    assert len(cluster.pods(brief)) == 1
    until(lambda: shown(server, brief)["state"] == "Stopped")
    operate(server, brief, "terminate")


def test_what_goes_wrong_is_said_and_comes_right(server: CloudProcess, cluster: FakeCluster) -> None:
    lost = create(server, "lost", tags=[{"name": "nowhere"}])
    assert "Unschedulable" in log_of(server, operate(server, lost, "start", "Failed"))
    operate(server, lost, "terminate")
    absent = create(server, "absent", image="registry.example.com/missing:1")
    assert "no such image" in log_of(server, operate(server, absent, "start", "Failed"))
    assert shown(server, absent)["state"] == "Partly running"  # the cluster goes on trying
    operate(server, absent, "terminate")
    refused = create(server, "refused")
    cluster.refuse = "deployments"
    assert "refused by a policy" in log_of(server, operate(server, refused, "start", "Failed"))
    assert shown(server, refused)["state"] == "Not running"
    cluster.refuse = ""
    operate(server, refused, "start")
    cluster.remove("pods", cluster.pods(refused)[0]["metadata"]["name"])  # somebody else has removed it
    until(lambda: shown(server, refused)["current_num_containers"] == 0)
    operate(server, refused, "terminate")


def test_killed_and_away(server: CloudProcess, cluster: FakeCluster) -> None:
    web = create(server, "lasting", target_num_containers=2)
    operate(server, web, "start")
    asked = server.dc("POST", f"{APP}/service/{web}/redeploy/")
    server.restart()
    server.action(asked)
    assert shown(server, web)["running_num_containers"] == 2
    until(lambda: len(server.dc("GET", "/api/infra/v1/node/").json["objects"]) == 2)

    cluster.stop()
    until(lambda: {one["state"] for one in server.dc("GET", "/api/infra/v1/node/").json["objects"]} == {"Unreachable"})
    assert "the cluster does not answer" in log_of(server, operate(server, web, "stop", "Failed"))
    assert (shown(server, web)["state"], shown(server, web)["running_num_containers"]) == ("Running", 2)
    assert server.ship("GET", "/api/containers").json == []
    cluster.remove("deployments", cluster.all("deployments")[0]["metadata"]["name"])
    cluster.control()
    cluster.start()
    until(lambda: shown(server, web)["state"] == "Stopped")  # that was asked for
    assert containers(server, web) == []
    operate(server, web, "start")
    assert shown(server, web)["running_num_containers"] == 2
    operate(server, web, "terminate")


def test_what_a_cluster_cannot_do_is_refused_by_name(server: CloudProcess, cluster: FakeCluster) -> None:
    wrong = {"name": "no", "image": IMAGE, "mac_address": "02:00:00:00:00:01", "user": "root", "devices": ["/dev/kvm"]}
    answer = server.dc("POST", f"{APP}/service/", wrong)
    assert answer.status == 409
    assert all(word in answer.text for word in ("mac_address", "user", "devices"))
    once = {"name": "no", "image": IMAGE, "deployment_strategy": "EVERY_NODE"}  # and autorestart OFF
    assert server.dc("POST", f"{APP}/service/", once).status == 409
    web = create(server, "whole")
    operate(server, web, "start")
    (one,) = containers(server, web)
    for verb, method, path in (("stop", "POST", "stop/"), ("start", "POST", "start/"), ("terminate", "DELETE", "")):
        refused = server.dc(method, f"{APP}/container/{one['uuid']}/{path}")
        assert (refused.status, verb in refused.text) == (405, True)
    node = server.dc("GET", "/api/infra/v1/node/").json["objects"][0]
    assert server.dc("DELETE", node["resource_uri"]).status == 405
    assert server.ship("POST", "/api/containers", {"name": IMAGE}).status == 501
    assert server.ship("GET", f"/api/containers/{one['uuid']}/stop").status == 501
    assert server.ship("GET", f"/api/containers/{one['uuid']}/scale?count=2").status == 501
    assert server.ship("POST", "/api/extensions", {"name": "x", "image": IMAGE}).status == 501
    assert server.add_engine("more", "http://127.0.0.1:2375").status == 501
    before = cluster.pods(web)
    assert server.ship("DELETE", f"/api/containers/{one['uuid']}").status == 204
    until(lambda: cluster.pods(web) and cluster.pods(web) != before)
    operate(server, web, "terminate")


def test_looking(server: CloudProcess, cluster: FakeCluster) -> None:
    web = create(server, "seen")
    operate(server, web, "start")
    (one,) = containers(server, web)
    logs = server.ship("GET", f"/api/containers/{one['uuid']}/logs")
    assert logs.text == "begun\n<b>on</b>\n"
    (listed,) = [found for found in server.ship("GET", "/api/containers").json if found["id"] == one["uuid"]]
    assert listed["engine"]["id"] in {"one", "two"}
    info = server.ship("GET", "/api/cluster/info").json
    assert (info["engine_count"], info["cpus"], info["memory"]) == (2, 8.0, 8192.0)
    (first, _) = server.dc("GET", "/api/infra/v1/node/").json["objects"]
    tagged = server.dc("PATCH", first["resource_uri"], {"tags": [*first["tags"], {"name": "fast"}]})
    assert {"name": "fast"} in tagged.json["tags"]
    assert "tag.hypercloud.io/fast" in cluster.all("nodes")[0]["metadata"]["labels"]
    assert server.dc("PATCH", first["resource_uri"], {"tags": [{"name": "a=b"}]}).status == 400
    server.dc("PATCH", first["resource_uri"], {"tags": first["tags"]})
    assert "tag.hypercloud.io/fast" not in cluster.all("nodes")[0]["metadata"]["labels"]
    server.action(server.dc("POST", f"{first['resource_uri']}health-check/"))
    events = server.ship("GET", "/api/events").json
    kinds = {event["type"] for event in events if event.get("container", {}).get("id") == one["uuid"]}
    assert {"create", "start"} <= kinds
    operate(server, web, "terminate")


def test_the_page_over_a_cluster(server: CloudProcess) -> None:
    web = create(server, "paged")
    operate(server, web, "start")
    (one,) = containers(server, web)
    signed_in = server.call("POST", "/web/login", {"username": "admin", "password": server.password})
    cookie = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0]}
    changing = {**cookie, "X-CSRF-Token": signed_in.json["csrf"]}
    engines = server.call("GET", "/api/engines", headers=changing).json
    assert [(found["engine"]["id"], found["health"]["status"]) for found in engines] == [("one", "up"), ("two", "up")]
    images = server.call("GET", "/web/images", headers=changing).json
    assert images[0] == {
        "engine": "one",
        "tags": ["registry/busybox:1"],
        "size": 1234,
        "id": "registry/busybox@sha256:00",
    }
    for path, body in (
        ("/web/images/remove", {"engine": "one", "name": "registry/busybox:1"}),
        (f"/web/containers/{one['uuid']}/start", {}),
    ):
        refused = server.call("POST", path, body, changing)
        assert (refused.status, "cluster" in refused.text) == (501, True), refused.text
    address = f"ws://127.0.0.1:{server.port}/web/containers/{one['uuid']}/logs"
    stream = websocket.create_connection(address, timeout=30, cookie=cookie["Cookie"], origin=server.url)
    assert [stream.recv(), stream.recv()] == ["begun\n", "<b>on</b>\n"]
    stream.close()
    operate(server, web, "terminate")
