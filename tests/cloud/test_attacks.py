"""Attacks: tokens, roles, other people's objects, addresses, guessing."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.error

import pytest

from tests.support.cloud import CloudProcess
from tests.support.docker_engine import OUTPUT, FakeEngine, tls_context
from tests.support.web import web


@pytest.fixture(scope="module")
def eve(cloud):
    """A user, her Shipyard token and her Docker Cloud credentials."""
    cloud.ship("POST", "/api/accounts", {"username": "eve", "password": "eve-eve", "role": {"name": "user"}})
    token = cloud.call("POST", "/auth/login", {"username": "eve", "password": "eve-eve"}).json["auth_token"]
    return {"X-Access-Token": f"eve:{token}"}, cloud.basic("eve", "eve-eve")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Service-Key": ""},
        {"X-Service-Key": "' OR 1=1 --"},
        {"X-Access-Token": "admin"},
        {"X-Access-Token": "admin:"},
        {"X-Access-Token": ":x"},
        {"X-Access-Token": "admin:x:y"},
        {"Authorization": "Basic YWRtaW46YWRtaW4="},
    ],
)
def test_wrong_and_missing_tokens(cloud, headers):
    for path in ("/api/accounts", "/api/containers", "/api/servicekeys", "/api/events"):
        answer = cloud.call("GET", path, headers=headers)
        assert (answer.status, answer.text) == (401, "unauthorized\n")


@pytest.mark.parametrize(
    "value",
    ["", "Basic", "Basic !", "Basic YWRtaW4=", "Basic //79", "Bearer x", "ApiKey admin", "x" * 4096],
)
def test_wrong_and_missing_credentials_of_docker_cloud(cloud, value):
    """None of these is a guess of a password, which would have to wait after some."""
    headers = {"Accept": "application/json"} | ({"Authorization": value} if value else {})
    for path in ("/auth/", "/api/app/v1/service/", "/api/infra/v1/node/", "/api/audit/v1/action/"):
        answer = cloud.call("GET", path, headers=headers)
        assert (answer.status, set(answer.json)) == (401, {"error"}), path
    assert cloud.call("POST", "/api/app/v1/service/", {"image": "x"}, headers).status == 401


def test_a_wrong_key_is_not_rescued_by_a_good_token(cloud, eve):
    assert cloud.call("GET", "/api/containers", headers={**eve[0], "X-Service-Key": "wrong"}).status == 401


def test_a_token_is_good_for_its_own_name_only(cloud, eve):
    token = eve[0]["X-Access-Token"].partition(":")[2]
    assert cloud.call("GET", "/api/accounts", headers={"X-Access-Token": f"admin:{token}"}).status == 401


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/accounts"), ("POST", "/api/accounts"), ("DELETE", "/api/accounts"), ("GET", "/api/roles"),
        ("POST", "/api/roles"), ("GET", "/api/servicekeys"), ("POST", "/api/servicekeys"), ("GET", "/api/webhookkeys"),
        ("POST", "/api/webhookkeys"), ("POST", "/api/engines"), ("DELETE", "/api/engines/local"),
        ("GET", "/api/extensions"), ("POST", "/api/extensions"), ("GET", "/api/enginesx"),
    ],
)  # fmt: skip
def test_a_user_does_no_admins_work(cloud, eve, method, path):
    answer = cloud.call(method, path, {}, eve[0])
    if path == "/api/enginesx":  # begins like one that users may look at, and is none
        assert answer.status == 404
    else:
        assert (answer.status, answer.text) == (403, "access denied\n")
    assert cloud.call("GET", "/api/containers", headers=eve[0]).status == 200


def test_a_user_does_not_reach_into_the_host(cloud, eve):
    base = {"image": "tutum/hello-world"}
    for more in (
        {"privileged": True},
        {"bindings": [{"host_path": "/", "container_path": "/host"}]},
        {"volumes": ["/var/run/docker.sock:/d.sock"]},
        {"net": "host"},
        {"pid": "host"},
        {"cap_add": ["ALL"]},
        {"devices": ["/dev/sda"]},
        {"security_opt": ["seccomp=unconfined"]},
        {"cgroup_parent": "/"},
    ):
        answer = cloud.dc("POST", "/api/app/v1/service/", base | more, auth=eve[1])
        assert (answer.status, "only administrators" in answer.json["error"]) == (403, True), more
        stack = {"name": "s", "services": [base | more]}
        assert cloud.dc("POST", "/api/app/v1/stack/", stack, auth=eve[1]).status == 403
    made = cloud.dc("POST", "/api/app/v1/service/", base | {"name": "plain"}, auth=eve[1]).json
    assert cloud.dc("PATCH", made["resource_uri"], {"privileged": True}, auth=eve[1]).status == 403
    assert cloud.dc("GET", made["resource_uri"], auth=eve[1]).json["privileged"] is False
    for more in ({"volumes": ["/:/host"]}, {"network_mode": "host"}, {"network_mode": "container:x"}):
        answer = cloud.call("POST", "/api/containers", {"name": "busybox", **more}, eve[0])
        assert (answer.status, "only administrators" in answer.text) == (403, True), more


def test_other_peoples_objects(cloud, eve):
    mine = cloud.dc("POST", "/api/app/v1/service/", {"image": "secret", "name": "hidden"}).json
    trigger = cloud.dc("POST", mine["resource_uri"] + "trigger/", {}).json
    action = cloud.dc("GET", "/api/audit/v1/action/?object=" + mine["resource_uri"]).json["objects"][0]
    short = f"/api/app/v1/service/{mine['uuid']}/"
    for uri in (mine["resource_uri"], short, f"{short}trigger/", trigger["resource_uri"], action["resource_uri"]):
        assert cloud.dc("GET", uri, auth=eve[1]).status == 404
    for method, uri in (("DELETE", short), ("PATCH", short), ("POST", short + "start/"), ("POST", short + "trigger/")):
        assert cloud.dc(method, uri, {}, auth=eve[1]).status == 404
    assert "hidden" not in cloud.dc("GET", "/api/app/v1/service/", auth=eve[1]).text
    assert cloud.dc("GET", "/api/audit/v1/action/", auth=eve[1]).json["objects"] == [
        one for one in cloud.dc("GET", "/api/audit/v1/action/", auth=eve[1]).json["objects"] if one["user"] == "eve"
    ]
    link = {"image": "x", "linked_to_service": [{"to_service": short, "name": "a"}]}
    assert cloud.dc("POST", "/api/app/v1/service/", link, auth=eve[1]).status == 404
    node = cloud.dc("GET", "/api/infra/v1/node/", auth=eve[1]).json["objects"][0]["resource_uri"]
    assert cloud.dc("PATCH", node, {"tags": []}, auth=eve[1]).status == 403
    assert cloud.dc("DELETE", node, auth=eve[1]).status == 403
    # A trigger's address with another service's uuid is none.
    other = cloud.dc("POST", "/api/app/v1/service/", {"image": "x", "name": "other"}, auth=eve[1]).json
    wrong = trigger["url"].replace(mine["uuid"], other["uuid"])
    assert cloud.call("POST", wrong).status == 404


def test_other_peoples_stacks_containers_and_repositories(cloud, eve):
    made = cloud.dc("POST", "/api/app/v1/stack/", {"name": "mine", "services": [{"name": "a", "image": "x"}]})
    started = cloud.dc("POST", made.json["resource_uri"] + "start/")
    cloud.action(started)
    service = cloud.dc("GET", cloud.dc("GET", made.json["resource_uri"]).json["services"][0]).json
    container = cloud.dc("GET", service["containers"][0]).json
    action = started.headers["X-DockerCloud-Action-URI"]
    cloud.dc("POST", "/api/repo/v1/repository/", {"name": "r.example.com/a", "username": "u", "password": "p"})
    own = [
        f"/api/app/v1/{kind}/{one['uuid']}/"
        for kind, one in (("stack", made.json), ("service", service), ("container", container))
    ]
    tried = [(method, uri) for uri in own for method in ("GET", "DELETE")]
    tried += [("POST", f"{uri}{verb}/") for uri in own for verb in ("start", "stop", "redeploy")]
    tried += [("GET", f"{own[0]}export/"), ("PATCH", own[0]), ("PATCH", own[1]), ("POST", f"{own[1]}scale/")]
    tried += [("GET", action), ("POST", f"{action}cancel/"), ("POST", f"{action}retry/")]
    tried += [(method, "/api/repo/v1/repository/r.example.com/a/") for method in ("GET", "PATCH", "DELETE")]
    tried += [
        ("GET", f"/api/{path}/") for path in ("app/v1/admin/service", "repo/v1/admin/repository", "app/v1/nobody/stack")
    ]
    for method, uri in tried:
        answer = cloud.dc(method, uri, {} if method in {"POST", "PATCH"} else None, auth=eve[1])
        assert answer.status == 404, (method, uri, answer.text)
    for kind, one in (("stack", made.json), ("service", service), ("container", container)):
        for query in (f"uuid={one['uuid']}", f"uuid__startswith={one['uuid'][:8]}", f"name={one['name']}"):
            listed = cloud.dc("GET", f"/api/app/v1/{kind}/?{query}", auth=eve[1]).json
            assert (listed["meta"]["total_count"], listed["objects"]) == (0, []), query
    for query in (f"object={service['resource_uri']}", f"object={made.json['resource_uri']}&include_related=true"):
        seen = cloud.dc("GET", f"/api/audit/v1/action/?{query}", auth=eve[1]).json["objects"]
        assert {(one["user"], one["state"]) for one in seen} <= {("eve", "Failed")}  # what she tried here
    assert cloud.dc("GET", own[2]).json["state"] == "Running"
    cloud.action(cloud.dc("DELETE", own[0]))


@pytest.mark.parametrize(
    "address",
    [
        "http://169.254.169.254:80",
        "http://[::ffff:169.254.169.254]:80",
        "http://0.0.0.0:2375",
        "http://224.0.0.1:2375",
        "unix:///etc/passwd",
        "unix:///run/other.sock",
        "file:///etc/passwd",
        "ftp://127.0.0.1:21",
        "http://user:pass@127.0.0.1:2375",
        "http://127.0.0.1:2375/path",
        "http://127.0.0.1:99999",
        "javascript:alert(1)",
        "",
    ],
)
def test_addresses_that_engines_may_not_have(cloud, address):
    answer = cloud.add_engine("bad", address)
    assert answer.status in {400, 403}, answer.text
    assert cloud.ship("GET", "/api/engines/bad").status == 404


def test_an_engine_cannot_send_us_elsewhere(cloud):
    """A redirect is not followed; an answer that is none is an error with a reason."""
    target, bad = FakeEngine(), FakeEngine()
    try:
        bad.redirect = target.url
        answer = cloud.add_engine("redirecting", bad.url)
        assert answer.status == 500, answer.text
        assert not target.requests
    finally:
        target.close()
        bad.close()


def test_a_webhook_sends_us_nowhere(cloud, engines):
    """What somebody says was pushed names containers that run; it is no address, and nor is what is beside it."""
    cloud.ship("POST", "/api/containers", {"name": "me/app", "cpus": 0.1, "memory": 16, "labels": ["local"]})
    key = cloud.ship("POST", "/api/webhookkeys", {"image": "me/app"}).json["key"]
    asked: list[str] = []
    with web({}, asked=asked) as url:
        before = [len(engine.pulls) for engine in engines]
        for name in (f"{url}/me/app", "evil.example/me/app", "me/app/../../secret", "x" * 400 + "me/app"):
            body = {
                "repository": {"repo_name": name, "repo_url": url},
                "callback_url": url,
                "push_data": {"images": [url]},
            }
            assert cloud.call("POST", f"/hub/webhook/{key}", body).status == 200, name
        assert [len(engine.pulls) for engine in engines] == before
        assert asked == []
        assert cloud.call("POST", f"/hub/webhook/{key}", {"repository": {"repo_name": "other/app"}}).status == 404


def test_what_others_wrote_is_no_page(cloud, engines):
    """Whatever a container says or is called, a browser that asks for it gets text or JSON, and takes it so."""
    engines[0].output = "<script>alert(1)</script>\n"
    try:
        made = cloud.ship(
            "POST", "/api/containers", {"name": "x", "cpus": 0.1, "memory": 16, "labels": ["local"]}
        ).json[0]
        for path, kind in (
            (f"/api/containers/{made['id']}/logs", "text/plain"),
            (f"/api/containers/{made['id']}", "application/json"),
            ("/api/containers/<script>", "text/plain"),
            ("/api/app/v1/service/<script>/", "application/json"),
            ("/<script>", "text/plain"),
        ):
            answer = cloud.ship("GET", path, Authorization=cloud.basic())
            assert answer.headers["Content-Type"].partition(";")[0] == kind, path
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
    finally:
        engines[0].output = OUTPUT


def test_other_sites_do_nothing_with_a_session(cloud):
    """A form or a script of another site has the cookie at best, never the page's token."""
    signed_in = cloud.call("POST", "/web/login", {"username": "admin", "password": cloud.password})
    cookie = {"Cookie": signed_in.headers["Set-Cookie"].partition(";")[0], "Origin": "http://evil.example"}
    count = len(cloud.ship("GET", "/api/accounts").json)
    body = b'{"username": "mallory", "password": "m", "role": {"name": "admin"}}'
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json"):
        headers = cookie | {"Content-Type": kind}
        for method, path in (
            ("POST", "/api/accounts"), ("POST", "/account/changepassword"), ("POST", "/api/servicekeys"),
            ("GET", "/api/containers/0/stop"), ("POST", "/web/apikeys"), ("POST", "/web/logout"),
            ("POST", "/api/app/v1/service/"), ("DELETE", "/api/engines/local"),
        ):  # fmt: skip
            answer = cloud.call(method, path, headers=headers, raw=body if method == "POST" else None)
            assert answer.status == 403, (method, path, kind, answer.text)
            assert "Access-Control-Allow-Origin" not in answer.headers
    assert len(cloud.ship("GET", "/api/accounts").json) == count


