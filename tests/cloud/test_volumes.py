"""Managed volumes: whose they are through changes, redeploys that fail, and the end."""

from __future__ import annotations

import pytest

from tests.support.cloud import CloudProcess
from tests.support.docker_engine import FakeEngine


@pytest.fixture(scope="module")
def engine():
    made = FakeEngine()
    yield made
    made.close()


@pytest.fixture(scope="module")
def server(engine, tmp_path_factory):
    made = CloudProcess(tmp_path_factory.mktemp("cloud")).start()
    assert made.add_engine("one", engine.url).status == 201
    yield made
    made.stop()


def started(server, name, paths):
    """The address of a service that runs with volumes."""
    body = {"image": "store", "name": name, "bindings": bindings(*paths)}
    uri = server.dc("POST", "/api/app/v1/service/", body).json["resource_uri"]
    server.action(server.dc("POST", uri + "start/"))
    return uri


def bindings(*paths):
    return [{"container_path": path} for path in paths]


def volumes(engine, name):
    """Names of volumes by the paths where the running container has them."""
    (one,) = [one for one in engine.running() if one["Name"].startswith(f"/{name}-1.")]
    return {path: volume for volume, _, path in (bind.partition(":") for bind in one["HostConfig"]["Binds"])}


def test_a_volume_belongs_to_its_path(server, engine):
    uri = started(server, "paths", ["/data"])
    data = volumes(engine, "paths")["/data"]
    server.dc("PATCH", uri, {"bindings": bindings("/cache", "/data/")})
    server.action(server.dc("POST", uri + "redeploy/"))
    now = volumes(engine, "paths")
    assert now["/data/"] == data
    assert now["/cache"] != data
    # What is taken off comes back with its data, and goes with the service in any case.
    server.dc("PATCH", uri, {"bindings": bindings("/cache")})
    server.action(server.dc("POST", uri + "redeploy/"))
    assert volumes(engine, "paths") == {"/cache": now["/cache"]}
    assert not engine.volumes_removed
    server.action(server.dc("DELETE", uri))
    assert sorted(engine.volumes_removed) == sorted([data, now["/cache"]])


def test_a_redeploy_that_fails_keeps_the_volumes(server, engine):
    uri = started(server, "kept", ["/data"])
    before = volumes(engine, "kept")
    engine.refuse = "POST /containers/create"
    try:
        server.action(server.dc("POST", uri + "redeploy/"), "Failed")
    finally:
        engine.refuse = ""
    found = server.dc("GET", uri).json
    assert (found["state"], found["stopped_num_containers"]) == ("Stopped", 1)
    server.action(server.dc("POST", uri + "start/"))
    assert volumes(engine, "kept") == before
    assert not set(before.values()) & set(engine.volumes_removed)
    server.action(server.dc("DELETE", uri))
    assert set(before.values()) <= set(engine.volumes_removed)
