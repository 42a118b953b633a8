"""Rows and specifications that are kept: never older than the table, never more than they should be."""

from __future__ import annotations

import pytest

from hyperd.container.records import ContainerRecords
from hyperd.errors import NotFound
from hyperd.pod import stored
from hyperd.pod.records import PodRecords
from hyperd.pod.spec import dump_pod, parse_container, parse_pod

POD = {"id": "p", "containers": [{"name": "a", "image": "busybox"}], "labels": {"x": "1"}}


def test_a_stored_specification_is_read_once_and_equals_the_fresh_one():
    data = dump_pod(parse_pod(POD))
    assert stored.stored_pod(data) == parse_pod(data)
    assert stored.stored_pod(dict(data)) is stored.stored_pod(data)
    container = data["containers"][0]
    assert stored.stored_container(container) == parse_container(container)


def test_very_large_specifications_are_not_kept():
    data = dump_pod(parse_pod({**POD, "labels": {"x": "y" * stored.MAX_TEXT}}))
    before = stored._pod.cache_info()
    assert stored.stored_pod(data) == parse_pod(data)
    assert stored._pod.cache_info() == before


def test_a_container_is_found_by_what_it_is_called_now(database):
    records, pods = ContainerRecords(database), PodRecords(database)
    pods.insert(parse_pod(POD))
    with pytest.raises(NotFound):
        records.find("a")
    row = records.insert("p", parse_container({"name": "a", "image": "busybox"}), position=0, image_id="i")
    assert records.find("a").id == records.find(row.id[:8]).id == records.get(row.id).id == row.id
    records.update(row.id, name="b", state="running")
    assert records.find("b").state == records.get(row.id).state == "running"
    with pytest.raises(NotFound):
        records.find("a")
    records.delete(row.id)
    for name in ("b", row.id):
        with pytest.raises(NotFound):
            records.find(name)
    with pytest.raises(NotFound):
        records.get(row.id)


def test_containers_and_specifications_go_with_their_pod(database):
    records, pods = ContainerRecords(database), PodRecords(database)
    pods.insert(parse_pod(POD))
    row = records.insert("p", parse_container({"name": "a", "image": "busybox"}), position=0, image_id="i")
    assert records.pod_spec("p").labels == {"x": "1"}
    assert records.find("a").id == row.id
    pods.update("p", spec=dump_pod(parse_pod({**POD, "labels": {"x": "2"}})))
    assert records.pod_spec("p").labels == {"x": "2"}
    pods.delete("p")
    for lost in (lambda: records.pod_spec("p"), lambda: records.find("a"), lambda: records.get(row.id)):
        with pytest.raises(NotFound):
            lost()