def test_networks_of_the_configuration(tmp_path):
    engine = FakeEngine()
    server = CloudProcess(tmp_path / "cloud", tables="")
    text = server.config.read_text(encoding="utf-8").replace("stop_timeout", 'networks = ["10.0.0.0/8"]\nstop_timeout')
    server.config.write_text(text, encoding="utf-8")
    server.start()
    try:
        answer = server.add_engine("far", engine.url)
        assert (answer.status, "may not have this address" in answer.text) == (403, True)
        answer = server.add_engine("named", f"http://localhost:{engine.port}")  # where a name leads is looked at, too
        assert (answer.status, "may not have this address" in answer.text) == (403, True)
        assert not engine.requests
    finally:
        server.stop()
        engine.close()


def test_tls_of_an_engine_is_checked(cloud, tmp_path):
    def certificate(name):
        cert, key = tmp_path / f"{name}.pem", tmp_path / f"{name}.key"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
             "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-keyout", str(key), "-out", str(cert)],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        return cert, key

    (cert, key), (other, _), (client, client_key) = certificate("engine"), certificate("other"), certificate("client")
    context = tls_context(cert, key)
    context.load_verify_locations(client)
    context.verify_mode = ssl.CERT_REQUIRED
    engine = FakeEngine(tls=context)
    body = {
        "ssl_cert": client.read_text(),
        "ssl_key": client_key.read_text(),
        "ca_cert": cert.read_text(),
        "engine": {"id": "secure", "addr": engine.url, "cpus": 1, "memory": 100, "labels": []},
    }
    try:
        wrong = cloud.ship("POST", "/api/engines", body | {"ca_cert": other.read_text()})
        assert (wrong.status, "certificate" in wrong.text.lower()) == (500, True)
        assert cloud.ship("POST", "/api/engines", body | {"ssl_key": "x", "ssl_cert": "x"}).status == 500
        made = cloud.ship("POST", "/api/engines", body)
        assert made.status == 201, made.text
        shown = cloud.ship("GET", "/api/engines/secure")
        assert shown.json["health"]["status"] == "up"
        assert "PRIVATE KEY" not in shown.text
        assert cloud.ship("DELETE", "/api/engines/secure").status == 204
    finally:
        engine.close()


