"""Websockets: events, logs, exec; and what is refused."""

from __future__ import annotations

import contextlib
import json
import time

import pytest
import websocket


def connect(cloud, path, auth=None):
    header = [f"Authorization: {auth or cloud.basic()}"]
    return websocket.create_connection(f"ws://127.0.0.1:{cloud.port}{path}", header=header, timeout=90)


def refused(cloud, path, auth):
    """The status of a request for a stream that is refused."""
    socket = websocket.WebSocket()
    socket.settimeout(60)
    header = [f"Authorization: {auth}"] if auth else []
    try:
        with pytest.raises(websocket.WebSocketBadStatusException) as caught:
            socket.connect(f"ws://127.0.0.1:{cloud.port}{path}", header=header)
        return caught.value.status_code
    finally:
        socket.shutdown()


def messages(socket):
    """All messages until the server closes."""
    found = []
    with contextlib.suppress(websocket.WebSocketConnectionClosedException):
        while text := socket.recv():
            found.append(json.loads(text))
    socket.close()
    return found


@pytest.fixture(scope="module")
def service(cloud):
    made = cloud.dc("POST", "/api/app/v1/service/", {"image": "tutum/hello-world", "name": "streamed"}).json
    cloud.action(cloud.dc("POST", made["resource_uri"] + "start/"))
    return cloud.dc("GET", made["resource_uri"]).json


@pytest.mark.parametrize(
    "path", ["/api/audit/v1/events/", "/api/audit/v1/events", "/api/audit/v1/admin/events/", "/v1/events"]
)
def test_events(cloud, service, path):
    socket = connect(cloud, f"{path}?type=service")
    cloud.action(cloud.dc("POST", service["resource_uri"] + "redeploy/"))
    first, second = json.loads(socket.recv()), json.loads(socket.recv())
    socket.close()
    assert set(first) == {"type", "action", "parents", "resource_uri", "state", "uuid", "datetime"}
    assert (first["type"], first["action"], first["state"]) == ("service", "update", "Redeploying")
    assert (second["state"], second["resource_uri"]) == ("Running", service["resource_uri"])


def test_events_of_containers_have_parents(cloud, service):
    socket = connect(cloud, f"/api/audit/v1/events/?type=container&parent={service['resource_uri']}")
    cloud.action(cloud.dc("POST", service["resource_uri"] + "redeploy/"))
    event = json.loads(socket.recv())
    socket.close()
    assert service["resource_uri"] in event["parents"]


def test_logs(cloud, service):
    line = messages(connect(cloud, service["resource_uri"] + "logs/?follow=false&tail=10"))[0]
    assert line == {
        "type": "log",
        "log": "listening on :8080\n",
        "streamType": "stdout",
        "timestamp": 1454345248,
        "source": "streamed-1",
    }
    (container,) = cloud.dc("GET", service["resource_uri"]).json["containers"]
    line = messages(connect(cloud, container + "logs/?follow=false"))[0]
    assert set(line) == {"type", "log", "streamType", "timestamp"}
    following = connect(cloud, container + "logs/")
    assert json.loads(following.recv())["log"] == "listening on :8080\n"
    following.close()


def test_logs_of_an_action(cloud, service):
    answer = cloud.dc("POST", service["resource_uri"] + "redeploy/")
    lines = messages(connect(cloud, answer.headers["X-DockerCloud-Action-URI"] + "logs/"))
    assert any("pulling tutum/hello-world:latest" in one["log"] for one in lines)
    assert all(set(one) == {"type", "log", "timestamp"} for one in lines)


def test_exec(cloud, service):
    (container,) = cloud.dc("GET", service["resource_uri"]).json["containers"]
    found = messages(connect(cloud, container + "exec/?command=ls%20-l%20%22a%20b%22"))
    assert found == [{"type": "exec", "streamType": "stdout", "output": "ran: ls -l a b\n"}]
    shell = connect(cloud, container + "exec/")
    assert json.loads(shell.recv())["output"] == "ran: sh\n"
    shell.send("hello\n")
    assert json.loads(shell.recv())["output"] == "echo: hello\n"
    shell.send("\u0004\n")
    assert messages(shell) == []


@pytest.mark.parametrize("path", ["/api/audit/v1/events/", "/v1/events", "{c}logs/", "{c}exec/", "{s}logs/"])
def test_no_stream_without_credentials(cloud, service, path):
    path = path.format(c=service["containers"][0], s=service["resource_uri"])
    for auth in ("", "Basic bm9ib2R5Om5vdGhpbmc="):
        assert refused(cloud, path, auth) == 401


def test_streams_of_others(cloud, service):
    cloud.ship("POST", "/api/accounts", {"username": "eve", "password": "eve-eve", "role": {"name": "user"}})
    eve = cloud.basic("eve", "eve-eve")
    (container,) = cloud.dc("GET", service["resource_uri"]).json["containers"]
    for path in (container + "exec/", container + "logs/"):
        assert refused(cloud, path, eve) == 404
        mine = path.replace("/admin/", "/")
        assert messages(connect(cloud, mine, eve))[0]["type"] == "error"
    quiet = connect(cloud, "/api/audit/v1/events/", eve)
    cloud.action(cloud.dc("POST", service["resource_uri"] + "redeploy/"))
    quiet.settimeout(0.5)
    with pytest.raises(websocket.WebSocketTimeoutException):
        quiet.recv()
    quiet.close()


def test_a_client_that_types_after_the_end_gets_its_end(cloud, service):
    """docker-cloud without a terminal sends its input and ^D when the program may be over: no error, but the close."""
    container = cloud.dc("GET", service["resource_uri"]).json["containers"][0]
    socket = connect(cloud, f"{container}exec/?command=ls")
    assert json.loads(socket.recv())["output"] == "ran: ls\n"
    socket.send("")
    assert socket.recv() == ""
    time.sleep(0.3)  # both ends have said that this is the end
    for text in ("", "\x04"):
        socket.send(text)
        time.sleep(0.1)  # in a packet of its own: the first would be answered by a reset, the second be an error
    with pytest.raises(websocket.WebSocketConnectionClosedException):
        socket.recv()
    socket.shutdown()
