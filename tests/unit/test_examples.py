"""The pod files in configs/examples are right, and the YAML ones are read by hyperctl as they are meant."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hyperctl import podfile
from hyperd.api.hyper.pod_spec import dump_pod, parse_pod

EXAMPLES = sorted((Path(__file__).parents[2] / "configs" / "examples").iterdir())


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_example_is_a_pod(path: Path) -> None:
    is_yaml = path.suffix == ".yaml"
    loaded = podfile.load(str(path), yaml=is_yaml, shape=podfile.POD)
    spec = parse_pod(loaded)
    assert spec.containers
    assert all(container.image and container.command for container in spec.containers)
    assert parse_pod(dump_pod(spec)) == spec
    if not is_yaml:
        assert loaded == json.loads(path.read_text(encoding="utf-8"))


def test_yaml_example_loses_nothing() -> None:
    (path,) = [path for path in EXAMPLES if path.name == "worker.yaml"]
    spec = parse_pod(podfile.load(str(path), yaml=True, shape=podfile.POD))
    assert spec.containers[0].envs == (("MODE", "demo"),)
    assert spec.containers[0].files[0].perm == "0644"
    assert spec.files[0].content == "working\n"
