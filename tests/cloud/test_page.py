"""The page's server side: sessions, CSRF, headers, websockets, and nothing from other hosts."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import tarfile
from pathlib import Path
from urllib.parse import urlencode

import pytest
import websocket

STATIC = Path(__file__).resolve().parents[2] / "hypercloud/api/web/static"


@pytest.fixture(scope="module")
def session(cloud):
    """Cookie and CSRF token of the administrator."""
    answer = cloud.call("POST", "/web/login", {"username": "admin", "password": cloud.password})
    assert answer.status == 200
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    return {"Cookie": cookie.partition(";")[0]}, answer.json["csrf"]


def test_the_page(cloud):
    page = cloud.call("GET", "/")
    assert page.status == 200
    assert page.headers["X-Frame-Options"] == "DENY"
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    for name in ("app.js", "style.css"):
        assert cloud.call("GET", f"/web/static/{name}").status == 200
    assert cloud.call("GET", "/web/static/../routes.py").status == 404
    assert cloud.call("GET", "/web/static/%2e%2e/routes.py").status == 404


def test_nothing_comes_from_other_hosts_and_nothing_is_inserted_as_markup():
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\son[a-z]+=\""
    for path in STATIC.glob("*.*"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", text), path
        assert not re.findall(markup, text), path


def test_wrong_passwords(cloud):
    assert cloud.call("POST", "/web/login", {"username": "admin", "password": "x"}).status == 401
    assert cloud.call("GET", "/web/me").status == 401


@pytest.mark.parametrize("path", ["/web/me", "/api/containers", "/api/app/v1/service/", "/web/images"])
def test_every_request_needs_the_token_of_the_page(cloud, session, path):
    cookie, csrf = session
    assert cloud.call("GET", path, headers=cookie).status == 403
    assert cloud.call("GET", path, headers=cookie | {"X-CSRF-Token": "x"}).status == 403
    assert cloud.call("GET", path, headers=cookie | {"X-CSRF-Token": csrf}).status == 200


def test_a_forged_cookie(cloud, session):
    forged = {"Cookie": session[0]["Cookie"][:-3] + "abc", "X-CSRF-Token": session[1]}
    assert cloud.call("GET", "/web/me", headers=forged).status == 401


def test_two_tabs_of_a_browser(cloud, session):
    """A second sign-in leaves the first tab in; an answer that is under way does not bring a session back."""
    me = {"username": "admin", "password": cloud.password}
    again = cloud.call("POST", "/web/login", me, headers=session[0])
    assert again.json["csrf"] == session[1]
    assert "Set-Cookie" in again.headers
    seen = cloud.call("GET", "/web/me", headers=session[0] | {"X-CSRF-Token": session[1]})
    assert (seen.status, "Set-Cookie" in seen.headers) == (200, False)
    assert cloud.call("POST", "/web/login", me).json["csrf"] != session[1]  # another browser


def test_a_session_ends_with_the_password(cloud):
    cloud.ship("POST", "/api/accounts", {"username": "carl", "password": "one", "role": {"name": "user"}})
    answer = cloud.call("POST", "/web/login", {"username": "carl", "password": "one"})
    headers = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "X-CSRF-Token": answer.json["csrf"]}
    assert cloud.call("GET", "/web/me", headers=headers).json["role"] == "user"
    assert cloud.call("POST", "/web/images/pull", {"engine": "local", "name": "x"}, headers).status == 403
    assert cloud.call("GET", "/api/accounts", headers=headers).status == 403
    cloud.ship("POST", "/api/accounts", {"username": "carl", "password": "two", "role": {"name": "user"}})
    assert cloud.call("GET", "/web/me", headers=headers).status == 401


def test_api_keys(cloud, session):
    headers = session[0] | {"X-CSRF-Token": session[1]}
    key = cloud.call("POST", "/web/apikeys", {"description": "mine"}, headers).json["key"]
    assert cloud.dc("GET", "/auth/", auth=cloud.basic("admin", key)).status == 200
    (listed,) = cloud.call("GET", "/web/apikeys", headers=headers).json
    assert key not in json.dumps(listed)
    assert cloud.call("DELETE", f"/web/apikeys/{listed['id']}", headers=headers).status == 200
    assert cloud.dc("GET", "/auth/", auth=cloud.basic("admin", key)).status == 401


def test_stack_files(cloud, session):
    headers = session[0] | {"X-CSRF-Token": session[1]}
    text = "web:\n  image: site\n  ports: ['80:80']\n"
    found = cloud.call("POST", "/web/stackfile", {"text": text}, headers).json
    assert found == {"web": {"image": "site", "ports": ["80:80"]}}
    for bad in ("a: [", "- x", "!!python/object/apply:os.system [id]", "a: &a [*a]"):
        answer = cloud.call("POST", "/web/stackfile", {"text": bad}, headers)
        assert answer.status == 400, bad


def open_stream(cloud, path, headers):
    socket = websocket.WebSocket()
    socket.settimeout(60)
    socket.connect(f"ws://127.0.0.1:{cloud.port}{path}", header=headers, suppress_origin=True)
    return socket


def test_streams(cloud, session):
    made = cloud.ship("POST", "/api/containers", {"name": "busybox", "cpus": 0.1, "memory": 16, "labels": ["local"]})
    container = made.json[0]["id"]
    own = [f"Cookie: {session[0]['Cookie']}", f"Origin: http://127.0.0.1:{cloud.port}"]
    logs = open_stream(cloud, f"/web/containers/{container}/logs", own)
    assert logs.recv() == "listening on :8080\n"
    logs.close()
    shell = open_stream(cloud, f"/web/containers/{container}/exec", own)
    assert shell.recv() == b"ran: sh\n"
    shell.send(json.dumps({"rows": 40, "cols": 100}))
    shell.send(json.dumps({"input": "hello\n"}))
    assert shell.recv() == b"echo: hello\n"
    shell.close()
    events = open_stream(cloud, "/web/events", own)
    cloud.ship("DELETE", f"/api/containers/{container}")
    assert set(json.loads(events.recv())) == {"what", "action", "name", "state", "time"}
    events.close()
    for headers in ([], own[:1], [own[0], "Origin: http://evil.example"]):
        for path in ("/web/events", f"/web/containers/{container}/exec"):
            socket = websocket.WebSocket()
            with pytest.raises(websocket.WebSocketBadStatusException) as caught:
                socket.connect(f"ws://127.0.0.1:{cloud.port}{path}", header=headers, suppress_origin=True)
            assert caught.value.status_code in {401, 403}


@pytest.fixture
def container(cloud):
    made = cloud.ship("POST", "/api/containers", {"name": "busybox", "cpus": 0.1, "memory": 16, "labels": ["local"]})
    yield made.json[0]["id"]
    cloud.ship("DELETE", f"/api/containers/{made.json[0]['id']}")


def test_readings(cloud, session, container):
    """Of each engine, and of a container: rates, and memory without what is only cached; none when nobody looks."""
    own = [f"Cookie: {session[0]['Cookie']}", f"Origin: http://127.0.0.1:{cloud.port}"]
    for path, name in ((f"/web/containers/{container}/readings", None), ("/web/readings", "local")):
        socket = open_stream(cloud, path, own)
        # Readings of an engine may be older than the container: of others who looked, in the minute before.
        told = []
        while not (busy := [point for point in told if point[1] > 0]):
            told = [point for one in json.loads(socket.recv()) if name in {None, one["of"]} for point in one["points"]]
        when, _, memory, received, sent = busy[0]
        assert when > 1e9
        assert memory == 5 * 2**20
        assert sent == pytest.approx(2 * received)
        assert received > 0
        socket.close()
    socket = open_stream(cloud, "/web/containers/nothing/readings", own)
    assert "does not exist" in json.loads(socket.recv())["error"]
    socket.close()


def lines_of(answer):
    return [json.loads(line) for line in answer.text.splitlines()]


def test_a_pull_tells_of_each_layer(cloud, session, engines):
    headers = session[0] | {"X-CSRF-Token": session[1]}
    cloud.dc("POST", "/api/repo/v1/repository/", {"name": "reg.example/app", "username": "me", "password": "pw"})
    answer = cloud.call("POST", "/web/images/pull", {"engine": "local", "name": "reg.example/app"}, headers)
    assert answer.status == 200
    layer = [one for one in lines_of(answer) if one.get("id") == "0123456789ab"]
    assert layer[0]["progressDetail"] == {"current": 5, "total": 10}
    assert layer[-1]["status"] == "Pull complete"
    image, auth = engines[0].pulls[-1]
    assert image == "reg.example/app:latest"
    assert json.loads(base64.urlsafe_b64decode(auth))["username"] == "me"
    bad = cloud.call("POST", "/web/images/pull", {"engine": "local", "name": "missing/app"}, headers)
    assert (bad.status, "does not exist" in bad.text) == (404, True)
    assert cloud.call("POST", "/web/images/pull", {"engine": "nowhere", "name": "x"}, headers).status == 404


def context(**members):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return out.getvalue()


def test_a_build(cloud, session, engines):
    headers = session[0] | {"X-CSRF-Token": session[1], "Content-Type": "application/x-tar"}
    path = "/web/images/build?engine=local&tag=mine"
    large = os.urandom(6 * 2**20)  # more than a request of the APIs may have
    answer = cloud.call("POST", path, None, headers, context(Dockerfile=b"FROM busybox\n", data=large))
    assert [one["stream"] for one in lines_of(answer)] == [
        "Step 1/1 : FROM busybox\n",
        "Successfully tagged mine:latest\n",
    ]
    assert set(engines[0].images["mine:latest"]) == {"Dockerfile", "data"}
    answer = cloud.call("POST", path, None, headers, context(Dockerfile=b"FROM busybox\nRUN false\n"))
    assert "non-zero code: 1" in lines_of(answer)[-1]["details"]
    assert cloud.call("POST", path + "&dockerfile=none", None, headers, context(x=b"x")).status == 502
    assert cloud.call("POST", "/web/images/build?engine=local", None, headers, context(x=b"x")).status == 400


def test_what_dockerignore_leaves_out(cloud, session):
    headers = session[0] | {"X-CSRF-Token": session[1]}
    names = [
        "Dockerfile",
        ".dockerignore",
        "secret",
        "deep/secret",
        "a/b.pyc",
        "keep.pyc",
        "logs/one",
        *map(str, range(900_000)),
    ]
    ignore = "# not this\n**/*.pyc\n!keep.pyc\nsecret\nDockerfile\nlogs/\n[0-9]*\n"
    asked = {"ignore": ignore, "names": names[:7], "dockerfile": "Dockerfile"}
    answer = cloud.call("POST", "/web/images/context", asked, headers)
    assert answer.json == {"names": ["Dockerfile", ".dockerignore", "deep/secret", "keep.pyc"]}
    many = cloud.call("POST", "/web/images/context", asked | {"names": names, "ignore": ""}, headers)
    assert len(many.json["names"]) == len(names)
    assert cloud.call("POST", "/web/images/context", asked | {"names": "x"}, headers).status == 400


def test_files_down(cloud, session, engines, container):
    headers = session[0] | {"X-CSRF-Token": session[1]}
    engines[0].files = {"/etc/motd": b"hello\n" * 50_000, "/link": "/etc/motd", "/round": "/about", "/about": "/round"}

    def get(path):
        return cloud.call("GET", f"/web/containers/{container}/files?path={path}", headers=headers)

    for path, name in (("/etc/motd", "motd"), ("/link", "link")):
        found = get(path)
        assert (found.status, found.text) == (200, "hello\n" * 50_000)
        assert found.headers["Content-Disposition"] == f"attachment; filename={name}"
        assert found.headers["Content-Length"] == "300000"
    assert get("/etc").headers["Content-Type"] == "application/x-tar"
    assert "ustar" in get("/etc").text
    assert get("/nothing").status == 404
    assert get("/round").status == 400
    assert get("etc/motd").status == 400
    assert cloud.call("GET", f"/web/containers/{container}/files?path=/etc/motd", headers=session[0]).status == 403


def test_files_up(cloud, session, engines, container):
    headers = session[0] | {"X-CSRF-Token": session[1], "Content-Type": "application/octet-stream"}
    engines[0].files = {}

    def put(path, name, data):
        query = urlencode({"path": path, "name": name})
        return cloud.call("PUT", f"/web/containers/{container}/files?{query}", None, headers, data)

    large = os.urandom(6 * 2**20 + 1)
    for name, data in (("large", large), ("empty", b""), ("größe " + "x" * 200, b"1")):
        assert put("/srv", name, data).json == {"size": len(data)}
    assert engines[0].files == {"/srv/large": large, "/srv/empty": b"", "/srv/größe " + "x" * 200: b"1"}
    for name in ("..", "a/b", "a\0b", "ö" * 200):
        assert put("/srv", name, b"x").status == 400
    assert put("srv", "x", b"x").status == 400


def test_transfers_are_for_administrators(cloud, container):
    cloud.ship("POST", "/api/accounts", {"username": "cleo", "password": "one", "role": {"name": "user"}})
    answer = cloud.call("POST", "/web/login", {"username": "cleo", "password": "one"})
    headers = {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "X-CSRF-Token": answer.json["csrf"]}
    files = f"/web/containers/{container}/files?path=/etc/motd"
    assert cloud.call("GET", files, headers=headers).status == 403
    assert cloud.call("PUT", f"{files}&name=x", None, headers, b"x").status == 403
    assert cloud.call("POST", "/web/images/build?engine=local&tag=x", None, headers, b"x").status == 403
    own = [f"Cookie: {headers['Cookie']}", f"Origin: http://127.0.0.1:{cloud.port}"]
    socket = open_stream(cloud, f"/web/containers/{container}/readings", own)
    assert "administrators" in json.loads(socket.recv())["error"]
    socket.close()


def test_metrics(cloud):
    assert cloud.call("GET", "/metrics").status == 401
    text = cloud.call("GET", "/metrics", headers={"X-Service-Key": cloud.key()}).text
    assert 'hypercloud_engine_up{engine="local"} 1.0' in text
    assert "hypercloud_containers_running" in text
