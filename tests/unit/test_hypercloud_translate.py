"""What is read back from an engine's containers: labels that anybody may have written break nothing."""

from __future__ import annotations

import json

import pytest

from hypercloud import strict
from hypercloud.api.shipyard import views
from hypercloud.engine import parse
from hypercloud.engine.model import Engine, EngineFacts, EngineSpec, PortMap
from hypercloud.fleet import translate
from hypercloud.fleet.model import Container, Image

ENGINE = Engine(spec=EngineSpec(id="e", name="e", addr="http://e:1", cpus=4, memory=4096), facts=EngineFacts())


def container(label, **more):
    return parse.container("e", {"Id": "c", "Config": {"Labels": {translate.LABEL: label}}, **more})


def test_what_is_written_is_read():
    wanted = Image(
        name="a:1", cpus=0.5, memory=64.0, labels=("x",), links={"db": "store"}, user_data={"a": [1.5, None]},
        bind_ports=(PortMap(proto="udp", container_port=53, port=5353, host_ip="127.0.0.1"),),
    )  # fmt: skip
    found = translate.image_of(container(translate.description(wanted, 4)["Labels"][translate.LABEL]), 4)
    for name in ("cpus", "memory", "labels", "links", "user_data", "bind_ports"):
        assert getattr(found, name) == getattr(wanted, name)


@pytest.mark.parametrize(
    "label",
    [
        '{"cpus": NaN}', '{"memory": Infinity}', '{"cpus": 1e999}', '{"memory": -1}', '{"cpus": true}',
        '{"cpus": 1' + "0" * 400 + "}", '{"user_data": {"a": NaN}}', '{"user_data": {"a": -1e999}}',
        '{"bind_ports": [{"port": "x"}]}', '{"bind_ports": [{"container_port": null}, 1, [], {"port": 99999}]}',
        '{"bind_ports": [{"proto": {}, "host_ip": []}]}', '{"links": {"a": {"b": 1}}}', '{"labels": [NaN]}',
        "[" * 5000, '{"user_data":' * 900 + "1" + "}" * 900, "[]", "NaN", "\x00",
    ],
)  # fmt: skip
def test_labels_of_others(label):
    seen = container(label)
    image = translate.image_of(seen, 4)
    shown = views.container(Container(engine=ENGINE, image=image, seen=seen), string_state=False)
    json.dumps(shown, allow_nan=False)
    assert translate.cpus_of(seen, 4) >= 0
    assert translate.memory_of(seen) >= 0


def test_good_entries_beside_wrong_ones_count():
    image = translate.image_of(container('{"cpus": -1, "memory": 64, "bind_ports": [{"container_port": 80}, 7]}'), 4)
    assert (image.memory, image.bind_ports) == (64.0, (PortMap(proto="tcp", container_port=80),))


def test_an_engines_numbers():
    seen = container("{}", State={"Pid": float("inf")}, NetworkSettings={"Ports": {"\u00b2/tcp": [], "80/tcp": [
        {"HostPort": "\u00b2"}]}})  # fmt: skip
    assert seen.pid == 0
    assert seen.ports == (PortMap(proto="tcp", container_port=80),)


@pytest.mark.parametrize("text", ["NaN", "[-Infinity]", '{"a": 1e999}', "[" * 100_000])
def test_strict_json(text):
    with pytest.raises(ValueError, match=r"number|too large|deep"):
        strict.loads(text)
