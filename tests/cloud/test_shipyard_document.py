"""Every request of Shipyard's document, typed as there, answers with the status and shape of the document."""

from __future__ import annotations

import json
import re

import pytest

from tests.support.cloud import CloudProcess
from tests.support.docker_engine import FakeEngine

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

DEPLOY = """{
  "name": "ehazlett/go-demo",
  "cpus": 0.1,
  "memory": 32,
  "type": "service",
  "hostname": "",
  "domain": "",
  "labels": ["local"],
  "args": [],
  "environment": {
    "FOO": "bar"
  },
  "restart_policy": {
    "name": "always"
  },
  "bind_ports": [
    {
      "host_ip": "10.1.2.3",
      "proto": "tcp",
      "container_port": 8080
    },
    {
      "proto": "tcp",
      "port": 80,
      "container_port": 8080
    }
  ],
  "links": {
    "redis": "db"
  }
}"""

WEBHOOK = """{
   "push_data":{
      "pushed_at":1385141110,
      "images":[
         "imagehash1",
         "imagehash2",
         "imagehash3"
      ],
      "pusher":"username"
   },
   "repository":{
      "status":"Active",
      "description":"my docker repo that does cool things",
      "is_trusted":false,
      "full_description":"This is my full description",
      "repo_url":"https://registry.hub.docker.com/u/username/reponame/",
      "owner":"username",
      "is_official":false,
      "is_private":false,
      "name":"reponame",
      "namespace":"username",
      "star_count":1,
      "comment_count":1,
      "date_created":1370174400,
      "dockerfile":"my full dockerfile is listed here",
      "repo_name":"username/reponame"
   }
}"""


@pytest.fixture(scope="module")
def redis(cloud: CloudProcess, engines: tuple[FakeEngine, FakeEngine]) -> str:
    """The container that the document's deployment is linked to."""
    answer = cloud.ship(
        "POST",
        "/api/containers",
        {
            "name": "redis",
            "container_name": "redis",
            "cpus": 0.08,
            "memory": 256,
            "type": "service",
            "labels": ["local"],
        },
    )
    assert answer.status == 201, answer.text
    return str(answer.json[0]["id"])


@pytest.fixture(scope="module")
def deployed(cloud: CloudProcess, redis: str) -> dict:
    headers = {"X-Service-Key": cloud.key(), "Content-Type": "application/json"}
    answer = cloud.call("POST", "/api/containers", raw=DEPLOY.encode(), headers=headers)
    assert answer.status == 201, answer.text
    return answer.json[0]


def test_the_first_example_needs_a_service_key(cloud):
    assert cloud.call("GET", "/api/cluster/info").status == 401
    assert cloud.call("GET", "/api/cluster/info").text == "unauthorized\n"
    answer = cloud.ship("GET", "/api/cluster/info")
    assert answer.status == 200
    assert set(answer.json) >= {
        "reserved_memory", "reserved_cpus", "image_count", "engine_count", "container_count", "memory", "cpus",
    }  # fmt: skip
    assert (answer.json["engine_count"], answer.json["cpus"], answer.json["memory"]) == (2, 8, 8192)


def test_accounts(cloud):
    body = {"username": "foo", "password": "bar", "role": {"name": "user"}}
    assert (cloud.ship("POST", "/api/accounts", body).status, cloud.ship("POST", "/api/accounts", body).text) == (
        204,
        "",
    )
    found = cloud.ship("GET", "/api/accounts").json
    assert [one["username"] for one in found] == ["admin", "foo"]
    assert set(found[0]) == {"role", "password", "username", "id"}
    assert all(
        one["password"] == "" and UUID.fullmatch(one["id"]) and UUID.fullmatch(one["role"]["id"]) for one in found
    )
    assert cloud.ship("DELETE", "/api/accounts", {"username": "foo"}).status == 204
    again = cloud.ship("DELETE", "/api/accounts", {"username": "foo"})
    assert (again.status, "account does not exist" in again.text) == (500, True)


