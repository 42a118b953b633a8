"""Kubernetes' CRI: every call of a client over grpcio, to a real daemon with the fake driver."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hyperd.api.cri.v1 import api_pb2 as pb
from tests.support.cri import CriClient
from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]

_NUMBERS = itertools.count(1)
MIB = 2**20


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.push("busybox", "latest", [Layer(busybox_tar())])
        server.push("busybox", "other", [Layer(busybox_tar())])
        server.push("named", "1", [Layer(busybox_tar())], config={"config": {"User": "1002", "Cmd": ["sleep", "100"]}})
        yield server


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start("--cri", f"unix://{launcher.directory}/cri.sock")
        yield launcher
        assert "internal_error" not in launcher.log()


@pytest.fixture(scope="module")
def cri(daemon: HyperdLauncher) -> Iterator[CriClient]:
    with CriClient(daemon.directory / "cri.sock") as client:
        yield client


@pytest.fixture(scope="module")
def image(registry: RegistryServer, cri: CriClient) -> str:
    name = f"{registry.host}/busybox:latest"
    cri.PullImage(image={"image": name})
    return name


def sandbox_config(**fields: Any) -> pb.PodSandboxConfig:
    number = next(_NUMBERS)
    metadata = {"name": f"web-{number}", "uid": f"uid-{number}", "namespace": "default", "attempt": 1}
    return pb.PodSandboxConfig(**{"metadata": metadata, "hostname": f"web-{number}", **fields})


@pytest.fixture
def sandbox(cri: CriClient) -> Iterator[Callable[..., tuple[str, pb.PodSandboxConfig]]]:
    """Yield a function that runs a sandbox and gives its id and configuration."""
    made: list[str] = []

    def run(**fields: Any) -> tuple[str, pb.PodSandboxConfig]:
        config = sandbox_config(**fields)
        made.append(cri.RunPodSandbox(config=config).pod_sandbox_id)
        return made[-1], config

    yield run
    for ident in made:
        cri.RemovePodSandbox(pod_sandbox_id=ident)


def container_config(image: str, command: str = "sleep 100", **fields: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "main"},
        "image": {"image": image},
        "command": ["sh", "-c"],
        "args": [command],
        **fields,
    }


def start(cri: CriClient, pod: str, config: dict[str, Any]) -> str:
    ident = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
    cri.StartContainer(container_id=ident)
    return ident


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    """Return status code and message of a call that fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return caught.value.code().name, caught.value.details()


def status(cri: CriClient, ident: str) -> pb.ContainerStatus:
    return cri.ContainerStatus(container_id=ident).status


# -- the runtime


def test_version_and_settings(cri: CriClient) -> None:
    found = cri.Version(version="0.1.0")
    assert (found.version, found.runtime_name, found.runtime_api_version) == ("0.1.0", "hyperd", "v1")
    assert cri.RuntimeConfig().linux.cgroup_driver == (
        pb.SYSTEMD if Path("/run/systemd/system").is_dir() else pb.CGROUPFS
    )


def test_the_version_before(cri: CriClient, daemon: HyperdLauncher, image: str) -> None:
    with CriClient(daemon.directory / "cri.sock", api_version="v1alpha2") as older:
        found = older.Version(version="0.1.0")
        assert (found.version, found.runtime_api_version) == ("0.1.0", "v1alpha2")
        pod = older.RunPodSandbox(config=sandbox_config()).pod_sandbox_id
        try:
            ident = start(older, pod, container_config(image))
            assert status(cri, ident) == status(older, ident)
            assert [one.id for one in older.ListContainers(filter={"pod_sandbox_id": pod}).containers] == [ident]
            assert older.ImageStatus(image={"image": image}).image.id == status(cri, ident).image_id
        finally:
            older.RemovePodSandbox(pod_sandbox_id=pod)
        code, _ = refused(lambda: cri.raw("/runtime.v1alpha3.RuntimeService/Version"))
        assert code == "UNIMPLEMENTED"


def test_status_tells_the_truth(cri: CriClient, daemon: HyperdLauncher) -> None:
    answer = cri.Status(verbose=True)
    found = {one.type: one.status for one in answer.status.conditions}
    assert found == {"RuntimeReady": True, "NetworkReady": True}
    assert {one.name for one in answer.runtime_handlers} == {"", "hyperd"}
    assert all(one.features.recursive_read_only_mounts for one in answer.runtime_handlers)
    assert json.loads(answer.info["hyperd"])["driver"] == "fake"
    subprocess.run(["ip", "link", "set", daemon.bridge, "name", f"{daemon.bridge}x"], check=True)
    try:
        network = cri.Status().status.conditions[1]
        assert (network.status, network.reason) == (False, "NoBridge")
    finally:
        subprocess.run(["ip", "link", "set", f"{daemon.bridge}x", "name", daemon.bridge], check=True)


