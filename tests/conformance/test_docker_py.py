"""docker-py, the Python client of Docker, with this daemon: real virtual machines behind it."""

from __future__ import annotations

import gc
import io
import tarfile
from collections.abc import Iterator
from typing import Any

import docker
import docker.errors
import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import busybox_tar
from tests.vm.conftest import GUEST

pytestmark = [
    pytest.mark.vm,
    pytest.mark.timeout(300),
    # docker-py leaves the sockets of streams to the garbage collector.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

IMAGE = "bb:1"


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with HyperdLauncher(driver="libvirt", guest=GUEST, pool=1) as launcher:
        launcher.start("--docker-host", f"unix://{launcher.directory}/docker.sock")
        client = docker.DockerClient(base_url=f"unix://{launcher.directory}/docker.sock", timeout=120)
        client.api.import_image_from_data(busybox_tar(), repository="bb", tag="1", changes=['CMD ["sh"]'])
        yield client
        client.close()
        del client
        gc.collect()


@pytest.fixture(autouse=True)
def sockets_go_with_their_test() -> Iterator[None]:
    """Collect the sockets that docker-py leaves here, where the warning about them is expected."""
    yield
    gc.collect()


@pytest.fixture
def container(client: Any) -> Iterator[Any]:
    made = client.containers.run(IMAGE, ["sleep", "1000"], detach=True)
    yield made
    made.remove(force=True)


def test_it_negotiates(client: Any) -> None:
    assert client.ping()
    assert client.version()["ApiVersion"] == "1.47"
    assert client.info()["OSType"] == "linux"


def test_run_gives_the_output(client: Any) -> None:
    assert client.containers.run(IMAGE, ["echo", "hello"], remove=True) == b"hello\n"
    with pytest.raises(docker.errors.ContainerError) as caught:
        client.containers.run(IMAGE, ["sh", "-c", "echo bad >&2; exit 3"], remove=True)
    assert (caught.value.exit_status, caught.value.stderr) == (3, b"bad\n")
    with pytest.raises(docker.errors.ImageNotFound):
        client.containers.create("nosuch:image")


def test_exec(container: Any) -> None:
    assert container.exec_run(["echo", "in"]) == (0, b"in\n")
    assert container.exec_run(["sh", "-c", "echo o; echo e >&2; exit 4"], demux=True) == (4, (b"o\n", b"e\n"))
    stream = container.exec_run(["sh", "-c", "echo one; echo two"], stream=True).output
    assert b"".join(stream) == b"one\ntwo\n"


def test_detach_keys_are_no_input(client: Any, container: Any) -> None:
    made = client.api.exec_create(container.id, "cat", stdin=True, tty=True)
    with client.api.exec_start(made, tty=True, socket=True) as joined:
        joined._sock.sendall(b"x\x10")
        joined._sock.sendall(b"\x11")
        assert joined._sock.recv(100) in (b"x", b"")  # the echo, unless the end is sooner; no ^P
        assert joined._sock.recv(100) == b""


def test_files_go_in_and_come_out(container: Any) -> None:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        about = tarfile.TarInfo("f")
        about.size = 5
        archive.addfile(about, io.BytesIO(b"bytes"))
    assert container.put_archive("/tmp", data.getvalue())
    pieces, status = container.get_archive("/tmp/f")
    assert (status["name"], status["size"]) == ("f", 5)
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        member = archive.extractfile("f")
        assert member is not None
        assert member.read() == b"bytes"
    assert {"Path": "/tmp/f", "Kind": 1} in container.diff()
    with pytest.raises(docker.errors.NotFound):
        container.get_archive("/no/such/file")


def test_files_become_those_of_the_user(client: Any) -> None:
    made = client.containers.run(IMAGE, ["sleep", "1000"], user="5:7", detach=True)
    try:
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("mine"))
        url, words = client.api._url("/containers/{0}/archive", made.id), {"path": "/tmp", "copyUIDGID": "1"}
        client.api._raise_for_status(client.api._put(url, params=words, data=data.getvalue()))
        assert made.exec_run(["stat", "-c", "%u %g", "/tmp/mine"]).output == b"5 7\n"
    finally:
        made.remove(force=True)