def test_roles(cloud):
    found = cloud.ship("GET", "/api/roles").json
    assert [one["name"] for one in found] == ["admin", "user"]
    assert cloud.ship("GET", "/api/roles/admin").json == found[0]
    unknown = cloud.ship("GET", "/api/roles/nobody")
    assert (unknown.status, unknown.text.startswith("role does not exist")) == (500, True)
    assert cloud.ship("POST", "/api/roles", {"name": "test"}).status == 204
    assert "test" in [one["name"] for one in cloud.ship("GET", "/api/roles").json]
    assert cloud.ship("DELETE", "/api/roles", {"name": "test"}).status == 204
    assert cloud.ship("DELETE", "/api/roles", {"name": "test"}).status == 204


def test_deploy(deployed):
    assert set(deployed) >= {"state", "ports", "engine", "image", "id"}
    assert deployed["state"]["running"] is True
    assert set(deployed["state"]) == {"started_at", "pid", "running"}
    assert deployed["engine"]["id"] == "local"
    assert deployed["engine"]["labels"] == ["local", "dev"]
    image = deployed["image"]
    assert image["restart_policy"] == {"name": "always"}
    assert (image["type"], image["memory"], image["cpus"], image["labels"]) == ("service", 32, 0.1, ["local"])
    assert image["links"] == {"redis": "db"}
    assert image["environment"]["FOO"] == "bar"
    chosen = image["bind_ports"][0]
    assert chosen["port"] > 1024
    assert chosen["host_ip"] == "10.1.2.3"
    assert image["bind_ports"][1] == {"proto": "tcp", "port": 80, "container_port": 8080}
    assert {"container_port": 8080, "host_ip": "10.1.2.3", "port": chosen["port"], "proto": "tcp"} in deployed["ports"]


def test_the_engine_got_what_was_asked(deployed, engines):
    one = engines[0].containers[deployed["id"]]
    assert one["HostConfig"]["Memory"] == 32 * 2**20
    assert one["HostConfig"]["CpuShares"] == 2  # 0.1 of 4 CPUs, of 100
    assert one["HostConfig"]["Links"] == ["redis:db"]
    assert one["HostConfig"]["RestartPolicy"] == {"Name": "always", "MaximumRetryCount": 0}
    assert one["HostConfig"]["PortBindings"]["8080/tcp"] == [
        {"HostIp": "10.1.2.3", "HostPort": ""},
        {"HostIp": "", "HostPort": "80"},
    ]


def test_containers(cloud, deployed, redis):
    found = {one["id"]: one for one in cloud.ship("GET", "/api/containers").json}
    assert {deployed["id"], redis} <= set(found)
    assert found[redis]["image"]["name"] == "redis:latest"
    assert found[redis]["image"]["environment"] == {"GOPATH": "/gopath"}  # PATH and HOME are dropped
    assert found[redis]["image"]["hostname"] == redis[:12]
    assert cloud.ship("GET", f"/api/containers/{redis[:6]}").json == found[redis]
    assert cloud.ship("GET", "/api/containers/3e532b").status == 404


def test_states_are_strings_for_the_released_clients(cloud, redis):
    answer = cloud.ship("GET", f"/api/containers/{redis}", User_Agent="shipyard-cli")
    assert answer.json["state"] == "running"


def test_logs(cloud, redis):
    answer = cloud.ship("GET", f"/api/containers/{redis[:6]}/logs?stdout=1&stderr=1")
    assert (answer.status, answer.text) == (200, "listening on :8080\n")
    assert answer.headers["Content-Type"].startswith("text/plain")


def test_restart_stop(cloud, redis, engines):
    assert cloud.ship("GET", f"/api/containers/{redis[:5]}/restart", {}).status == 204
    assert engines[0].containers[redis]["State"]["Running"]
    assert cloud.ship("GET", f"/api/containers/{redis[:5]}/stop", {}).status == 204
    assert cloud.ship("GET", f"/api/containers/{redis[:5]}").json["state"]["running"] is False
    assert cloud.ship("GET", f"/api/containers/{redis[:5]}/restart").status == 204


