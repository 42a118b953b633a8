"""Files, processes, counters and execs of containers in real guests, running, stopped and never started."""

from __future__ import annotations

import hashlib
import io
import json
import random
import stat
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]

SETUP = r"""
mkdir -p /data/sub; echo text > /data/sub/file; chmod 640 /data/sub/file; chown 12:34 /data/sub/file
ln -s /data/sub /link; ln -s nowhere /data/dangling; echo in > /vol/inside
rm /bin/wc; echo changed > /etc/passwd
touch /ready
"""


def tar_of(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return out.getvalue()


class Files:
    """The archive routes of one container."""

    def __init__(self, host: Host, name: str) -> None:
        self.daemon = host.daemon
        self.name = name

    def url(self, route: str, path: str, **query: str) -> str:
        return f"/container/{route}?{urlencode({'container': self.name, 'path': path, **query})}"

    def stat(self, path: str) -> Any:
        return self.daemon.json("GET", self.url("stat", path))

    def get(self, path: str) -> dict[str, tarfile.TarInfo]:
        status, _, data = self.daemon.request("GET", self.url("archive", path))
        assert status == 200, data
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            return {member.name: member for member in archive.getmembers()}

    def content(self, path: str) -> bytes:
        _, _, data = self.daemon.request("GET", self.url("archive", path))
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            file = archive.extractfile(archive.getmembers()[0])
            assert file is not None
            return file.read()

    def put(self, path: str, files: Mapping[str, bytes], **query: str) -> int:
        return self.daemon.request("PUT", self.url("archive", path, **query), body=tar_of(files))[0]

    def status(self, path: str) -> int:
        return self.daemon.request("GET", self.url("stat", path))[0]


def look(files: Files) -> None:
    """What holds for a running and for a stopped container."""
    found = files.stat("/data/sub/file")
    assert (stat.S_IMODE(found["mode"]), found["size"], found["name"]) == (0o640, 5, "file")
    assert stat.S_ISREG(found["mode"])
    link = files.stat("/link")
    assert stat.S_ISLNK(link["mode"])
    assert (link["link"], link["target"]) == ("/data/sub", "/data/sub")
    assert files.stat("/data/dangling")["target"] == "/data/nowhere"
    assert stat.S_ISDIR(files.stat("/link/")["mode"])
    assert files.status("/no/such") == 404
    assert files.status("/data/sub/file/") == 400
    assert set(files.get("/data/sub")) == {"sub", "sub/file"}
    assert set(files.get("/link/")) == {"link", "link/file"}
    assert set(files.get("/link/sub/../file")) == {"file"}
    assert set(files.get("/data/sub/.")) == {"file"}
    member = files.get("/link")["link"]
    assert (member.issym(), member.linkname) == (True, "/data/sub")
    owner = files.get("/data/sub/file")["file"]
    assert (owner.uid, owner.gid) == (12, 34)
    assert files.content("/vol/inside") == b"in\n"


def changes_of(host: Host, name: str) -> dict[str, str]:
    return {one["path"]: one["kind"] for one in host.daemon.json("GET", "/container/changes", container=name)}


def test_files_of_a_container(host: Host):
    spec = {
        "name": "filer",
        "image": host.image,
        "command": ["sh", "-c", f"test -e /ready || {{ {SETUP} }}; exec sleep 1000"],
        "volumes": [{"path": "/vol", "volume": "v"}],
        "security": {"readonlyPaths": ["/bin/busybox"]},
    }
    pod = {"id": "filing", "containers": [spec], "volumes": [{"name": "v"}]}
    host.daemon.json("POST", "/pod/create", status=201, body=pod)
    files = Files(host, "filer")
    # Before the first start: what is put there is there when it starts.
    assert files.put("/etc", {"early": b"early\n"}) == 204
    assert files.status("/ready") == 404
    host.daemon.json("POST", "/pod/start", podId="filing")
    until(lambda: files.status("/ready") == 200)
    look(files)
    assert files.content("/etc/early") == b"early\n"
    assert files.put("/vol", {"put/one": b"1", "two": b"2"}) == 204
    assert host.ok("exec", "filer", "cat", "/vol/put/one", "/vol/two") == "12"
    assert files.put("/data", {"sub": b"no directory any more"}, strict="yes") == 500
    assert files.put("/data/sub/file", {"x": b""}) == 400
    assert files.put("/no/such", {"x": b""}) == 404
    assert files.status("/proc/self") == 200  # what is mounted there is seen while it runs
    wanted = {
        "/data": "added",
        "/data/sub": "added",
        "/data/sub/file": "added",
        "/etc": "modified",
        "/etc/passwd": "modified",
        "/etc/early": "added",
        "/bin": "modified",
        "/bin/wc": "deleted",
        "/link": "added",
        "/ready": "added",
    }
    assert wanted.items() <= changes_of(host, "filer").items()
    _, _, running = host.daemon.request("GET", "/container/export", container="filer")
    host.daemon.json("POST", "/pod/stop", podId="filing")
    look(files)
    assert wanted.items() <= changes_of(host, "filer").items()
    assert files.put("/data/sub", {"late": b"late\n"}) == 204
    _, _, stopped = host.daemon.request("GET", "/container/export", container="filer")
    for data in (running, stopped):
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            names = set(archive.getnames())
            sizes = {member.name: member.size for member in archive}
        assert sizes["etc/hosts"] == 0  # the pod's, mounted there
        assert sizes["bin/busybox"] > 0  # a mount, too, but of its own file
        assert {"data/sub/file", "etc/early", "bin/busybox"} <= names
        assert not {"vol/inside", "proc/self", "bin/wc"} & names
    host.daemon.json("POST", "/container/start", container="filer")
    assert host.ok("exec", "filer", "cat", "/data/sub/late") == "late\n"
    host.ok("rm", "filing")
    assert {key: value for key, value in host.left().items() if value and key != "sockets"} == {}


def test_files_of_a_container_that_is_started_again_and_again(host: Host):
    """Whenever its files are asked for they are its program's or nobody's: no overlay is mounted twice."""
    container = {"name": "looper", "image": host.image, "command": ["sleep", "0.2"], "restartPolicy": "always"}
    host.daemon.json("POST", "/pod/create", status=201, body={"id": "looping", "containers": [container]})
    host.daemon.json("POST", "/pod/start", podId="looping")
    files = Files(host, "looper")
    statuses = [files.put("/srv" if number % 2 else "/", {f"srv/{number}": b"x"}) for number in range(24)]
    assert statuses.count(204) > 4, statuses
    assert set(statuses) <= {204, 404, 412}, statuses  # the program may end while its files are looked at
    host.daemon.json("POST", "/pod/stop", podId="looping")
    put = [number for number, status in enumerate(statuses) if status == 204 and number % 2 == 0]
    assert [files.status(f"/srv/{number}") for number in put] == [200] * len(put), statuses
    host.ok("rm", "looping")


def test_what_is_in_a_directory_comes_out_and_goes_in(host: Host, tmp_path: Path):
    script = "mkdir -p /d/sub/deep; echo 1 > /d/one; ln /d/one /d/sub/twin; echo 2 > /d/sub/deep/two; mkdir /d/e /empty"
    pod = host.pod("copies", f"{script}; touch /ready; exec sleep 1000")
    files = Files(host, host.daemon.json("GET", "/pod/info", podName=pod)["spec"]["containers"][0]["containerID"])
    until(lambda: files.status("/ready") == 200)
    wanted = {"one": "1\n", "sub/twin": "1\n", "sub/deep/two": "2\n"}

    def found(place: Path) -> dict[str, str]:
        return {str(path.relative_to(place)): path.read_text() for path in place.rglob("*") if path.is_file()}

    (tmp_path / "there").mkdir()
    for source, target, place in (
        ("/d/.", "there", "there"),
        ("/d/.", "new", "new"),
        ("/d", "there", "there/d"),
        ("/d/sub/..", "other", "other"),
    ):
        host.ok("cp", f"{pod}:{source}", str(tmp_path / target))
        assert {name: text for name, text in found(tmp_path / place).items() if not name.startswith("d/")} == wanted
        assert (tmp_path / place / "sub/twin").samefile(tmp_path / place / "one")
        assert (tmp_path / place / "e").is_dir()
    host.ok("cp", f"{pod}:/empty/.", str(tmp_path / "empty"))
    assert (tmp_path / "empty").is_dir()
    host.ok("cp", f"{tmp_path}/new/.", f"{pod}:/empty")
    host.ok("cp", f"{pod}:/empty/.", str(tmp_path / "back"))
    assert found(tmp_path / "back") == wanted
    host.ok("rm", pod)


def test_large_files_go_by_a_disk_of_the_vm(host: Host, tmp_path: Path):
    """Larger than the disk, in both directions, beside another copy that has to go by the port, and after a kill."""
    data = random.Random(1).randbytes(40_000_001)
    (tmp_path / "large").write_bytes(data)
    pod = host.pod("bulky", "exec sleep 1000")
    host.ok("cp", str(tmp_path / "large"), f"{pod}:/large")
    wanted = hashlib.sha256(data).hexdigest()
    assert wanted in host.ok("exec", pod, "sha256sum", "/large")
    (carrier,) = (host.daemon.root / "run").glob("*/carrier.img")
    assert carrier.stat().st_blocks == 0  # the host has its room back
    both = [host.background("cp", f"{pod}:/large", str(tmp_path / name)) for name in ("one", "two")]
    assert [process.wait(120) for process in both] == [0, 0]
    for process in both:
        process.communicate()
    assert {(tmp_path / name).read_bytes() == data for name in ("one", "two")} == {True}
    host.ok("checkpoint", pod, "--to", str(tmp_path / "saved.tar"))
    assert not carrier.exists()  # what is saved of a pod has no such disk
    half = host.background("cp", str(tmp_path / "large"), f"{pod}:/half")
    until(lambda: carrier.exists() and carrier.stat().st_blocks > 0)
    host.daemon.restart(kill=True)
    half.communicate()
    host.ok("cp", str(tmp_path / "large"), f"{pod}:/again")
    assert wanted in host.ok("exec", pod, "sha256sum", "/again")
    host.ok("cp", f"{pod}:/again", str(tmp_path / "three"))
    assert (tmp_path / "three").read_bytes() == data
    host.ok("rm", pod)


def test_the_whole_root_comes_out(host: Host, tmp_path: Path):
    spec = {"name": "rooted", "image": host.image, "command": ["true"]}
    host.daemon.json("POST", "/pod/create", status=201, body={"id": "rooted-pod", "containers": [spec]})
    host.ok("cp", "rooted:/", str(tmp_path / "new"))
    assert (tmp_path / "new/bin/busybox").stat().st_size > 100_000
    host.ok("cp", "rooted:/", str(tmp_path))
    assert (tmp_path / "root/bin/busybox").stat().st_size > 100_000
    host.ok("rm", "rooted-pod")


def test_a_read_only_root_takes_no_files(host: Host):
    spec = {"name": "rigid", "image": host.image, "command": ["sleep", "1000"], "readOnly": True}
    host.daemon.json("POST", "/pod/create", status=201, body={"id": "rigid-pod", "containers": [spec]})
    host.daemon.json("POST", "/pod/start", podId="rigid-pod")
    assert Files(host, "rigid").put("/etc", {"x": b""}) == 403
    host.ok("rm", "rigid-pod")


def test_processes_counters_and_execs(host: Host):
    host.pod("busy-pod", "sleep 1001 & sleep 1002 & wait")
    daemon = host.daemon
    name = daemon.json("GET", "/pod/info", podName="busy-pod")["spec"]["containers"][0]["name"].removeprefix("/")

    def top(arguments: str = "") -> Any:
        return daemon.json("GET", "/container/top", container=name, psArgs=arguments)

    until(lambda: len(top()["processes"]) >= 3)
    plain = top()
    assert plain["titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    commands = {row[-1] for row in plain["processes"]}
    assert {"sleep 1001", "sleep 1002"} <= commands
    assert {row[0] for row in plain["processes"]} == {"root"}
    wide = top("aux")
    assert wide["titles"][:4] == ["USER", "PID", "%CPU", "%MEM"]
    assert all(float(row[3]) >= 0 and int(row[5]) > 0 for row in wide["processes"])
    assert top("-o pid,comm")["titles"] == ["PID", "COMMAND"]
    assert daemon.request("GET", "/container/top", container=name, psArgs="--forest")[0] == 400
    counters = daemon.json("GET", "/container/stats", container=name)
    assert counters["memory"]["usage"] > 0
    assert counters["cpu"]["usage"]["total"] > 0
    assert counters["processes"] >= 3

    def run(script: str, **options: Any) -> Any:
        command = json.dumps(["sh", "-c", script])
        return daemon.json("POST", "/exec/run", container=name, command=command, **options)

    found = run("echo $A; pwd; id -u; id -g; grep CapEff /proc/self/status", env="A=b", workdir="/tmp", user="3:4")
    assert found["stdout"].split("\n")[:4] == ["b", "/tmp", "3", "4"]
    assert found["stdout"].split()[-1] == "0" * 16
    own = run("grep CapEff /proc/self/status")["stdout"].split()[-1]
    all_of_them = run("grep CapEff /proc/self/status", privileged="yes")["stdout"].split()[-1]
    assert int(own, 16) & ~int(all_of_them, 16) == 0
    assert int(all_of_them, 16) >> 21 & 1  # CAP_SYS_ADMIN
    assert not int(own, 16) >> 21 & 1
    ident = daemon.json("POST", "/exec/create", status=201, container=name, command='["sleep", "1003"]')
    started = daemon.json("POST", "/exec/start", container=name, exec=ident, detach="yes")
    assert started["pid"] > 0
    assert "sleep 1003" in {row[-1] for row in top()["processes"]}
    # The daemon dies; the exec does not, and can still be seen and ended.
    daemon.restart(kill=True)
    again = daemon.json("GET", "/exec/info", exec=ident)
    assert (again["state"], again["pid"]) == ("running", started["pid"])
    daemon.json("POST", "/exec/kill", exec=ident, signal="TERM")
    assert daemon.json("GET", "/exitcode", container=name, exec=ident) == 143
    host.ok("rm", "busy-pod")


def test_a_manifest_whose_containers_see_each_others_processes(host: Host, tmp_path: Path):
    containers = [{"name": f"c{number}", "image": host.image, "command": ["sleep", str(number)]} for number in (71, 72)]
    spec = {"shareProcessNamespace": True, "restartPolicy": "Never", "containers": containers}
    file = tmp_path / "pod.json"
    file.write_text(json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shares"}, "spec": spec}))
    host.ok("kube", "play", str(file))
    seen = host.ok("exec", "shares-c71", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
    assert "sleep 71" in seen, seen
    assert "sleep 72" in seen, seen
    assert host.ok("exec", "shares-c72", "cat", "/proc/1/comm") == "pause\n"
    spec = host.daemon.json("GET", "/pod/info", podName="shares")["spec"]
    assert [one["settings"]["pidNamespace"] for one in spec["containers"]] == ["pod", "pod"]
    host.ok("rm", "shares")


def test_health_is_checked_and_survives_the_daemon(host: Host):
    daemon = host.daemon
    times = {"interval": 1, "timeout": 5, "startPeriod": 1, "startInterval": 1, "retries": 1}
    checks = {
        "well": {"command": ["test -e /bin/sh && echo $HOME"], "shell": True, **times},
        "ill": {"command": ["/no/such/program"], **times},
        "alone": {"disabled": True},
    }
    containers = [
        {"name": name, "image": host.image, "command": ["sleep", "1000"], "healthcheck": check}
        for name, check in checks.items()
    ]
    daemon.json("POST", "/pod/create", status=201, body={"id": "healthy-pod", "containers": containers})
    daemon.json("POST", "/pod/start", podId="healthy-pod")

    def health(name: str) -> Any:
        return daemon.json("GET", "/container/info", container=name)["health"]

    until(lambda: health("well")["status"] == "healthy")
    assert health("well")["log"][-1]["output"] == "/root\n"
    until(lambda: health("ill")["status"] == "unhealthy")
    assert health("ill")["log"][-1]["exitCode"] == 127
    assert health("alone") is None
    daemon.kill()
    daemon.start()
    last = health("well")["log"][-1]
    until(lambda: health("well")["log"][-1] != last)
    assert health("well")["status"] == "healthy"
    host.ok("rm", "healthy-pod")


def test_ends_of_containers(host: Host):
    daemon = host.daemon
    image = host.image
    containers = [
        {"name": "passing", "image": image, "command": ["sh", "-c", "sleep 1"], "autoRemove": True},
        {
            "name": "failing",
            "image": image,
            "command": ["sh", "-c", "exit 9"],
            "restartPolicy": "onFailure",
            "restartMax": 1,
        },
        {"name": "deaf", "image": image, "command": ["sh", "-c", "trap '' TERM; sleep 1000"], "stopTimeout": 1},
    ]
    daemon.json("POST", "/pod/create", status=201, body={"id": "ending", "containers": containers})
    daemon.json("POST", "/pod/start", podId="ending")
    until(lambda: daemon.request("GET", "/container/info", container="passing")[0] == 404)
    until(lambda: daemon.json("GET", "/container/info", container="failing")["status"]["restartCount"] == 1)
    daemon.json("POST", "/container/stop", container="deaf")
    assert daemon.json("GET", "/exitcode", container="deaf") == 137
    assert daemon.json("GET", "/exitcode", container="failing") == 9
    host.ok("rm", "ending")
