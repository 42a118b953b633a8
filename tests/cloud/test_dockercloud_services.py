"""A service's life."""

from __future__ import annotations


def test_life_of_a_service(cloud, engines):
    body = {"image": "tutum/hello-world", "name": "my-new-app", "target_num_containers": 2}
    made = cloud.dc("POST", "/api/app/v1/service/", body)
    assert made.status == 201, made.text
    service = made.json
    assert service["state"] == "Not running"
    uri = service["resource_uri"]
    answer = cloud.dc("POST", uri + "start/")
    assert answer.status == 202, answer.text
    cloud.action(answer)
    found = cloud.dc("GET", uri).json
    assert (found["state"], found["running_num_containers"], found["synchronized"]) == ("Running", 2, True), found
    assert len(engines[0].running() + engines[1].running()) == 2
    cloud.action(cloud.dc("POST", uri + "redeploy/"))
    assert cloud.dc("GET", uri).json["containers"] != found["containers"]
    assert cloud.dc("GET", uri).json["current_num_containers"] == 2
    assert cloud.dc("PATCH", uri, {"target_num_containers": 3}).status == 200
    cloud.action(cloud.dc("POST", uri + "scale/"))
    assert cloud.dc("GET", uri).json["running_num_containers"] == 3
    cloud.action(cloud.dc("POST", uri + "stop/"))
    assert cloud.dc("GET", uri).json["state"] == "Stopped"
    assert not engines[0].running() + engines[1].running()
    cloud.action(cloud.dc("POST", uri + "start/"))
    assert cloud.dc("GET", uri).json["state"] == "Running"
    cloud.action(cloud.dc("DELETE", uri))
    assert cloud.dc("GET", uri).json["state"] == "Terminated"
    assert not engines[0].containers
    assert not engines[1].containers


def test_a_redeploy_spreads_as_a_start_does(cloud, engines):
    """The successors are counted one after the other, although the engines are looked at once."""
    body = {"image": "x", "name": "wide", "target_num_containers": 6, "deployment_strategy": "HIGH_AVAILABILITY"}
    uri = cloud.dc("POST", "/api/app/v1/service/", body).json["resource_uri"]
    for operation in ("start/", "redeploy/"):
        cloud.action(cloud.dc("POST", uri + operation))
        assert [len([one for one in engine.running() if one["Name"].startswith("/wide-")]) for engine in engines] == [
            3,
            3,
        ]
    cloud.action(cloud.dc("DELETE", uri))


def test_stacks_are_synchronized_one_by_one(cloud):
    def made(name):
        stack = {"name": name, "services": [{"name": part, "image": "x"} for part in ("one", "two")]}
        uri = cloud.dc("POST", "/api/app/v1/stack/", stack).json["resource_uri"]
        cloud.action(cloud.dc("POST", uri + "start/"))
        return uri

    first, second = made("first"), made("second")
    cloud.dc("PATCH", cloud.dc("GET", first).json["services"][1], {"run_command": "x"})
    shown = {one["name"]: one for one in cloud.dc("GET", "/api/app/v1/stack/?limit=100").json["objects"]}
    assert (shown["first"]["synchronized"], shown["second"]["synchronized"]) == (False, True)
    assert shown["first"] == cloud.dc("GET", first).json
    assert len(shown["second"]["services"]) == 2
    for uri in (first, second):
        cloud.action(cloud.dc("DELETE", uri))


def test_a_name_means_what_has_it_now(cloud):
    """Clients look objects up by name for every command, and take no two for an answer."""

    def named(kind, more=""):
        return [one["uuid"] for one in cloud.dc("GET", f"/api/app/v1/{kind}/?name=again{more}").json["objects"]]

    for kind, body in (("service", {"image": "x", "name": "again"}), ("stack", {"name": "again", "services": []})):
        old = cloud.dc("POST", f"/api/app/v1/{kind}/", body).json
        cloud.action(cloud.dc("DELETE", old["resource_uri"]))
        assert named(kind) == [old["uuid"]]
        new = cloud.dc("POST", f"/api/app/v1/{kind}/", body).json
        assert named(kind) == [new["uuid"]]
        assert named(kind, "&state=Terminated") == [old["uuid"]]
        cloud.action(cloud.dc("DELETE", new["resource_uri"]))
        assert named(kind) == [old["uuid"], new["uuid"]]
    made = cloud.dc("POST", "/api/app/v1/service/", {"image": "x", "name": "again"}).json
    for operation in ("start/", "redeploy/"):
        cloud.action(cloud.dc("POST", made["resource_uri"] + operation))
    found = cloud.dc("GET", "/api/app/v1/container/?name=again-1").json["objects"]
    assert [one["state"] for one in found] == ["Running"]
    cloud.action(cloud.dc("DELETE", made["resource_uri"]))
