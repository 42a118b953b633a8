"""Every request of Docker Cloud's document, typed as there, answers with the documented status and shape.

Only what cannot be known beforehand differs from the document: uuids, and the credentials.
"""

from __future__ import annotations

import json
import re

import pytest

from tests.support.cloud import CloudProcess
from tests.support.until import until

UUID4 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
NOBODY = "7eaf7fff-882c-4f3d-9a8f-a22317ac00ce"
DATE = re.compile(r"(Mon|Tue|Wed|Thu|Fri|Sat|Sun), \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000")

STACK = """{
"name": "my-new-stack",
"services": [
{
"name": "hello-word",
"image": "tutum/hello-world",
"target_num_containers": 2,
"linked_to_service": [
{
"to_service": "database",
"name": "DB"
}
]
},
{
"name": "database",
"image": "tutum/mysql"
}
]
}"""
UPDATE = """{"autorestart": "ON_FAILURE", "autodestroy": "OFF", "container_envvars": [{"key": "DB_PASSWORD", "value": "mypass"}],
"container_ports": [{"protocol": "tcp", "inner_port": 80, "outer_port": 80}], "cpu_shares": 512,
"entrypoint": "/usr/sbin/sshd", "image": "tutum/hello-world",
"linked_to_service": [{"to_service": "/api/app/v1/service/%s/", "name": "db"}],
"memory": 2048, "privileged": True, "roles": ["global"], "run_command": "/run.sh", "sequential_deployment": False,
"tags": [{"name": "tag-1"}], "target_num_containers": 3, "autoredeploy": False}"""  # noqa: E501  # as in the document

ACTION = {
    "action", "end_date", "ip", "is_user_action", "can_be_canceled", "location", "method", "object", "path",
    "resource_uri", "start_date", "state", "user", "user_agent", "uuid", "can_be_retried",
}  # fmt: skip
SERVICE = {
    "autodestroy", "autoredeploy", "autorestart", "bindings", "cap_add", "cap_drop", "container_envvars",
    "container_ports", "containers", "cpu_shares", "cpuset", "cgroup_parent", "current_num_containers",
    "deployed_datetime", "deployment_strategy", "destroyed_datetime", "devices", "dns", "dns_search",
    "domainname", "entrypoint", "extra_hosts", "hostname", "image_name", "nickname", "labels", "link_variables",
    "linked_from_service", "linked_to_service", "mac_address", "memory", "memory_swap", "name", "net",
    "privileged", "public_dns", "read_only", "resource_uri", "roles", "run_command", "running_num_containers",
    "security_opt", "sequential_deployment", "started_datetime", "state", "stack", "stdin_open",
    "stopped_datetime", "stopped_num_containers", "synchronized", "tags", "target_num_containers", "tty",
    "user", "uuid", "working_dir", "pid",
}  # fmt: skip
CONTAINER = {
    "autodestroy", "autorestart", "bindings", "cap_add", "cap_drop", "container_envvars", "container_ports",
    "cpu_shares", "cpuset", "cgroup_parent", "deployed_datetime", "destroyed_datetime", "devices", "dns",
    "dns_search", "domainname", "entrypoint", "exit_code", "exit_code_msg", "extra_hosts", "hostname",
    "image_name", "labels", "linked_to_container", "link_variables", "mac_address", "memory", "memory_swap",
    "name", "net", "node", "pid", "private_ip", "privileged", "public_dns", "read_only", "resource_uri",
    "roles", "run_command", "security_opt", "service", "started_datetime", "state", "stdin_open",
    "stopped_datetime", "synchronized", "tty", "user", "uuid", "working_dir",
}  # fmt: skip
NODE = {
    "availability_zone", "cpu", "current_num_containers", "deployed_datetime", "destroyed_datetime", "disk",
    "docker_execdriver", "docker_graphdriver", "docker_version", "external_fqdn", "last_seen", "memory",
    "nickname", "node_cluster", "node_type", "public_ip", "region", "resource_uri", "state", "tags", "tunnel",
    "uuid",
}  # fmt: skip