def test_scale_and_remove(cloud, engines):
    made = cloud.ship(
        "POST", "/api/containers", {"name": "scaled", "cpus": 0.1, "memory": 16, "type": "service", "labels": ["prod"]}
    )
    first = made.json[0]["id"]
    assert cloud.ship("GET", f"/api/containers/{first[:6]}/scale").text == "you must specify a count\n"
    assert cloud.ship("GET", f"/api/containers/{first[:6]}/scale?count=x").status == 400
    assert cloud.ship("GET", f"/api/containers/{first[:6]}/scale?count=4", {}).status == 204
    mine = [one for one in engines[1].containers.values() if one["Config"]["Image"] == "scaled:latest"]
    assert len(mine) == 4
    assert cloud.ship("GET", f"/api/containers/{mine[-1]['Id']}/scale?count=1").status == 204
    left = [one for one in cloud.ship("GET", "/api/containers").json if one["image"]["name"] == "scaled:latest"]
    assert len(left) == 1
    assert cloud.ship("DELETE", f"/api/containers/{left[0]['id'][:5]}").status == 204
    assert cloud.ship("DELETE", f"/api/containers/{left[0]['id'][:5]}").status == 404


def test_engines(cloud, engines):
    found = cloud.ship("GET", "/api/engines").json
    local = next(one for one in found if one["engine"]["id"] == "local")
    assert local["engine"] == {
        "labels": ["local", "dev"],
        "memory": 4096,
        "cpus": 4,
        "addr": engines[0].url,
        "id": "local",
    }
    assert UUID.fullmatch(local["id"])
    assert local["health"]["status"] == "up"
    assert cloud.ship("GET", "/api/engines/local").json["id"] == local["id"]
    third = FakeEngine()
    try:
        assert cloud.add_engine("third", third.url).status == 201
        made = cloud.ship("GET", "/api/engines/third").json["id"]
        assert cloud.add_engine("third", third.url).status == 409
        assert cloud.ship("DELETE", f"/api/engines/{made}").status == 204
        assert cloud.ship("DELETE", f"/api/engines/{made}").status == 404
    finally:
        third.close()
    gone = cloud.add_engine("third", third.url)
    assert (gone.status, "does not answer" in gone.text) == (500, True)


def test_service_keys(cloud):
    made = cloud.ship("POST", "/api/servicekeys", {"description": "test key"})
    assert made.status == 200
    assert set(made.json) == {"description", "key"}
    assert len(made.json["key"]) == 36
    assert made.json in cloud.ship("GET", "/api/servicekeys").json
    assert cloud.call("GET", "/api/roles", headers={"X-Service-Key": made.json["key"]}).status == 200
    assert cloud.ship("DELETE", "/api/servicekeys", {"key": made.json["key"]}).status == 204
    again = cloud.ship("DELETE", "/api/servicekeys", {"key": made.json["key"]})
    assert (again.status, again.text.startswith("service key does not exist")) == (500, True)
    assert cloud.call("GET", "/api/roles", headers={"X-Service-Key": made.json["key"]}).status == 401


def test_webhook_keys(cloud):
    made = cloud.ship("POST", "/api/webhookkeys", {"image": "ehazlett/redis"}).json
    assert re.fullmatch("[0-9a-f]{16}", made["key"])
    assert made["image"] == "ehazlett/redis"
    assert cloud.ship("GET", "/api/webhookkeys").json[0] | made == cloud.ship("GET", "/api/webhookkeys").json[0]
    assert set(cloud.ship("GET", "/api/webhookkeys").json[0]) == {"key", "image", "id"}
    assert cloud.ship("GET", f"/api/webhookkeys/{made['key']}").json["image"] == "ehazlett/redis"
    assert cloud.ship("DELETE", f"/api/webhooks/{made['key']}").status == 204  # the document's path
    assert cloud.ship("DELETE", f"/api/webhookkeys/{made['key']}").status == 404  # the clients' path