def test_guessing_is_slowed_down(cloud):
    cloud.ship("POST", "/api/accounts", {"username": "victim", "password": "right", "role": {"name": "user"}})
    answers = [cloud.call("POST", "/auth/login", {"username": "victim", "password": str(i)}) for i in range(8)]
    assert [one.status for one in answers][:5] == [403] * 5
    assert answers[-1].status == 429
    assert int(answers[-1].headers["Retry-After"]) >= 1
    # The right password has to wait as well, in both dialects; somebody else need not.
    assert cloud.call("POST", "/auth/login", {"username": "victim", "password": "right"}).status == 429
    assert cloud.dc("GET", "/auth/", auth=cloud.basic("victim", "right")).status == 429
    assert cloud.dc("GET", "/auth/").status == 200


def test_guessing_locks_no_key_out(cloud):
    cloud.ship("POST", "/api/accounts", {"username": "holder", "password": "right", "role": {"name": "user"}})
    signed_in = cloud.call("POST", "/web/login", {"username": "holder", "password": "right"})
    headers = {"Cookie": signed_in.headers["Set-Cookie"], "X-CSRF-Token": signed_in.json["csrf"]}
    key = cloud.call("POST", "/web/apikeys", {"description": "robot"}, headers).json["key"]
    answers = [cloud.dc("GET", "/auth/", auth=cloud.basic("holder", str(i))).status for i in range(8)]
    assert answers[-1] == 429
    assert cloud.dc("GET", "/auth/", auth=cloud.basic("holder", key)).status == 200


