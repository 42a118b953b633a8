"""The pod specification: what is read, what is refused, and that writing it back loses nothing."""

from __future__ import annotations

import copy
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.api.hyper.pod_spec import (
    PortSpec,
    Resource,
    dump_container,
    dump_pod,
    parse_container,
    parse_pod,
    parse_portmappings,
)
from hyperd.errors import InvalidInput
from tests.support.pods import FULL, WRONG_VALUES, changed, wrong_types

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*FULL, *FULL["containers"][0], "x"]), inner, max_size=6)
    ),
    max_leaves=30,
)


def test_full_pod_is_read():
    spec = parse_pod(FULL)
    assert spec.id == "full-pod.1"
    assert spec.resource == Resource(vcpu=2, memory=256)
    container = spec.containers[0]
    assert container.entrypoint == ("/bin/env",)
    assert container.envs == (("MODE", "demo"),)
    assert container.tty is False
    assert container.user.additional_groups == ("daemon", "5")
    assert container.volumes[1].detail.option.monitors == ("10.0.0.1:6789",)
    assert container.files[0].target == "/etc/motd"
    assert container.files[0].mode == 0o644
    assert container.ports == (PortSpec(container_port="8080", host_port="18080", protocol="tcp"),)
    assert container.stop_signal == "SIGINT"
    assert spec.portmappings[0].expand() == [("udp", 3000, 80), ("udp", 3001, 81)]
    assert spec.portmapping_white_lists.external_networks == ("0.0.0.0/0",)


@pytest.mark.parametrize("pod", [FULL, {}, {"containers": [{"image": "busybox"}]}], ids=["full", "empty", "small"])
def test_dump_and_parse_are_inverse(pod):
    spec = parse_pod(pod)
    assert parse_pod(json.loads(json.dumps(dump_pod(spec)))) == spec
    for container in spec.containers:
        assert parse_container(json.loads(json.dumps(dump_container(container)))) == container


def test_defaults():
    spec = parse_pod({}, default_vcpu=3, default_memory=64)
    assert spec.resource == Resource(vcpu=3, memory=64)
    assert spec.id == ""
    assert spec.containers == ()
    small = parse_container({"image": "busybox"})
    assert small.tty is None
    assert small.volumes == ()


def test_zero_resources_mean_the_default():
    assert parse_pod({"resource": {"vcpu": 0, "memory": 0}}).resource == Resource(vcpu=1, memory=128)


def test_keys_match_without_case_and_unknown_ones_are_ignored():
    pod = {
        "ID": "a",
        "CONTAINERS": [{"Image": "b", "entryPoint": ["c"], "READONLY": True, "stopsignal": "INT", "colour": 1}],
        "PortMappings": [{"containerport": "80", "HOSTPORT": "8080"}],
        "nonsense": {"a": [1]},
    }
    spec = parse_pod(pod)
    assert spec.id == "a"
    assert spec.containers[0].entrypoint == ("c",)
    assert spec.containers[0].read_only
    assert spec.containers[0].stop_signal == "INT"
    assert spec.portmappings == (PortSpec(container_port="80", host_port="8080", protocol="tcp"),)


def test_null_is_the_default_everywhere():
    pod = dict.fromkeys(FULL)
    assert parse_pod(pod) == parse_pod({})
    container = dict.fromkeys(FULL["containers"][0]) | {"image": "busybox"}
    assert parse_container(container) == parse_container({"image": "busybox"})


def test_null_among_strings_is_the_empty_string():
    spec = parse_container({"image": "a", "command": ["sh", None], "labels": {"k": None}})
    assert spec.command == ("sh", "")
    assert spec.labels == {"k": ""}


def test_old_name_of_the_volume_format():
    assert parse_pod({"volumes": [{"name": "v", "driver": "raw", "source": "/d"}]}).volumes[0].format == "raw"


def test_a_pods_id_may_be_its_hostname():
    spec = parse_pod({"id": "pod-AbC", "hostname": "pod-AbC"})
    assert parse_pod(dump_pod(spec)) == spec


def test_docker_slash_before_a_name_is_dropped():
    assert parse_container({"image": "a", "name": "/web"}).name == "web"


def test_lone_surrogates_become_replacement_characters():
    assert parse_container({"image": "a", "command": ["\ud800x"]}).command == ("\ufffdx",)


def test_inline_volume_gets_the_name_of_its_reference():
    ref = {"path": "/d", "volume": "v", "detail": {"source": "/srv", "format": "vfs"}}
    assert parse_container({"image": "a", "volumes": [ref]}).volumes[0].detail.name == "v"
    ref = {"path": "/d", "detail": {"name": "w", "source": "/srv", "format": "vfs"}}
    assert parse_container({"image": "a", "volumes": [ref]}).volumes[0].volume == "w"


def test_port_without_host_port_publishes_nothing():
    assert parse_container({"image": "a", "ports": [{"containerPort": 80}]}).ports[0].expand() == []


@pytest.mark.parametrize(("path", "value"), wrong_types(), ids=lambda value: repr(value)[:30])
def test_wrong_type_names_the_field(path, value):
    with pytest.raises(InvalidInput) as caught:
        parse_pod(changed(path, value))
    parts = path.replace("[", ".").replace("]", "").split(".")
    assert any(part in str(caught.value) for part in parts if not part.isdigit()), str(caught.value)


@pytest.mark.parametrize(
    ("path", "value", "message"), WRONG_VALUES, ids=[f"{p}={v!r}"[:50] for p, v, _ in WRONG_VALUES]
)
def test_wrong_value_has_its_message(path, value, message):
    with pytest.raises(InvalidInput) as caught:
        parse_pod(changed(path, value))
    assert message in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("data", [None, [], "pod", 1, True])
def test_not_an_object(data):
    with pytest.raises(InvalidInput, match="must be an object"):
        parse_pod(data)


@settings(deadline=None)
@given(JSON)
def test_any_json_is_read_or_refused(data):
    try:
        spec = parse_pod(data)
    except InvalidInput:
        return
    assert parse_pod(json.loads(json.dumps(dump_pod(spec)))) == spec


@settings(deadline=None)
@given(st.sampled_from([path for path, _ in wrong_types()]), JSON)
def test_any_json_in_any_field_is_read_or_refused(path, value):
    try:
        spec = parse_pod(changed(path, value))
    except InvalidInput:
        return
    assert parse_pod(json.loads(json.dumps(dump_pod(spec)))) == spec


def test_the_input_is_not_changed():
    before = copy.deepcopy(FULL)
    parse_pod(FULL)
    assert before == FULL


def test_portmappings_of_the_api():
    assert parse_portmappings([{"containerPort": "80", "hostPort": "8080", "protocol": "TCP"}]) == (
        PortSpec(container_port="80", host_port="8080", protocol="tcp"),
    )
    for bad in (None, {}, [1], [{"containerPort": 80}], [{"hostPort": "1"}]):
        with pytest.raises(InvalidInput):
            parse_portmappings(bad)
