"""What fields of a specification do inside a real guest, several of them in each pod.

``tests/unit/test_field_coverage.py`` keeps the list of fields and of the tests that look at each.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.events import past_events
from tests.support.ports import free_port
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

DOCKER_CAPABILITIES = "00000000a80425fb"
TRAP = "trap 'exit 7' USR1; echo ready $0; while true; do sleep 0.1; done"


@pytest.fixture(scope="module")
def image(host: Host, registry: RegistryServer) -> str:
    """An image that says in every way what its containers shall be."""
    people = layer_tar(
        [
            member("etc/passwd", b"root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/home/alice:/bin/sh\n"),
            member("etc/group", b"root:x:0:\nusers:x:100:\nwheel:x:10:\naudio:x:11:alice\n"),
        ]
    )
    config = {
        "Env": ["PATH=/bin", "COLOR=red", "SIZE=7"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": [TRAP, "image"],
        "User": "alice",
        "WorkingDir": "/srv/app",
        "StopSignal": "SIGUSR1",
        "Labels": {"of": "the image"},
    }
    registry.push("fields", "latest", [Layer(busybox_tar()), Layer(people)], config={"config": config})
    host.ok("pull", f"{registry.host}/fields")
    return f"{registry.host}/fields"


@pytest.fixture
def start(host: Host) -> Iterator[Any]:
    """Make and start pods; nothing of them is left afterwards."""
    made: list[str] = []

    def begin(pod: dict[str, Any]) -> str:
        ident: str = host.daemon.json("POST", "/pod/create", body=pod, status=201)["ID"]
        made.append(ident)
        host.daemon.json("POST", "/pod/start", podId=ident)
        return ident

    yield begin
    for ident in made:
        host.ctl("rm", ident)
    host.assert_clean()


def sh(host: Host, container: str, script: str) -> list[str]:
    """Run a script in a container; give the lines it prints."""
    return host.ok("exec", container, "/bin/sh", "-c", script).splitlines()


def info(host: Host, container: str) -> dict[str, Any]:
    found: dict[str, Any] = host.daemon.json("GET", "/container/info", container=container)
    return found


def test_an_image_decides_what_the_specification_leaves_open(host: Host, start: Any, image: str) -> None:
    pod = start({"id": "bare.1", "containers": [{"image": image}]})
    name = f"{pod}-fields-0"
    until(lambda: host.ok("logs", name) == "ready image\n")
    said = sh(host, name, "id -u; id -g; id -G; pwd; echo $COLOR $SIZE $HOME $USER $HOSTNAME; hostname; nproc")
    assert said == ["1001", "100", "100 11", "/srv/app", "red 7 /home/alice alice bare.1", "bare.1", "1"]
    (memory,) = sh(host, name, "grep MemTotal /proc/meminfo")
    assert 96 * 1024 < int(memory.split()[1]) < 128 * 1024  # the default is 128 MiB, of which the kernel keeps a part
    shown = info(host, name)["container"]
    assert (shown["workingDir"], shown["user"], shown["args"]) == (
        "/srv/app",
        "alice",
        ["/bin/sh", "-c", TRAP, "image"],
    )
    assert {"env": "COLOR", "value": "red"} in shown["env"]
    host.daemon.json("POST", "/container/stop", container=name)
    assert host.daemon.json("GET", "/exitcode", container=name) == 7  # the image's stop signal


def test_program_user_limits_and_size(host: Host, start: Any, image: str) -> None:
    look = (
        "id -u; id -g; id -G; pwd; echo $COLOR $SIZE $EMPTY. $HOME; ulimit -n; ulimit -Hn; ulimit -c; touch /x; echo $?"
    )
    ready = "echo ready; exec sleep 1000"
    container = {
        "name": "/own",
        "id": "abcdef",
        "image": image,
        "entrypoint": ["/bin/sh", "-c"],
        "command": [f"({look}) 2>/dev/null; {ready}", "arg0"],
        "workdir": "/made/for/it",
        "envs": [{"env": "COLOR", "value": "blue=green"}, {"env": "EMPTY"}],
        "tty": False,
        "user": {"name": "alice", "group": "users", "additionalGroups": ["wheel", "77"]},
        "sysctl": {"net.core.somaxconn": "512", "kernel/msgmax": "9000"},
        "StopSignal": "usr2",
        "ulimits": [{"Name": "nofile", "Hard": 2048, "Soft": 1024}, {"Name": "core", "Hard": 0, "Soft": 0}],
        "readOnly": True,
        "init": True,  # else the program is process 1, and no signal without a handler ends it
        "labels": {"tier": "front"},
    }
    most = {"Name": "nofile", "Hard": -1, "Soft": -1}
    root = {"name": "root", "image": image, "user": {"name": "0"}, "ulimits": [most], "readOnly": False}
    pod = {"id": "fields", "type": "kubernetes", "resource": {"vcpu": 2, "memory": 96}, "containers": [container, root]}
    start(pod)
    wanted = ["1001", "100", "100 10 77", "/made/for/it", "blue=green 7 . /home/alice", "1024", "2048", "0", "1"]
    until(lambda: host.ok("logs", "own").splitlines() == [*wanted, "ready"])
    # A command beside it is under the same rules.
    assert sh(host, "own", f"({look}) 2>/dev/null") == wanted
    assert sh(host, "own", "cat /proc/sys/net/core/somaxconn /proc/sys/kernel/msgmax; nproc") == ["512", "9000", "2"]
    assert 64 * 1024 < int(sh(host, "own", "grep MemTotal /proc/meminfo")[0].split()[1]) < 96 * 1024
    none = "0000000000000000"
    assert sh(host, "own", "grep Cap /proc/self/status") == [
        f"Cap{kind}:\t{value}"
        for kind, value in (("Inh", none), ("Prm", none), ("Eff", none), ("Bnd", DOCKER_CAPABILITIES), ("Amb", none))
    ]
    capable = sh(host, "root", "id -u; grep CapEff /proc/self/status; ulimit -n; touch /x && echo written")
    assert capable == ["0", f"CapEff:\t{DOCKER_CAPABILITIES}", "1048576", "written"]
    shown = info(host, "own")
    assert shown["container"]["name"] == "/own"
    assert (
        len(shown["container"]["containerID"]) == 64
    )  # not what the specification says: it is for the original's restore
    assert shown["container"]["labels"] == {"tier": "front"}
    assert shown["container"]["tty"] is False
    about = host.daemon.json("GET", "/pod/info", podName="fields")["spec"]
    assert (about["vcpu"], about["memory"]) == (2, 96)
    # USR2 has no handler, so it ends the program.
    host.daemon.json("POST", "/container/stop", container="own")
    assert host.daemon.json("GET", "/exitcode", container="own") == 128 + 12


def test_terminals_of_a_whole_pod(host: Host, start: Any) -> None:
    """``tty`` of the pod is every container's; without it each has its own."""
    ask = ["sh", "-c", "test -t 0 && test -t 1 && echo terminal $TERM || echo pipe $TERM; sleep 1000"]
    containers = [{"name": f"all{n}", "image": host.image, "command": ask} for n in range(2)]
    start({"id": "all", "tty": True, "containers": containers})
    for name in ("all0", "all1"):
        until(lambda name=name: host.ok("logs", name) == "terminal xterm\r\n")
        assert info(host, name)["container"]["tty"] is True
    containers = [{"name": f"each{n}", "image": host.image, "command": ask, "tty": n == 0} for n in range(2)]
    start({"id": "each", "containers": containers})
    until(lambda: host.ok("logs", "each0") == "terminal xterm\r\n")
    until(lambda: host.ok("logs", "each1") == "pipe\n")