def listed(answer) -> list:
    assert answer.status == 200, answer.text
    body = answer.json
    assert set(body) == {"meta", "objects"}
    assert set(body["meta"]) == {"limit", "next", "offset", "previous", "total_count"}
    assert body["meta"]["limit"] == 25
    return body["objects"]


@pytest.fixture(scope="module")
def stack(cloud: CloudProcess) -> dict:
    """The document's stack, running."""
    made = cloud.call(
        "POST",
        "/api/app/v1/stack/",
        raw=STACK.encode(),
        headers={"Authorization": cloud.basic(), "Accept": "application/json", "Content-Type": "application/json"},
    )
    assert made.status == 201, made.text
    assert made.headers["X-DockerCloud-Action-URI"].startswith("/api/audit/v1/action/")
    assert made.json["state"] == "Not Running"
    cloud.action(cloud.dc("POST", f"/api/app/v1/stack/{made.json['uuid']}/start/"))
    return cloud.dc("GET", made.json["resource_uri"]).json


@pytest.fixture(scope="module")
def hello(cloud: CloudProcess, stack: dict) -> dict:
    return listed(cloud.dc("GET", "/api/app/v1/service/?name=hello-word"))[0]


@pytest.fixture(scope="module")
def database(cloud: CloudProcess, stack: dict) -> dict:
    return listed(cloud.dc("GET", "/api/app/v1/service/?name=database"))[0]


# -- authentication, errors, namespaces ------------------------------------------------------------------------------


def test_the_header_of_the_document_is_needed(cloud):
    assert cloud.call("GET", "/api/app/v1/service/", headers={"Accept": "application/json"}).status == 401
    wrong = cloud.dc("GET", "/api/app/v1/service/", auth="Basic dXNlcm5hbWU6YXBpa2V5")
    assert (wrong.status, set(wrong.json)) == (401, {"error"})
    assert cloud.dc("GET", "/api/app/v1/service/").status == 200
    assert cloud.dc("GET", "/auth/").status == 200


def test_errors(cloud):
    assert cloud.dc("GET", "/api/app/v1/service/", Accept="text/html").status == 415
    assert cloud.call("GET", "/api/app/v1/service/", headers={"Authorization": cloud.basic()}).status == 200
    assert cloud.dc("GET", f"/api/app/v1/service/{NOBODY}/").status == 404
    assert cloud.dc("PUT", "/api/app/v1/service/").status == 405
    assert cloud.dc("POST", "/api/app/v1/service/", {"name": "x"}).status == 400
    bad = cloud.call("POST", "/api/app/v1/service/", raw=b"{", headers={"Authorization": cloud.basic()})
    assert (bad.status, set(bad.json)) == (415, {"error"})
    assert cloud.dc("GET", "/api/app/v1/nothing/").status == 404


def test_namespaces(cloud, hello):
    assert listed(cloud.dc("GET", "/api/app/v1/admin/service/?name=hello-word"))[0]["uuid"] == hello["uuid"]
    assert cloud.dc("GET", "/api/infra/v1/exampleorg/nodecluster/").status == 200
    assert cloud.dc("GET", "/api/infra/v1/nobodys/nodecluster/").status == 404
    assert cloud.dc("GET", f"/api/app/v1/exampleorg/service/{hello['uuid']}/").status == 404


# -- actions ---------------------------------------------------------------------------------------------------------


