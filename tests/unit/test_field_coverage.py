"""Every field of the pod specification has a test in a real guest that sets it: a new field has to be added here.

The paths are read from the schemas; the table names a test for each. That test (with the fixtures and helpers of its
module that it uses) must write the field's name down, and its module must be one of real VMs.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from marshmallow import Schema, fields

from hyperctl import podfile
from hyperd.api.hyper.pod_schema import EnvField, EnvSchema, PodSchema

VM_TESTS = Path(__file__).resolve().parents[1] / "vm"

FIELDS = "test_pod_fields.py::test_program_user_limits_and_size"
PLACES = "test_pod_fields.py::test_volumes_and_files_defined_in_place"
CEPH = "test_pod_fields.py::test_ceph_volumes_that_this_host_cannot_have"
PORTS = "test_pod_fields.py::test_ports_of_a_container_are_the_pods"
TERMINALS = "test_pod_fields.py::test_terminals_of_a_whole_pod"
OWNERS = "test_files.py::test_permissions_and_owners"
SOURCES = "test_files.py::test_large_files_from_every_source"
SHARED = "test_volumes.py::test_new_volumes_are_shared_by_the_pods_containers"
IMAGES = "test_volumes.py::test_images"
NICS = "test_network.py::test_several_nics_each_field"
NETWORKS = "test_networks.py::test_two_networks_names_connect_and_disconnect"
IPV6 = "test_networks.py::test_ipv6_between_guests"
SERVICES = "test_network.py::test_services"
NAMES = "test_network.py::test_names_and_name_servers"
LISTS = "test_network.py::test_white_lists"
ON_FAILURE = "test_lifecycle.py::test_on_failure_ends_with_success_and_attached_clients_see_every_run"
GIVEN = "test_isolation.py::test_what_a_container_is_given"
WALLS = "test_isolation.py::test_root_in_a_container_meets_walls"
LIMITS = "test_isolation.py::test_limits_hold_and_siblings_live"
HEALTH = "test_containers.py::test_health_is_checked_and_survives_the_daemon"
SHARES = "test_containers.py::test_a_manifest_whose_containers_see_each_others_processes"
ENDS = "test_containers.py::test_ends_of_containers"
LOGS = "test_logs.py::test_json_file_with_size_number_and_path"

TESTED_BY = {
    "id": FIELDS,
    "hostname": NAMES,
    "type": FIELDS,
    "restartPolicy": "test_lifecycle.py::test_always_restarts_until_it_is_stopped",
    "tty": TERMINALS,
    "labels": "test_lifecycle.py::test_labels_of_a_pod",
    "resource.vcpu": FIELDS,
    "resource.memory": FIELDS,
    "containers[].name": FIELDS,
    "containers[].id": FIELDS,
    "containers[].image": FIELDS,
    "containers[].command[]": FIELDS,
    "containers[].entrypoint[]": FIELDS,
    "containers[].workdir": FIELDS,
    "containers[].envs[].env": FIELDS,
    "containers[].envs[].value": FIELDS,
    "containers[].tty": TERMINALS,
    "containers[].user.name": FIELDS,
    "containers[].user.group": FIELDS,
    "containers[].user.additionalGroups[]": FIELDS,
    "containers[].volumes[].path": PLACES,
    "containers[].volumes[].volume": PLACES,
    "containers[].volumes[].readOnly": "test_volumes.py::test_read_only_is_kept_by_the_guest_and_by_the_host",
    "containers[].volumes[].detail.name": PLACES,
    "containers[].volumes[].detail.source": PLACES,
    "containers[].volumes[].detail.format": PLACES,
    "containers[].volumes[].detail.fstype": PLACES,
    "containers[].volumes[].detail.cache": PLACES,
    "containers[].volumes[].detail.option.user": CEPH,
    "containers[].volumes[].detail.option.keyring": CEPH,
    "containers[].volumes[].detail.option.monitors[]": CEPH,
    "containers[].files[].path": OWNERS,
    "containers[].files[].filename": OWNERS,
    "containers[].files[].perm": OWNERS,
    "containers[].files[].user": OWNERS,
    "containers[].files[].group": OWNERS,
    "containers[].files[].detail.name": PLACES,
    "containers[].files[].detail.encoding": PLACES,
    "containers[].files[].detail.uri": PLACES,
    "containers[].files[].detail.content": PLACES,
    "containers[].ports[].containerPort": PORTS,
    "containers[].ports[].hostPort": PORTS,
    "containers[].ports[].protocol": PORTS,
    "containers[].labels": FIELDS,
    "containers[].sysctl": FIELDS,
    "containers[].restartPolicy": ON_FAILURE,
    "containers[].StopSignal": "test_lifecycle.py::test_stop_signal_of_the_specification",
    "containers[].ulimits[].Name": FIELDS,
    "containers[].ulimits[].Hard": FIELDS,
    "containers[].ulimits[].Soft": FIELDS,
    "containers[].logPath": LOGS,
    "containers[].readOnly": FIELDS,
    "containers[].cache": "test_volumes.py::test_the_containers_cache_mode_is_the_pods_disks",
    "containers[].init": "test_isolation.py::test_programs_that_insist_on_being_process_one",
    "containers[].limits.memory": LIMITS,
    "containers[].limits.memoryReservation": LIMITS,
    "containers[].limits.memorySwap": LIMITS,
    "containers[].limits.nanoCpus": LIMITS,
    "containers[].limits.cpuShares": LIMITS,
    "containers[].limits.cpuPeriod": LIMITS,
    "containers[].limits.cpuQuota": LIMITS,
    "containers[].limits.cpusetCpus": LIMITS,
    "containers[].limits.pids": LIMITS,
    "containers[].security.privileged": GIVEN,
    "containers[].security.capAdd[]": GIVEN,
    "containers[].security.capDrop[]": WALLS,
    "containers[].security.seccomp": WALLS,
    "containers[].security.noNewPrivileges": WALLS,
    "containers[].security.maskedPaths[]": GIVEN,
    "containers[].security.readonlyPaths[]": GIVEN,
    "containers[].security.groupAdd[]": GIVEN,
    "containers[].tmpfs[].path": GIVEN,
    "containers[].tmpfs[].size": GIVEN,
    "containers[].tmpfs[].mode": GIVEN,
    "containers[].tmpfs[].options[]": GIVEN,
    "containers[].devices[].source": GIVEN,
    "containers[].devices[].target": GIVEN,
    "containers[].devices[].permissions": GIVEN,
    "containers[].shmSize": GIVEN,
    "containers[].oomScoreAdj": GIVEN,
    "containers[].pidNamespace": SHARES,
    **{
        f"containers[].healthcheck.{name}": HEALTH
        for name in ("command[]", "shell", "disabled", "interval", "timeout", "startPeriod", "startInterval", "retries")
    },
    "containers[].restartMax": ENDS,
    "containers[].autoRemove": ENDS,
    "containers[].stopTimeout": ENDS,
    "files[].name": OWNERS,
    "files[].encoding": SOURCES,
    "files[].uri": SOURCES,
    "files[].content": SOURCES,
    "volumes[].name": SHARED,
    "volumes[].source": IMAGES,
    "volumes[].format": IMAGES,
    "volumes[].fstype": "test_volumes.py::test_the_data_directory_of_the_original_is_used",
    "volumes[].cache": IMAGES,
    "volumes[].option.user": CEPH,
    "volumes[].option.keyring": CEPH,
    "volumes[].option.monitors[]": CEPH,
    "interfaces[].id": "test_pod_fields.py::test_names_of_interfaces_and_servers",
    "interfaces[].bridge": NICS,
    "interfaces[].ip": NICS,
    "interfaces[].ifname": NICS,
    "interfaces[].mac": NICS,
    "interfaces[].mtu": NICS,
    "interfaces[].gateway": "test_network.py::test_gateway_of_an_own_bridge_and_published_ports_there",
    "portmappings[].hostIP": NETWORKS,
    "containers[].ports[].hostIP": NETWORKS,
    "networks[].network": NETWORKS,
    "networks[].aliases[]": NETWORKS,
    "networks[].links[].container": NETWORKS,
    "networks[].links[].alias": NETWORKS,
    "networks[].ip": NETWORKS,
    "networks[].ip6": IPV6,
    "networks[].mac": NETWORKS,
    "extraHosts[].name": NETWORKS,
    "extraHosts[].ip": NETWORKS,
    "services[].serviceIP": SERVICES,
    "services[].servicePort": SERVICES,
    "services[].protocol": SERVICES,
    "services[].hosts[].hostIP": SERVICES,
    "services[].hosts[].hostPort": SERVICES,
    "portmappings[].containerPort": PORTS,
    "portmappings[].hostPort": PORTS,
    "portmappings[].protocol": "test_network.py::test_ports_come_and_go_while_the_pod_runs",
    "portmappingWhiteLists.internalNetworks[]": LISTS,
    "portmappingWhiteLists.externalNetworks[]": LISTS,
    "dns[]": NAMES,
    "dnsOptions[]": NAMES,
    "dnsSearch[]": NAMES,
    "log.type": LOGS,
    "log.config": LOGS,
}


def paths(schema: Schema, before: str = "") -> Iterator[str]:
    """Yield every field of a schema that has no fields itself, by the names on the wire."""
    for name, field in schema.fields.items():
        many = isinstance(field, fields.List)
        inner = field.inner if isinstance(field, fields.List) else field
        path = f"{before}{field.data_key or name}{'[]' if many else ''}"
        if isinstance(inner, fields.Nested):
            yield from paths(inner.schema, f"{path}.")
        elif isinstance(inner, EnvField):
            yield from paths(EnvSchema(), f"{path}.")
        else:
            yield path


@cache
def functions(module: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((VM_TESTS / module).read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def words(module: str, name: str, seen: set[str]) -> set[str]:
    """Return the texts and keywords in a function and in the functions and fixtures of its module that it uses."""
    if name in seen or name not in functions(module):
        return set()
    seen.add(name)
    found: set[str] = set()
    for node in ast.walk(functions(module)[name]):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.add(node.value)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, (ast.Name, ast.arg)):
            found |= words(module, node.id if isinstance(node, ast.Name) else node.arg, seen)
    return found


def test_every_field_is_in_the_table_and_nothing_else():
    assert set(TESTED_BY) == set(paths(PodSchema()))


@pytest.mark.parametrize("path", TESTED_BY)
def test_the_test_sets_the_field(path):
    module, _, name = TESTED_BY[path].partition("::")
    assert "pytest.mark.vm" in (VM_TESTS / module).read_text(encoding="utf-8")
    assert name in functions(module), f"{module} has no {name}"
    assert path.removesuffix("[]").rpartition(".")[2] in words(module, name, set())


def unlike(schema: Schema, shape: dict[str, Any], path: str = "") -> Iterator[str]:
    """The fields that only one of the daemon and hyperctl's pod files knows."""
    known = {field.data_key or name: field for name, field in schema.fields.items()}
    yield from (f"{path}{key}" for key in known.keys() ^ shape.keys())
    for key in known.keys() & shape.keys():
        field, inner = known[key], shape[key]
        while isinstance(field, fields.List):
            field, (inner,) = field.inner, inner
        if isinstance(field, fields.Nested):
            yield from unlike(field.schema, inner, f"{path}{key}.")


def test_pod_files_have_the_daemons_fields() -> None:
    # servicePort stands in files of the original; the daemon reads past it, as the original did.
    assert set(unlike(PodSchema(), podfile.POD)) == {"containers.ports.servicePort"}