def test_range_of_addresses_is_the_configured_one(cri: CriClient, daemon: HyperdLauncher) -> None:
    cri.UpdateRuntimeConfig(runtime_config={"network_config": {"pod_cidr": daemon.subnet}})
    cri.UpdateRuntimeConfig(runtime_config={})
    other = {"network_config": {"pod_cidr": "10.99.0.0/16"}}
    code, message = refused(lambda: cri.UpdateRuntimeConfig(runtime_config=other))
    assert code == "FAILED_PRECONDITION"
    assert "10.99.0.0/16" in message


@pytest.mark.parametrize(
    "method",
    [
        "StreamPodSandboxMetrics", "StreamPodSandboxes", "StreamPodSandboxStats", "StreamContainers",
        "StreamContainerStats",
    ],
)  # fmt: skip
def test_what_is_not_served_says_so(cri: CriClient, method: str) -> None:
    code, message = refused(lambda: cri.raw(f"/runtime.v1.RuntimeService/{method}"))
    assert code == "UNIMPLEMENTED"
    assert method in message
    assert "yet" in message


# -- sandboxes


def test_life_of_a_sandbox(cri: CriClient, daemon: HyperdLauncher, sandbox: Any) -> None:
    labels, annotations = {"app": "web"}, {"note": "kept", "a/b": "x=1\n"}
    linux = {"resources": {"memory_limit_in_bytes": 256 * MIB, "cpu_quota": 150_000, "cpu_period": 100_000}}
    ident, config = sandbox(labels=labels, annotations=annotations, linux=linux, dns_config={"servers": ["10.0.0.10"]})
    found = cri.PodSandboxStatus(pod_sandbox_id=ident, verbose=True)
    shown = found.status
    assert (shown.id, shown.state, shown.metadata) == (ident, pb.SANDBOX_READY, config.metadata)
    assert (dict(shown.labels), dict(shown.annotations)) == (labels, annotations)
    assert shown.created_at > 10**18
    assert shown.network.ip.startswith("10.213.")
    assert json.loads(found.info["hyperd"]) | {"vm": ""} == {"vm": "", "reason": "", "vcpu": 2, "memoryMiB": 320}
    pod = daemon.json("GET", "/pod/info", podName=ident)
    assert pod["status"]["phase"] == "Running"

    def listed(**wanted: Any) -> list[str]:
        return [one.id for one in cri.ListPodSandbox(filter=wanted).items]

    assert ident in listed()
    assert listed(id=ident[:32]) == [ident]
    assert cri.PodSandboxStatus(pod_sandbox_id=ident[:32]).status == shown  # as crictl names it
    assert listed(id=ident, state={"state": pb.SANDBOX_NOTREADY}) == []
    assert listed(id=ident, label_selector={"app": "web"}) == [ident]
    assert listed(id=ident, label_selector={"app": "db"}) == []
    for _ in range(2):
        cri.StopPodSandbox(pod_sandbox_id=ident)
    shown = cri.PodSandboxStatus(pod_sandbox_id=ident).status
    assert (shown.state, shown.network.ip) == (pb.SANDBOX_NOTREADY, "")
    for _ in range(2):
        cri.RemovePodSandbox(pod_sandbox_id=ident)
    cri.StopPodSandbox(pod_sandbox_id=ident)
    assert refused(lambda: cri.PodSandboxStatus(pod_sandbox_id=ident))[0] == "NOT_FOUND"
    assert ident not in listed()


def test_sandboxes_are_told_apart_by_their_metadata(cri: CriClient, sandbox: Any) -> None:
    ident, config = sandbox()
    code, message = refused(lambda: cri.RunPodSandbox(config=config))
    assert code == "ALREADY_EXISTS"
    assert ident in message
    config.metadata.attempt += 1
    other = cri.RunPodSandbox(config=config, runtime_handler="hyperd").pod_sandbox_id
    assert cri.PodSandboxStatus(pod_sandbox_id=other).status.runtime_handler == "hyperd"
    cri.RemovePodSandbox(pod_sandbox_id=other)


