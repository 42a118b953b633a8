"""hypercloud over two engines in network namespaces of their own: hyperd with real VMs, and Debian's dockerd."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import websocket

from tests.conformance.docker_pair import Docker, Dockerd
from tests.conformance.docker_program import PROGRAM, import_image
from tests.support.cloud import CloudProcess
from tests.support.daemon import HyperdLauncher
from tests.support.netns import Namespace, ip
from tests.support.until import until
from tests.vm.conftest import GUEST

pytestmark = pytest.mark.vm
IMAGE = "bb:1"
STAYS = "sh -c 'trap exit TERM; sleep 10000 & wait'"
SERVICES, CONTAINERS, NODES = "/api/app/v1/service/", "/api/app/v1/container/", "/api/infra/v1/node/"


@dataclass
class Pair:
    """Both engines, and the server over them. hyperd has the label "vm", dockerd "docker"."""

    cloud: CloudProcess
    hyperd: HyperdLauncher
    dockerd: Dockerd
    ours: Docker
    theirs: Docker
    addresses: tuple[str, str]
    outside: Namespace
    serve: str

    def start_hyperd(self) -> None:
        self.hyperd.start("--docker-host", f"unix://{self.ours.socket}", "--docker-host", self.serve)

    def health(self, name: str) -> str:
        found = {one["engine"]["id"]: one["health"]["status"] for one in self.cloud.ship("GET", "/api/engines").json}
        return str(found[name])

    def names(self, docker: Docker) -> set[str]:
        """The running containers that an engine itself tells of."""
        return set(docker("ps", "--format", "{{.Names}}").stdout.split())

    def service(self, **fields: object) -> str:
        body = {"image": IMAGE, "run_command": STAYS, "name": "web", **fields}
        answer = self.cloud.dc("POST", SERVICES, body)
        assert answer.status == 201, answer.text
        return str(answer.json["resource_uri"])

    def do(self, uri: str, verb: str, state: str = "Success") -> str:
        """Ask for an operation and wait for its end; give what its action has logged."""
        method, path = ("DELETE", uri) if verb == "terminate" else ("POST", f"{uri}{verb}/")
        found = self.cloud.action(self.cloud.dc(method, path), state)
        address = f"{self.cloud.url.replace('http', 'ws')}{found['resource_uri']}logs/?follow=false"
        stream = websocket.create_connection(address, header=[f"Authorization: {self.cloud.basic()}"], timeout=60)
        said = ""
        with contextlib.closing(stream), contextlib.suppress(websocket.WebSocketConnectionClosedException):
            while text := stream.recv():
                said += str(text)
        return said

    def containers(self, uri: str) -> list[dict[str, object]]:
        found = [self.cloud.dc("GET", one).json for one in self.cloud.dc("GET", uri).json["containers"]]
        return [one for one in found if one["state"] != "Terminated"]


def cable(one: Namespace, other: Namespace, address: str, of_other: str) -> None:
    """Join two namespaces by a cable of their own.

    What would go between them over the host's bridge may be dropped there: a dockerd on the host has the kernel show
    bridged frames to its rules, which forward nothing that is not Docker's.
    """
    ip("-n", one.name, "link", "add", "direct", "type", "veth", "peer", "name", "direct", "netns", other.name)
    for space, to in ((one, of_other), (other, address)):
        ip("-n", space.name, "link", "set", "direct", "up")
        ip("-n", space.name, "route", "add", f"{to}/32", "dev", "direct")


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    directory = Path(tempfile.mkdtemp(prefix="hypair"))
    here, there = Namespace(), Namespace()
    with HyperdLauncher(
        driver="libvirt",
        guest=GUEST,
        pool=1,
        command=["nsenter", f"--net=/run/netns/{here.name}", sys.executable, "-m", "hyperd.cli"],
    ) as hyperd:
        subnet, bridge = f"10.214.{hyperd.number}", f"hypr{hyperd.number}"
        ip("link", "add", bridge, "type", "bridge")
        ip("address", "add", f"{subnet}.1/24", "dev", bridge)
        ip("link", "set", bridge, "up")
        for end, (space, number) in enumerate(((here, 2), (there, 3))):
            space.plug(
                host_end=f"{bridge}x{end}",
                bridge=bridge,
                mac=f"02:00:00:00:{hyperd.number:02x}:{number:02x}",
                cidr=f"{subnet}.{number}/24",
                gateway="",
            )
        cable(here, there, f"{subnet}.2", f"{subnet}.3")
        serve, other = f"tcp://{subnet}.2:2375", f"tcp://{subnet}.3:2375"
        dockerd = Dockerd(directory, options=["--host", other], namespace=there.name)
        cloud = CloudProcess(directory / "cloud")
        made = Pair(
            cloud,
            hyperd,
            dockerd,
            Docker(hyperd.directory / "docker.sock", home=hyperd.directory, program=PROGRAM),
            Docker(dockerd.socket, home=directory, program=PROGRAM),
            (f"{subnet}.2", f"{subnet}.3"),
            there,
            serve,
        )
        try:
            dockerd.start()
            made.start_hyperd()
            for docker in (made.ours, made.theirs):
                import_image(docker)
            cloud.start()
            for name, address, label in (("hyper", serve, "vm"), ("docker", other, "docker")):
                assert cloud.add_engine(name, address, [label], cpus=4, memory=4096).status == 201
            yield made
        finally:
            cloud.stop()
            made.ours("rm", "-f", *made.ours("ps", "-aq").stdout.split())
            made.ours("network", "prune", "-f")  # that of the namespace stays, with its name server
            made.theirs("rm", "-f", *made.theirs("ps", "-aq").stdout.split())
            dockerd.stop()
            ip("link", "del", bridge)
    for space in (here, there):
        space.close()
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def clean(pair: Pair) -> Iterator[Pair]:
    yield pair
    for one in pair.cloud.dc("GET", SERVICES + "?limit=100").json["objects"]:
        if one["state"] != "Terminated":
            pair.do(one["resource_uri"], "terminate")
    assert pair.names(pair.ours) == pair.names(pair.theirs) == set()


def test_placed_by_label_and_by_load(clean: Pair) -> None:
    """Labels say where; among those that may, the emptiest node has the next container, and load fills an engine up."""
    for label, there, elsewhere in (("vm", clean.ours, clean.theirs), ("docker", clean.theirs, clean.ours)):
        made = clean.cloud.ship(
            "POST", "/api/containers", {"name": IMAGE, "args": ["sleep", "9999"], "memory": 64, "labels": [label]}
        )
        assert made.status == 201, made.text
        assert len(clean.names(there)) == 1
        assert clean.names(elsewhere) == set()
        assert clean.cloud.ship("DELETE", f"/api/containers/{made.json[0]['id']}").status == 204
    first = clean.service(name="first", tags=["docker"])
    clean.do(first, "start")
    second = clean.service(name="second", deployment_strategy="EMPTIEST_NODE")
    clean.do(second, "start")
    assert {one.partition(".")[0] for one in clean.names(clean.ours)} == {"second-1"}
    spread = clean.service(name="spread", deployment_strategy="HIGH_AVAILABILITY", target_num_containers=2)
    clean.do(spread, "start")
    assert len(clean.names(clean.ours)) == len(clean.names(clean.theirs)) == 2
    for engines, reason in ((["nowhere"], "no node has all tags"), (["vm", "docker"], "no node has all tags")):
        lost = clean.service(name="lost", tags=engines)
        assert reason in clean.do(lost, "start", "Failed")
        clean.do(lost, "terminate")


def test_links_go_where_the_network_lets_them(clean: Pair) -> None:
    """A container on another engine is reached by the port that it publishes, and by nothing else."""
    serve = "sh -c 'mkdir /w; echo from afar >/w/index.html; exec httpd -f -p 80 -h /w'"
    fields = {"name": "db", "tags": ["docker"], "run_command": serve}
    closed = clean.service(**fields)
    clean.do(closed, "start")
    front = {"name": "front", "tags": ["vm"], "linked_to_service": [{"to_service": closed, "name": "db"}]}
    refused = clean.service(**front)
    assert "published ports only" in clean.do(refused, "start", "Failed")
    for one in (refused, closed):
        clean.do(one, "terminate")
    port = {"inner_port": 80, "outer_port": 8180, "protocol": "tcp", "published": True}
    published = clean.service(**fields, container_ports=[port])
    clean.do(published, "start")
    near = clean.service(**front | {"linked_to_service": [{"to_service": published, "name": "db"}]})
    clean.do(near, "start")
    (name,) = clean.names(clean.ours)
    asked = "wget -q -O - http://$DB_PORT_80_TCP_ADDR:$DB_PORT_80_TCP_PORT/"
    assert clean.ours("exec", name, "sh", "-c", "echo $DB_PORT_80_TCP").stdout == f"tcp://{clean.addresses[1]}:8180\n"
    assert clean.ours("exec", name, "sh", "-c", asked).stdout == "from afar\n"


def test_an_engine_that_is_killed_comes_back_with_its_vms(clean: Pair) -> None:
    uri = clean.service(name="vms", tags=["vm"])
    clean.do(uri, "start")
    (before,) = clean.containers(uri)
    clean.hyperd.kill()
    until(lambda: clean.health("hyper") == "down")
    assert clean.cloud.ship("GET", "/api/containers").json == []
    node = next(one for one in clean.cloud.dc("GET", NODES).json["objects"] if "vm" in str(one["tags"]))
    assert node["state"] == "Unreachable"
    refused = clean.cloud.ship("POST", "/api/containers", {"name": IMAGE, "labels": ["vm"], "memory": 64})
    assert (refused.status, "no eligible engines" in refused.text) == (500, True), refused.text
    assert "does not answer" in clean.do(uri, "redeploy", "Failed")
    elsewhere = clean.service(name="elsewhere")  # the other engine goes on
    clean.do(elsewhere, "start")
    assert len(clean.names(clean.theirs)) == 1
    clean.start_hyperd()
    until(lambda: clean.health("hyper") == "up")
    until(lambda: clean.cloud.dc("GET", uri).json["state"] == "Running")
    (after,) = clean.containers(uri)
    assert (after["uuid"], after["state"]) == (before["uuid"], "Running")
    clean.do(uri, "redeploy")


def test_a_docker_engine_that_ends_takes_its_containers_along(clean: Pair) -> None:
    uri = clean.service(name="gone", tags=["docker"])
    clean.do(uri, "start")
    clean.dockerd.stop()
    until(lambda: clean.health("docker") == "down")
    clean.dockerd.start()
    until(lambda: clean.health("docker") == "up")
    until(lambda: clean.cloud.dc("GET", uri).json["state"] in {"Stopped", "Not running"})
    clean.do(uri, "start")
    assert clean.cloud.dc("GET", uri).json["state"] == "Running"


def test_a_cable_that_is_pulled(clean: Pair) -> None:
    """Nothing says that the engine is gone: connections only become silent."""
    uri = clean.service(name="far", tags=["docker"])
    clean.do(uri, "start")
    rules = (
        "add table inet lost; add chain inet lost in { type filter hook prerouting priority -300; };"
        f"add rule inet lost in ip daddr {clean.addresses[1]} drop"
    )
    inside = ["nsenter", f"--net=/run/netns/{clean.outside.name}", "nft"]
    subprocess.run([*inside, rules], check=True)
    try:
        until(lambda: clean.health("docker") == "down")
    finally:
        subprocess.run([*inside, "delete table inet lost"], check=True)
    until(lambda: clean.health("docker") == "up")
    until(lambda: clean.cloud.dc("GET", uri).json["state"] == "Running")
