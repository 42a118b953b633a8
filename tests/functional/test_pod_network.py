"""Ports, NICs, white lists and services through the API of a real daemon whose VMs only pretend."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support import audit
from tests.support.daemon import HyperdLauncher
from tests.support.netns import ip
from tests.support.ports import free_port
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher() as launcher:
        launcher.start()
        yield launcher
        assert "internal_error" not in launcher.log()


class Pods:
    """Makes pods without containers."""

    def __init__(self, daemon: HyperdLauncher) -> None:
        self.daemon = daemon
        self.made: list[str] = []

    def create(self, pod: str, *, start: bool = True, **fields: Any) -> str:
        self.daemon.json("POST", "/pod/create", status=201, body={"id": pod, **fields})
        self.made.append(pod)
        if start:
            self.daemon.json("POST", "/pod/start", podId=pod)
        return pod

    def refused(self, pod: str, **fields: Any) -> tuple[int, str]:
        """Try to create a pod, which must fail and leave nothing."""
        status, _, body = self.daemon.request("POST", "/pod/create", body={"id": pod, **fields})
        assert status >= 400, body
        assert self.daemon.json("GET", "/list", item="pod", pod=pod)["podData"] == []
        return status, body.decode()

    def ips(self, pod: str) -> list[str]:
        found: list[str] = self.daemon.json("GET", "/pod/info", podName=pod)["status"]["podIP"]
        return found

    def ports(self, pod: str) -> list[tuple[str, str, str]]:
        rows = self.daemon.json("GET", f"/pod/{pod}/portmappings")["portMappings"]
        return [(row["protocol"], row["hostPort"], row["containerPort"]) for row in rows]

    def change(self, pod: str, action: str, *rules: dict[str, str]) -> tuple[int, str]:
        status, _, body = self.daemon.request("PUT", f"/pod/{pod}/portmappings/{action}", body=list(rules))
        return status, body.decode().strip()


@pytest.fixture
def pods(daemon: HyperdLauncher) -> Iterator[Pods]:
    pods = Pods(daemon)
    yield pods
    for pod in pods.made:
        daemon.request("DELETE", "/pod", podId=pod)


def rule(container: int | str, host: int | str = "", protocol: str = "tcp") -> dict[str, str]:
    return {"containerPort": str(container), "hostPort": str(host), "protocol": protocol}


def held(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


# -- ports


def test_rules_are_put_in_front_and_kept(pods: Pods) -> None:
    first, second = free_port(), free_port()
    pod = pods.create("a", portmappings=[rule(80, first)])
    assert pods.change(pod, "add", rule(81, second)) == (204, "")
    assert pods.change(pod, "add", rule(81, second)) == (204, "")
    assert pods.ports(pod) == [("tcp", str(second), "81"), ("tcp", str(first), "80")]
    pods.daemon.restart(kill=True)
    assert pods.ports(pod) == [("tcp", str(second), "81"), ("tcp", str(first), "80")]


def test_delete_goes_by_protocol_container_port_and_host_port_if_given(pods: Pods) -> None:
    one, two = free_port(), free_port()
    pod = pods.create(
        "a", portmappings=[rule(80, one), rule(80, two), rule(80, one, "udp"), rule("90-91", "10090-10091")]
    )
    assert pods.change(pod, "delete", rule(80, two)) == (204, "")
    assert pods.change(pod, "delete", rule(80, 1), rule(99), rule(90), rule("90-91", "", "udp")) == (204, "")
    assert pods.ports(pod) == [("tcp", str(one), "80"), ("udp", str(one), "80"), ("tcp", "10090-10091", "90-91")]
    assert not held(two)
    assert held(one)
    assert pods.change(pod, "delete", rule(80), rule("90-91")) == (204, "")
    assert pods.ports(pod) == [("udp", str(one), "80")]
    assert not held(one)


def test_automatic_ports_are_chosen_at_once_and_stay(pods: Pods) -> None:
    pod = pods.create(
        "a", start=False, portmappings=[rule(80), rule("81-83"), rule(53, "", "udp"), rule(84, "10000-10010")]
    )
    chosen = pods.ports(pod)
    assert [row[2] for row in chosen] == ["80", "81-83", "53", "84"]
    first, last = map(int, chosen[1][1].split("-"))
    assert last - first == 2
    assert all(20000 <= int(row[1].split("-")[0]) < 32768 for row in chosen[:3])
    assert 10000 <= int(chosen[3][1]) <= 10010
    pods.daemon.json("POST", "/pod/start", podId=pod)
    pods.daemon.json("POST", "/pod/stop", podId=pod)
    assert pods.ports(pod) == chosen
    pods.daemon.json("POST", "/pod/start", podId=pod)
    assert pods.change(pod, "add", rule(85)) == (204, "")
    assert len({row[1] for row in pods.ports(pod)}) == 5
    assert held(int(pods.ports(pod)[0][1]))


@pytest.fixture
def image(daemon: HyperdLauncher) -> Iterator[str]:
    with RegistryServer() as registry:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        name = f"{registry.host}/busybox"
        assert daemon.request("POST", "/image/create", imageName=name)[0] == 200
        yield name


@pytest.mark.registry
def test_automatic_ports_of_a_later_container_are_chosen_at_the_start(pods: Pods, image: str) -> None:
    pod = pods.create("a", start=False, portmappings=[rule(79)])
    first = pods.ports(pod)[0]
    container = {"name": "c", "image": image, "ports": [rule(80, "10200-10210")]}
    pods.daemon.json("POST", "/container/create", podId=pod, status=201, body=container)
    assert pods.ports(pod) == [("tcp", "10200-10210", "80"), first]
    pods.daemon.json("POST", "/pod/start", podId=pod)
    chosen = pods.ports(pod)
    assert 10200 <= int(chosen[0][1]) <= 10210
    assert chosen[1] == first
    assert held(int(chosen[0][1]))
    pods.daemon.json("POST", "/pod/stop", podId=pod)
    pods.daemon.restart(kill=True)
    assert pods.ports(pod) == chosen
    pods.daemon.json("POST", "/pod/start", podId=pod)
    assert pods.ports(pod) == chosen


@pytest.mark.parametrize("fixed", [False, True])
def test_a_start_that_fails_leaves_a_new_pod_its_reservations(pods: Pods, fixed: bool) -> None:
    port, address = free_port(), f"10.213.{pods.daemon.subnet.split('.')[2]}.77/24"
    interfaces = [{"ip": address}] if fixed else []
    pod = pods.create("a", start=False, portmappings=[rule(80, port), rule(81)], interfaces=interfaces)
    before = pods.ports(pod)
    status, _, body = pods.daemon.request("POST", "/pod/start", podId=pod, vmId="vm-none")
    assert status == 404, body
    assert pods.daemon.json("GET", "/list", item="pod")["podData"] == ["a:a::pending"]
    assert held(port)
    assert pods.refused("b", portmappings=[rule(80, port)])[0] == 409
    if fixed:
        assert pods.refused("b", interfaces=interfaces)[0] == 409
    pods.daemon.json("POST", "/pod/start", podId=pod)
    assert pods.ports(pod) == before


def led(daemon: HyperdLauncher) -> str:
    """Return the packet filter's map of published ports."""
    words = ["nft", "list", "map", "ip", daemon.table, "tcp_ports"]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def test_published_ports_stay_open_when_more_are_refused(pods: Pods) -> None:
    port = free_port()
    pods.create("a", portmappings=[rule(80, port)])
    pod = pods.create("b", portmappings=[rule(80)])
    before = led(pods.daemon)
    assert f"{port} : " in before
    assert f"{pods.ports(pod)[0][1]} : " in before
    assert pods.change(pod, "add", rule(81), rule(82, port))[0] == 409
    assert led(pods.daemon) == before


