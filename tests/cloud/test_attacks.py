"""Attacks: tokens, roles, other people's objects, addresses, guessing."""

from __future__ import annotations

import contextlib
import ssl
import subprocess
import urllib.error

import pytest

from tests.support.cloud import CloudProcess
from tests.support.docker_engine import FakeEngine, tls_context


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
