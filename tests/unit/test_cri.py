"""Kubernetes' CRI without a daemon: the generated modules, the tables, translation of configurations."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import grpc
import pytest
import websocket
import yaml

from hyperd import errors
from hyperd.api.cri import events, kept, metrics, sandboxes
from hyperd.api.cri.call import Call, Room
from hyperd.api.cri.errors import CODES, AlreadyExists, code_of
from hyperd.api.cri.handlers import SERVICES, STREAMS
from hyperd.api.cri.remote import ERROR, STDIN, STDOUT, RemoteClient
from hyperd.api.cri.specs import read_container, read_limits, read_sandbox
from hyperd.api.cri.streaming import TOKEN_SECONDS, TOKENS, Ports, StreamingServer, Streams
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.model import Container
from hyperd.container.states import ContainerState
from hyperd.container.stats import ContainerStats, CpuStats, DiskStats, InterfaceStats, MemoryStats
from hyperd.errors import Busy, InvalidInput, NotSupported
from hyperd.event.bus import EventBus
from hyperd.pod.model import Pod, PodBrief
from hyperd.pod.states import PodState
from hyperd.spec.model import ContainerSpec, Limits, PodSpec, Resource
from hyperd.stream.links import WebSocketLink
from hyperd.stream.relay import Relay

PROJECT = Path(__file__).resolve().parents[2]
MIB = 2**20


def test_generated_modules_are_up_to_date() -> None:
    done = subprocess.run([PROJECT / "scripts/build-proto", "--check"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "up to date\n"), done.stderr


def test_every_method_has_a_handler() -> None:
    declared = {
        name: {method.name for method in service.methods} for name, service in pb.DESCRIPTOR.services_by_name.items()
    }
    served = {name: set(methods) for name, methods in SERVICES.items()}
    served["RuntimeService"] |= set(STREAMS)
    assert declared == served


def test_streams_that_nobody_fetches_have_bounds(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    server = StreamingServer(relay)
    what = Ports(ports=(), connect=lambda _port: pytest.fail("nobody asked"))
    urls = {server.offer("portforward", what) for _ in range(TOKENS)}
    assert len(urls) == TOKENS
    with pytest.raises(Busy):
        server.offer("portforward", what)
    later = time.monotonic() + TOKEN_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert server.offer("portforward", what) not in urls


class Session:
    """What an exec gives; ``left``: its client is gone, ``input_ended``: and gives no more."""

    def __init__(self, relay: Relay) -> None:
        self.relay = relay
        self.left, self.input_ended = threading.Event(), threading.Event()

    def run(self, sock: socket.socket, early: bytes, *, make: Callable[[Relay], RemoteClient]) -> None:
        async def serve() -> None:
            client = make(self.relay)
            client.on_closed, client.on_eof = self.left.set, self.input_ended.set
            await client.open(sock, early)

        self.relay.spawn(serve())


@contextlib.contextmanager
def streaming(relay: Relay, make: Callable[[], Any]) -> Iterator[websocket.WebSocket]:
    """Yield a client of an exec that is made so."""
    server = StreamingServer(relay)
    server.open()
    try:
        url = server.offer("exec", Streams(roles=frozenset({STDIN, STDOUT, ERROR}), make=make, tells_code=True))
        place = url.replace("http", "ws", 1)
        client = websocket.create_connection(place, timeout=60, subprotocols=["v4.channel.k8s.io"])
        with contextlib.closing(client):
            yield client
    finally:
        server.close()


def test_who_leaves_while_an_exec_is_made_has_left_it(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, gone, session = threading.Event(), threading.Event(), Session(relay)
    closed = WebSocketLink._closed

    def noticed(link: WebSocketLink) -> None:
        closed(link)
        gone.set()

    def make() -> Session:
        begun.set()
        assert gone.wait(60)
        return session

    monkeypatch.setattr(WebSocketLink, "_closed", noticed)
    with streaming(relay, make) as client:
        assert begun.wait(60)
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.shutdown()  # a reset
        assert session.left.wait(60)
        assert session.input_ended.is_set()


def test_a_fault_while_an_exec_is_made_ends_the_connection(relay: Relay) -> None:
    def make() -> Session:
        raise ValueError("a fault")

    with streaming(relay, make) as client:
        assert client.recv_data() == (websocket.ABNF.OPCODE_BINARY, bytes([STDOUT]))  # the channels are there
        with pytest.raises((OSError, websocket.WebSocketConnectionClosedException)):
            client.recv_data()


def test_every_error_has_a_code() -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.HyperError)]
    missing = [kind.__name__ for kind in kinds if kind is not errors.HyperError and code_of(kind("x")) == "UNKNOWN"]
    assert missing == []
    assert code_of(errors.ImageNotFound("x")) == "NOT_FOUND"
    assert code_of(AlreadyExists("x")) == "ALREADY_EXISTS"
    assert set(CODES.values()) <= {code.name for code in grpc.StatusCode}


def sandbox(**linux: object) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig(metadata={"name": "a", "uid": "b"}, linux=linux)


@pytest.mark.parametrize(
    ("linux", "size"),
    [
        ({}, Resource(vcpu=1, memory=128)),
        ({"resources": {"cpu_quota": 250_000, "cpu_period": 100_000}}, Resource(vcpu=3, memory=128)),
        ({"resources": {"memory_limit_in_bytes": 300 * MIB + 1}}, Resource(vcpu=1, memory=365)),
        (
            {"resources": {"memory_limit_in_bytes": 300 * MIB}, "overhead": {"memory_limit_in_bytes": 160 * MIB}},
            Resource(vcpu=1, memory=460),
        ),
        (  # enough for QEMU, too
            {"resources": {"memory_limit_in_bytes": 300 * MIB}, "overhead": {"memory_limit_in_bytes": 384 * MIB}},
            Resource(vcpu=1, memory=364),
        ),
        ({"resources": {"memory_limit_in_bytes": 10 * MIB}}, Resource(vcpu=1, memory=128)),
    ],
)
def test_size_of_the_vm(linux: dict[str, object], size: Resource) -> None:
    spec = read_sandbox(sandbox(**linux), ident="x", handler="", default_vcpu=1, default_memory=128)
    assert spec.resource == size


def test_the_overhead_that_is_shipped_is_enough_for_qemu() -> None:
    """The comment of the manifest names the largest limits for which it is, and what larger ones need."""
    text = (PROJECT / "configs/kubernetes/runtimeclass.yaml").read_text(encoding="utf-8")
    shipped = yaml.safe_load(text)["overhead"]["podFixed"]["memory"]
    for overhead, limit in ((shipped, "2Gi"), *re.findall(r"(\d+Mi) for (\d+Gi)", text)):
        mib, limits = int(overhead.removesuffix("Mi")), int(limit.removesuffix("Gi")) * 1024
        linux = {"resources": {"memory_limit_in_bytes": limits * MIB}, "overhead": {"memory_limit_in_bytes": mib * MIB}}
        spec = read_sandbox(sandbox(**linux), ident="x", handler="", default_vcpu=1, default_memory=128)
        assert spec.resource.memory == limits + 64, (overhead, limit)


@pytest.mark.parametrize(
    ("parent", "path"),
    [
        ("", ""),
        ("/kubepods/besteffort/pod1", "/kubepods/besteffort/pod1"),
        ("kubepods-burstable-pod1.slice", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"),
        ("/kubepods.slice/x", "/kubepods.slice/x"),
    ],
)
def test_control_group_of_the_pod(parent: str, path: str) -> None:
    config = sandbox(cgroup_parent=parent)
    assert read_sandbox(config, ident="x", handler="", default_vcpu=1, default_memory=128).cgroup_parent == path


@pytest.mark.parametrize("parent", ["pod1", "/a/../b", "a--b.slice", ".slice"])
def test_control_groups_that_cannot_be(parent: str) -> None:
    with pytest.raises(InvalidInput):
        read_sandbox(sandbox(cgroup_parent=parent), ident="x", handler="", default_vcpu=1, default_memory=128)


def test_a_sandbox_is_listed_when_it_is_ready() -> None:
    """Not before: kubelet takes one for dead that is not ready, and starts another."""
    lists: list[list[str]] = []

    class Pods:
        made: ClassVar[list[PodBrief]] = []

        def briefs(self, _owner: str) -> list[PodBrief]:
            return self.made

        def create(self, spec: PodSpec, **_fields: bool) -> None:
            told = {"labels": spec.labels, "annotations": spec.annotations}
            self.made.append(PodBrief(id=spec.id, state=PodState.RUNNING, created_at=1.0, **told))

        def start(self, _ident: str) -> None:
            lists.append([one.id for one in sandboxes.listed(call, pb.ListPodSandboxRequest()).items])

    shape = SimpleNamespace(default_vcpu=1, default_memory=128)
    engine: Any = SimpleNamespace(
        pods=Pods(), cni=SimpleNamespace(configured=False), config=SimpleNamespace(hypervisor=shape)
    )
    room = Room(engine=engine, streaming=cast("StreamingServer", None))
    call = Call(room=room, active=lambda: True, seconds_left=lambda: None, api_version="v1")
    made = sandboxes.run(call, pb.RunPodSandboxRequest(config=sandbox())).pod_sandbox_id
    assert lists == [[]]
    assert [one.id for one in sandboxes.listed(call, pb.ListPodSandboxRequest()).items] == [made]


def test_ports_without_a_host_port_are_not_published() -> None:
    config = sandbox()
    config.port_mappings.add(container_port=80)
    config.port_mappings.add(container_port=81, host_port=8081, protocol=pb.UDP, host_ip="0.0.0.0")  # noqa: S104
    spec = read_sandbox(config, ident="x", handler="", default_vcpu=1, default_memory=128)
    found = [(one.container_port, one.host_port, one.protocol, one.host_ip) for one in spec.portmappings]
    assert found == [("81", "8081", "udp", "")]


def test_what_the_client_said_comes_back() -> None:
    config = sandbox()
    config.annotations["a"] = "b"
    annotations = kept.of_sandbox(config, "hyperd")
    assert kept.of_client(annotations) == {"a": "b"}
    assert kept.sandbox(annotations).metadata == config.metadata
    config.annotations[kept.CONFIG] = "x"
    with pytest.raises(InvalidInput):
        kept.of_sandbox(config, "")


def container(**security: object) -> pb.ContainerConfig:
    return pb.ContainerConfig(
        metadata={"name": "a"}, image={"image": "i"}, linux={"security_context": security} if security else None
    )


def test_security_of_a_container() -> None:
    security = read_container(container(), pb.PodSandboxConfig(), ident="x").security
    assert (security.seccomp, security.masked_paths) == ("unconfined", None)
    default = {"seccomp": {"profile_type": pb.SecurityProfile.RuntimeDefault}, "masked_paths": ["/proc/kcore"]}
    given = container(**default, capabilities={"add_capabilities": ["cap_net_admin"]}, run_as_user={"value": 0})
    spec = read_container(given, pb.PodSandboxConfig(linux={"sysctls": {"a": "1"}}), ident="x")
    assert (spec.security.seccomp, spec.security.masked_paths) == ("", ("/proc/kcore",))
    assert (spec.security.cap_add, spec.user.name, dict(spec.sysctl)) == (("NET_ADMIN",), "0", {"a": "1"})
    assert spec.security.image_groups == "all"
    strict = read_container(container(supplemental_groups_policy=pb.Strict), pb.PodSandboxConfig(), ident="x")
    assert strict.security.image_groups == "none"


def test_a_seccomp_profile_of_the_host(tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    profile.write_text("{}")
    for given in ({"seccomp_profile_path": f"localhost/{profile}"},
                  {"seccomp": {"profile_type": 2, "localhost_ref": str(profile)}}):  # fmt: skip
        assert read_container(container(**given), pb.PodSandboxConfig(), ident="x").security.seccomp == "{}"
        privileged = read_container(container(**given, privileged=True), pb.PodSandboxConfig(), ident="x")
        assert privileged.security.seccomp == "unconfined"


def test_stop_signals() -> None:
    for number, name in ((0, ""), (23, "SIGTERM"), (35, "SIGRTMIN"), (50, "SIGRTMIN+15"), (51, "SIGRTMAX-14"),
                         (65, "SIGRTMAX")):  # fmt: skip
        config = container()
        config.stop_signal = number
        assert read_container(config, pb.PodSandboxConfig(), ident="x").stop_signal == name
    config.stop_signal = 66
    with pytest.raises(InvalidInput):
        read_container(config, pb.PodSandboxConfig(), ident="x")


def test_limits() -> None:
    given = {"cpu_quota": -1, "cpu_period": 100_000, "unified": {"memory.oom.group": "1"},
             "hugepage_limits": [{"page_size": "2MB"}], "cpuset_mems": "0", "cpuset_cpus": "0-1"}  # fmt: skip
    found = read_limits(pb.LinuxContainerResources(**given))
    assert (found.cpu_quota, found.cpu_period, found.cpuset) == (0, 0, "0-1")
    with pytest.raises(NotSupported):
        read_limits(pb.LinuxContainerResources(cpuset_mems="1"))


def test_metrics_of_a_container() -> None:
    sandbox = pb.PodSandboxConfig(metadata={"name": "web", "uid": "1", "namespace": "default"})
    pod = Pod(
        id="p1",
        spec=PodSpec(id="p1", annotations=kept.of_sandbox(sandbox, "")),
        state=PodState.RUNNING,
        created_at=1.0,
        labels={},
    )
    config = pb.ContainerConfig(metadata={"name": "main"}, image={"image": "busybox"})
    one = Container(
        id="c1",
        name="c1",
        pod_id="p1",
        spec=ContainerSpec(annotations=kept.of_container(config), limits=Limits(memory=64 << 20, cpu_quota=5000)),
        image_id="sha256:1",
        image_name="busybox",
        program=None,
        state=ContainerState.RUNNING,
        created_at=1.0,
        started_at=7.9,
        labels={},
    )
    stats = ContainerStats(
        id="c1",
        name="c1",
        pod_id="p1",
        time_ns=9 * 10**9,
        cpu=CpuStats(total=3_900_000_000, user=2_000_000_000, system=1_000_000_000),
        memory=MemoryStats(usage=50, working_set=40, peak=60, anon=30, file=20, page_faults=5, major_faults=1),
        disk=DiskStats(),
        processes=4,
    )
    network = [InterfaceStats(name="eth0", counters={"rx_bytes": 10, "tx_dropped": 2})]
    described = {one.name: one for one in metrics.METHODS["ListMetricDescriptors"](None, None).descriptors}
    assert len(described) == len(metrics.METHODS["ListMetricDescriptors"](None, None).descriptors)
    assert described["container_network_transmit_bytes_total"].help == "Bytes that the pod has sent"
    found = [*metrics.of_container(pod, one, stats), *metrics.of_network(pod, network, stats.time_ns)]
    shown = {}
    for metric in found:
        labels = dict(zip(described[metric.name].label_keys, metric.label_values, strict=True))
        more = labels.get("failure_type", labels.get("interface", ""))
        shown[f"{metric.name.removeprefix('container_')} {more}".strip()] = metric.value.value
        assert (labels["namespace"], labels["pod"]) == ("default", "web")
        assert labels["container"] == ("" if "network" in metric.name else "main")
        assert labels["id"] == ("p1" if "network" in metric.name else "c1")
        assert (metric.metric_type == pb.COUNTER) == metric.name.endswith("_total")
    assert len(shown) == len(found)
    assert shown == {
        "cpu_usage_seconds_total": 3, "cpu_user_seconds_total": 2, "cpu_system_seconds_total": 1,
        "memory_usage_bytes": 50, "memory_working_set_bytes": 40, "memory_rss": 30, "memory_cache": 20,
        "memory_max_usage_bytes": 60, "threads": 4, "start_time_seconds": 7, "last_seen": 9, "spec_cpu_period": 0,
        "spec_cpu_quota": 5000, "spec_cpu_shares": 0, "spec_memory_limit_bytes": 64 << 20,
        "spec_memory_reservation_limit_bytes": 0, "memory_failures_total pgfault": 5,
        "memory_failures_total pgmajfault": 1, "network_receive_bytes_total eth0": 10,
        "network_transmit_packets_dropped_total eth0": 2,
    }  # fmt: skip


def test_a_stream_of_events_that_nobody_takes_is_given_back() -> None:
    bus = EventBus()
    call = cast("Any", SimpleNamespace(engine=SimpleNamespace(events=bus)))
    for _ in range(2):
        streams = [events.stream(call, pb.GetEventsRequest()) for _ in range(events.MAX_STREAMS)]
        with pytest.raises(errors.Busy):
            events.stream(call, pb.GetEventsRequest())
        for one in streams:
            one.close()  # the client has left before the first event