def test_a_full_range_is_told(pods: Pods) -> None:
    pods.create("a", portmappings=[rule(80, "10100-10101"), rule(80, "10100-10101")])
    status, text = pods.refused("b", portmappings=[rule(80, "10100-10101")])
    assert (status, text) == (503, "no 1 free tcp ports of the host: 10100-10101\n")


def test_conflicts_of_ports_change_nothing(pods: Pods) -> None:
    port, other = free_port(), free_port()
    pods.create("a", portmappings=[rule(80, port)])
    pod = pods.create("b")
    assert pods.change(pod, "add", rule(80, other), rule(80), rule(80, port)) == (
        409,
        f"host port {port}/tcp is published by pod a",
    )
    assert pods.ports(pod) == []
    assert not held(other)
    with socket.socket() as program:
        program.bind(("", 0))
        program.listen()
        number = program.getsockname()[1]
        status, text = pods.change(pod, "add", rule(80, number))
        assert (status, text.partition(" (")[0].split(":")[0]) == (
            409,
            f"host port {number}/tcp is in use by a program of the host",
        )
    assert pods.change("a", "add", rule(81, port))[0] == 409
    assert pods.ports("a") == [("tcp", str(port), "80")]


@pytest.mark.parametrize(
    ("rules", "word"),
    [
        ([rule(80, 1, "sctp")], "unrecongnized protocol sctp"),
        ([rule("80-81", 8000)], "port range mismatch"),
        ([rule(0, 8000)], "bad port"),
        ([rule(80, "9-1")], "bad port range"),
        ([rule("")], "containerPort"),
        ([7], "must be an object"),
    ],
)
def test_bad_rules(pods: Pods, rules: list[Any], word: str) -> None:
    pod = pods.create("a")
    for action in ("add", "delete"):
        status, text = pods.change(pod, action, *rules)
        assert status == 400
        assert word in text


