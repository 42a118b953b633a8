"""The network of pods in real guests: published ports, NICs, names, white lists, services."""

from __future__ import annotations

import json
import socket
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.names import serve_dns
from tests.support.netns import ask_udp, ip, serve_tcp
from tests.support.ports import free_port
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import GUEST, Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]
SERVE = "mkdir -p /www; hostname > /www/index.html; httpd -p 80 -h /www; udp serve 53 $(hostname) & sleep 1000"
VIP = "10.254.0.24"


@pytest.fixture(scope="session")
def image(registry: RegistryServer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image with busybox and the program ``udp``."""
    binary = tmp_path_factory.mktemp("udp") / "udp"
    source = Path(__file__).parents[1] / "support" / "udp.c"
    subprocess.run(["gcc", "-static", "-O1", "-o", binary, source], check=True)
    tools = layer_tar([member("bin/udp", binary.read_bytes(), mode=0o755)])
    registry.push("nettools", "latest", [Layer(busybox_tar()), Layer(tools)])
    return f"{registry.host}/nettools"


@pytest.fixture(scope="module")
def host(registry: RegistryServer, image: str) -> Iterator[Host]:
    daemon, host = launch(registry)
    with daemon:
        host.ok("pull", image)
        host.image = image
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        host.assert_clean()


def start(host: Host, pod: str, script: str = SERVE, **spec: object) -> str:
    """Start a pod of one container with more of a specification than hyperctl has flags for."""
    body = {"id": pod, "containers": [{"name": pod, "image": host.image, "command": ["sh", "-c", script]}], **spec}
    host.daemon.json("POST", "/pod/create", body=body, status=201)
    host.daemon.json("POST", "/pod/start", podId=pod)
    return pod


def fetch(url: str, timeout: float = 20) -> str:
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        return answer.read().decode().strip()


def reachable(url: str) -> bool:
    try:
        fetch(url, 1.5)
    except OSError:
        return False
    return True


def udp(address: str, port: int, timeout: float = 5) -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        return ask_udp(client, (address, port), timeout=timeout).decode()


def said(address: str, port: int) -> str:
    """What the program ``udp`` says; nothing when it does not run (yet)."""
    try:
        return udp(address, port, timeout=0.5)
    except OSError:
        return ""


def gateway(host: Host) -> str:
    return host.daemon.subnet.rsplit(".", 1)[0] + ".1"


def pod_ips(host: Host, pod: str) -> list[str]:
    ips: list[str] = host.daemon.json("GET", "/pod/info", podName=pod)["status"]["podIP"]
    return ips


def mappings(host: Host, pod: str) -> list[tuple[str, str, str]]:
    rows = host.daemon.json("GET", f"/pod/{pod}/portmappings")["portMappings"]
    return [(row["protocol"], row["hostPort"], row["containerPort"]) for row in rows]


# -- published ports


def test_ports_come_and_go_while_the_pod_runs(host: Host) -> None:
    pod, other = start(host, "ports"), start(host, "ports2")
    web, names = free_port(), free_port()
    until(lambda: reachable(f"http://{host.address(pod)}/"))
    host.ok("ports", "add", "-p", f"{web}:80", "-p", f"udp:{names}:53", pod)
    assert fetch(f"http://127.0.0.1:{web}/") == pod
    until(lambda: said("127.0.0.1", names) == pod)
    assert mappings(host, pod) == [("tcp", str(web), "80"), ("udp", str(names), "53")]
    table = host.ok("ports", "ls", pod).split()
    assert table == ["Protocol", "Host", "Ports", "Container", "Ports", "tcp", str(web), "80", "udp", str(names), "53"]
    taken = host.ctl("ports", "add", "-p", f"{web}:80", other)
    assert taken.returncode == 255
    assert f"host port {web}/tcp is published by pod {pod}".encode() in taken.stderr
    assert mappings(host, other) == []
    # What was added is part of the pod: it is there again after a stop and after a restart of the daemon.
    host.daemon.restart(kill=True)
    assert fetch(f"http://127.0.0.1:{web}/") == pod
    host.ok("stop", pod)
    assert not reachable(f"http://127.0.0.1:{web}/")
    host.ok("start", pod)
    until(lambda: reachable(f"http://127.0.0.1:{web}/"))
    host.ok("ports", "delete", "-p", f"{web}:80", pod)
    assert not reachable(f"http://127.0.0.1:{web}/")
    assert mappings(host, pod) == [("udp", str(names), "53")]
    host.ok("ports", "add", "-p", f"{web}:80", other)
    assert fetch(f"http://127.0.0.1:{web}/") == other
    host.ok("rm", pod, other)


def test_ranges_and_automatic_host_ports(host: Host) -> None:
    script = "for p in 7000 7001 7002; do nc -ll -p $p -e echo $p & done; sleep 1000"
    rules = [{"containerPort": "7000-7001"}, {"containerPort": "7002", "hostPort": "30000-31000"}]
    pod = start(host, "auto", script, portmappings=rules)
    shown = mappings(host, pod)
    assert [row[2] for row in shown] == ["7000-7001", "7002"]
    first, last = map(int, shown[0][1].split("-"))
    assert last == first + 1
    assert 30000 <= int(shown[1][1]) <= 31000

    def ask(port: int) -> bytes:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as client:
                return client.recv(100)
        except ConnectionRefusedError:  # not started yet
            return b""

    for port, word in ((first, b"7000\n"), (last, b"7001\n"), (int(shown[1][1]), b"7002\n")):
        assert until(lambda port=port: ask(port)) == word
    host.daemon.request("PUT", f"/pod/{pod}/portmappings/delete", body=[{"containerPort": "7000-7001"}])
    assert mappings(host, pod) == shown[1:]
    host.ok("rm", pod)


# -- NICs


@pytest.fixture
def bridge() -> Iterator[tuple[str, str]]:
    """A bridge of the host that is not the daemon's, with its network's first three numbers."""
    name, net = "hytown0", "10.214.77"
    ip("link", "add", name, "type", "bridge")
    try:
        ip("address", "add", f"{net}.1/24", "dev", name)
        ip("link", "set", name, "up")
        yield name, net
    finally:
        ip("link", "delete", name)


def test_several_nics_each_field(host: Host, bridge: tuple[str, str]) -> None:
    name, net = bridge
    own = host.daemon.subnet.rsplit(".", 1)[0]
    nics = [
        {
            "bridge": name,
            "ip": f"{net}.5/24, {net}.6/24",
            "mac": "52:54:00:ab:cd:05",
            "mtu": 1400,
            "ifname": "hytfirst",
        },
        {"ip": f"{own}.77/24"},
        {},
    ]
    pod = start(host, "nics", interfaces=nics)
    auto = pod_ips(host, pod)[3]
    assert pod_ips(host, pod) == [f"{net}.5/24", f"{net}.6/24", f"{own}.77/24", auto]
    shown = host.ok("exec", pod, "ip", "address")
    for text in (f"inet {net}.5/24", f"inet {net}.6/24", f"inet {own}.77/24", f"inet {auto}", "52:54:00:ab:cd:05"):
        assert text in shown
    names = [line.split(":")[1].strip() for line in shown.splitlines() if line[:1].isdigit()]
    assert [name for name in names if name.startswith("eth")] == ["eth0", "eth1", "eth2"]
    assert "mtu 1400" in next(line for line in shown.splitlines() if " eth0:" in line)
    # No NIC names a gateway: the automatic one has the default route.
    assert f"default via {own}.1 dev eth2" in host.ok("exec", pod, "ip", "route")
    assert Path("/sys/class/net/hytfirst/master").resolve().name == name
    for address in (f"{net}.5", f"{net}.6", f"{own}.77", auto.partition("/")[0]):
        until(lambda address=address: reachable(f"http://{address}/"))
        assert fetch(f"http://{address}/") == pod
        until(lambda address=address: said(address, 53) == pod)
    assert f"{net}.5\t{pod}" in host.ok("exec", pod, "cat", "/etc/hosts")
    # From another pod, too, although both NICs in its network may answer.
    peer = start(host, "peer", "sleep 1000")
    for address in (f"{own}.77", auto.partition("/")[0]):
        assert host.ok("exec", peer, "wget", "-q", "-O", "-", f"http://{address}/") == f"{pod}\n"
    host.ok("rm", pod, peer)
    assert not Path("/sys/class/net/hytfirst").exists()
    assert not list(Path(f"/sys/class/net/{name}/brif").iterdir())


def test_gateway_of_an_own_bridge_and_published_ports_there(host: Host, bridge: tuple[str, str]) -> None:
    name, net = bridge
    port = free_port()
    nic = {"bridge": name, "ip": f"{net}.9/24", "gateway": f"{net}.1"}
    pod = start(host, "routed", interfaces=[nic], portmappings=[{"hostPort": str(port), "containerPort": "80"}])
    assert f"default via {net}.1 dev eth0" in host.ok("exec", pod, "ip", "route")
    other = start(host, "asker", "sleep 1000")
    assert host.ok("exec", other, "wget", "-q", "-O", "-", f"http://{gateway(host)}:{port}/") == f"{pod}\n"
    host.ok("stop", pod)
    host.ok("start", pod)
    assert pod_ips(host, pod) == [f"{net}.9/24"]
    host.ok("rm", pod, other)


def test_a_guest_cannot_use_an_address_that_is_not_its_own(host: Host, bridge: tuple[str, str]) -> None:
    name, net = bridge
    own = host.daemon.subnet.rsplit(".", 1)[0]
    pod = start(host, "liar", "sleep 1000", interfaces=[{"ip": f"{own}.88/24"}, {"bridge": name, "ip": f"{net}.88/24"}])
    for device, place, real, false in (
        ("eth0", host.daemon.bridge, f"{own}.88", f"{own}.99"),
        ("eth1", name, f"{net}.88", f"{net}.99"),
    ):
        target = real.rsplit(".", 1)[0] + ".1"
        host.ok("exec", "-m", pod, "/sbin/busybox", "ip", "address", "add", f"{false}/24", "dev", device)
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as ear:
            ear.bind((place, 0x0800))
            ear.settimeout(0.5)
            for source in (real, false):
                host.ctl("exec", "-m", pod, "/sbin/busybox", "ping", "-c", "2", "-W", "1", "-I", source, target)
            heard = set()
            while True:
                try:
                    heard.add(socket.inet_ntoa(ear.recv(2048)[12:16]))
                except TimeoutError:
                    break
        assert real in heard
        assert false not in heard
    host.ok("rm", pod)


# -- names


def test_names_and_name_servers(host: Host) -> None:
    asked = gateway(host)
    with serve_dns((asked, 53), "192.0.2.77"):
        pod = start(
            host,
            "names",
            hostname="web.lab",
            dns=[asked, "192.0.2.54"],
            dnsSearch=["lab.example", "example"],
            dnsOptions=["ndots:2", "timeout:1"],
        )
        assert host.ok("exec", pod, "cat", "/etc/resolv.conf").splitlines() == [
            f"nameserver {asked}",
            "nameserver 192.0.2.54",
            "search lab.example example",
            "options ndots:2 timeout:1",
        ]
        assert "192.0.2.77" in host.ok("exec", pod, "nslookup", "some.name.test")
    assert host.ok("exec", pod, "hostname") == "web.lab\n"
    assert host.ok("exec", pod, "cat", "/etc/hostname") == "web.lab\n"
    assert host.ok("exec", pod, "sh", "-c", "echo $HOSTNAME") == "web.lab\n"
    lines = host.ok("exec", pod, "cat", "/etc/hosts").splitlines()
    assert f"{host.address(pod)}\tweb.lab" in lines
    assert "127.0.0.1\tlocalhost" in lines
    assert host.ok("exec", pod, "ping", "-c", "1", "-W", "2", "web.lab")
    host.ok("rm", pod)


def test_long_ids_become_short_hostnames(host: Host) -> None:
    pod = start(host, "n" * 70, "sleep 1000")
    assert host.ok("exec", pod, "hostname") == "n" * 63 + "\n"
    host.ok("rm", pod)


# -- white lists


def asks(host: Host, who: str, address: str, port: int = 80) -> bool:
    """Whether a pod can connect."""
    return host.ctl("exec", who, "nc", "-w", "2", address, str(port)).returncode == 0


def test_white_lists(host: Host) -> None:
    friend, stranger = start(host, "friend"), start(host, "stranger")
    port = free_port()
    lists = {"internalNetworks": [f"{host.address(friend)}/32"], "externalNetworks": [f"{host.address(stranger)}/32"]}
    rules = [{"hostPort": str(port), "containerPort": "80"}]
    pod = start(host, "guarded", portmappingWhiteLists=lists, portmappings=rules)
    address = host.address(pod)

    assert until(lambda: asks(host, friend, address))
    assert asks(host, friend, gateway(host), port)
    assert host.ctl("exec", friend, "udp", "ask", address, "53").returncode == 0
    assert not asks(host, stranger, address)
    assert host.ctl("exec", stranger, "udp", "ask", address, "53").returncode == 1
    assert asks(host, stranger, gateway(host), port)  # the published port only
    assert not reachable(f"http://{address}/")  # the host is in no list
    assert not reachable(f"http://127.0.0.1:{port}/")
    # What the pod asks for is answered, and it reaches itself.
    assert asks(host, pod, host.address(stranger))
    assert host.ctl("exec", pod, "udp", "ask", host.address(stranger), "53").returncode == 0
    assert asks(host, pod, address)
    assert host.ctl("exec", stranger, "ping", "-c", "1", "-W", "2", address).returncode == 0
    # The guest has no say in it: with all rights in its VM it is as closed as before.
    host.ok("exec", "-m", pod, "/sbin/busybox", "sh", "-c", "ip link set eth0 promisc on; ip neigh flush dev eth0")
    assert not asks(host, stranger, address)
    host.daemon.restart(kill=True)
    assert not asks(host, stranger, address)
    assert asks(host, friend, address)
    host.ok("rm", pod)
    assert asks(host, stranger, host.address(friend))
    host.ok("rm", friend, stranger)


def test_a_white_list_with_the_host_in_it(host: Host) -> None:
    port = free_port()
    pod = start(
        host,
        "listed",
        portmappingWhiteLists={"externalNetworks": [f"{gateway(host)}/32"]},
        portmappings=[{"hostPort": str(port), "containerPort": "80"}],
    )
    until(lambda: reachable(f"http://127.0.0.1:{port}/"))
    assert fetch(f"http://127.0.0.1:{port}/") == pod
    assert not reachable(f"http://{host.address(pod)}/")
    host.ok("rm", pod)


# -- services


def service(port: int, protocol: str, hosts: Sequence[tuple[str, int]], ip: str = VIP) -> dict[str, object]:
    backends = [{"hostIP": address, "hostPort": number} for address, number in hosts]
    return {"serviceIP": ip, "servicePort": port, "protocol": protocol, "hosts": backends}


def change(host: Host, what: str, pod: str, services: Sequence[dict[str, object]]) -> None:
    method, path = ("DELETE", "/service") if what == "delete" else ("POST", f"/service/{what}")
    answer = host.daemon.json(method, path, podId=pod, services=json.dumps(services))
    assert answer == {"Result": "success"}


def answers(host: Host, pod: str, port: int, count: int, ip: str = VIP) -> list[str]:
    script = f"for i in $(seq {count}); do nc -w 3 {ip} {port} </dev/null; done; true"
    return host.ok("exec", pod, "sh", "-c", script).split()


def datagrams(host: Host, pod: str, port: int, count: int) -> list[str]:
    return host.ok("exec", pod, "sh", "-c", f"for i in $(seq {count}); do udp ask {VIP} {port}; done").split()


@pytest.fixture
def backends(host: Host) -> Iterator[list[tuple[str, int]]]:
    """Three programs of the host that tell who they are and who asks."""
    with ExitStack() as stack:
        found = []
        for number in range(3):
            reply = lambda peer, number=number: f"b{number}:{peer}\n".encode()  # noqa: E731
            port = stack.enter_context(serve_tcp(socket.socket(), (gateway(host), 0), reply))
            found.append((gateway(host), port))
        yield found


def check_services(host: Host, backends: list[tuple[str, int]]) -> None:
    """What a service must do, on whichever kernel."""
    pod = start(host, "balanced", services=[service(2834, "TCP", backends[:2])])
    own = host.address(pod)
    listed = host.daemon.json("GET", "/service/list", podId=pod)
    assert listed == [service(2834, "tcp", backends[:2])]
    assert sorted(answers(host, pod, 2834, 4)) == [f"b0:{own}"] * 2 + [f"b1:{own}"] * 2
    # Changed while containers run; the other protocol; a host in the pod itself, by address and by 127.0.0.1.
    peer = start(host, "peer53")
    for address, name in ((own, pod), (host.address(peer), peer)):
        until(lambda address=address, name=name: said(address, 53) == name)
    change(host, "add", pod, [service(53, "udp", [(own, 53), (host.address(peer), 53)])])
    assert sorted(datagrams(host, pod, 53, 4)) == ["balanced"] * 2 + ["peer53"] * 2
    change(host, "add", pod, [service(81, "tcp", [("127.0.0.1", 80)]), service(82, "tcp", [(own, 80)])])
    for port in (81, 82):
        assert host.ok("exec", pod, "wget", "-q", "-O", "-", f"http://{VIP}:{port}/") == "balanced\n"
    change(host, "update", pod, [service(2834, "tcp", backends[1:])])
    assert sorted(answers(host, pod, 2834, 4)) == [f"b1:{own}"] * 2 + [f"b2:{own}"] * 2
    assert answers(host, pod, 82, 1) == []
    assert len(host.daemon.json("GET", "/service/list", podId=pod)) == 1
    code, _, body = host.daemon.request(
        "POST", "/service/add", podId=pod, services=json.dumps([service(2834, "TCP", backends[:1])])
    )
    assert (code, body.decode()) == (409, f"service {VIP}:2834/tcp conflicts with existing ones\n")
    change(host, "delete", pod, [service(2834, "tcp", []), service(9, "udp", [])])
    assert answers(host, pod, 2834, 1) == []
    assert host.daemon.json("GET", "/service/list", podId=pod) == []
    host.ok("rm", pod, peer)


def test_services(host: Host, backends: list[tuple[str, int]]) -> None:
    check_services(host, backends)


def test_services_outlive_the_daemon_and_a_stop(host: Host, backends: list[tuple[str, int]]) -> None:
    pod = start(host, "lasting", services=[service(2834, "tcp", backends[:1])])
    host.daemon.restart(kill=True)
    assert answers(host, pod, 2834, 1) == [f"b0:{host.address(pod)}"]
    change(host, "add", pod, [service(2835, "tcp", backends[1:2])])
    assert answers(host, pod, 2835, 1) == [f"b1:{host.address(pod)}"]
    host.ok("stop", pod)
    # Only the record changes while it is stopped.
    change(host, "delete", pod, [service(2835, "tcp", [])])
    change(host, "add", pod, [service(2836, "tcp", backends[2:])])
    host.ok("start", pod)
    own = host.address(pod)
    assert answers(host, pod, 2834, 1) + answers(host, pod, 2836, 1) == [f"b0:{own}", f"b2:{own}"]
    assert answers(host, pod, 2835, 1) == []
    host.ok("rm", pod)


def test_services_of_an_idle_vm_go_with_its_pod(host: Host, backends: list[tuple[str, int]]) -> None:
    vm = host.daemon.json("POST", "/vm/create")["ID"]
    body = {
        "id": "lent",
        "services": [service(2834, "tcp", backends[:1])],
        "containers": [{"name": "lent", "image": host.image, "command": ["sleep", "1000"]}],
    }
    host.daemon.json("POST", "/pod/create", body=body, status=201)
    host.daemon.json("POST", "/pod/start", podId="lent", vmId=vm)
    assert len(answers(host, "lent", 2834, 1)) == 1
    host.daemon.json("POST", "/pod/stop", podId="lent", stopVM="no")
    change(host, "update", "lent", [])
    host.daemon.json("POST", "/pod/start", podId="lent", vmId=vm)
    assert answers(host, "lent", 2834, 1) == []
    host.ok("rm", "lent")


def test_services_with_a_source_for_each_network(host: Host, bridge: tuple[str, str]) -> None:
    name, net = bridge
    nics = [{}, {"bridge": name, "ip": f"{net}.7/24"}]
    with serve_tcp(socket.socket(), (f"{net}.1", 0), lambda peer: f"{peer}\n".encode()) as port:
        pod = start(host, "twonets", interfaces=nics, services=[service(80, "tcp", [(f"{net}.1", port)])])
        assert answers(host, pod, 80, 1) == [f"{net}.7"]
        host.ok("rm", pod)


def test_services_on_the_distributions_kernel(registry: RegistryServer, image: str, tmp_path: Path) -> None:
    for name in ("kernel-distro", "initrd-distro"):
        assert (GUEST / name).is_file(), "run scripts/build-guest --kernel distro"
        (tmp_path / name).symlink_to((GUEST / name).resolve())
    daemon, host = launch(registry, guest=tmp_path)
    with daemon, ExitStack() as stack:
        host.ok("pull", image)
        host.image = image
        found = []
        for number in range(3):
            reply = lambda peer, number=number: f"b{number}:{peer}\n".encode()  # noqa: E731
            found.append((gateway(host), stack.enter_context(serve_tcp(socket.socket(), (gateway(host), 0), reply))))
        check_services(host, found)
        host.assert_clean()