def test_actions(cloud, hello, stack):
    found = listed(cloud.dc("GET", "/api/audit/v1/action/?object=" + stack["resource_uri"]))
    assert [one["action"] for one in found] == ["Stack Create", "Stack Start"]
    one = found[1]
    assert set(one) >= ACTION
    assert (one["state"], one["method"], one["user"], one["is_user_action"]) == ("Success", "POST", "admin", True)
    assert one["object"] == stack["resource_uri"]
    assert DATE.fullmatch(one["start_date"])
    assert DATE.fullmatch(one["end_date"])
    assert UUID4.fullmatch(one["uuid"])
    assert cloud.dc("GET", f"/api/audit/v1/action/{one['uuid']}/").json == one
    part = stack["services"][0]
    cloud.dc("PATCH", part, {"nickname": cloud.dc("GET", part).json["nickname"]})
    related = listed(cloud.dc("GET", f"/api/audit/v1/action/?object={stack['resource_uri']}&include_related=true"))
    assert {one["uuid"] for one in found} < {one["uuid"] for one in related}
    assert ("Service Update", part) in [(one["action"], one["object"]) for one in related]
    assert cloud.dc("GET", f"/api/audit/v1/action/?object={stack['resource_uri']}&state=Success").status == 400
    assert cloud.dc("GET", "/api/audit/v1/action/?start_date__gte=2014-01-01&state=Success").status == 200
    assert cloud.dc("POST", f"/api/audit/v1/action/{one['uuid']}/cancel/").status == 409  # it is over
    assert cloud.dc("POST", f"/api/audit/v1/action/{found[0]['uuid']}/retry/").status == 409  # nothing to repeat
    again = cloud.dc("POST", f"/api/audit/v1/action/{one['uuid']}/retry/")
    assert again.status == 409  # a running stack cannot be started


# -- infrastructure --------------------------------------------------------------------------------------------------


def test_providers_regions_zones_types(cloud):
    (provider,) = listed(cloud.dc("GET", "/api/infra/v1/provider/"))
    assert set(provider) == {"available", "label", "name", "regions", "resource_uri"}
    assert cloud.dc("GET", provider["resource_uri"]).json == provider
    assert cloud.dc("GET", "/api/infra/v1/provider/digitalocean/").status == 404
    (region,) = listed(cloud.dc("GET", "/api/infra/v1/region/?provider=" + provider["resource_uri"]))
    assert set(region) == {
        "availability_zones", "available", "label", "name", "node_types", "provider", "resource_uri",
    }  # fmt: skip
    assert cloud.dc("GET", region["resource_uri"]).json == region
    assert cloud.dc("GET", "/api/infra/v1/region/digitalocean/lon1/").status == 404
    assert listed(cloud.dc("GET", "/api/infra/v1/az/")) == []
    assert cloud.dc("GET", "/api/infra/v1/az/aws/sa-east-1/sa-east-1a/").status == 404
    (kind,) = listed(cloud.dc("GET", "/api/infra/v1/nodetype/?regions=" + region["resource_uri"]))
    assert set(kind) == {
        "availability_zones", "available", "label", "name", "provider", "regions", "resource_uri",
    }  # fmt: skip
    assert cloud.dc("GET", kind["resource_uri"]).json == kind
    assert cloud.dc("GET", "/api/infra/v1/nodetype/digitalocean/1gb/").status == 404


def test_node_clusters_say_that_they_cannot_be_had(cloud):
    assert listed(cloud.dc("GET", "/api/infra/v1/nodecluster/")) == []
    body = {
        "name": "my_cluster",
        "region": "/api/infra/v1/region/digitalocean/lon1/",
        "node_type": "/api/infra/v1/nodetype/digitalocean/1gb/",
        "disk": 60,
    }
    answer = cloud.dc("POST", "/api/infra/v1/nodecluster/", body)
    assert (answer.status, "region does not exist" in answer.json["error"]) == (400, True)
    body |= {"region": "/api/infra/v1/region/byo/default/", "node_type": "/api/infra/v1/nodetype/byo/host/"}
    answer = cloud.dc("POST", "/api/infra/v1/nodecluster/", body)
    assert (answer.status, "cannot be made" in answer.json["error"]) == (405, True)
    uri = f"/api/infra/v1/nodecluster/{NOBODY}/"
    assert cloud.dc("GET", uri).status == 404
    assert cloud.dc("POST", uri + "deploy/").status == 404
    assert cloud.dc("PATCH", uri, {"target_num_nodes": 3, "tags": [{"name": "tag-1"}]}).status == 404
    assert cloud.dc("DELETE", uri).status == 404