def test_only_pods_that_run_change_ports(pods: Pods) -> None:
    pod = pods.create("a", start=False)
    for action in ("add", "delete"):
        status, text = pods.change(pod, action, rule(80))
        assert (status, text.partition(" (")[0]) == (412, "portmapping could apply to running pod only")
        assert pods.change("none", action, rule(80)) == (404, "Pod none not found")
    status, _, body = pods.daemon.request("PUT", f"/pod/{pod}/portmappings/list", body=[])
    assert (status, body) == (400, b"Only add or delete operation are permitted\n")
    pods.daemon.json("POST", "/pod/start", podId=pod)
    pods.daemon.request("POST", "/pod/pause", podId=pod)
    assert pods.change(pod, "add", rule(80))[0] == 204


# -- NICs


@pytest.fixture
def bridge() -> Iterator[str]:
    ip("link", "add", "hytfn0", "type", "bridge")
    ip("address", "add", "10.214.78.1/24", "dev", "hytfn0")
    yield "hytfn0"
    ip("link", "delete", "hytfn0")


def test_addresses_of_all_nics_are_shown_and_given_back(pods: Pods, bridge: str) -> None:
    net = pods.daemon.subnet.rsplit(".", 1)[0]
    nics = [{"bridge": bridge, "ip": "10.214.78.5/24,10.9.9.5/16"}, {}, {"ip": f"{net}.200/24", "ifname": "hytwish0"}]
    pods.create("a", interfaces=nics)
    shown = pods.ips("a")
    assert shown[:2] == ["10.214.78.5/24", "10.9.9.5/16"]
    assert shown[3] == f"{net}.200/24"
    clash = {"interfaces": [{"bridge": bridge, "ip": "10.9.9.5/16"}]}
    assert pods.refused("b", **clash) == (409, "address 10.9.9.5 is in use by a\n")
    pods.daemon.json("DELETE", "/pod", podId="a")
    pods.create("b", **clash)
    assert pods.ips("b") == ["10.9.9.5/16"]


def test_a_stopped_pod_holds_no_address(pods: Pods) -> None:
    net = pods.daemon.subnet.rsplit(".", 1)[0]
    fixed = {"interfaces": [{"ip": f"{net}.201/24"}]}
    pods.create("a", **fixed)
    pods.daemon.json("POST", "/pod/stop", podId="a")
    pods.create("b", **fixed)
    status, _, body = pods.daemon.request("POST", "/pod/start", podId="a")
    assert (status, body.decode()) == (409, f"address {net}.201 is in use by b\n")
    pods.daemon.json("DELETE", "/pod", podId="b")
    pods.daemon.json("POST", "/pod/start", podId="a")


