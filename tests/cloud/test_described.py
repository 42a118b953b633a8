"""The OpenAPI documents as a server gives them; other tests hold its answers against them (``conftest.py``)."""

from __future__ import annotations

import json

import pytest

from tests.support.cloud import Answer


@pytest.mark.parametrize("name", ["shipyard", "dockercloud"])
def test_the_documents_need_no_credentials(cloud, name):
    answer = cloud.call("GET", f"/openapi/{name}.json")
    assert answer.status == 200
    assert answer.json["openapi"] == "3.1.0"
    assert cloud.call("GET", "/openapi/other.json").status == 404


def test_answers_are_held_against_the_documents(cloud):
    cloud.dc("GET", "/api/infra/v1/node/")
    cloud.dc("GET", "/api/app/v1/exampleorg/service/")
    cloud.ship("GET", "/api/engines/local")
    assert {
        "GET /api/infra/v1/node/", "GET /api/app/v1/service/", "GET /api/engines/{key}", "POST /api/engines",
    } <= cloud.look.seen  # fmt: skip
    engine = cloud.ship("GET", "/api/engines/local")
    for change in ({"more": 1}, {"health": {"status": "fine", "response_time": 0}}, {"docker_version": None}):
        with pytest.raises(AssertionError, match=r"GET /api/engines/\{key\}"):
            cloud.look("GET", "/api/engines/local", Answer(200, engine.headers, json.dumps(engine.json | change)))
    with pytest.raises(AssertionError, match="418 is not in the document"):
        cloud.look("GET", "/api/engines/local", Answer(418, engine.headers, ""))