def test_nodes(cloud):
    nodes = listed(cloud.dc("GET", "/api/infra/v1/node/?state=Deployed"))
    assert len(nodes) == 2
    assert set(nodes[0]) == NODE
    uri = nodes[0]["resource_uri"]
    assert cloud.dc("GET", uri).json["uuid"] == nodes[0]["uuid"]
    before = nodes[0]["tags"]
    body = {"tags": [{"name": "tag-1"}], "nickname": "dev node"}
    changed = cloud.dc("PATCH", uri, body)
    assert (changed.status, changed.json["tags"], changed.json["nickname"]) == (200, body["tags"], "dev node")
    assert cloud.dc("PATCH", uri, {"tags": before}).json["tags"] == before
    assert cloud.action(cloud.dc("POST", uri + "health-check/"))["action"] == "Node Health-check"
    upgrade = cloud.dc("POST", uri + "docker-upgrade/")
    assert (upgrade.status, "cannot be upgraded" in upgrade.json["error"]) == (405, True)
    assert cloud.dc("DELETE", f"/api/infra/v1/node/{NOBODY}/").status == 404


# -- registries and repositories -------------------------------------------------------------------------------------


def test_registries_and_repositories(cloud):
    hub = cloud.dc("GET", "/api/repo/v1/registry/registry-1.docker.io/").json
    assert hub == {
        "host": "registry-1.docker.io",
        "is_docker_registry": True,
        "is_ssl": True,
        "name": "Docker Hub",
        "port": 443,
        "resource_uri": "/api/repo/v1/admin/registry/registry-1.docker.io/",
    }
    assert cloud.dc("GET", "/api/v1/registry/registry-1.docker.io/").json == hub
    assert hub in listed(cloud.dc("GET", "/api/repo/v1/registry/?is_docker_registry=true"))
    body = {"name": "registry.local/user1/image1", "username": "username", "password": "password"}
    made = cloud.dc("POST", "/api/repo/v1/repository/", body)
    assert made.status == 201
    assert made.json == {
        "in_use": False,
        "name": "registry.local/user1/image1",
        "registry": "/api/repo/v1/admin/registry/registry.local/",
        "resource_uri": "/api/repo/v1/admin/repository/registry.local/user1/image1/",
    }
    assert cloud.dc("POST", "/api/repo/v1/repository/", body).status == 409
    assert listed(cloud.dc("GET", "/api/repo/v1/repository/")) == [made.json]
    uri = "/api/repo/v1/repository/registry.local/user1/image1/"
    assert cloud.dc("GET", uri).json == made.json
    assert cloud.dc("PATCH", uri, {"username": "username", "password": "password"}).status == 200
    gone = cloud.dc("DELETE", uri)
    assert (gone.status, gone.text) == (204, "")
    assert cloud.dc("GET", uri).status == 404


# -- stacks ----------------------------------------------------------------------------------------------------------


def test_stacks(cloud, stack):
    assert set(stack) == {
        "deployed_datetime", "destroyed_datetime", "nickname", "name", "resource_uri", "services", "state",
        "synchronized", "uuid",
    }  # fmt: skip
    assert (stack["state"], stack["synchronized"], len(stack["services"])) == ("Running", True, 2)
    assert DATE.fullmatch(stack["deployed_datetime"])
    assert listed(cloud.dc("GET", "/api/app/v1/stack/?name=my-new-stack")) == [stack]
    assert listed(cloud.dc("GET", f"/api/app/v1/stack/?uuid__startswith={stack['uuid'][:8]}")) == [stack]
    assert cloud.dc("GET", f"/api/app/v1/stack/{stack['uuid']}/export/").json == {
        "hello-word": {"image": "tutum/hello-world:latest", "links": ["database:DB"], "target_num_containers": 2},
        "database": {"image": "tutum/mysql:latest"},
    }