def test_looking(client: Any, container: Any) -> None:
    container.reload()
    assert container.status == "running"
    assert container.id in [one.id for one in client.containers.list()]
    assert container.top()["Titles"]
    stats = container.stats(stream=False)
    assert stats["memory_stats"]["usage"] > 0
    assert stats["pids_stats"]["current"] >= 1
    assert stats["networks"]["eth0"]["rx_bytes"] >= 0


def test_a_life_as_events_tell_it(client: Any) -> None:
    events = client.events(decode=True, filters={"type": "container", "label": "told=yes"})
    made = client.containers.create(IMAGE, ["true"], labels={"told": "yes"})
    made.start()
    assert made.wait()["StatusCode"] == 0
    made.remove()
    seen = []
    for event in events:
        seen.append(event["Action"])
        if event["Action"] == "destroy":
            break
    events.close()
    assert seen == ["create", "start", "die", "destroy"]


def test_volumes_and_networks(client: Any) -> None:
    volume = client.volumes.create("kept", labels={"a": "b"})
    network = client.networks.create("net1", driver="bridge")
    try:
        client.containers.run(IMAGE, ["sh", "-c", "echo x > /v/f"], volumes={"kept": {"bind": "/v"}}, remove=True)
        command = ["cat", "/v/f"]
        assert client.containers.run(IMAGE, command, volumes=["kept:/v:ro"], network="net1", remove=True) == b"x\n"
        assert [one.name for one in client.networks.list(names=["net1"])] == ["net1"]
        assert client.volumes.get("kept").attrs["Labels"] == {"a": "b"}
    finally:
        network.remove()
        volume.remove()


def test_builds_as_the_classic_builder_has_them(client: Any) -> None:
    def build(dockerfile: bytes, **more: Any) -> list[dict[str, Any]]:
        return list(client.api.build(fileobj=io.BytesIO(dockerfile), decode=True, rm=True, **more))

    network = client.networks.create("of builds")
    target = client.containers.run(IMAGE, ["sleep", "1000"], name="pingtarget", network="of builds", detach=True)
    try:
        steps = b'FROM bb:1\nENV A=b\nRUN ping -c1 pingtarget >/f && echo told >&2\nARG X\nCMD ["a"]\n'
        first = build(steps, tag="first", network_mode=network.id)
        assert {"stream": "\x1b[91mtold\n\x1b[0m"} in first
        for sources, known in (([], 4), (["first"], 4), (["nosuch"], 0)):
            told = build(steps, tag="again", cache_from=sources, network_mode="of builds")
            assert sum("Using cache" in line.get("stream", "") for line in told) == known, (sources, told)
        failed = build(b"FROM bb:1\nRUN exit 3\n")[-1]
        assert failed["errorDetail"]["code"] == 3
        with pytest.raises(docker.errors.NotFound):
            build(steps, network_mode="nosuch")
    finally:
        target.remove(force=True)
        network.remove()
        for name in ("first", "again"):
            client.images.remove(name, force=True)


def test_commit_of_a_container_that_ends(client: Any) -> None:
    for _ in range(3):
        made = client.containers.run(IMAGE, ["true"], detach=True)
        client.images.remove(made.commit().id)
        made.remove(force=True)