def test_ports_of_a_container_are_the_pods(host: Host, start: Any) -> None:
    """Also of one that comes later; a port that is taken leaves no container behind."""
    tcp, udp, later = free_port(), free_port(), free_port()
    answer = "while true; do nc -l -p {} -e echo {}; done"
    first = {
        "name": "first",
        "image": host.image,
        "command": ["sh", "-c", answer.format(80, "one") + " & sleep 1000"],
        "ports": [{"containerPort": 80, "hostPort": tcp, "protocol": "TCP"}, {"containerPort": 8080}],
    }
    mapping = {"containerPort": "53", "hostPort": str(udp), "protocol": "udp"}
    start({"id": "ports", "containers": [first], "portmappings": [mapping]})
    second = {"name": "second", "image": host.image, "command": ["sh", "-c", answer.format(81, "two")]}
    port = {"containerPort": 81, "hostPort": later, "protocol": "tcp"}
    host.daemon.json("POST", "/container/create", podId="ports", body={**second, "ports": [port]}, status=201)
    status, _, body = host.daemon.request(
        "POST", "/container/create", podId="ports", body={**second, "name": "third", "ports": [port, port]}
    )
    assert (status, body) == (400, b"Host port %d/tcp is mapped twice\n" % later)
    port_of_first = {"containerPort": 82, "hostPort": tcp}
    status, _, body = host.daemon.request(
        "POST", "/container/create", podId="ports", body={**second, "name": "third", "ports": [port_of_first]}
    )
    assert status == 409, body
    assert [row.split(":")[1] for row in host.daemon.json("GET", "/list", item="container")["cData"]] == [
        "first",
        "second",
    ]
    host.daemon.json("POST", "/container/start", container="second")
    rows = host.daemon.json("GET", "/pod/ports/portmappings")["portMappings"]
    assert {(row["protocol"], row["hostPort"], row["containerPort"]) for row in rows} == {
        ("tcp", str(tcp), "80"),
        ("tcp", str(later), "81"),
        ("udp", str(udp), "53"),
    }
    shown = {(port["hostPort"], port["containerPort"]) for port in info(host, "first")["container"]["ports"]}
    assert (tcp, 80) in shown

    def heard(number: int) -> bytes:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", number), timeout=5) as client:
            return client.recv(100)
        return b""

    until(lambda: heard(tcp) == b"one\n")
    until(lambda: heard(later) == b"two\n")