def test_a_role_without_rights(cloud):
    cloud.ship("POST", "/api/roles", {"name": "guest"})
    cloud.ship("POST", "/api/accounts", {"username": "gus", "password": "gus-gus", "role": {"name": "guest"}})
    auth = cloud.basic("gus", "gus-gus")
    for method, path in (
        ("GET", "/api/app/v1/service/"), ("POST", "/api/app/v1/service/"), ("POST", "/api/app/v1/stack/"),
        ("GET", "/api/infra/v1/node/"), ("GET", "/api/audit/v1/action/"), ("POST", "/api/repo/v1/repository/"),
    ):  # fmt: skip
        answer = cloud.dc(method, path, {"image": "x"} if method == "POST" else None, auth=auth)
        assert (answer.status, "no rights" in answer.text) == (403, True), path
    signed_in = cloud.call("POST", "/web/login", {"username": "gus", "password": "gus-gus"})
    headers = {"Cookie": signed_in.headers["Set-Cookie"], "X-CSRF-Token": signed_in.json["csrf"]}
    assert cloud.call("GET", "/web/me", headers=headers).json["role"] == "guest"
    assert cloud.call("GET", "/web/images", headers=headers).status == 403
    for role in ("admin", "user"):
        answer = cloud.ship("DELETE", "/api/roles", {"name": role})
        assert (answer.status, "cannot be removed" in answer.text) == (409, True)


