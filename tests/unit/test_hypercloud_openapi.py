"""hypercloud's OpenAPI documents: every route is in them, nothing else is, and what they refer to is there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hypercloud.api import describe
from hypercloud.api.dockercloud import described as dockercloud
from hypercloud.api.shipyard import described as shipyard
from hypercloud.app import create_app
from hypercloud.config.model import Config


@pytest.fixture(scope="module")
def app():
    return create_app(SimpleNamespace(config=Config(), accounts=SimpleNamespace(session_secret=lambda: "none")))


@pytest.fixture(scope="module", params=[shipyard.DIALECT, dockercloud.DIALECT], ids=lambda one: one.name)
def dialect(request) -> describe.Dialect:
    return request.param


@pytest.fixture(scope="module")
def document(app, dialect) -> dict[str, Any]:
    return json.loads(json.dumps(describe.build(app, dialect)))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described_and_every_description_has_its_route(app, dialect, document):
    there = {f"{method} {path}" for method, path, _, _ in describe.routes(app, dialect.name)}
    assert there == {name for name, _ in operations(document)} == set(dialect.operations)
    assert len(there) > 35


def test_routes_with_a_namespace_are_there_without_one(app):
    plain = {f"{method} {path}" for method, path, _, _ in describe.routes(app, "dockercloud")}
    count = 0
    for rule in app.url_map.iter_rules():
        if "namespace" in rule.arguments:
            count += 1
            path = re.sub(r"<(?:[^:<>]+:)?([^<>]+)>", r"{\1}", rule.rule.replace("<namespace>/", ""))
            (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            assert f"{method} {path}" in plain, rule.rule
    assert count > 40


def test_operations_are_complete(document):
    names = []
    for name, operation in operations(document):
        names.append(operation["operationId"])
        assert operation["summary"].endswith("."), name
        assert {f"{{{one['name']}}}" for one in operation["parameters"] if one["in"] == "path"} == set(
            re.findall(r"{\w+}", name)
        )
        assert {"400", "500"} <= operation["responses"].keys(), name
        assert all(answer["description"] for answer in operation["responses"].values()), name
    assert len(set(names)) == len(names)


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for item in value.values():
            yield from references(item)
    elif isinstance(value, list):
        for item in value:
            yield from references(item)


def test_references_lead_somewhere_and_every_schema_is_used(document):
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert known == set(references(document))
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def test_statuses_of_errors_have_texts():
    from hypercloud.api.dockercloud.blueprint import STATUSES as DOCKERCLOUD
    from hypercloud.api.shipyard.blueprint import STATUSES as SHIPYARD

    unused = {501}  # NotSupported is raised for Docker Cloud's requests only
    assert {status for _, status in (*DOCKERCLOUD, *SHIPYARD)} - unused <= describe.STATUS_TEXTS.keys()