@pytest.mark.parametrize(
    ("nic", "status", "word"),
    [
        ({"bridge": "nosuch0", "ip": "10.0.0.2/24"}, 400, "bridge nosuch0 does not exist on this host"),
        ({"bridge": "lo", "ip": "10.0.0.2/24"}, 400, "bridge lo does not exist on this host"),
        ({"ip": "GATEWAY/24"}, 409, "is in use by the host"),
        ({"ip": "fd00::2/64"}, 400, "is not an IPv4 address"),
        ({"ip": "224.0.0.1/24"}, 400, "cannot be the address of a NIC"),
        ({"ip": "10.0.0.255/24"}, 400, "cannot be the address of a NIC"),
        ({"ip": "10.0.0.2/24,10.0.0.2/24"}, 400, "a NIC has an address twice"),
        ({"mac": "01:00:5e:00:00:01"}, 400, "is not a unicast MAC address"),
        ({"ifname": "lo"}, 409, "tap lo is in use"),
        ({"ifname": "vnet7"}, 400, "are given automatically"),
        ({"mtu": 9000}, 400, "is above that of the bridge"),
        ({"ip": "10.0.0.2/24", "gateway": "10.0.1.1"}, 400, "interfaces[0].gateway"),
    ],
)
def test_nics_that_cannot_be(pods: Pods, nic: dict[str, Any], status: int, word: str) -> None:
    gateway = pods.daemon.subnet.rsplit(".", 1)[0] + ".1"
    wanted = {key: value.replace("GATEWAY", gateway) if isinstance(value, str) else value for key, value in nic.items()}
    code, text = pods.refused("a", interfaces=[wanted])
    assert (code, word in text) == (status, True), text


def test_a_vm_that_runs_takes_two_nics(pods: Pods) -> None:
    vm = pods.daemon.json("POST", "/vm/create")["ID"]
    pods.create("a", start=False, interfaces=[{}, {}, {}])
    status, _, body = pods.daemon.request("POST", "/pod/start", podId="a", vmId=vm)
    assert (status, body.decode().split(":")[0]) == (501, "a VM that runs already cannot be given 3 NICs")
    pods.create("b", start=False, interfaces=[{}, {}])
    assert pods.daemon.json("POST", "/pod/start", podId="b", vmId=vm)["ID"] == vm
    pods.daemon.json("POST", "/pod/start", podId="a")
    assert len(pods.ips("a")) == 3


def test_what_two_pods_cannot_share(pods: Pods) -> None:
    pods.create("a", interfaces=[{"mac": "52:54:00:12:34:56", "ifname": "hytwish1"}])
    assert pods.refused("b", interfaces=[{"mac": "52:54:00:12:34:56"}])[1] == (
        "MAC address 52:54:00:12:34:56 is in use by a\n"
    )
    assert pods.refused("b", interfaces=[{"ifname": "hytwish1"}])[1] == "tap hytwish1 is in use by a\n"


# -- white lists


@pytest.mark.parametrize("networks", [["fd00::/8"], ["10.0.0.0/8", "::/0"]])
def test_white_lists_are_ipv4(pods: Pods, networks: list[str]) -> None:
    status, text = pods.refused("a", portmappingWhiteLists={"externalNetworks": networks})
    assert status == 400
    assert "is not an IPv4 network of a white list" in text


def test_white_lists_need_the_daemons_bridge(pods: Pods, bridge: str) -> None:
    nics = [{"bridge": bridge, "ip": "10.214.78.5/24"}]
    status, text = pods.refused("a", portmappingWhiteLists={"internalNetworks": ["10.0.0.0/8"]}, interfaces=nics)
    assert (status, text.split(":")[0]) == (400, "portmappingWhiteLists need NICs on the daemon's bridge")