def test_stack_operations(cloud, stack):
    uri = f"/api/app/v1/stack/{stack['uuid']}/"
    assert cloud.dc("POST", uri + "start/").status == 409
    update = json.loads(STACK)
    update["services"][0]["target_num_containers"] = 3
    changed = cloud.dc("PATCH", uri, {"services": update["services"]})
    assert changed.status == 200, changed.text
    hello = listed(cloud.dc("GET", "/api/app/v1/service/?name=hello-word"))[0]
    until(lambda: cloud.dc("GET", hello["resource_uri"]).json["running_num_containers"] == 3)
    until(lambda: cloud.dc("GET", uri).json["state"] == "Running")
    cloud.action(cloud.dc("POST", uri + "stop/"))
    assert cloud.dc("GET", uri).json["state"] == "Stopped"
    cloud.action(cloud.dc("POST", uri + "start/"))
    assert cloud.dc("GET", uri).json["state"] == "Running"
    cloud.action(cloud.dc("POST", uri + "redeploy/?reuse_volumes=False"))
    assert cloud.dc("GET", uri).json["state"] == "Running"
    assert cloud.dc("GET", hello["resource_uri"]).json["running_num_containers"] == 3


# -- services --------------------------------------------------------------------------------------------------------


def test_services(cloud, stack, hello, database):
    assert set(hello) >= SERVICE
    assert hello["image_name"] == "tutum/hello-world:latest"
    assert hello["stack"] == stack["resource_uri"]
    assert hello["linked_to_service"] == [
        {"from_service": hello["resource_uri"], "name": "DB", "to_service": database["resource_uri"]}
    ]
    assert database["linked_from_service"] == hello["linked_to_service"]
    assert "DATABASE_DOCKERCLOUD_API_URL" in database["link_variables"]
    assert cloud.dc("GET", f"/api/app/v1/service/{hello['uuid']}/").status == 200
    in_stack = listed(cloud.dc("GET", "/api/app/v1/service/?stack=" + stack["resource_uri"]))
    assert {one["uuid"] for one in in_stack} == {hello["uuid"], database["uuid"]}


def test_update_of_a_service(cloud, hello, database):
    uri = f"/api/app/v1/service/{hello['uuid']}/"
    typed = UPDATE % database["uuid"]
    headers = {"Authorization": cloud.basic(), "Accept": "application/json", "Content-Type": "application/json"}
    # The document's example is no JSON: True and False.
    assert cloud.call("PATCH", uri, raw=typed.encode(), headers=headers).status == 415
    body = json.loads(typed.replace("True", "true").replace("False", "false"))
    changed = cloud.dc("PATCH", uri, body)
    assert changed.status == 200, changed.text
    found = changed.json
    assert found["synchronized"] is False
    assert (found["autorestart"], found["cpu_shares"], found["memory"]) == ("ON_FAILURE", 512, 2048)
    assert found["container_ports"][0] | {"published": True, "port_name": "http"} == found["container_ports"][0]
    assert found["tags"] == [{"name": "tag-1"}]
    refused = cloud.dc("POST", uri + "redeploy/")
    action = cloud.action(refused, "Failed")  # no node has the tag
    assert cloud.dc("GET", uri).json["running_num_containers"] == 3  # and nothing was taken away
    assert action["can_be_retried"] is True
    back = {"tags": [], "container_ports": [], "roles": [], "privileged": False}
    assert cloud.dc("PATCH", uri, back).status == 200
    cloud.action(cloud.dc("POST", f"/api/audit/v1/action/{action['uuid']}/retry/"))
    found = cloud.dc("GET", uri).json
    assert (found["state"], found["synchronized"], found["running_num_containers"]) == ("Running", True, 3)


# -- containers ------------------------------------------------------------------------------------------------------