def test_names_of_interfaces_and_servers(host: Host, start: Any) -> None:
    spec = {"name": "net", "image": host.image, "command": ["sleep", "1000"]}
    pod = {"id": "net", "containers": [spec], "interfaces": [{"id": "front"}], "dns": ["2001:db8::53", "192.0.2.1"]}
    start(pod)
    assert sh(host, "net", "ls /sys/class/net | grep eth; cat /etc/resolv.conf") == [
        "eth0",
        "nameserver 2001:db8::53",
        "nameserver 192.0.2.1",
    ]


@pytest.fixture
def disk() -> Iterator[Path]:
    """An image with a file system that holds a file."""
    place = Path(tempfile.mkdtemp(prefix="hyfld", dir="/tmp"))
    place.chmod(0o755)
    (place / "tree").mkdir()
    (place / "tree" / "f").write_text("on the disk\n")
    with (place / "disk.raw").open("wb") as file:
        file.truncate(32 * 2**20)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-d", place / "tree", place / "disk.raw"], check=True)
    yield place / "disk.raw"
    shutil.rmtree(place)


def test_volumes_and_files_defined_in_place(host: Host, start: Any, disk: Path) -> None:
    raw = {"name": "inner", "source": str(disk), "format": "raw", "fstype": "ext4", "cache": "none"}
    inline = {"name": "motd", "encoding": "base64", "uri": "", "content": "aW4gcGxhY2UK"}
    container = {
        "name": "places",
        "image": host.image,
        "command": ["sleep", "1000"],
        "volumes": [{"path": "/disk", "volume": "inner", "detail": raw}, {"path": "/new", "detail": {"name": "new"}}],
        "files": [
            {"path": "/etc/", "filename": "motd", "perm": "0604"},
            {"path": "/etc/other", "filename": "motd", "detail": inline},
        ],
    }
    start({"id": "places", "containers": [container], "files": [{"name": "motd", "content": "of the pod\n"}]})
    assert sh(
        host, "places", "cat /disk/f; echo more >> /disk/f; stat -c %a /new /etc/motd; cat /etc/motd /etc/other"
    ) == [
        "on the disk",
        "777",
        "604",
        "of the pod",
        "in place",
    ]
    host.ok("stop", "places")
    host.ok("start", "places")
    assert sh(host, "places", "cat /disk/f") == ["on the disk", "more"]
    volumes = host.daemon.json("GET", "/pod/info", podName="places")["spec"]["volumes"]
    assert {"name": "inner", "source": str(disk), "driver": "raw"} in volumes


def test_ceph_volumes_that_this_host_cannot_have(host: Host) -> None:
    """``option``: what libvirt cannot be told is refused at once, the rest fails at the start with its reason."""
    volume: dict[str, Any] = {"name": "ceph", "source": "rbd:pool/image", "format": "rbd"}
    container = {"name": "ceph", "image": host.image, "volumes": [{"volume": "ceph", "path": "/ceph"}]}
    for option in ({"user": "admin"}, {"keyring": "secret"}):
        body = {"id": "ceph", "containers": [container], "volumes": [{**volume, "option": option}]}
        status, _, text = host.daemon.request("POST", "/pod/create", body=body)
        assert (status, b"secret" in text) == (501, False)
        assert text.startswith(b"volume ceph: a Ceph user or keyring in the specification is not supported")
    body = {"id": "ceph", "containers": [container], "volumes": [{**volume, "option": {"monitors": ["127.0.0.1:1"]}}]}
    host.daemon.json("POST", "/pod/create", body=body, status=201)
    shown = host.daemon.json("GET", "/pod/info", podName="ceph")["spec"]["volumes"][0]["rbd"]
    assert (shown["pool"], shown["image"], shown["monitors"]) == ("pool", "image", ["127.0.0.1:1"])
    status, _, text = host.daemon.request("POST", "/pod/start", podId="ceph")
    assert status >= 400
    assert b"qemu-block-extra" in text, text
    host.ok("rm", "ceph")
    host.assert_clean()