def test_webhook_redeploys(cloud, engines):
    made = cloud.ship(
        "POST", "/api/containers", {"name": "username/reponame", "container_name": "hooked", "cpus": 0.1, "memory": 16}
    )
    old = made.json[0]["id"]
    key = cloud.ship("POST", "/api/webhookkeys", {"image": "username/reponame"}).json["key"]
    assert cloud.call("POST", "/hub/webhook/0123456789abcdef", raw=WEBHOOK.encode()).status == 404
    other = json.loads(WEBHOOK)
    other["repository"]["repo_name"] = "some/thing"
    assert cloud.call("POST", f"/hub/webhook/{key}", other).status == 404
    answer = cloud.call("POST", f"/hub/webhook/{key}", raw=WEBHOOK.encode())
    assert (answer.status, answer.text) == (200, "")
    found = [one for one in cloud.ship("GET", "/api/containers").json if one["name"] == "/hooked"]
    assert len(found) == 1
    assert found[0]["id"] != old
    assert found[0]["state"]["running"]
    assert cloud.ship("GET", "/api/events?limit=5").json[0]["type"] in {
        "deploy",
        "start",
        "rename",
        "destroy",
        "die",
        "create",
    }
    assert any(one["type"] == "deploy" for one in cloud.ship("GET", "/api/events").json)


def test_cluster_info_adds_up(cloud):
    info = cloud.ship("GET", "/api/cluster/info").json
    running = [one for one in cloud.ship("GET", "/api/containers").json if one["state"]["running"]]
    assert info["container_count"] == len(running)
    assert info["reserved_memory"] == sum(one["image"].get("memory", 0) for one in running)
    assert info["reserved_cpus"] == pytest.approx(sum(one["image"].get("cpus", 0) for one in running))


def test_login_and_password(cloud):
    assert (
        cloud.ship("POST", "/api/accounts", {"username": "ann", "password": "first", "role": {"name": "user"}}).status
        == 204
    )
    wrong = cloud.call("POST", "/auth/login", {"username": "ann", "password": "no"})
    assert (wrong.status, wrong.text) == (403, "invalid username/password\n")
    made = cloud.call("POST", "/auth/login", {"username": "ann", "password": "first"}, {"User-Agent": "test"})
    assert made.json["user_agent"] == "test"
    token = {"X-Access-Token": f"ann:{made.json['auth_token']}"}
    assert cloud.call("GET", "/api/containers", headers=token).status == 200
    assert cloud.call("POST", "/account/changepassword", {"password": "second"}, token).status == 200
    assert cloud.call("GET", "/api/containers", headers=token).status == 401  # tokens end with the password
    assert cloud.call("POST", "/auth/login", {"username": "ann", "password": "second"}).status == 200


def test_extensions(cloud, engines):
    body = {"name": "agent", "image": "ext/agent", "config": {"deploy_per_engine": True, "environment": {"A": "b"}}}
    assert cloud.ship("POST", "/api/extensions", body).status == 204
    made = cloud.ship("GET", "/api/extensions").json[0]
    running = [one for engine in engines for one in engine.running() if one["Config"]["Image"] == "ext/agent:latest"]
    assert len(running) == 2
    assert f"_SHIPYARD_EXTENSION={made['id']}" in running[0]["Config"]["Env"]
    assert running[0]["HostConfig"]["RestartPolicy"] == {"Name": "on-failure", "MaximumRetryCount": 10}
    assert cloud.ship("DELETE", f"/api/extensions/{made['id']}").status == 204
    assert not [one for engine in engines for one in engine.running() if one["Config"]["Image"] == "ext/agent:latest"]


def test_purging_events(cloud):
    assert cloud.ship("GET", "/api/events").json
    assert cloud.ship("DELETE", "/api/events").status == 204
    assert not [one for one in cloud.ship("GET", "/api/events").json if one["type"] == "add-engine"]