# -- services


def service(port: int, protocol: str = "tcp", *hosts: str) -> dict[str, Any]:
    backends = [{"hostIP": host, "hostPort": 1000} for host in hosts]
    return {"serviceIP": "10.254.0.24", "servicePort": port, "protocol": protocol, "hosts": backends}


def ask(daemon: HyperdLauncher, method: str, path: str, services: object, pod: str = "a") -> tuple[int, str]:
    text = services if isinstance(services, str) else json.dumps(services)
    status, _, body = daemon.request(method, path, podId=pod, services=text)
    return status, body.decode().strip()


@pytest.mark.parametrize("start", [False, True])
def test_services_are_recorded(pods: Pods, start: bool) -> None:
    done = (200, '{"Result":"success"}')
    pods.create("a", start=start, services=[service(80, "TCP", "10.0.0.1")])
    listed = lambda: pods.daemon.json("GET", "/service/list", podId="a", status=200)  # noqa: E731
    assert listed() == [service(80, "tcp", "10.0.0.1")]
    assert ask(pods.daemon, "POST", "/service/add", [service(80, "UDP"), service(81)]) == done
    assert [(entry["servicePort"], entry["protocol"]) for entry in listed()] == [(80, "tcp"), (80, "udp"), (81, "tcp")]
    conflict = (409, "service 10.254.0.24:81/tcp conflicts with existing ones")
    assert ask(pods.daemon, "POST", "/service/add", [service(81, "TCP", "10.0.0.1")]) == conflict
    assert ask(pods.daemon, "POST", "/service/update", [service(81), service(81)]) == conflict
    assert ask(pods.daemon, "DELETE", "/service", [service(80, "Tcp"), service(99)]) == done
    assert [(entry["servicePort"], entry["protocol"]) for entry in listed()] == [(80, "udp"), (81, "tcp")]
    assert ask(pods.daemon, "POST", "/service/update", [service(82, "tcp", "10.0.0.2")]) == done
    pods.daemon.restart(kill=True)
    assert listed() == [service(82, "tcp", "10.0.0.2")]
    assert ask(pods.daemon, "POST", "/service/update", []) == done
    assert listed() == []


@pytest.mark.parametrize(
    ("services", "word"),
    [
        ("[", "services is not valid JSON"),
        ("", "services is required"),
        ("{}", "must be an array"),
        ([service(0)], "servicePort"),
        ([service(80, "sctp")], "unrecongnized protocol sctp"),
        ([{"servicePort": 80}], "serviceIP"),
        ([{"serviceIP": "10.0.0.1"}], "servicePort"),
        ([service(80, "tcp", "10.0.0.1", "10.0.0.1")], "a host is there twice"),
        ([service(80, "tcp", "fd00::1")], "cannot be an address"),
        ([service(80, "tcp", "x")], "no IP address"),
    ],
)
def test_bad_services(pods: Pods, services: object, word: str) -> None:
    pods.create("a", start=False)
    for method, path in (("POST", "/service/add"), ("POST", "/service/update"), ("DELETE", "/service")):
        status, text = ask(pods.daemon, method, path, services)
        assert status == 400
        assert word in text
        assert ask(pods.daemon, method, path, services, pod="none") == (404, "Pod none not found")


def test_services_of_a_paused_pod_wait(pods: Pods) -> None:
    pods.create("a")
    pods.daemon.request("POST", "/pod/pause", podId="a")
    assert ask(pods.daemon, "POST", "/service/add", [service(80)])[0] == 412
    assert pods.daemon.json("GET", "/service/list", podId="a") == []
    pods.daemon.request("POST", "/pod/unpause", podId="a")
    assert ask(pods.daemon, "POST", "/service/add", [service(80)])[0] == 200


# -- networks