@pytest.mark.parametrize(
    ("fields", "handler", "code", "word"),
    [
        ({"namespace_options": {"network": pb.NODE}}, "", "UNIMPLEMENTED", "hostNetwork"),
        ({"namespace_options": {"pid": pb.NODE}}, "", "UNIMPLEMENTED", "hostPID"),
        ({"namespace_options": {"ipc": pb.NODE}}, "", "UNIMPLEMENTED", "hostIPC"),
        ({"run_as_group": {"value": 1}}, "", "INVALID_ARGUMENT", "run_as_user"),
        ({"selinux_options": {"level": "s0"}}, "", "UNIMPLEMENTED", "SELinux"),
        ({}, "runc", "INVALID_ARGUMENT", "runc"),
    ],
)
def test_sandboxes_that_cannot_be(cri: CriClient, fields: Any, handler: str, code: str, word: str) -> None:
    config = sandbox_config(linux={"security_context": fields})
    before = len(cri.ListPodSandbox().items)
    found, message = refused(lambda: cri.RunPodSandbox(config=config, runtime_handler=handler))
    assert found == code
    assert word in message
    assert len(cri.ListPodSandbox().items) == before


def test_other_apis_pods_are_not_seen(cri: CriClient, daemon: HyperdLauncher, image: str) -> None:
    pod = daemon.json("POST", "/pod/create", status=201, body={"containers": [{"image": image}]})["ID"]
    container = daemon.json("GET", "/pod/info", podName=pod)["spec"]["containers"][0]["containerID"]
    try:
        assert pod not in [one.id for one in cri.ListPodSandbox().items]
        assert container not in [one.id for one in cri.ListContainers().containers]
        assert refused(lambda: cri.PodSandboxStatus(pod_sandbox_id=pod))[0] == "NOT_FOUND"
        assert refused(lambda: cri.ContainerStatus(container_id=container))[0] == "NOT_FOUND"
        cri.RemovePodSandbox(pod_sandbox_id=pod)
        cri.RemoveContainer(container_id=container)
        assert daemon.json("GET", "/pod/info", podName=pod)
    finally:
        daemon.request("DELETE", "/pod", podId=pod)


# -- containers


