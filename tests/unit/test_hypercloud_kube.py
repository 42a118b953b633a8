"""Services as a cluster's objects, and a cluster's objects as ours."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from hypercloud.config.model import EnginesConfig, KubernetesConfig
from hypercloud.engine.model import Health
from hypercloud.errors import Conflict, EngineUnreachable, HostFault
from hypercloud.kube import limits, manifest, parse
from hypercloud.kube.client import KubeClient
from hypercloud.kube.manifest import Plan
from hypercloud.workload.model import Binding, Destroy, Link, Port, Restart, ServiceSpec

UUID = "0123abcd-0000-4000-8000-000000000000"
ALWAYS = ServiceSpec(image="thing:1", autorestart=Restart.ALWAYS)


def plan(spec: ServiceSpec, **more: Any) -> Plan:
    values: dict[str, Any] = {"name": "web", "namespace": "admin", "target": 2, "revision": 1, "generation": 1}
    return Plan(spec=spec, uuid=UUID, **{**values, **more})


def pod_of(spec: ServiceSpec, **more: Any) -> dict[str, Any]:
    found: dict[str, Any] = manifest.workload(plan(spec, **more))["spec"]["template"]["spec"]
    return found


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (ServiceSpec(image="a"), "Job"),
        (ServiceSpec(image="a", autorestart=Restart.ON_FAILURE), "Job"),
        (ALWAYS, "Deployment"),
        (dataclasses.replace(ALWAYS, sequential=True), "StatefulSet"),
        (dataclasses.replace(ALWAYS, bindings=(Binding(container_path="/d"),)), "StatefulSet"),
        (dataclasses.replace(ALWAYS, bindings=(Binding(host_path="/h", container_path="/d"),)), "Deployment"),
        (dataclasses.replace(ALWAYS, strategy="EVERY_NODE"), "DaemonSet"),
    ],
)
def test_the_kind_of_object(spec: ServiceSpec, kind: str) -> None:
    assert manifest.kind_of(spec) == kind


@pytest.mark.parametrize(
    ("name", "object_name"),
    [
        ("web", "web-0123abcd"),
        ("Web-", "web-0123abcd"),
        ("9lives", "s-9lives-0123abcd"),
        ("a" * 63, "a" * 40 + "-0123abcd"),
    ],
)
def test_names_that_a_cluster_takes(name: str, object_name: str) -> None:
    assert manifest.object_name(name, UUID) == object_name


def test_a_pod_has_what_its_service_says() -> None:
    spec = dataclasses.replace(
        ALWAYS,
        command="run '$(X)' fast",
        entrypoint="/bin/sh -c",
        ports=(Port(protocol="tcp", inner=80, outer=8080, published=True), Port(protocol="udp", inner=53)),
        privileged=True,
        read_only=True,
        user="7:8",
        cap_add=("NET_ADMIN",),
        cpu_shares=512,
        memory=64,
        tags=("fast", "zone=a"),
        strategy="HIGH_AVAILABILITY",
        dns=("192.0.2.1",),
        extra_hosts=("box:192.0.2.2",),
        bindings=(Binding(host_path="/h", container_path="/d", writable=False),),
        tty=True,
        hostname="host",
    )
    pod = pod_of(spec, hosts=(("db", "10.96.0.1"), ("db.shop", "10.96.0.1")), generation=2)
    main = pod["containers"][0]
    assert (main["command"], main["args"]) == (["/bin/sh", "-c"], ["run", "$$(X)", "fast"])
    assert main["ports"] == [
        {"containerPort": 80, "protocol": "TCP", "hostPort": 8080},
        {"containerPort": 53, "protocol": "UDP"},
    ]
    assert main["resources"] == {"requests": {"cpu": "500m", "memory": "64Mi"}, "limits": {"memory": "64Mi"}}
    assert main["securityContext"] == {
        "privileged": True,
        "readOnlyRootFilesystem": True,
        "runAsUser": 7,
        "runAsGroup": 8,
        "capabilities": {"add": ["NET_ADMIN"]},
    }
    assert (main["imagePullPolicy"], main["tty"], pod["hostname"]) == ("Always", True, "host")
    assert main["volumeMounts"] == [{"name": "host-0", "mountPath": "/d", "readOnly": True}]
    assert pod["volumes"] == [{"name": "host-0", "hostPath": {"path": "/h"}}]
    assert pod["nodeSelector"] == {"tag.hypercloud.io/fast": "", "zone": "a"}
    assert pod["hostAliases"] == [
        {"ip": "10.96.0.1", "hostnames": ["db", "db.shop"]},
        {"ip": "192.0.2.2", "hostnames": ["box"]},
    ]
    assert (pod["dnsPolicy"], pod["dnsConfig"]["nameservers"]) == ("None", ["192.0.2.1"])
    assert pod["topologySpreadConstraints"][0]["maxSkew"] == 1
    # A port of a node is free before it is taken again.
    rolling = manifest.workload(plan(spec))["spec"]["strategy"]["rollingUpdate"]
    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}


@pytest.mark.parametrize("value", ["$(B)", "$$(B)", "$$$(B)", "$HOME", "$", "$$", "a$$b$", f"$({manifest.POD_ID})"])
def test_a_program_sees_what_its_user_wrote(value: str) -> None:
    env = pod_of(ALWAYS, env={"A": value})["containers"][0]["env"]
    told = next(one["value"] for one in env if one["name"] == "A")
    assert manifest.expanded(told, {"B": "expanded", manifest.POD_ID: "expanded"}) == value
    assert manifest.expanded(f"/{manifest.POD_ID}/$({manifest.POD_ID})", {manifest.POD_ID: "7"}).endswith("/7")


def test_variables_are_not_expanded_but_ours() -> None:
    env = pod_of(ALWAYS, env={"A": "$(B)"}, own_env={"ME": f"/x/$({manifest.POD_ID})/"})["containers"][0]["env"]
    assert {"name": "A", "value": "$$(B)"} in env
    assert {"name": "ME", "value": f"/x/$({manifest.POD_ID})/"} in env
    assert env.index({"name": "ME", "value": f"/x/$({manifest.POD_ID})/"}) > 0  # after what it names


def test_jobs_and_their_volumes() -> None:
    once = plan(
        ServiceSpec(image="a", bindings=(Binding(container_path="/d"),)), volume_size="2Gi", storage_class="fast"
    )
    made = manifest.job(once, 2)
    assert (made["metadata"]["name"], made["spec"]["backoffLimit"]) == ("web-0123abcd-2", 0)
    (claim,) = manifest.claims(once, 2)
    assert (
        made["spec"]["template"]["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"]
        == claim["metadata"]["name"]
    )
    assert claim["spec"]["storageClassName"] == "fast"
    again = manifest.job(plan(ServiceSpec(image="a", autorestart=Restart.ON_FAILURE)), 1)
    assert again["spec"]["template"]["spec"]["restartPolicy"] == "OnFailure"
    assert again["spec"]["backoffLimit"] > 1_000_000


def test_published_ports_without_a_number_have_a_service_of_their_own() -> None:
    assert manifest.outer_service(plan(ALWAYS)) is None
    spec = dataclasses.replace(
        ALWAYS, ports=(Port(protocol="tcp", inner=80, published=True), Port(protocol="tcp", inner=9))
    )
    outer = manifest.outer_service(plan(spec))
    assert outer is not None
    assert [one["port"] for one in outer["spec"]["ports"]] == [80]
    assert [one["port"] for one in manifest.inner_service(plan(spec))["spec"]["ports"]] == [80, 9]
    assert manifest.inner_service(plan(ALWAYS))["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"mac_address": "02:00:00:00:00:01"}, "mac_address"),
        ({"memory_swap": 1}, "memory_swap"),
        ({"devices": ("/dev/kvm",)}, "devices"),
        ({"user": "root"}, "user"),
        ({"env": {"1X": ""}}, "1X"),
        ({"extra_hosts": ("alone",)}, "alone"),
        ({"bindings": (Binding(volumes_from=UUID),)}, "volumes_from"),
        ({"strategy": "EVERY_NODE", "sequential": True}, "sequential_deployment"),
        ({"strategy": "EVERY_NODE", "bindings": (Binding(container_path="/d"),)}, "bindings"),
        ({"strategy": "EVERY_NODE", "autorestart": Restart.OFF}, "autorestart"),
        ({"net": "host", "ports": (Port(protocol="tcp", inner=1, outer=2, published=True),)}, "outer_port"),
    ],
)
def test_what_a_pod_cannot_be_is_named(changes: dict[str, Any], word: str) -> None:
    limits.check(ALWAYS)
    with pytest.raises(Conflict, match=word):
        limits.check(dataclasses.replace(ALWAYS, **changes))


def test_other_fields_are_no_matter() -> None:
    limits.check(
        ServiceSpec(image="a", autodestroy=Destroy.ALWAYS, links=(Link(to=UUID, name="b"),), labels={"x": "y" * 200})
    )


ABSENT = {"reason": "ErrImagePull", "message": "no"}


def status(phase: str, **state: Any) -> dict[str, Any]:
    return {"status": {"phase": phase, "containerStatuses": [state]}}


@pytest.mark.parametrize(
    ("pod", "running", "ended", "restarting", "trouble"),
    [
        (status("Running", state={"running": {"startedAt": "x"}}), True, False, False, ""),
        (status("Succeeded", state={"terminated": {"exitCode": 0}}), False, True, False, ""),
        (
            status(
                "Running",
                state={"waiting": {"reason": "CrashLoopBackOff"}},
                lastState={"terminated": {"exitCode": 1}},
            ),
            False,
            False,
            True,
            "CrashLoopBackOff",
        ),
        (status("Pending", state={"waiting": {"reason": "ContainerCreating"}}), False, False, False, ""),
        (status("Pending", state={"waiting": ABSENT}), False, False, False, "ErrImagePull: no"),
        ({"status": {"phase": "Failed", "reason": "Evicted", "message": "full"}}, False, True, False, "Evicted: full"),
        ({"status": 7, "metadata": [], "spec": "x"}, False, False, False, ""),
        ({}, False, False, False, ""),
    ],
)  # fmt: skip
def test_how_a_pod_is(pod: dict[str, Any], running: bool, ended: bool, restarting: bool, trouble: str) -> None:
    found = parse.state(pod)
    assert (found.running, found.ended, found.restarting, found.trouble) == (running, ended, restarting, trouble)
    parse.container(pod, {})  # whatever it is


def test_a_node_is_an_engine() -> None:
    node = {
        "metadata": {"uid": "u", "name": "n", "labels": {"tag.hypercloud.io/fast": "", "zone": "a"}},
        "status": {
            "capacity": {"cpu": "1500m", "memory": "2Gi"},
            "conditions": [{"type": "Ready", "status": "Unknown", "message": "kubelet is silent"}],
            "addresses": [{"type": "InternalIP", "address": "2001:db8::1"}],
        },
    }
    found = parse.node(node)
    assert (found.spec.labels, found.spec.cpus, found.spec.memory) == (("fast", "zone=a"), 1.5, 2048.0)
    assert (found.facts.health, found.facts.error) == (Health.DOWN, "kubelet is silent")
    assert found.spec.addr == "https://[2001:db8::1]"
    assert parse.node({}).facts.health is Health.PENDING


@pytest.mark.parametrize(
    ("text", "number"), [
        ("4", 4.0), ("250m", 0.25), ("1Ki", 1024.0), ("1M", 1e6), ("x", 0.0), (None, 0.0), (True, 0.0),
        ("1500000n", 0.0015), ("2Pi", 2.0**51), ("1E", 1e18), ("12e6", 12e6), ("1.5e3k", 1.5e6), ("-1", 0.0),
    ],
)  # fmt: skip
def test_quantities(text: Any, number: float) -> None:
    assert parse.quantity(text) == number


def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    for text in (None, "{", "[]", '{"clusters": []}'):
        if text is not None:
            path.write_text(text, encoding="utf-8")
        with pytest.raises(HostFault, match=str(path)):
            KubeClient(KubernetesConfig(config=path), EnginesConfig())


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kubernetes.client.api_client", None)
    with pytest.raises(HostFault, match=r"hyperd\[kubernetes\]"):
        KubeClient(KubernetesConfig(config=Path("x")), EnginesConfig())


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(json.dumps(config), encoding="utf-8")
    client = KubeClient(KubernetesConfig(config=path), EnginesConfig())
    with pytest.raises(EngineUnreachable, match=r"127\.0\.0\.1:1"):
        client.ping()
    client.close()