def test_networks_over_the_api(daemon: HyperdLauncher) -> None:
    made = daemon.json("POST", "/network/create", status=201, body={"name": "shop", "labels": {"a": "b"}})
    assert made["subnet"]
    assert daemon.json("GET", "/network/info", network=made["id"][:12]) == made
    names = [network["name"] for network in daemon.json("GET", "/network/list")]
    assert names == ["bridge", "host", "none", "shop"]
    status, _, body = daemon.request("POST", "/network/create", body={"name": "shop"})
    assert (status, body) == (409, b"network with name shop already exists\n")
    assert daemon.request("POST", "/network/create", body={"name": "x", "subnet": "10.0.0.1"})[0] == 400
    assert daemon.request("DELETE", "/network", network="bridge")[0] == 403
    daemon.restart(kill=True)
    assert daemon.json("GET", "/network/info", network="shop") == made
    assert made["bridge"] in ip("-o", "link", "show", "type", "bridge")
    assert daemon.json("POST", "/network/prune") == ["shop"]
    assert daemon.request("DELETE", "/network", network="shop")[0] == 404
    assert made["bridge"] not in ip("-o", "link", "show", "type", "bridge")


def on(daemon: HyperdLauncher, network: str) -> dict[str, Any]:
    """The pods on a network, by id."""
    shown = daemon.json("GET", "/network/info", network=network)["pods"]
    return {one.pop("pod"): one for one in shown}


def change_network(daemon: HyperdLauncher, verb: str, pod: str, network: str, **more: Any) -> tuple[int, str]:
    body = {"pod": pod, "network": network, **more}
    status, _, answer = daemon.request("POST", f"/network/{verb}", body=body)
    return status, answer.decode().strip()


@pytest.fixture
def shops(daemon: HyperdLauncher, pods: Pods) -> Iterator[Pods]:
    """Two networks."""
    for name, subnet in (("one", "10.71.1.0/24"), ("two", "10.71.2.0/24")):
        daemon.json("POST", "/network/create", status=201, body={"name": name, "subnet": subnet})
    yield pods
    for pod in pods.made:
        daemon.request("DELETE", "/pod", podId=pod)
    daemon.json("POST", "/network/prune")


def test_pod_on_networks_of_its_specification(daemon: HyperdLauncher, shops: Pods) -> None:
    fields = {"network": "one", "ip": "10.71.1.50", "mac": "52:54:00:00:00:50", "aliases": ["db", "db.shop"]}
    shops.create("a", networks=[fields, {"network": "two"}])
    assert on(daemon, "one") == {
        "a": {
            "interface": "eth0",
            "addresses": ["10.71.1.50/24"],
            "mac": "52:54:00:00:00:50",
            "aliases": ["db", "db.shop"],
        }
    }
    assert on(daemon, "two")["a"]["interface"] == "eth1"
    assert shops.ips("a") == ["10.71.1.50/24", *on(daemon, "two")["a"]["addresses"]]
    daemon.json("POST", "/pod/stop", podId="a")
    assert (on(daemon, "one"), on(daemon, "two")) == ({}, {})
    daemon.json("POST", "/pod/start", podId="a")
    assert on(daemon, "one")["a"]["addresses"] == ["10.71.1.50/24"]


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({"networks": [{"network": "nosuch"}]}, 409, "network nosuch not found"),
        ({"networks": [{"network": "host"}]}, 501, "cannot be in the host's network"),
        ({"networks": [{"network": "one"}, {"network": "one"}]}, 400, "on a network once"),
        ({"networks": [{"network": "one", "ip": "10.71.2.9"}]}, 400, "10.71.2.9"),
        ({"networks": [{"network": "none"}, {"network": "one"}]}, 400, "without a network"),
        ({"networks": [{"network": "one", "aliases": ["a b"]}]}, 400, "networks[0].aliases[0]"),
        ({"networks": [{}]}, 400, "networks[0].network"),
        ({"networks": [{"network": "none"}], "portmappings": [rule(80, 8080)]}, 400, "publish"),
    ],
)
def test_networks_that_a_pod_cannot_have(shops: Pods, fields: dict[str, Any], status: int, words: str) -> None:
    found = shops.refused("a", **fields)
    assert found[0] == status
    assert words in found[1]