def test_containers(cloud, hello, database):
    found = listed(cloud.dc("GET", "/api/app/v1/container/?state=Running&service=" + database["resource_uri"]))
    one = found[0]
    assert set(one) == CONTAINER
    assert (one["name"], one["state"], one["node"].split("/")[-3]) == ("database-1", "Running", "node")
    uri = f"/api/app/v1/container/{one['uuid']}/"
    assert cloud.dc("GET", uri).json == one
    cloud.action(cloud.dc("POST", uri + "stop/"))
    stopped = cloud.dc("GET", uri).json
    assert (stopped["state"], stopped["exit_code"]) == ("Stopped", 0)
    assert cloud.dc("GET", database["resource_uri"]).json["state"] == "Stopped"
    assert cloud.dc("POST", uri + "stop/").status == 409
    cloud.action(cloud.dc("POST", uri + "start/"))
    assert cloud.dc("GET", uri).json["state"] == "Running"
    cloud.action(cloud.dc("POST", uri + "redeploy/"))
    assert cloud.dc("GET", uri).json["state"] == "Terminated"
    (new,) = listed(cloud.dc("GET", "/api/app/v1/container/?state=Running&service=" + database["resource_uri"]))
    assert (new["name"], new["uuid"] != one["uuid"]) == ("database-1", True)
    cloud.action(cloud.dc("DELETE", new["resource_uri"]))
    assert cloud.dc("GET", new["resource_uri"]).json["destroyed_datetime"]


# -- triggers --------------------------------------------------------------------------------------------------------


def test_triggers(cloud, hello):
    base = f"/api/app/v1/service/{hello['uuid']}/trigger/"
    assert listed(cloud.dc("GET", base)) == []
    made = cloud.dc("POST", base, {"name": "mytrigger_name", "operation": "REDEPLOY"})
    assert made.status == 201
    assert set(made.json) >= {"url", "operation", "name", "resource_uri"}
    assert listed(cloud.dc("GET", base)) == [made.json]
    assert cloud.dc("GET", made.json["resource_uri"]).json == made.json
    called = cloud.call("POST", made.json["url"], headers={"Accept": "application/json"})
    assert called.status == 202
    cloud.action(called)
    up = cloud.dc("POST", base, {"operation": "SCALEUP"}).json
    cloud.action(cloud.call("POST", up["url"] + "2/"))
    assert cloud.dc("GET", hello["resource_uri"]).json["running_num_containers"] == 5
    # The clients' own slip: two slashes.
    doubled = base.replace("/trigger/", "//trigger/")
    assert len(listed(cloud.dc("GET", doubled))) == 2
    assert cloud.dc("DELETE", up["resource_uri"]).status == 204
    assert cloud.call("POST", up["url"]).status == 404


def test_the_end(cloud, stack, engines):
    cloud.action(cloud.dc("DELETE", f"/api/app/v1/stack/{stack['uuid']}/"))
    assert cloud.dc("GET", stack["resource_uri"]).json["state"] == "Terminated"
    assert not [one for engine in engines for one in engine.containers.values()]


def test_what_only_the_clients_ask_for(cloud):
    """``docker-cloud node byo``, ``Node.deploy`` of the SDK, and addresses that are nobody's: errors that are read."""
    node = cloud.dc("GET", "/api/infra/v1/node/").json["objects"][0]["resource_uri"]
    for path, word in (
        ("/api/infra/v1/token/", "agent"),
        ("/api/infra/v1/admin/token/", "agent"),
        (f"{node}deploy/", "runs"),
    ):
        answer = cloud.dc("POST", path)
        assert (answer.status, word in answer.json["error"]) == (405, True), path
    answer = cloud.dc("GET", "/api/app/v1/volume/x/y/z/")
    assert (answer.status, "not found" in answer.json["error"]) == (404, True)
    answer = cloud.ship("GET", "/api/nothing")
    assert (answer.status, answer.text.startswith("<")) == (404, False)
    answer = cloud.ship("PUT", "/api/containers")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET, HEAD, OPTIONS, POST")
