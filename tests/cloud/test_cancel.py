"""Actions that are canceled or fail: nothing stays in a state in which nothing can be asked of it."""

from __future__ import annotations

import pytest

from tests.support.until import until

SERVICES = "/api/app/v1/service/"


@pytest.fixture
def server(running, engine):
    yield running
    release(engine)
    for one in running.dc("GET", SERVICES + "?limit=100").json["objects"]:
        if one["state"] != "Terminated":
            running.action(running.dc("DELETE", one["resource_uri"]))
    assert not engine.containers


def hold(engine, at):
    engine.held, engine.hold = False, at


def release(engine):
    engine.hold = ""


def started(server, **more):
    """A service that runs, and its containers' addresses."""
    body = {"image": "tutum/hello-world", "name": "web", "target_num_containers": 2, **more}
    uri = server.dc("POST", SERVICES, body).json["resource_uri"]
    server.action(server.dc("POST", uri + "start/"))
    return uri, server.dc("GET", uri).json["containers"]


def cancel(server, answer):
    asked = server.dc("POST", answer.headers["X-DockerCloud-Action-URI"] + "cancel/")
    assert asked.status == 202, asked.text


def state(server, uri):
    return server.dc("GET", uri).json["state"]


def test_one_that_waits(server, engine):
    _, (first, second) = started(server)
    hold(engine, "/stop")
    under_way = server.dc("POST", first + "stop/")
    until(lambda: engine.held)
    waiting = server.dc("POST", second + "stop/")
    assert state(server, second) == "Stopping"
    cancel(server, waiting)
    release(engine)  # the engine hangs up: what was under way fails
    server.action(under_way, "Failed")
    server.action(waiting, "Canceled")
    assert [state(server, one) for one in (first, second)] == ["Running", "Running"]
    server.action(server.dc("POST", second + "stop/"))
    assert [state(server, one) for one in (first, second)] == ["Running", "Stopped"]


@pytest.mark.parametrize("killed", [False, True])
def test_a_stop_under_way(server, engine, killed):
    uri, containers = started(server, target_num_containers=6)
    hold(engine, "/stop")
    answer = server.dc("POST", uri + "stop/")
    until(lambda: engine.held)
    cancel(server, answer)
    if killed:
        server.kill()
        release(engine)
        server.start()
    release(engine)
    server.action(answer, "Canceled")
    found = [state(server, one) for one in containers]
    # What was asked of the engine after it went on is done; the first was cut off.
    assert (set(found) <= {"Running", "Stopped"}, found.count("Running")) == (True, len(engine.running()))
    assert "Running" in found
    server.action(server.dc("POST", uri + "stop/"))
    assert state(server, uri) == "Stopped"


def test_while_the_engine_is_away(server, engine):
    _, (first, second) = started(server)
    node = server.dc("GET", "/api/infra/v1/node/").json["objects"][0]["resource_uri"]
    engine.lose()
    until(lambda: state(server, node) == "Unreachable")
    server.action(server.dc("POST", first + "stop/"), "Failed")
    assert state(server, first) == "Running"
    engine.end(next(one for one in engine.running() if one["Name"].startswith("/web-2.")), 1)
    engine.come_back()
    until(lambda: state(server, second) == "Stopped")
    server.action(server.dc("POST", first + "stop/"))


def test_the_whole_stack_is_removed(server, engine):
    services = [{"name": name, "image": "x"} for name in ("one", "two")]
    stack = server.dc("POST", "/api/app/v1/stack/", {"name": "s", "services": services}).json
    one, two = stack["services"]
    server.action(server.dc("POST", one + "start/"))
    hold(engine, "POST /containers/create")
    starting = server.dc("POST", two + "start/")
    until(lambda: engine.held)
    answer = server.dc("DELETE", stack["resource_uri"])
    assert answer.status == 202
    release(engine)
    server.action(starting, "Failed")
    server.action(answer)
    assert [state(server, uri) for uri in (one, two, stack["resource_uri"])] == ["Terminated"] * 3
    assert not engine.containers


def test_a_program_that_ends_while_an_action_is_open(server, engine):
    uri, _ = started(server, autodestroy="ALWAYS")
    ended = next(one for one in engine.running() if one["Name"].startswith("/web-1."))
    hold(engine, "POST /containers/create")
    server.dc("PATCH", uri, {"target_num_containers": 3})
    until(lambda: engine.held)
    engine.end(ended, 0)
    until(lambda: server.dc("GET", uri).json["stopped_num_containers"] == 1)
    release(engine)
    until(lambda: ended["Id"] not in engine.containers)