def test_life_of_a_container(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    config = container_config(image, labels={"tier": "front"}, annotations={"hash": "1"}, log_path="main/0.log")
    ident = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
    shown = status(cri, ident)
    assert (shown.state, shown.started_at, shown.finished_at) == (pb.CONTAINER_CREATED, 0, 0)
    assert refused(lambda: cri.CreateContainer(pod_sandbox_id=pod, config=config))[0] == "ALREADY_EXISTS"
    cri.StartContainer(container_id=ident)
    shown = status(cri, ident)
    assert shown.state == pb.CONTAINER_RUNNING
    assert shown.started_at >= shown.created_at > 10**18
    assert (dict(shown.labels), dict(shown.annotations)) == ({"tier": "front"}, {"hash": "1"})
    assert (shown.metadata.name, shown.image.image, shown.log_path) == ("main", image, "")
    assert shown.image_id == shown.image_ref == cri.ImageStatus(image={"image": image}).image.id
    assert refused(lambda: cri.StartContainer(container_id=ident))[0] == "FAILED_PRECONDITION"
    assert [one.id for one in cri.PodSandboxStatus(pod_sandbox_id=pod).containers_statuses] == [ident]

    def listed(**wanted: Any) -> list[str]:
        return [one.id for one in cri.ListContainers(filter=wanted).containers]

    running = {"state": pb.CONTAINER_RUNNING}
    assert listed(pod_sandbox_id=pod, state=running, label_selector={"tier": "front"}) == [ident]
    assert listed(id=ident[:32]) == [ident]
    assert status(cri, ident[:32]) == shown
    assert listed(id=ident, label_selector={"tier": "back"}) == []
    for _ in range(2):
        cri.StopContainer(container_id=ident, timeout=0)
    shown = status(cri, ident)
    assert (shown.state, shown.exit_code, shown.reason) == (pb.CONTAINER_EXITED, 137, "Error")
    assert shown.finished_at >= shown.started_at
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status.state == pb.SANDBOX_READY
    for _ in range(2):
        cri.RemoveContainer(container_id=ident)
    cri.StopContainer(container_id=ident, timeout=1)
    assert refused(lambda: status(cri, ident))[0] == "NOT_FOUND"


def test_ends_have_reasons(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    for name, command, code, reason in (("good", "exit 0", 0, "Completed"), ("bad", "exit 3", 3, "Error")):
        ident = start(cri, pod, container_config(image, command, metadata={"name": name}))
        until(lambda ident=ident: status(cri, ident).state == pb.CONTAINER_EXITED)
        assert (status(cri, ident).exit_code, status(cri, ident).reason) == (code, reason)
    running = start(cri, pod, container_config(image))
    cri.StopPodSandbox(pod_sandbox_id=pod)
    assert status(cri, running).state == pb.CONTAINER_EXITED
    config = container_config(image, metadata={"name": "late"})
    assert refused(lambda: cri.CreateContainer(pod_sandbox_id=pod, config=config))[0] == "FAILED_PRECONDITION"


def test_what_a_container_is_told(cri: CriClient, daemon: HyperdLauncher, sandbox: Any, image: str) -> None:
    pod, _ = sandbox(linux={"sysctls": {"net.ipv4.ip_forward": "1"}})
    security = {
        "capabilities": {"add_capabilities": ["NET_ADMIN"], "drop_capabilities": ["CAP_CHOWN"]},
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 2000},
        "supplemental_groups": [3000],
        "readonly_rootfs": True,
        "no_new_privs": True,
        "seccomp": {"profile_type": pb.SecurityProfile.Unconfined},
        "masked_paths": ["/proc/kcore"],
    }
    resources = {"cpu_quota": 50_000, "cpu_period": 100_000, "cpu_shares": 512, "memory_limit_in_bytes": 64 * MIB}
    config = container_config(
        image,
        envs=[{"key": "A", "value": "1"}],
        working_dir="/tmp",
        linux={"security_context": security, "resources": resources},
    )
    ident = start(cri, pod, config)
    shown = status(cri, ident)
    linux = shown.resources.linux
    assert (linux.cpu_quota, linux.cpu_shares, linux.memory_limit_in_bytes) == (50_000, 512, 64 * MIB)
    found = next(
        one for one in daemon.json("GET", "/pod/info", podName=pod)["spec"]["containers"] if one["containerID"] == ident
    )
    assert found["workingDir"] == "/tmp"
    assert {"env": "A", "value": "1"} in found["env"]
    cri.UpdateContainerResources(container_id=ident, linux={"memory_limit_in_bytes": 32 * MIB, "cpu_quota": -1})
    linux = status(cri, ident).resources.linux
    assert (linux.cpu_quota, linux.cpu_shares, linux.memory_limit_in_bytes) == (0, 512, 32 * MIB)
    other = {"oom_score_adj": 7}
    assert refused(lambda: cri.UpdateContainerResources(container_id=ident, linux=other))[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("fields", "code", "word"),
    [
        ({"linux": {"security_context": {"run_as_group": {"value": 1}}}}, "INVALID_ARGUMENT", "run_as_user"),
        ({"linux": {"security_context": {"namespace_options": {"network": pb.NODE}}}}, "UNIMPLEMENTED", "hostNetwork"),
        ({"linux": {"security_context": {"namespace_options": {"pid": pb.TARGET}}}}, "INVALID_ARGUMENT", "target_id"),
        ({"linux": {"security_context": {"apparmor_profile": "localhost/x"}}}, "UNIMPLEMENTED", "AppArmor"),
        ({"linux": {"security_context": {"seccomp_profile_path": "localhost/x"}}}, "INVALID_ARGUMENT", "seccomp"),
        ({"linux": {"security_context": {"capabilities": {"add_capabilities": ["NOPE"]}}}}, "INVALID_ARGUMENT", "NOPE"),
        ({"linux": {"resources": {"unified": {"io.max": "1"}}}}, "UNIMPLEMENTED", "io.max"),
        ({"linux": {"resources": {"hugepage_limits": [{"page_size": "2MB", "limit": 1}]}}}, "UNIMPLEMENTED", "huge"),
        ({"devices": [{"host_path": "/dev/fuse"}]}, "UNIMPLEMENTED", "devices"),
        ({"mounts": [{"container_path": "/x", "host_path": "/nowhere"}]}, "INVALID_ARGUMENT", "/nowhere"),
        ({"mounts": [{"container_path": "/x", "host_path": "/tmp", "propagation": 2}]}, "UNIMPLEMENTED", "BIDIRECT"),
        (
            {"mounts": [{"container_path": "/x", "host_path": "/tmp", "recursive_read_only": True}]},
            "INVALID_ARGUMENT",
            "readonly",
        ),
        ({"mounts": [{"container_path": "/x", "image": {"image": "x"}, "readonly": True}]}, "UNIMPLEMENTED", "images"),
        ({"image": {"image": "nothing.invalid/x:1"}}, "NOT_FOUND", "nothing.invalid"),
        ({"metadata": {}}, "INVALID_ARGUMENT", "metadata"),
    ],
)
def test_containers_that_cannot_be(cri: CriClient, shared_sandbox: str, fields: Any, code: str, word: str) -> None:
    config = container_config(cri.ListImages().images[0].id) | fields
    found, message = refused(lambda: cri.CreateContainer(pod_sandbox_id=shared_sandbox, config=config))
    assert found == code
    assert word in message
    assert list(cri.ListContainers(filter={"pod_sandbox_id": shared_sandbox}).containers) == []


@pytest.fixture(scope="module")
def shared_sandbox(cri: CriClient, image: str) -> Iterator[str]:
    ident = cri.RunPodSandbox(config=sandbox_config()).pod_sandbox_id
    yield ident
    assert image
    cri.RemovePodSandbox(pod_sandbox_id=ident)


def test_a_program_that_does_not_exist(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    config = container_config(image) | {"command": ["/no/such/program"], "args": []}
    ident = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
    code, message = refused(lambda: cri.StartContainer(container_id=ident))
    assert code == "INVALID_ARGUMENT"
    assert ident in message
    assert status(cri, ident).reason == "StartError"


def test_paths_of_the_host(cri: CriClient, sandbox: Any, image: str, tmp_path: Path) -> None:
    (tmp_path / "greeting").write_text("hello\n")
    mount = {"container_path": "/data", "host_path": str(tmp_path), "readonly": True}
    pod, _ = sandbox()
    before = cri.PodSandboxStatus(pod_sandbox_id=pod).status
    ident = start(cri, pod, container_config(image, mounts=[mount]))
    assert [(one.container_path, one.readonly) for one in status(cri, ident).mounts] == [("/data", True)]
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status == before
    # Another path while a container runs.
    other = mount | {"host_path": str(tmp_path / "greeting")}
    second = start(cri, pod, container_config(image, mounts=[mount, other | {"container_path": "/one"}],
                                              metadata={"name": "second"}))  # fmt: skip
    assert [status(cri, one).state for one in (ident, second)] == [pb.CONTAINER_RUNNING] * 2


def test_a_container_that_is_refused_leaves_the_sandbox_ready(
    cri: CriClient, sandbox: Any, image: str, tmp_path: Path
) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_NOTIFY"}))
    seccomp = {"profile_type": pb.SecurityProfile.Localhost, "localhost_ref": str(profile)}
    config = container_config(
        image,
        mounts=[{"container_path": "/data", "host_path": str(tmp_path)}],
        linux={"security_context": {"seccomp": seccomp}},
    )
    pod, _ = sandbox()
    before = cri.PodSandboxStatus(pod_sandbox_id=pod).status
    code, message = refused(lambda: cri.CreateContainer(pod_sandbox_id=pod, config=config))
    assert (code, "SCMP_ACT_NOTIFY" in message) == ("UNIMPLEMENTED", True)
    assert cri.PodSandboxStatus(pod_sandbox_id=pod).status == before
    assert list(cri.ListContainers(filter={"pod_sandbox_id": pod}).containers) == []
    start(cri, pod, container_config(image, mounts=config["mounts"]))


def test_images_are_shown_as_people_name_them(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    ref = cri.ImageStatus(image={"image": image}).image.id
    config = container_config(image) | {"image": {"image": ref, "user_specified_image": "busybox"}}
    ident = cri.CreateContainer(pod_sandbox_id=pod, config=config).container_id
    shown = status(cri, ident)
    assert (shown.image.image, shown.image_ref, shown.image_id) == ("busybox", ref, ref)
    assert cri.ListContainers(filter={"id": ident}).containers[0].image.image == "busybox"


def test_much_output_of_a_short_command(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    ident = start(cri, pod, container_config(image))
    script = "head -c 17000000 /dev/zero; head -c 9000000 /dev/zero >&2"
    found = cri.ExecSync(container_id=ident, cmd=["sh", "-c", script], timeout=60)
    assert (found.exit_code, len(found.stdout) + len(found.stderr)) == (0, (16 << 20) - 4096)
    assert len(found.stderr) > 8_000_000


def test_short_commands(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    ident = start(cri, pod, container_config(image))
    found = cri.ExecSync(container_id=ident, cmd=["sh", "-c", "echo out; echo err >&2; exit 3"], timeout=30)
    assert (found.stdout, found.stderr, found.exit_code) == (b"out\n", b"err\n", 3)
    assert refused(lambda: cri.ExecSync(container_id=ident, cmd=["sleep", "60"], timeout=1))[0] == "DEADLINE_EXCEEDED"
    assert refused(lambda: cri.ExecSync(container_id=ident))[0] == "INVALID_ARGUMENT"
    cri.StopContainer(container_id=ident)
    assert refused(lambda: cri.ExecSync(container_id=ident, cmd=["true"]))[0] == "FAILED_PRECONDITION"


def test_logs_as_kubelet_reads_them(
    cri: CriClient, daemon: HyperdLauncher, sandbox: Any, image: str, tmp_path: Path
) -> None:
    pod, _ = sandbox(log_directory=str(tmp_path))
    go = tmp_path / "go"  # the fake guest runs programs here
    command = f"echo out; echo err >&2; printf more; until [ -e {go} ]; do sleep 0.1; done; echo rotated; sleep 100"
    config = container_config(image, command, log_path="main/0.log")
    ident = start(cri, pod, config)
    path, old = tmp_path / "main/0.log", tmp_path / "main/0.log.20260102-030405"
    assert status(cri, ident).log_path == str(path)
    until(lambda: path.read_bytes().count(b"\n") == 2)
    lines = path.read_text().splitlines()
    assert {line[30:] for line in lines} == {" stdout F out", " stderr F err"}
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", line[:30]) for line in lines)
    path.rename(old)
    cri.ReopenContainerLog(container_id=ident)
    assert path.read_bytes() == b""
    go.touch()
    until(lambda: path.read_bytes().endswith(b" stdout F morerotated\n"))
    assert old.read_text().splitlines() == lines
    _, _, seen = daemon.request("GET", "/container/logs", container=ident, stdout="yes", stderr="yes")
    assert b"morerotated" in seen
    cri.StopContainer(container_id=ident)
    assert refused(lambda: cri.ReopenContainerLog(container_id=ident))[0] == "FAILED_PRECONDITION"
    cri.RemoveContainer(container_id=ident)
    assert path.exists()  # kubelet removes it
    assert list(daemon.directory.rglob("*log.mark")) == []


def test_logs_of_which_kubelet_wants_none(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()
    ident = start(cri, pod, container_config(image, log_path="main/0.log"))
    assert status(cri, ident).log_path == ""
    assert refused(lambda: cri.ReopenContainerLog(container_id=ident))[0] == "UNIMPLEMENTED"
    assert refused(lambda: cri.ReopenContainerLog(container_id="no"))[0] == "NOT_FOUND"
    other, _ = sandbox(log_directory="relative")
    config = container_config(image, log_path="main/0.log")
    assert refused(lambda: cri.CreateContainer(pod_sandbox_id=other, config=config))[0] == "INVALID_ARGUMENT"


def test_metrics(cri: CriClient, sandbox: Any) -> None:
    pod, config = sandbox()
    described = {one.name: one for one in cri.ListMetricDescriptors().descriptors}
    assert all(one.help and one.label_keys for one in described.values())
    (found,) = (one for one in cri.ListPodSandboxMetrics().pod_metrics if one.pod_sandbox_id == pod)
    for one in found.metrics:
        labels = dict(zip(described[one.name].label_keys, one.label_values, strict=True))
        assert (labels["id"], labels["pod"], labels["container"]) == (pod, config.metadata.name, "")
    cri.StopPodSandbox(pod_sandbox_id=pod)
    assert pod not in {one.pod_sandbox_id for one in cri.ListPodSandboxMetrics().pod_metrics}


def test_containers_that_share_processes(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox()

    def config(name: str, **options: Any) -> dict[str, Any]:
        fields = {"metadata": {"name": name}, "linux": {"security_context": {"namespace_options": options}}}
        return container_config(image, **fields)

    for name in ("one", "two"):  # the second finds process 1 of the namespace there
        found = status(cri, start(cri, pod, config(name, pid=pb.POD)))
        assert found.state == pb.CONTAINER_RUNNING
        assert (found.user.linux.uid, found.user.linux.gid) == (os.getuid(), os.getgid())
        assert os.getgid() in found.user.linux.supplemental_groups
    alone = start(cri, pod, config("alone", pid=pb.CONTAINER))
    start(cri, pod, config("debug", pid=pb.TARGET, target_id=alone))
    cri.StopContainer(container_id=alone)
    late = cri.CreateContainer(pod_sandbox_id=pod, config=config("late", pid=pb.TARGET, target_id=alone)).container_id
    code, message = refused(lambda: cri.StartContainer(container_id=late))
    assert (code, "of the same pod that is running" in message) == ("FAILED_PRECONDITION", True)
    assert not status(cri, late).HasField("user")


def test_events_come_as_things_happen(cri: CriClient, sandbox: Any, image: str) -> None:
    kinds = pb.ContainerEventType.Name
    stream = cri.GetContainerEvents()
    stream.initial_metadata()  # it is open: nothing is missed
    pod, _ = sandbox()
    ident = start(cri, pod, container_config(image, "exit 3"))
    until(lambda: status(cri, ident).state == pb.CONTAINER_EXITED, 30)
    cri.RemoveContainer(container_id=ident)
    cri.StopPodSandbox(pod_sandbox_id=pod)
    cri.RemovePodSandbox(pod_sandbox_id=pod)
    seen = []
    for event in stream:
        if event.pod_sandbox_status.id == pod:
            seen.append(event)
        if event.container_id == pod and kinds(event.container_event_type) == "CONTAINER_DELETED_EVENT":
            break
    stream.cancel()
    told = [(kinds(one.container_event_type).split("_")[1], one.container_id) for one in seen]
    assert [kind for kind, one in told if one == ident] == ["CREATED", "STARTED", "STOPPED", "DELETED"]
    assert [kind for kind, one in told if one == pod] == ["CREATED", "STARTED", "STOPPED", "DELETED"]
    times = [one.created_at for one in seen]
    assert times == sorted(times)
    last = seen[-1]
    assert (last.pod_sandbox_status.state, list(last.containers_statuses)) == (pb.SANDBOX_NOTREADY, [])
    assert last.pod_sandbox_status.metadata.uid


def test_what_cannot_be_saved_is_refused(cri: CriClient, sandbox: Any, image: str, tmp_path: Path) -> None:
    pod, _ = sandbox()
    ident = start(cri, pod, container_config(image))
    target = tmp_path / "saved.tar"
    refused_for = [
        ({"container_id": "none", "location": str(target)}, "NOT_FOUND", "none"),
        ({"container_id": ident, "location": "saved.tar"}, "INVALID_ARGUMENT", "absolute"),
        ({"container_id": ident, "location": str(tmp_path / "no" / "a")}, "INVALID_ARGUMENT", "no directory"),
        ({"container_id": ident, "location": str(target)}, "UNIMPLEMENTED", "pretends"),
    ]
    for fields, code, word in refused_for:
        found = refused(lambda fields=fields: cri.CheckpointContainer(**fields))
        assert found[0] == code
        assert word in found[1]
    (tmp_path / "taken").write_text("of somebody")
    assert refused(lambda: cri.CheckpointContainer(container_id=ident, location=str(tmp_path / "taken")))[0] == (
        "FAILED_PRECONDITION"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]
    directory = tmp_path / "pod"
    directory.mkdir()
    other = {"pod_sandbox_id": pod, "output_path": str(directory)}
    assert refused(lambda: cri.CheckpointPod(**other, container_ids=[]))[0] == "INVALID_ARGUMENT"
    assert "pretends" in refused(lambda: cri.CheckpointPod(**other, container_ids=[ident]))[1]
    assert list(directory.iterdir()) == []
    assert status(cri, ident).state == pb.CONTAINER_RUNNING


def test_counters(cri: CriClient, sandbox: Any, image: str) -> None:
    pod, _ = sandbox(labels={"counted": "yes"})
    ident = start(cri, pod, container_config(image, labels={"counted": "yes"}))
    # The fake guest counts nothing of its containers; tests/vm/test_cri.py has a real one.
    assert refused(lambda: cri.ContainerStats(container_id=ident))[0] == "FAILED_PRECONDITION"
    chosen = {"label_selector": {"counted": "yes"}}
    whole = cri.PodSandboxStats(pod_sandbox_id=pod).stats
    assert (whole.attributes.id, dict(whole.attributes.labels)) == (pod, {"counted": "yes"})
    assert whole.linux.cpu.timestamp > 10**18
    assert whole.linux.memory.HasField("working_set_bytes")
    assert [found.attributes.id for found in cri.ListPodSandboxStats(filter=chosen).stats] == [pod]
    cri.StopPodSandbox(pod_sandbox_id=pod)
    assert list(cri.ListContainerStats(filter=chosen).stats) == []
    assert refused(lambda: cri.PodSandboxStats(pod_sandbox_id=pod))[0] == "FAILED_PRECONDITION"


# -- images


def test_images(cri: CriClient, registry: RegistryServer) -> None:
    name, other = f"{registry.host}/named:1", f"{registry.host}/busybox:other"
    assert not cri.ImageStatus(image={"image": name}).HasField("image")
    ref = cri.PullImage(image={"image": name}).image_ref
    found = cri.ImageStatus(image={"image": name}, verbose=True)
    assert (found.image.id, list(found.image.repo_tags)) == (ref, [name])
    assert found.image.repo_digests[0].startswith(f"{registry.host}/named@sha256:")
    assert (found.image.uid.value, found.image.username) == (1002, "")
    assert found.image.size > 0
    assert json.loads(found.info["config"])["config"]["User"] == "1002"
    assert [one.id for one in cri.ListImages(filter={"image": {"image": name}}).images] == [ref]
    assert ref in [one.id for one in cri.ListImages().images]
    usage = cri.ImageFsInfo()
    assert usage.image_filesystems[0].used_bytes.value > 0
    assert usage.image_filesystems[0].timestamp > 10**18
    assert usage.container_filesystems[0].fs_id.mountpoint.endswith("/pods")
    for _ in range(2):
        cri.RemoveImage(image={"image": name})
    assert not cri.ImageStatus(image={"image": name}).HasField("image")
    assert list(cri.ListImages(filter={"image": {"image": name}}).images) == []
    cri.PullImage(image={"image": other})
    cri.RemoveImage(image={"image": other})
    missing = {"image": f"{registry.host}/busybox:no"}
    assert refused(lambda: cri.PullImage(image=missing))[0] == "NOT_FOUND"
    assert refused(cri.PullImage)[0] == "INVALID_ARGUMENT"


def test_images_with_credentials() -> None:
    with RegistryServer(auth="basic") as server, HyperdLauncher() as daemon:
        server.push("private", "1", [Layer(busybox_tar())])
        path = daemon.directory / "cri.sock"
        daemon.start("--cri", f"unix://{path}")
        with CriClient(path) as cri:
            image = {"image": f"{server.host}/private:1"}
            assert refused(lambda: cri.PullImage(image=image))[0] == "UNAUTHENTICATED"
            wrong = {"username": USER, "password": "wrong"}
            assert refused(lambda: cri.PullImage(image=image, auth=wrong))[0] == "UNAUTHENTICATED"
            assert cri.PullImage(image=image, auth={"username": USER, "password": PASSWORD}).image_ref
        assert PASSWORD not in daemon.log()


# -- the daemon


def test_a_sandbox_is_stopped_at_once(registry: RegistryServer) -> None:
    with HyperdLauncher(config="stop_grace = 600\n") as daemon:
        path = daemon.directory / "cri.sock"
        daemon.start("--cri", f"unix://{path}")
        with CriClient(path) as cri:
            image = {"image": f"{registry.host}/busybox:latest"}
            cri.PullImage(image=image)
            pod = cri.RunPodSandbox(config=sandbox_config()).pod_sandbox_id
            script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
            ident = start(cri, pod, container_config(image["image"], script))
            until(lambda: b"ready" in daemon.request("GET", "/container/logs", container=ident, stdout="yes")[2])
            cri.StopPodSandbox(pod_sandbox_id=pod)
            assert (status(cri, ident).state, status(cri, ident).exit_code) == (pb.CONTAINER_EXITED, 137)
            cri.RemovePodSandbox(pod_sandbox_id=pod)


def test_the_daemon_can_be_killed(registry: RegistryServer) -> None:
    with HyperdLauncher() as daemon:
        path = daemon.directory / "cri.sock"
        daemon.start("--cri", f"unix://{path}")
        with CriClient(path) as cri:
            image = {"image": f"{registry.host}/busybox:latest"}
            cri.PullImage(image=image)
            config = sandbox_config(annotations={"a": "b"})
            pod = cri.RunPodSandbox(config=config).pod_sandbox_id
            config_of = container_config(image["image"])
            ident = cri.CreateContainer(pod_sandbox_id=pod, config=config_of).container_id
        assert path.stat().st_mode & 0o777 == 0o660
        daemon.kill()
        daemon.start("--cri", f"unix://{path}")
        with CriClient(path) as cri:
            shown = cri.PodSandboxStatus(pod_sandbox_id=pod).status
            assert (shown.metadata, dict(shown.annotations)) == (config.metadata, {"a": "b"})
            assert status(cri, ident).metadata.name == "main"
            cri.RemovePodSandbox(pod_sandbox_id=pod)
            assert list(cri.ListPodSandbox().items) == []
        assert daemon.stop() == 0
        assert not path.exists()


def test_a_socket_in_use_is_not_taken(daemon: HyperdLauncher, cri: CriClient) -> None:
    with HyperdLauncher() as second:
        second.start("--cri", f"unix://{daemon.directory}/cri.sock", wait=False)
        assert second.wait_exit() == 1
        assert "another process answers" in second.log()
    assert cri.Version().runtime_name == "hyperd"


def test_bad_addresses() -> None:
    for address in ("tcp://127.0.0.1:1", "unix://relative"):
        with HyperdLauncher() as daemon:
            daemon.start("--cri", address, wait=False)
            assert daemon.wait_exit() == 1
            assert "use unix:///path" in daemon.log()


def test_nothing_is_loaded_without_the_option() -> None:
    code = "import hyperd.server.serve, sys; print(sorted({'grpc', 'google.protobuf'} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT)
    assert found.stdout.strip() == "[]"