def test_nonsense(cloud):
    deep = b"[" * 100_000
    assert cloud.call("POST", "/auth/login", raw=deep).status == 400
    assert cloud.call("POST", "/auth/login", raw=b"\xff\xfe").status == 400
    with contextlib.suppress(urllib.error.URLError):  # the server may hang up before all of it is sent
        assert cloud.call("POST", "/auth/login", raw=b"x" * 5_000_000).status == 413
    nested = {"name": "x", "user_data": {}}
    inner = nested["user_data"]
    for _ in range(60):
        inner["a"] = {}
        inner = inner["a"]
    assert cloud.ship("POST", "/api/containers", nested).status == 400
    assert cloud.ship("POST", "/api/containers", {"name": "x", "cpus": float("1e400")}).status == 400
    for number in (b"NaN", b"1e400"):
        raw = b'{"name": "x", "user_data": {"a": ' + number + b"}}"
        assert cloud.call("POST", "/api/containers", headers={"X-Service-Key": cloud.key()}, raw=raw).status == 400
    assert cloud.dc("GET", "/api/app/v1/service/?limit=-1").status == 400
    assert (
        cloud.dc("POST", "/api/app/v1/service/", {"image": "x", "labels": {"io.hypercloud.container": "y"}}).status
        == 400
    )
    for name in ("../x", "a b", "<script>", "x" * 100, "-x"):
        assert cloud.dc("POST", "/api/app/v1/service/", {"image": "x", "name": name}).status == 400