def test_links(client: Any) -> None:
    network = client.networks.create("of links")
    db = client.containers.run(
        IMAGE, ["sleep", "1000"], name="db", detach=True, environment=["A=1"], ports={"80": None}
    )
    try:
        words = ["sh", "-c", "env; grep dbase /etc/hosts"]
        told = client.containers.run(IMAGE, words, links={"db": "dbase"}, remove=True)
        address = client.api.inspect_container("db")["NetworkSettings"]["IPAddress"].encode()
        assert b"DBASE_ENV_A=1\n" in told
        assert b"DBASE_PORT_80_TCP=tcp://%b:80\n" % address in told
        assert told.splitlines()[-1].split() == [address, b"dbase", b"db"]
        network.connect(db)
        point = client.api.create_endpoint_config(links=[("db", "dbase")])
        web = client.containers.run(
            IMAGE, ["sleep", "1000"], network="of links", networking_config={"of links": point}, detach=True
        )
        try:
            assert web.exec_run(["nslookup", "dbase"]).exit_code == 0
            assert web.exec_run(["ping", "-c1", "dbase"]).exit_code == 0
            assert db.exec_run(["nslookup", "dbase"]).exit_code != 0
        finally:
            web.remove(force=True)
    finally:
        db.remove(force=True)
        network.remove()


def test_an_endpoint_as_it_was_asked_for(client: Any) -> None:
    pool = docker.types.IPAMPool(subnet="10.79.3.0/24", aux_addresses={"printer": "10.79.3.2"})
    network = client.networks.create("pooled", ipam=docker.types.IPAMConfig(pool_configs=[pool]))
    point = client.api.create_endpoint_config(link_local_ips=["169.254.8.8"], driver_opt={"k": "v"})
    made = client.containers.run(
        IMAGE, ["sleep", "1000"], network="pooled", networking_config={"pooled": point}, detach=True
    )
    try:
        network.reload()
        assert network.attrs["IPAM"]["Config"][0]["AuxiliaryAddresses"] == {"printer": "10.79.3.2"}
        shown = made.attrs["NetworkSettings"]["Networks"]["pooled"]
        assert (shown["IPAMConfig"], shown["DriverOpts"]) == ({"LinkLocalIPs": ["169.254.8.8"]}, {"k": "v"})
        addresses = made.exec_run(["ip", "-4", "-o", "addr", "show", "eth0"]).output
        assert b"10.79.3.3/24" in addresses
        assert b"169.254.8.8/16" in addresses
        peer = ["sh", "-c", "ip route add 169.254.0.0/16 dev eth0 && ping -c1 169.254.8.8"]
        assert client.containers.run(IMAGE, peer, network="pooled", cap_add=["NET_ADMIN"], remove=True)
    finally:
        made.remove(force=True)
        network.remove()


def test_rules_for_devices_of_the_vm(client: Any) -> None:
    words = ["sh", "-c", "mknod /k c 1 11 && echo said >/k && echo yes"]
    with pytest.raises(docker.errors.ContainerError):
        client.containers.run(IMAGE, words, remove=True)
    host = client.api.create_host_config(device_cgroup_rules=["c 1:11 w"], auto_remove=False)
    made = client.api.create_container(IMAGE, words, host_config=host)
    try:
        assert made["Warnings"] in ([], None)
        client.api.start(made)
        assert client.api.wait(made)["StatusCode"] == 0
        assert client.api.inspect_container(made)["HostConfig"]["DeviceCgroupRules"] == ["c 1:11 w"]
    finally:
        client.api.remove_container(made, force=True)


def test_images(client: Any) -> None:
    image = client.images.get(IMAGE)
    assert image.tag("other", tag="2")
    assert "other:2" in client.images.get(IMAGE).tags
    saved = b"".join(client.images.get("other:2").save(named=True))
    client.images.remove("other:2")
    assert [one.id for one in client.images.load(saved)] == [image.id]
    assert image.history()
    built, lines = client.images.build(
        fileobj=io.BytesIO(b"FROM bb:1\nRUN echo built > /b\nCMD cat /b\n"), tag="built:1", rm=True
    )
    assert any("Successfully built" in line.get("stream", "") for line in lines)
    assert client.containers.run("built:1", remove=True) == b"built\n"
    client.images.remove(built.id, force=True)
