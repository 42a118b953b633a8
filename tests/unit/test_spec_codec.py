"""Specifications in rows: nothing is lost, nothing is older than the table, nothing is kept for too long."""

from __future__ import annotations

import importlib
import json
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest

from hyperd.api.hyper.pod_spec import dump_pod, parse_container, parse_pod
from hyperd.container.records import ContainerRecords
from hyperd.db import spec_cache, spec_codec
from hyperd.errors import HostFault, NotFound
from hyperd.pod.records import PodRecords
from hyperd.spec.model import ContainerSpec, ExecSpec, PodSpec, Resource
from tests.support.pods import FULL

POD = {"id": "p", "containers": [{"name": "a", "image": "busybox"}], "labels": {"x": "1"}}
MIGRATION = importlib.import_module("hyperd.db.migrations.versions.0003_services_of_several_apis")


def filled(hint: Any, salt: str = "x") -> Any:
    """Return a value of a type in which no field, however deep, has its default."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return filled(inner[0], salt)
    if origin is tuple:
        return tuple(filled(one, f"{salt}{at}") for at, one in enumerate(inner[:1] * 2 if inner[-1] is ... else inner))
    if origin is Mapping or (origin is not None and issubclass(origin, Mapping)):
        return {f"{salt}.key": f"{salt} value"}
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return hint(**{field.name: filled(hints[field.name], f"{salt}.{field.name}") for field in fields(hint)})
    if hint is bool:
        return True
    return {str: f"{salt}\u00e9\U0001f600", int: len(salt) * 2**31, float: len(salt) / 8}[hint]


@pytest.mark.parametrize("kind", [PodSpec, ContainerSpec, ExecSpec])
def test_every_field_comes_back_through_json(kind):
    value = filled(kind)
    text = json.dumps(spec_codec.dump(value))
    assert spec_codec.load(kind, json.loads(text)) == value
    assert type(spec_codec.load(kind, json.loads(text)).envs if kind is not PodSpec else ()) is tuple


def test_flags_that_are_off_come_back_where_on_is_the_default():
    spec = ContainerSpec(open_stdin=False, tty=False)
    assert spec_codec.load(ContainerSpec, spec_codec.dump(spec)) == spec
    assert spec_codec.load(ContainerSpec, {"v": 1}) == ContainerSpec()


def test_an_unknown_field_is_ignored_and_a_missing_one_has_its_default():
    data = {"v": 1, "id": "p", "colour": {"a": [1]}, "resource": {"vcpu": 2, "speed": 9}}
    assert spec_codec.load(PodSpec, data) == PodSpec(id="p", resource=Resource(vcpu=2))


def test_what_is_written_says_no_default_and_has_a_version():
    assert spec_codec.dump(PodSpec(id="p")) == {"v": 1, "id": "p"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"v": 2, "id": "p"}, "format 2"),
        ({"id": "p"}, "format 0"),
        ({"v": 1, "id": 7}, "damaged"),
        ({"v": 1, "tty": "yes"}, "damaged"),
        ({"v": 1, "resource": []}, "damaged"),
        ({"v": 1, "containers": 3}, "damaged"),
        ({"v": 1, "containers": [{"envs": [["a"]]}]}, "damaged"),
        ({"v": 1, "labels": "x"}, "damaged"),
    ],
)
def test_a_newer_or_damaged_row_is_refused(data, message):
    with pytest.raises(HostFault, match=message):
        spec_codec.load(PodSpec, data)


@pytest.mark.parametrize(
    "pod", [FULL, {}, POD, {"labels": {"hostPort": "x", "envs": "y"}, "log": {"config": {"Name": "z"}}}]
)
def test_a_row_of_the_version_before_is_converted(pod):
    spec = parse_pod(pod)
    written = json.loads(json.dumps(dump_pod(spec)))
    assert spec_codec.load(PodSpec, {"v": 1, **MIGRATION.converted(written)}) == spec


def test_a_stored_specification_is_read_once_and_equals_the_fresh_one():
    data = spec_codec.dump(parse_pod(POD))
    assert spec_cache.stored_pod(data) == parse_pod(POD)
    assert spec_cache.stored_pod(dict(data)) is spec_cache.stored_pod(data)
    container = data["containers"][0]
    assert spec_cache.stored_container({"v": 1, **container}) == parse_container(POD["containers"][0])


def test_very_large_specifications_are_not_kept():
    pod = {**POD, "labels": {"x": "y" * spec_cache.MAX_TEXT}}
    data = spec_codec.dump(parse_pod(pod))
    before = spec_cache._pod.cache_info()
    assert spec_cache.stored_pod(data) == parse_pod(pod)
    assert spec_cache._pod.cache_info() == before


def test_a_container_is_found_by_what_it_is_called_now(database):
    # Names that are no beginning of an id, whichever id comes.
    records, pods = ContainerRecords(database), PodRecords(database)
    pods.insert(parse_pod(POD))
    with pytest.raises(NotFound):
        records.find("one")
    row = records.insert("p", parse_container({"name": "one", "image": "busybox"}), position=0, image_id="i")
    assert records.find("one").id == records.find(row.id[:8]).id == records.get(row.id).id == row.id
    records.update(row.id, name="two", state="running")
    assert records.find("two").state == records.get(row.id).state == "running"
    with pytest.raises(NotFound):
        records.find("one")
    records.delete(row.id)
    for name in ("two", row.id):
        with pytest.raises(NotFound):
            records.find(name)
    with pytest.raises(NotFound):
        records.get(row.id)


def test_containers_and_specifications_go_with_their_pod(database):
    records, pods = ContainerRecords(database), PodRecords(database)
    pods.insert(parse_pod(POD))
    row = records.insert("p", parse_container({"name": "one", "image": "busybox"}), position=0, image_id="i")
    assert records.pod_spec("p").labels == {"x": "1"}
    assert records.find("one").id == row.id
    pods.update("p", spec=spec_codec.dump(parse_pod({**POD, "labels": {"x": "2"}})))
    assert records.pod_spec("p").labels == {"x": "2"}
    pods.delete("p")
    for lost in (lambda: records.pod_spec("p"), lambda: records.find("one"), lambda: records.get(row.id)):
        with pytest.raises(NotFound):
            lost()


def test_lists_are_read_again_only_when_something_has_changed(database):
    records, pods = ContainerRecords(database), PodRecords(database)
    pods.insert(parse_pod(POD))
    row = records.insert("p", parse_container({"name": "one", "image": "busybox"}), position=0, image_id="i")
    (pod,), (container,) = pods.briefs("hyper"), records.briefs("hyper")
    assert (pod.id, pod.labels, container.id, container.pod_id) == ("p", {"x": "1"}, row.id, "p")
    assert pods.briefs("hyper")[0] is pod
    assert records.briefs("hyper")[0] is container
    assert (pods.briefs("cri"), records.briefs("cri")) == ((), ())
    records.update(row.id, state="running")
    pods.update("p", spec=spec_codec.dump(parse_pod({**POD, "labels": {"x": "2"}})))
    assert (pods.briefs("hyper")[0].labels, records.briefs("hyper")[0].state) == ({"x": "2"}, "running")
    pods.delete("p")
    assert (pods.briefs("hyper"), records.briefs("hyper")) == ((), ())
