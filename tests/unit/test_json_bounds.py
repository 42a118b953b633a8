"""JSON of many megabytes is refused before its parts are looked at: their number alone would stop the daemon."""

from __future__ import annotations

from typing import Any

import pytest

from hyperd.api import params
from hyperd.api.docker import params as docker_params
from hyperd.api.docker import schema
from hyperd.api.hyper.pod_spec import parse_container, parse_pod, parse_portmappings
from hyperd.api.hyper.unknown_keys import pod_warnings
from hyperd.errors import InvalidInput


class Key(str):
    """A key that counts how often keys are compared."""

    __slots__ = ()
    compared = 0

    def __eq__(self, other: object) -> bool:
        Key.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_a_key_that_comes_twice_is_found_among_many() -> None:
    pairs = [(Key(f"k{number}"), 0) for number in (*range(1000), 999)]
    Key.compared = 0
    with pytest.raises(ValueError, match="'k999' comes twice"):
        params.unique_keys(pairs)
    assert Key.compared < 20 * len(pairs)


@pytest.mark.parametrize("decode", [params.json_text, docker_params.decode])
def test_a_text_has_so_many_objects(decode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(params, "MAX_OBJECTS", 5)
    assert decode(b"[{}, {}, {}, {}, {}]", "it") == [{}] * 5
    assert decode(b"[{}, {}, {}, {}, {}]", "it") == [{}] * 5  # each text for itself
    with pytest.raises(InvalidInput) as caught:
        decode(b"[{}, {}, {}, {}, {}, {}]", "it")
    assert "over 5 objects" in str(caught.value)


@pytest.mark.parametrize(
    ("pod", "message"),
    [
        ({"portmappings": [{}] * 1025}, "portmappings: has over 1024 items"),
        ({"containers": [{}] * 129}, "containers: has over 128 items"),
        ({"dns": [1] * 17}, "dns: has over 16 items"),
        ({"labels": dict.fromkeys(map(str, range(1025)), 1)}, "labels: has over 1024 entries"),
        ({"interfaces": [{"ip": "x" * 5000}]}, "interfaces[0].ip: is longer than 4096 characters"),
    ],
)
def test_what_is_too_long_is_not_looked_at(pod: dict[str, Any], message: str) -> None:
    """All items are wrong, too, and that is not what is told."""
    with pytest.raises(InvalidInput) as caught:
        parse_pod(pod)
    assert str(caught.value) == message


def test_a_text_that_is_too_long_is_told_once() -> None:
    with pytest.raises(InvalidInput, match=r"^workdir: is longer than 4096 characters$"):
        parse_container({"image": "busybox", "workdir": "x" * 5000})


def test_port_mappings_are_no_more_than_there_are_ports() -> None:
    with pytest.raises(InvalidInput, match=r"^over 65535 published ports$"):
        parse_portmappings([{}] * 65_536)


@pytest.mark.parametrize(
    ("host", "path", "message"),
    [
        ({"Mounts": [1] * 4097}, "Mounts", "has over 4096 entries"),
        ({"Mounts": [1, {}]}, "Mounts", "must be a list of objects"),
        ({"PortBindings": dict.fromkeys(map(str, range(65_536)), 1)}, "PortBindings", "has over 65535 entries"),
        ({"PortBindings": {"80/tcp": [1]}}, "PortBindings", "must be a list of objects"),
        ({"Devices": [1] * 4097}, "Devices", "has over 4096 entries"),
    ],
)
def test_lists_and_maps_of_docker(host: dict[str, Any], path: str, message: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        schema.load(schema.Create(), {"Image": "busybox", "HostConfig": host})
    assert path in str(caught.value)
    assert message in str(caught.value)


def test_a_range_of_all_ports_can_be_published_by_docker() -> None:
    bindings = {f"{port}/tcp": [{"HostPort": str(port)}] for port in range(1, 65_536)}
    read = schema.load(schema.Create(), {"Image": "busybox", "HostConfig": {"PortBindings": bindings}})
    assert len(read["HostConfig"]["PortBindings"]) == 65_535


def test_nothing_is_meant_by_a_key_of_a_hundred_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difflib.get_close_matches", lambda *_words, **_more: ["hostname"])
    assert pod_warnings({"hostnam": ""}) == ["unknown key hostnam: it is ignored; did you mean hostname?"]
    assert pod_warnings({"x" * 100: ""}) == [f"unknown key {'x' * 80}: it is ignored"]
