"""The OpenAPI document: every route is in it, it says nothing of routes that are not, its schemas are right."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from hyperd import errors
from hyperd.api.hyper.errors import status_of
from hyperd.api.openapi.document import STATUS_TEXTS, build, routes
from hyperd.app import create_app
from hyperd.event.bus import EventBus
from tests.support.pods import FULL, WRONG_VALUES

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def app():
    return create_app(SimpleNamespace(events=EventBus()))


@pytest.fixture(scope="module")
def document(app) -> dict[str, Any]:
    return json.loads(json.dumps(build(app)))


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            yield f"{method.upper()} {path}", operation


def test_every_route_is_described_and_every_description_has_its_route(app, document):
    there = {f"{method} {path}" for method, path, _ in routes(app)}
    assert there == {name for name, _ in operations(document)}
    assert len(there) > 45


def test_operations_are_complete(document):
    names = []
    for name, operation in operations(document):
        names.append(operation["operationId"])
        assert operation["summary"].endswith("."), name
        in_path = {one["name"] for one in operation["parameters"] if one["in"] == "path"}
        assert all(f"{{{one}}}" in name for one in in_path)
        assert name.count("{") == len(in_path)
        assert any(status < "300" for status in operation["responses"]), name
        assert {"400", "500"} <= operation["responses"].keys()
        for status, answer in operation["responses"].items():
            assert answer["description"], (name, status)
    assert len(set(names)) == len(names)


def test_every_status_of_an_error_class_has_a_text():
    classes = [one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, errors.HyperError)]
    assert {status_of(one("x")) for one in classes} <= STATUS_TEXTS.keys()


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
    used = set(references(document))
    assert used <= known
    assert known == used


def test_schemas_are_json_schemas(document):
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)


def pod_validator(document: dict[str, Any]) -> Draft202012Validator:
    return Draft202012Validator({"$ref": "#/components/schemas/PodSpec", "components": document["components"]})


def test_the_description_of_a_pod_takes_a_good_one(document):
    assert list(pod_validator(document).iter_errors(FULL)) == []
    assert pod_validator(document).is_valid({"containers": [{"image": "a", "ports": [{"containerPort": 80}]}]})


@pytest.mark.parametrize(
    "pod",
    [
        {"containers": [{"name": "no image"}]},
        {"containers": {"image": "a"}},
        {"resource": {"vcpu": "1"}},
        {"resource": {"vcpu": 100_000}},
        {"labels": {"a": 1}},
        {"containers": [{"image": "a", "envs": [{"value": "x"}]}]},
    ],
)
def test_the_description_of_a_pod_refuses_bad_ones(document, pod):
    assert not pod_validator(document).is_valid(pod)


def test_what_the_daemon_takes_is_not_refused_by_the_description(document):
    # Rules that a schema cannot tell are the daemon's: the description may be looser, never stricter.
    assert len(WRONG_VALUES) > 50
    for name in ("restartPolicy", "StopSignal", "logPath"):
        assert name in document["components"]["schemas"]["ContainerSpec"]["properties"]


def test_the_file_in_docs_is_up_to_date():
    done = subprocess.run([PROJECT / "scripts/openapi", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "up to date\n"), done.stderr
