"""kill -9 in the middle of actions, and engines that go and come back: nothing twice, nothing lost."""

from __future__ import annotations

import pytest

from tests.support.docker_engine import FakeEngine
from tests.support.until import until


@pytest.fixture
def server(running, engine):
    """The server, with nothing on its engine."""
    yield running
    for one in running.dc("GET", "/api/app/v1/service/?limit=100").json["objects"]:
        if one["state"] not in {"Terminated", "Terminating"}:
            running.action(running.dc("DELETE", one["resource_uri"]))
    assert not engine.containers
    engine.volumes_removed.clear()
    engine.held = False


def running_service(server, count):
    body = {"image": "tutum/hello-world", "name": "web", "target_num_containers": count}
    made = server.dc("POST", "/api/app/v1/service/", body).json
    server.action(server.dc("POST", made["resource_uri"] + "start/"))
    return made["resource_uri"]


@pytest.mark.parametrize("at", ["POST /containers/create", "start", "DELETE /containers/"])
def test_killed_in_the_middle_of_a_redeploy(server, engine, at):
    """The engine holds still at a certain call; the server is killed there."""
    uri = running_service(server, 3)
    engine.hold = at
    answer = server.dc("POST", uri + "redeploy/")
    until(lambda: engine.held)
    server.kill()
    engine.hold = ""
    server.start()
    server.action(answer)
    found = server.dc("GET", uri).json
    assert (found["state"], found["current_num_containers"], found["synchronized"]) == ("Running", 3, True)
    assert len(engine.containers) == len(engine.running()) == 3
    assert sorted(one["Name"].partition(".")[0] for one in engine.running()) == ["/web-1", "/web-2", "/web-3"]


def test_killed_while_an_engine_is_away(server, engine):
    uri = running_service(server, 2)
    engine.lose()
    node = server.dc("GET", "/api/infra/v1/node/").json["objects"][0]["resource_uri"]
    until(lambda: server.dc("GET", node).json["state"] == "Unreachable")
    server.action(server.dc("DELETE", uri), "Failed")
    server.restart()
    engine.come_back()
    until(lambda: server.dc("GET", node).json["state"] == "Deployed")
    until(lambda: not engine.containers)


def test_what_happens_on_an_engine_is_seen(server, engine):
    uri = running_service(server, 2)
    first, second = list(engine.containers.values())
    engine.end(first, 3)
    until(lambda: server.dc("GET", uri).json["state"] == "Partly running")
    gone = server.dc("GET", "/api/app/v1/container/?state=Stopped").json["objects"]
    assert [one["exit_code"] for one in gone] == [3]
    engine.remove(second)
    until(lambda: server.dc("GET", uri).json["current_num_containers"] == 1)
    server.action(server.dc("POST", uri + "start/"))
    assert server.dc("GET", uri).json["state"] == "Running"


def test_autodestroy(server, engine):
    body = {"image": "tutum/hello-world", "name": "once", "autodestroy": "ON_SUCCESS", "run_command": "exit 0"}
    made = server.dc("POST", "/api/app/v1/service/", body).json
    server.action(server.dc("POST", made["resource_uri"] + "start/"))
    until(lambda: not engine.containers)
    until(lambda: server.dc("GET", made["resource_uri"]).json["current_num_containers"] == 0)
    kept = server.dc("POST", "/api/app/v1/service/", body | {"name": "fails", "run_command": "exit 1"}).json
    server.action(server.dc("POST", kept["resource_uri"] + "start/"))
    until(lambda: server.dc("GET", kept["resource_uri"]).json["state"] == "Stopped")
    assert len(engine.containers) == 1


def test_every_node_follows_new_nodes(server, engine):
    body = {"image": "tutum/hello-world", "name": "agent", "deployment_strategy": "EVERY_NODE"}
    made = server.dc("POST", "/api/app/v1/service/", body).json
    server.action(server.dc("POST", made["resource_uri"] + "start/"))
    assert server.dc("POST", made["resource_uri"] + "scale/").status == 409
    second = FakeEngine()
    try:
        server.add_engine("two", second.url)
        until(second.running)
        until(lambda: server.dc("GET", made["resource_uri"]).json["running_num_containers"] == 2)
        node = next(one for one in server.dc("GET", "/api/infra/v1/node/").json["objects"] if one["nickname"] == "two")
        server.action(server.dc("DELETE", node["resource_uri"]))
        assert not second.containers
        assert server.dc("GET", made["resource_uri"]).json["running_num_containers"] == 1
    finally:
        second.close()


def test_links_and_sequence(server, engine):
    services = [
        {"name": "db", "image": "mysql", "expose": ["3306"], "environment": {"PASS": "x"}},
        {"name": "web", "image": "site", "links": ["db:store"], "roles": ["global"], "sequential_deployment": True,
         "target_num_containers": 2, "volumes": ["/data"]},
    ]  # fmt: skip
    made = server.dc("POST", "/api/app/v1/stack/", {"name": "site", "services": services})
    assert made.status == 201, made.text
    server.action(server.dc("POST", made.json["resource_uri"] + "start/"))
    web = {one["Name"].partition(".")[0]: one for one in engine.running() if one["Config"]["Image"] == "site:latest"}
    env = dict(item.partition("=")[::2] for item in web["/web-2"]["Config"]["Env"])
    db = next(one for one in engine.running() if one["Config"]["Image"] == "mysql:latest")
    address = next(iter(db["NetworkSettings"]["Networks"].values()))["IPAddress"]
    assert env["STORE_1_PORT_3306_TCP"] == env["STORE_PORT"] == f"tcp://{address}:3306"
    assert (env["STORE_ENV_PASS"], env["STORE_1_ENV_GOPATH"]) == ("x", "/gopath")
    assert env["STORE_DOCKERCLOUD_API_URL"].startswith("http://127.0.0.1")
    assert "WEB_DOCKERCLOUD_API_URL" in env  # sequential: web-2 is linked to web-1, which has no port
    assert "WEB_1_PORT" not in env
    assert "WEB_1_ENV_DOCKERCLOUD_AUTH" not in env
    # The role's token works while the container lives, in its namespace, and is not shown.
    auth = env["DOCKERCLOUD_AUTH"]
    assert server.dc("GET", "/api/app/v1/service/", auth=auth).status == 200
    assert server.dc("GET", "/api/infra/v1/node/", auth=auth).status == 200
    assert auth not in server.dc("GET", "/api/app/v1/container/").text
    assert auth not in server.ship("GET", "/api/containers").text
    # Managed volumes are kept by a redeploy and removed with the service.
    volume = web["/web-1"]["HostConfig"]["Binds"]
    found = server.dc("GET", "/api/app/v1/service/?name=web&state=Running").json["objects"]
    (service,) = found
    server.action(server.dc("POST", service["resource_uri"] + "redeploy/"))
    again = {one["Name"].partition(".")[0]: one for one in engine.running() if one["Config"]["Image"] == "site:latest"}
    assert again["/web-1"]["HostConfig"]["Binds"] == volume
    assert not engine.volumes_removed
    assert server.dc("GET", "/api/app/v1/service/", auth=auth).status == 401
    server.action(server.dc("DELETE", made.json["resource_uri"]))
    assert volume[0].partition(":")[0] in engine.volumes_removed
    assert not engine.containers
