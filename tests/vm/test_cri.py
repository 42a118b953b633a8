"""Kubernetes' CRI with a real guest: what a pod of one container with everything looks like from inside."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import grpc
import pytest

from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.vm import cgroups
from tests.support.cri import CriClient
from tests.support.kubectl import KubeProxy, Query
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]

MIB = 2**20


def start_cri(host: Host) -> None:
    host.daemon.start("--cri", f"unix://{host.daemon.directory}/cri.sock")


def kill_and_start(cri: CriClient, host: Host) -> None:
    host.daemon.kill()
    start_cri(host)
    until(lambda: cri.Version().version == "0.1.0")


@pytest.fixture(scope="module")
def host(registry: RegistryServer) -> Iterator[Host]:
    daemon, host = launch(registry)
    with daemon:
        daemon.stop()
        start_cri(host)
        host.image = f"{registry.host}/busybox"
        yield host
        host.assert_clean()


@pytest.fixture(scope="module")
def cri(host: Host) -> Iterator[CriClient]:
    with CriClient(host.daemon.directory / "cri.sock") as client:
        client.PullImage(image={"image": host.image})
        yield client
        for one in client.ListPodSandbox().items:
            client.RemovePodSandbox(pod_sandbox_id=one.id)


def make_sandbox(cri: CriClient, name: str, **config: object) -> str:
    """Run a sandbox without containers; give its id."""
    config["metadata"] = {"name": name, "uid": name, "namespace": "default"}
    return str(cri.RunPodSandbox(config=config).pod_sandbox_id)


def run(cri: CriClient, host: Host, sandbox: str, *command: str, name: str = "main", **config: object) -> str:
    """Create and start a container; give its id."""
    config |= {"metadata": {"name": name}, "image": {"image": host.image}, "command": command}
    container = str(cri.CreateContainer(pod_sandbox_id=sandbox, config=config).container_id)
    cri.StartContainer(container_id=container)
    return container


def inside(cri: CriClient, container: str, script: str) -> str:
    found = cri.ExecSync(container_id=container, cmd=["sh", "-c", script], timeout=150)
    assert found.exit_code == 0, (script, found)
    return found.stdout.decode().strip()


def test_a_sandbox_in_kubelets_group_is_saved(cri: CriClient, host: Host, tmp_path: Path) -> None:
    parent = f"/hyperd-test-{os.getpid()}/pod"
    sandbox = make_sandbox(cri, "grouped", linux={"cgroup_parent": parent})
    vm = host.daemon.json("GET", "/pod/info", podName=sandbox)["vm"]
    (pid,) = subprocess.check_output(["pgrep", "-f", f"qemu-system.*guest={vm}"], text=True).split()
    where = dict(line.split(":", 2)[1:] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines())
    groups = [tree.group(PurePosixPath(parent)) for tree in cgroups.trees()]
    assert groups
    found = [group / vm for group in groups if (group / vm).is_dir()]
    assert found
    assert [path for path in where.values() if path.endswith(f"{parent}/{vm}")]
    container = run(cri, host, sandbox, "sh", "-c", "sleep 1000")
    target = tmp_path / "saved.tar"
    cri.CheckpointContainer(container_id=container, location=str(target), timeout=100)
    with tarfile.open(target) as tar:
        assert tar.getnames() == ["checkpoint.json", "memory", "disk"]
    assert [path.name for path in tmp_path.iterdir()] == ["saved.tar"]
    assert inside(cri, container, "echo on") == "on"
    cri.RemovePodSandbox(pod_sandbox_id=sandbox)
    until(lambda: [group for group in found if group.exists()] == [], 30)
    for group in groups:
        if group.exists():
            group.rmdir()
            group.parent.rmdir()


def test_a_pod(cri: CriClient, host: Host, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o777)
    (shared / "file").write_text("from the host\n")
    sandbox = make_sandbox(
        cri,
        "web",
        hostname="web",
        dns_config={"servers": ["10.0.0.10"], "searches": ["default.svc"]},
        linux={
            "resources": {"memory_limit_in_bytes": 128 * MIB, "cpu_quota": 200_000, "cpu_period": 100_000},
            "sysctls": {"net.ipv4.ip_unprivileged_port_start": "0"},
        },
    )
    before = cri.PodSandboxStatus(pod_sandbox_id=sandbox).status
    security = {
        "capabilities": {"drop_capabilities": ["ALL"]},
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 2000},
        "supplemental_groups": [3000],
        "readonly_rootfs": True,
        "no_new_privs": True,
        "seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault},
    }
    container = cri.CreateContainer(
        pod_sandbox_id=sandbox,
        config={
            "metadata": {"name": "main"},
            "image": {"image": host.image},
            "command": ["sh", "-c"],
            "args": ["echo began > /shared/began; sleep 1000"],
            "envs": [{"key": "COLOUR", "value": "blue"}],
            "working_dir": "/shared",
            "mounts": [
                {"container_path": "/shared", "host_path": str(shared)},
                {"container_path": "/one", "host_path": str(shared / "file"), "readonly": True},
            ],
            "linux": {
                "security_context": security,
                "resources": {"memory_limit_in_bytes": 64 * MIB, "cpu_quota": 50_000, "cpu_period": 100_000},
            },
        },
    ).container_id
    assert cri.PodSandboxStatus(pod_sandbox_id=sandbox).status == before
    cri.StartContainer(container_id=container)
    until((shared / "began").exists)
    assert inside(cri, container, "id -u; id -g; id -G; pwd; echo $COLOUR; hostname; cat /one").splitlines() == [
        "1000", "2000", "2000 3000", "/shared", "blue", "web", "from the host",
    ]  # fmt: skip
    seen = inside(cri, container, "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; cat /etc/resolv.conf")
    lines = [line.split() for line in seen.splitlines()]
    assert ["CapEff:", "0000000000000000"] in lines
    assert ["NoNewPrivs:", "1"] in lines
    assert ["Seccomp:", "2"] in lines
    assert ["nameserver", "10.0.0.10"] in lines
    assert ["search", "default.svc"] in lines
    assert inside(cri, container, "nproc; cat /proc/sys/net/ipv4/ip_unprivileged_port_start").split() == ["2", "0"]
    assert inside(cri, container, "touch /x 2>/dev/null || echo refused") == "refused"
    assert inside(cri, container, "ip -4 addr show eth0").find(f"inet {before.network.ip}/") > 0
    one = cri.ContainerStats(container_id=container).stats
    assert one.cpu.usage_core_nano_seconds.value > 0
    assert 0 < one.memory.working_set_bytes.value <= 64 * MIB
    assert one.memory.available_bytes.value == 64 * MIB - one.memory.working_set_bytes.value
    whole = cri.PodSandboxStats(pod_sandbox_id=sandbox).stats.linux
    assert [found.attributes.id for found in whole.containers] == [container]
    assert [found.attributes.id for found in cri.ListContainerStats().stats] == [container]
    assert whole.process.process_count.value >= 1
    cri.UpdateContainerResources(container_id=container, linux={"memory_limit_in_bytes": 32 * MIB})
    assert cri.ContainerStats(container_id=container).stats.memory.available_bytes.value <= 32 * MIB
    with pytest.raises(grpc.RpcError) as caught:
        cri.ExecSync(container_id=container, cmd=["sleep", "100"], timeout=1)
    assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    # A second container, with a path of its own while the first runs.
    (tmp_path / "late").write_text("later\n")
    mounts = [{"container_path": "/late", "host_path": str(tmp_path / "late"), "readonly": True}]
    second = run(cri, host, sandbox, "sleep", "1000", name="second", mounts=mounts)
    assert inside(cri, second, "cat /late") == "later"
    # The daemon is killed: the pod runs on.
    kill_and_start(cri, host)
    assert cri.ContainerStatus(container_id=container).status.state == pb.CONTAINER_RUNNING
    assert inside(cri, container, "cat /shared/began") == "began"
    cri.StopContainer(container_id=container, timeout=1)
    shown = cri.ContainerStatus(container_id=container).status
    assert (shown.state, shown.exit_code) == (pb.CONTAINER_EXITED, 137)


def test_logs_over_the_daemons_death(cri: CriClient, host: Host, tmp_path: Path) -> None:
    sandbox = make_sandbox(cri, "logs", log_directory=str(tmp_path))
    script = "i=0; while [ $i -lt 30000 ]; do i=$((i+1)); echo line $i; echo error $i >&2; done; echo end"
    container = run(cri, host, sandbox, "sh", "-c", script, log_path="main/0.log")
    path = tmp_path / "main/0.log"
    rotated: list[Path] = []
    for number in range(3):
        size = path.stat().st_size
        until(lambda size=size: path.stat().st_size > size)
        rotated.append(tmp_path / f"main/0.log.{number}")
        path.rename(rotated[-1])
        if number == 1:  # killed before kubelet can have it opened again
            kill_and_start(cri, host)
        cri.ReopenContainerLog(container_id=container)
        if number != 1:
            until(path.exists)
            kill_and_start(cri, host)
    until(lambda: cri.ContainerStatus(container_id=container).status.state == pb.CONTAINER_EXITED, 120)
    found: dict[str, list[str]] = {"stdout": [], "stderr": []}
    for file in (*rotated, path):
        for line in file.read_text().splitlines():
            _time, stream, tag, text = line.split(" ", 3)
            assert tag == "F"
            found[stream].append(text)
    assert found["stdout"] == [*(f"line {number}" for number in range(1, 30_001)), "end"]
    assert found["stderr"] == [f"error {number}" for number in range(1, 30_001)]


@pytest.fixture(scope="module")
def kube(cri: CriClient, host: Host) -> Iterator[KubeProxy]:
    """A sandbox with an echo server, as kubectl sees it."""
    if shutil.which("kubectl") is None:
        pytest.skip("there is no kubectl")
    sandbox = make_sandbox(cri, "ports")
    container = run(cri, host, sandbox, "sh", "-c", "nc -ll -p 7000 -e cat & exec sleep 1000")

    def stream(kind: str, query: Query) -> str:
        if kind == "portforward":
            return str(cri.PortForward(pod_sandbox_id=sandbox).url)
        wanted = {key: query.get(key) == ["true"] for key in ("stdin", "stdout", "stderr", "tty")}
        return str(cri.Exec(container_id=container, cmd=query["command"], **wanted).url)

    until(lambda: "7000" in inside(cri, container, "netstat -ltn"))
    with KubeProxy(stream) as proxy:
        yield proxy


@pytest.mark.parametrize("spdy", [False, True])
def test_kubectl(kube: KubeProxy, spdy: bool) -> None:
    done = kube.kubectl("exec", "-i", "web", "--", "sh", "-c", "cat; exit 3", data=b"hello\n", spdy=spdy)
    assert (done.returncode, done.stdout) == (3, b"hello\n")
    command = kube.command("port-forward", "web", ":7000", ":7001")
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=kube.environment(spdy)
    ) as forward:
        try:
            assert forward.stdout is not None
            ports: dict[bytes, int] = {}
            while len(ports) < 2:
                line = forward.stdout.readline()
                if line.startswith(b"Forwarding from 127.0.0.1:"):
                    local, _, remote = line.rpartition(b":")[2].partition(b" -> ")
                    ports[remote.strip()] = int(local)
            for size in (5, 300_000):
                assert echoed(ports[b"7000"], random.Random(size).randbytes(size))
            with socket.create_connection(("127.0.0.1", ports[b"7001"]), timeout=90) as client:
                assert client.recv(10) == b""  # nobody listens there
        finally:
            forward.terminate()
            _, errors = forward.communicate(timeout=90)
    assert b"Connection refused" in errors
    assert kube.protocols[-1] == ("spdy" if spdy else "websocket")


def echoed(port: int, text: bytes) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=150) as client:
        writer = threading.Thread(target=lambda: (client.sendall(text), client.shutdown(socket.SHUT_WR)))
        writer.start()
        got = b""
        while data := client.recv(65_536):
            got += data
        writer.join()
    return got == text


def test_a_read_only_mount_is_so_with_what_is_mounted_below(cri: CriClient, host: Host, tmp_path: Path) -> None:
    below = tmp_path / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(below)], check=True)
    try:
        (below / "file").write_text("below\n")
        sandbox = make_sandbox(cri, "mounts")
        mount = {"container_path": "/mnt", "host_path": str(tmp_path), "readonly": True, "recursive_read_only": True}
        container = run(cri, host, sandbox, "sleep", "1000", mounts=[mount])
        (shown,) = cri.ContainerStatus(container_id=container).status.mounts
        assert (shown.readonly, shown.recursive_read_only) == (True, True)
        assert inside(cri, container, "cat /mnt/below/file") == "below"
        assert inside(cri, container, "touch /mnt/below/x 2>/dev/null || echo refused") == "refused"
        cri.RemovePodSandbox(pod_sandbox_id=sandbox)
    finally:
        subprocess.run(["umount", str(below)], check=True)


def atomically(directory: Path, generation: str, text: str) -> None:
    """Write a key of a config map as kubelet does: a link to a link to a directory, which is exchanged."""
    (directory / f"..{generation}").mkdir()
    (directory / f"..{generation}" / "key").write_text(text)
    (directory / "..data_tmp").symlink_to(f"..{generation}")
    before = (directory / "..data").readlink() if (directory / "..data").is_symlink() else None
    (directory / "..data_tmp").rename(directory / "..data")
    if before is None:
        (directory / "key").symlink_to("..data/key")
    else:
        shutil.rmtree(directory / before)


def test_what_kubelet_mounts(cri: CriClient, host: Host, tmp_path: Path) -> None:
    """Secrets and memory in tmpfs, updates, a key alone, the message of the end, /etc/hosts."""
    secret, memory = tmp_path / "secret", tmp_path / "memory"
    for place in (secret, memory):
        place.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0777", "none", str(place)], check=True)
    try:
        atomically(secret, "1", "one")
        key, end, hosts = (tmp_path / name for name in ("subpath", "end", "hosts"))
        key.touch()
        subprocess.run(["mount", "--bind", str(secret / "key"), str(key)], check=True)
        end.touch()
        end.chmod(0o666)
        hosts.write_text("10.1.2.3 of-kubelet\n")
        places = {"/config": secret, "/memory": memory, "/key": key, "/dev/termination-log": end, "/etc/hosts": hosts}
        sandbox = make_sandbox(cri, "mounted")
        script = "trap 'echo -n last words > /dev/termination-log; exit 3' TERM; sleep 1000 & wait"
        mounts = [
            {"container_path": path, "host_path": str(source), "readonly": source in (secret, key)}
            for path, source in places.items()
        ]
        user = {"security_context": {"run_as_user": {"value": 1000}}}
        container = run(cri, host, sandbox, "sh", "-c", script, mounts=mounts, linux=user)
        assert inside(cri, container, "cat /config/key /key; cat /etc/hosts") == "oneone10.1.2.3 of-kubelet"
        assert inside(cri, container, "echo x > /memory/file; cat /memory/file") == "x"
        assert (memory / "file").read_text() == "x\n"
        atomically(secret, "2", "two")
        until(lambda: inside(cri, container, "cat /config/key") == "two")
        assert inside(cri, container, "ls /config; cat /key") == "key\none"
        cri.StopContainer(container_id=container, timeout=20)
        assert end.read_text() == "last words"
        assert cri.ContainerStatus(container_id=container).status.exit_code == 3
        cri.RemovePodSandbox(pod_sandbox_id=sandbox)
    finally:
        for place in (key, secret, memory):
            subprocess.run(["umount", str(place)], check=True)


def test_a_sandbox_whose_volumes_cannot_be_mapped_has_a_vm_that_can_have_them(
    cri: CriClient, host: Host, tmp_path: Path
) -> None:
    volume = tmp_path / "pods" / "odd" / "volumes" / "kind" / "v"
    volume.mkdir(parents=True)
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path):
        os.chown(path, 70000, 0)  # an owner that no VM has, as a file system whose ids cannot be mapped
    subprocess.run(["mount", "--bind", str(tmp_path), str(volume)], check=True)
    try:
        sandbox = make_sandbox(cri, "odd")
        mounts = [{"container_path": "/mnt", "host_path": str(volume)}]
        container = run(cri, host, sandbox, "sleep", "1000", mounts=mounts)
        assert inside(cri, container, "stat -c %u /mnt /mnt/file").split() == ["70000", "70000"]
        cri.RemovePodSandbox(pod_sandbox_id=sandbox)
    finally:
        subprocess.run(["umount", str(volume)], check=True)


@pytest.mark.parametrize(("policy", "groups"), [(pb.Merge, {"2000", "3000", "50000"}), (pb.Strict, {"2000", "3000"})])
def test_groups_of_the_image(cri: CriClient, host: Host, tmp_path: Path, policy: int, groups: set[str]) -> None:
    (tmp_path / "passwd").write_text("user:x:1000:1000::/:/bin/sh\n")
    (tmp_path / "group").write_text("of-the-image:x:50000:user\n")
    sandbox = make_sandbox(cri, f"groups-{policy}")
    security = {
        "run_as_user": {"value": 1000},
        "run_as_group": {"value": 2000},
        "supplemental_groups": [3000],
        "supplemental_groups_policy": policy,
    }
    files = [{"container_path": f"/etc/{name}", "host_path": str(tmp_path / name)} for name in ("passwd", "group")]
    container = run(cri, host, sandbox, "sleep", "1000", mounts=files, linux={"security_context": security})
    first = inside(cri, container, "sed -n 's/^Groups:.//p' /proc/1/status")
    assert {*first.split(), "2000"} == groups
    assert set(inside(cri, container, "id -G").split()) == groups
    cri.RemovePodSandbox(pod_sandbox_id=sandbox)


def test_processes_that_containers_share(cri: CriClient, host: Host) -> None:
    sandbox = make_sandbox(cri, "shared", linux={"security_context": {"namespace_options": {"pid": pb.POD}}})

    def start(name: str, script: str, **options: object) -> str:
        linux = {"security_context": {"namespace_options": options}}
        return run(cri, host, sandbox, "sh", "-c", script, name=name, linux=linux)

    first = start("first", "setsid sleep 1111 & exec sleep 2222", pid=pb.POD)
    second = start("second", "exec sleep 3333", pid=pb.POD)
    alone = start("alone", "exec sleep 4444", pid=pb.CONTAINER)
    assert inside(cri, second, "cat /proc/1/cmdline | tr '\\0' ' '") == "/pause --stay"
    seen = inside(cri, second, "ps -o args")
    assert [n in seen for n in ("1111", "2222", "3333", "4444")] == [True, True, True, False]
    until(lambda: inside(cri, alone, "cat /proc/1/cmdline | tr '\\0' ' '") == "sleep 4444")  # the shell is first
    # Process 1 is nobody's: it cannot be ended, and what it sees is nothing.
    assert inside(cri, second, "kill -9 1; ls /proc/1/root/sbin 2>/dev/null || echo nothing") == "nothing"
    debug = start("debug", "exec sleep 5555", pid=pb.TARGET, target_id=alone)
    assert "4444" in inside(cri, debug, "ps -o args")
    kill_and_start(cri, host)
    # What a container leaves behind ends with it; those beside it do not.
    cri.StopContainer(container_id=first, timeout=0)
    until(lambda: cri.ContainerStatus(container_id=first).status.state == pb.CONTAINER_EXITED)
    seen = inside(cri, second, "ps -o args")
    assert [n in seen for n in ("1111", "2222", "3333")] == [False, False, True]
    third = start("third", "exec sleep 6666", pid=pb.POD)
    assert "3333" in inside(cri, third, "ps -o args")
    cri.StopContainer(container_id=alone, timeout=0)
    until(lambda: cri.ContainerStatus(container_id=debug).status.state == pb.CONTAINER_EXITED)
    with pytest.raises(grpc.RpcError) as caught:
        start("late", "true", pid=pb.TARGET, target_id=alone)
    assert "is running" in caught.value.details()
    cri.RemovePodSandbox(pod_sandbox_id=sandbox)


def test_out_of_memory(cri: CriClient, host: Host) -> None:
    sandbox = make_sandbox(cri, "big")
    limits = {"resources": {"memory_limit_in_bytes": 16 * MIB}}
    container = run(cri, host, sandbox, "tail", "/dev/zero", linux=limits)
    until(lambda: cri.ContainerStatus(container_id=container).status.state == pb.CONTAINER_EXITED, 120)
    until(lambda: cri.ContainerStatus(container_id=container).status.reason == "OOMKilled")
    assert cri.ContainerStatus(container_id=container).status.exit_code == 137
    assert cri.PodSandboxStatus(pod_sandbox_id=sandbox).status.state == pb.SANDBOX_READY