def test_pod_without_a_network(daemon: HyperdLauncher, shops: Pods) -> None:
    shops.create("a", networks=[{"network": "none"}])
    assert shops.ips("a") == []
    assert change_network(daemon, "connect", "a", "one")[0] == 409


def test_connect_and_disconnect(daemon: HyperdLauncher, shops: Pods) -> None:
    port = free_port()
    shops.create("a", portmappings=[rule(80, port)])
    default = shops.ips("a")
    assert change_network(daemon, "connect", "a", "one", aliases=["www"])[0] == 200
    assert on(daemon, "one")["a"]["interface"] == "eth1"
    assert on(daemon, "one")["a"]["aliases"] == ["www"]
    assert on(daemon, "bridge")["a"]["addresses"] == default
    assert change_network(daemon, "connect", "a", "one") == (409, "pod a is on network one already")
    assert change_network(daemon, "connect", "a", "two", ip="10.71.1.1")[0] == 400
    assert change_network(daemon, "connect", "nosuch", "one")[0] == 404
    assert change_network(daemon, "connect", "a", "nosuch") == (404, "network nosuch not found")
    assert change_network(daemon, "disconnect", "a", "two") == (409, "pod a is not on network two")
    assert (on(daemon, "two"), len(shops.ips("a"))) == ({}, 2)
    assert change_network(daemon, "disconnect", "a", "bridge")[0] == 200
    assert shops.ips("a") == on(daemon, "one")["a"]["addresses"]
    assert change_network(daemon, "disconnect", "a", "one")[0] == 200
    assert shops.ips("a") == []
    daemon.json("POST", "/pod/stop", podId="a")
    assert change_network(daemon, "connect", "a", "two")[0] == 200
    assert on(daemon, "two") == {}
    daemon.json("POST", "/pod/start", podId="a")
    assert shops.ips("a") == on(daemon, "two")["a"]["addresses"]
    assert shops.ports("a") == [("tcp", str(port), "80")]


def test_a_vm_of_the_pool_joins_networks() -> None:
    """Its NIC is that of the first network, one for the second is plugged, and what it was prepared with is free."""
    with HyperdLauncher(pool=1) as daemon:
        daemon.start()
        for name in ("one", "two"):
            daemon.json("POST", "/network/create", status=201, body={"name": name})
        waiting = until(lambda: next((row["id"] for row in rows(daemon)["vms"] if row["state"] == "pooled"), ""))
        (prepared,) = addresses(daemon, waiting)
        pods = Pods(daemon)
        port = free_port()
        wanted = [{"network": "one", "mac": "52:54:00:00:00:51"}, {"network": "two"}]
        pods.create("a", networks=wanted, portmappings=[rule(80, port)])
        assert daemon.json("GET", "/pod/info", podName="a")["vm"] == waiting
        assert addresses(daemon, waiting) == []
        assert [on(daemon, one)["a"]["interface"] for one in ("one", "two")] == ["eth0", "eth1"]
        (vm,) = [row for row in rows(daemon)["vms"] if row["id"] == waiting]
        detail = json.loads(vm["detail"])
        first, second = (on(daemon, one)["a"]["mac"] for one in ("one", "two"))
        assert first == "52:54:00:00:00:51"
        assert (detail["nics"], detail["renamed"]) == ([first, second], {first: prepared["mac"]})
        daemon.restart(kill=True)  # those that pretend end with it: everything is given back
        assert [row["owner"] for row in rows(daemon)["addresses"] if row["network_id"]] == []
        daemon.json("POST", "/pod/start", podId="a")
        assert change_network(daemon, "disconnect", "a", "one")[0] == 200
        assert pods.ips("a") == on(daemon, "two")["a"]["addresses"]
        daemon.json("DELETE", "/pod", podId="a")
        daemon.json("POST", "/network/prune")


def rows(daemon: HyperdLauncher) -> audit.Rows:
    return audit.Rows(daemon.root / "hyper.db")


def addresses(daemon: HyperdLauncher, owner: str) -> list[dict[str, Any]]:
    return [row for row in rows(daemon)["addresses"] if row["owner"] == owner]