def test_sizes_at_the_edge(host: Host, start: Any) -> None:
    """Who asks for less memory than a guest needs gets as much; more CPUs than a VM can have are refused."""
    spec = {"image": host.image, "command": ["sleep", "1000"]}
    start({"id": "tiny", "resource": {"memory": 28}, "containers": [{**spec, "name": "tiny"}]})
    assert sh(host, "tiny", "echo works") == ["works"]
    assert host.daemon.json("GET", "/pod/info", podName="tiny")["spec"]["memory"] == 48
    status, _, text = host.daemon.request("POST", "/pod/create", body={"resource": {"vcpu": 200}})
    assert (status, text.partition(b":")[0]) == (400, b"200 CPUs are more than a VM can have here")
    status, _, text = host.daemon.request("POST", "/vm/create", cpu=200)
    assert status == 400, text


def test_what_a_guest_refuses_is_told_and_leaves_a_pod_that_can_be_removed(host: Host) -> None:
    before = len(host.daemon.log())
    for number, (fields, words) in enumerate(
        [
            ({"sysctl": {"no.such.thing": "1"}}, "/proc/sys/no/such/thing"),
            ({"user": {"name": "nobody-here"}}, "no user nobody-here"),
            ({"user": {"name": "0", "additionalGroups": ["nogroup-here"]}}, "no group nogroup-here"),
            ({"workdir": "/etc/passwd"}, "/etc/passwd: Not a directory"),
        ]
    ):
        name = f"refused{number}"
        body = {"id": name, "containers": [{"name": name, "image": host.image, "command": ["true"], **fields}]}
        host.daemon.json("POST", "/pod/create", body=body, status=201)
        status, _, text = host.daemon.request("POST", "/pod/start", podId=name)
        assert status == 400  # the user's mistake: no error of the daemon, and none in its log
        assert words in text.decode()
        assert words in host.daemon.json("GET", "/pod/info", podName=name)["status"]["message"]
        host.ok("rm", name)
    assert "level=error" not in host.daemon.log()[before:]
    host.assert_clean()


def test_events_of_commands_and_of_memory_that_ran_out(host: Host, start: Any) -> None:
    # A program in memory: pages of one on a disk would go first, and be read again and again.
    hungry = "read go; cp /bin/busybox /mem; exec /mem/busybox sh -c 'x=x; while :; do x=$x$x; done'"
    eater = {"name": "eater", "image": host.image, "command": ["sh", "-c", hungry]}
    eater["tmpfs"] = [{"path": "/mem", "options": ["exec"]}]
    start({"id": "eater", "resource": {"memory": 64}, "labels": {"who": "me"}, "containers": [eater]})
    status, _, text = host.daemon.request("POST", "/exec/create", container="eater", command='["sh","-c","exit 3"]')
    assert status == 201
    exec_id = json.loads(text)
    assert host.ctl("exec", "eater", "sh", "-c", "exit 4").returncode == 4
    client = host.background("attach", "eater")
    client.communicate(b"go\n", timeout=150)
    assert host.daemon.json("GET", "/exitcode", container="eater") == 137

    def seen() -> list[tuple[str, str]]:
        found = past_events(host.daemon, since=1, filters={"container": ["eater"]})
        return [(event["Action"], event["Actor"]["Attributes"].get("exitCode", "")) for event in found]

    until(lambda: ("oom", "") in seen() and ("die", "137") in seen())
    assert [event for event in seen() if event[0].startswith("exec")] == [
        ("exec_create", ""),
        ("exec_create", ""),
        ("exec_start", ""),
        ("exec_die", "4"),
    ]
    first = past_events(host.daemon, since=1, filters={"event": ["exec_create"], "container": ["eater"]})[0]["Actor"][
        "Attributes"
    ]
    assert (first["execID"], first["command"], first["podID"]) == (exec_id, "sh -c 'exit 3'", "eater")
