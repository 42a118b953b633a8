"""Engines that fail in one thing, what is left on them, and small things that broke more than they were about."""

from __future__ import annotations

import pytest

from tests.support.until import until

SERVICES = "/api/app/v1/service/"


@pytest.fixture
def server(running, engine):
    yield running
    engine.refuse, engine.pulling, engine.hold = "", False, ""
    for one in running.dc("GET", SERVICES + "?limit=100").json["objects"]:
        if one["state"] != "Terminated":
            running.action(running.dc("DELETE", one["resource_uri"]))
    assert not engine.containers


def started(server, **more):
    body = {"image": "tutum/hello-world", "name": "web", **more}
    uri = server.dc("POST", SERVICES, body).json["resource_uri"]
    server.action(server.dc("POST", uri + "start/"))
    return uri


def get(server, uri):
    return server.dc("GET", uri).json


def test_a_container_that_cannot_be_inspected(server, engine):
    uri = started(server, target_num_containers=2)
    node = get(server, "/api/infra/v1/node/")["objects"][0]["resource_uri"]
    bad, good = sorted(engine.running(), key=lambda one: one["Name"], reverse=True)
    engine.refuse = f"GET /containers/{bad['Id']}/json"
    engine.emit("oom", bad)
    engine.end(good, 3)
    until(lambda: get(server, uri)["stopped_num_containers"] == 1)
    assert get(server, node)["state"] == "Deployed"
    # A new connection does not take it for removed, and does not fail either.
    server.restart()
    until(lambda: get(server, node)["state"] == "Deployed")
    found = get(server, uri)
    assert (found["running_num_containers"], found["stopped_num_containers"]) == (1, 1)


def test_networks_of_stacks_go(server, engine):
    def site(name):
        stack = {"name": name, "services": [{"name": "web", "image": "x"}]}
        uri = server.dc("POST", "/api/app/v1/stack/", stack).json["resource_uri"]
        server.action(server.dc("POST", uri + "start/"))
        return uri

    engine.networks["somebody-elses"] = {"Name": "somebody-elses"}
    started(server)
    before = set(engine.networks)
    first, second = site("first"), site("second")
    assert len(set(engine.networks) - before) == 2
    server.action(server.dc("DELETE", first))
    (left,) = set(engine.networks) - before
    # One that could not be removed goes when the engine is connected to again.
    engine.refuse = "DELETE /networks/"
    server.action(server.dc("DELETE", second))
    assert left in engine.networks
    engine.refuse = ""
    server.restart()
    until(lambda: left not in engine.networks)
    assert before == set(engine.networks)


def test_a_pull_is_canceled(server, engine):
    engine.pulling = True
    uri = server.dc("POST", SERVICES, {"image": "large", "name": "large"}).json["resource_uri"]
    answer = server.dc("POST", uri + "start/")
    until(lambda: "large:latest" in [image for image, _ in engine.pulls])
    server.dc("POST", answer.headers["X-DockerCloud-Action-URI"] + "cancel/")
    server.action(answer, "Canceled")


def test_start_completes_the_number(server, engine):
    uri = started(server, target_num_containers=3)
    server.action(server.dc("DELETE", get(server, uri)["containers"][1]))
    assert get(server, uri)["state"] == "Partly running"
    server.action(server.dc("POST", uri + "start/"))
    found = get(server, uri)
    assert (found["state"], found["running_num_containers"]) == ("Running", 3)
    assert sorted(one["Name"].partition(".")[0] for one in engine.running()) == ["/web-1", "/web-2", "/web-3"]


def test_others_write_while_an_engine_does_not_answer(server, engine):
    uri = server.dc("POST", SERVICES, {"image": "thinking", "name": "slow"}).json["resource_uri"]
    engine.hold = "GET /images/thinking"
    answer = server.dc("POST", uri + "start/")
    until(lambda: engine.held)
    assert server.ship("POST", "/api/servicekeys", {"description": "meanwhile"}).status == 200
    assert engine.held  # it was still asked
    engine.hold = ""
    server.action(answer)


def test_what_containers_share_is_asked_for_once(server, engine):
    """By each of the four threads that make them at most."""
    before = len(engine.requests)
    uri = started(server, name="many", target_num_containers=12)
    asked = engine.requests[before:]
    assert sum(one.startswith("POST /containers/create") for one in asked) >= 12
    for what in ("GET /networks", "GET /images/tutum"):
        assert 1 <= sum(one.startswith(what) for one in asked) <= 4, what
    assert "/gopath" in [one["value"] for one in get(server, uri)["calculated_envvars"]]


def test_no_limit_of_swap(server, engine):
    started(server, memory=64, memory_swap=-1)
    (one,) = engine.running()
    assert (one["HostConfig"]["Memory"], one["HostConfig"]["MemorySwap"]) == (64 * 2**20, -1)
    services = {"web": {"image": "x", "mem_limit": "64m", "memswap_limit": -1}}
    stack = server.dc("POST", "/api/app/v1/stack/", {"name": "swap", "services": services})
    assert server.dc("GET", stack.json["resource_uri"] + "export/").json["web"]["memswap_limit"] == -1


def test_calls_of_triggers(server, engine):
    uri = started(server)
    trigger = server.dc("POST", uri + "trigger/", {"operation": "SCALEUP"}).json["url"]
    for number in ("%C2%B2", "0", "-1", "%D9%A1", "1001"):
        assert server.call("POST", f"{trigger}{number}/").status == 400, number
    answer = server.call("POST", f"{trigger}1/", raw=b"a\0b", headers={"Content-Type": "application/octet-stream"})
    assert answer.status == 202, answer.text
    server.action(answer)
    assert any("DOCKERCLOUD_TRIGGER_BODY=a\ufffdb" in one["Config"]["Env"] for one in engine.running())


def test_the_role_global_by_a_trigger(server, engine):
    """A trigger has no account: the token is for that of the namespace."""
    uri = started(server, roles=["global"])
    trigger = server.dc("POST", uri + "trigger/", {}).json["url"]
    server.action(server.call("POST", trigger))
    (one,) = engine.running()
    env = dict(item.partition("=")[::2] for item in one["Config"]["Env"])
    assert server.dc("GET", SERVICES, auth=env["DOCKERCLOUD_AUTH"]).status == 200


def test_autoredeploy_goes_on(server, engine):
    """Services are redeployed although an engine fails with Shipyard's container of the same image."""
    uri = started(server, image="me/app", autoredeploy=True)
    before = get(server, uri)["containers"]
    plain = server.ship("POST", "/api/containers", {"name": "me/app"}).json[0]["id"]
    key = server.ship("POST", "/api/webhookkeys", {"image": "me/app"}).json["key"]
    engine.refuse = f"DELETE /containers/{plain}"
    assert server.call("POST", f"/hub/webhook/{key}", {"repository": {"repo_name": "me/app"}}).status == 500
    engine.refuse = ""
    until(lambda: get(server, uri)["state"] == "Running" and get(server, uri)["containers"] != before)
    for one in server.ship("GET", "/api/containers").json:
        if "-1." not in one["name"]:
            server.ship("DELETE", f"/api/containers/{one['id']}")
