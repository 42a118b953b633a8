"""Pods from a registry's image in real VMs, through hyperctl and the API."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.support.ports import free_port
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def test_an_attached_run_gives_output_and_exit_code_and_leaves_nothing(host: Host):
    done = host.ctl("run", "--rm", host.image, "sh", "-c", "echo out; echo err >&2; exit 17")
    assert (done.returncode, done.stdout, done.stderr) == (17, b"out\n", b"err\n")
    host.assert_clean()


def test_it_really_is_another_kernel(host: Host):
    name = host.pod("kernel", "sleep 1000")
    inside = host.ok("exec", name, "uname", "-r").strip()
    assert inside != Path("/proc/sys/kernel/osrelease").read_text(encoding="ascii").strip()
    assert host.ok("exec", "-m", name, "/sbin/busybox", "uname", "-r").strip() == inside
    assert host.ok("exec", name, "hostname").strip() == name
    host.ok("rm", name)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["true"], 0),
        (["false"], 1),
        (["sh", "-c", "kill -9 $$"], 137),
        (["sh", "-c", "kill -TERM $$"], 143),
        (["/no/such/program"], 127),
        (["nosuchprogram"], 127),
        (["/etc/hosts"], 126),
    ],
)
def test_exit_codes_of_run_and_exec(host: Host, words, code):
    # Process 1 ignores what it sends itself; an exec does not.
    assert host.ctl("run", "--rm", host.image, *words).returncode == (0 if code > 128 else code)
    name = host.pod("codes", "sleep 1000")
    done = host.ctl("exec", name, *words)
    assert done.returncode == code, done
    if code in (126, 127):
        assert words[0].encode() in done.stdout + done.stderr
    host.ok("rm", name)


def test_stdin_of_run_and_exec_in_all_sizes(host: Host):
    name = host.pod("stdin", "sleep 1000")
    for size in (0, 1, 100_000, 3_000_000):
        data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
        done = host.ctl("exec", name, "cat", stdin=data)
        assert done.returncode == 0
        assert done.stdout == data
    assert host.ctl("run", "--rm", host.image, "wc", "-c", stdin=b"12345").stdout.strip() == b"5"
    host.ok("rm", name)


def test_a_life_run_exec_logs_stop_start_again_rm(host: Host):
    script = "echo started $(cat /kept 2>/dev/null); echo yes > /kept; while true; do sleep 1; done"
    name = host.pod("life", script)
    assert "life" in host.ok("list")
    assert host.ok("exec", name, "cat", "/kept") == "yes\n"
    assert host.ok("logs", name) == "started\n"
    host.ok("stop", name)
    rows = host.daemon.json("GET", "/list", item="pod", pod=name)["podData"]
    assert rows == [f"{name}:{name}::failed"]  # its shell is process 1 without a handler: it was killed
    assert host.left()["qemu"] == []
    host.ok("start", name)
    until(lambda: host.ok("logs", name) == "started\nstarted yes\n")
    host.ok("rm", name)
    host.assert_clean()


def test_attach_sees_what_is_typed_and_the_exit_code(host: Host):
    name = host.pod("attach", "read line; echo got $line; exit 5")
    client = host.background("attach", name)
    out, err = client.communicate(b"hello\n", timeout=90)
    assert (client.returncode, out, err) == (5, b"got hello\n", b"")
    host.ok("rm", name)


def test_logs_follow_tail_since_and_timestamps(host: Host):
    name = host.pod(
        "logs", "for i in 1 2 3 4 5; do echo out $i; echo err $i >&2; done; read wait; echo last; sleep 1000"
    )
    until(lambda: b"err 5" in host.ctl("logs", name).stderr)
    assert host.ok("logs", "--tail", "1", name) + host.ctl("logs", "--tail", "1", name).stderr.decode() in (
        "out 5\n",
        "err 5\n",
    )
    stamped = host.ok("logs", "-t", name).splitlines()
    assert [line.partition("Z ")[2] for line in stamped] == [f"out {i}" for i in range(1, 6)]
    follower = host.background("logs", "-f", name)
    assert follower.stdout.readline() == b"out 1\n"
    writer = host.background("attach", name)
    writer.stdin.write(b"go\n")
    writer.stdin.flush()
    seen = b""
    while b"last" not in seen:
        seen = follower.stdout.readline()
        assert seen
    host.ok("rm", name)
    assert follower.wait(60) == 0
    assert writer.wait(60) is not None
    for client in (follower, writer):
        for pipe in (client.stdin, client.stdout, client.stderr):
            pipe.close()


def test_two_containers_of_a_pod_share_network_hostname_and_ipc_but_not_files(host: Host):
    pod = {
        "id": "twins",
        "containers": [
            {
                "name": "server",
                "image": host.image,
                "command": ["sh", "-c", "echo mine > /only; echo shm > /dev/shm/x; nc -l -p 7000 -e echo over"],
            },
            {"name": "client", "image": host.image, "command": ["sleep", "1000"]},
        ],
    }
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    host.daemon.json("POST", "/pod/start", podId="twins")
    ask = "for i in $(seq 300); do nc 127.0.0.1 7000 && exit 0; sleep 0.1; done; exit 1"
    assert host.ok("exec", "client", "sh", "-c", ask) == "over\n"
    assert host.ok("exec", "client", "cat", "/dev/shm/x") == "shm\n"
    assert host.ok("exec", "client", "hostname") == "twins\n"
    assert host.ctl("exec", "client", "cat", "/only").returncode == 1
    host.ok("rm", "twins")


def test_two_pods_reach_each_other_and_the_host_a_published_port(host: Host):
    port = free_port()
    serve = "mkdir -p /www; echo from $(hostname) > /www/index.html; httpd -f -p 80 -h /www"
    one = host.pod("one", serve, options=["--publish", f"{port}:80"])
    two = host.pod("two", "sleep 1000")
    fetch = f"for i in $(seq 300); do wget -q -O - http://{host.address(one)}/ && exit 0; sleep 0.1; done; exit 1"
    assert host.ok("exec", two, "sh", "-c", fetch) == "from one\n"
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=90) as answer:
        assert answer.read() == b"from one\n"
    taken = host.ctl("run", "-d", "--name", "three", "--publish", f"{port}:80", host.image, "true")
    assert taken.returncode == 255
    assert str(port).encode() in taken.stderr
    host.ok("rm", one, two)
    host.assert_clean()


def test_names_in_the_guest(host: Host):
    name = host.pod("names", "sleep 1000")
    hosts = host.ok("exec", name, "cat", "/etc/hosts")
    assert f"{host.address(name)}\t{name}" in hosts
    assert "127.0.0.1\tlocalhost" in hosts
    assert host.ok("exec", name, "cat", "/etc/hostname") == f"{name}\n"
    host.ok("rm", name)


def test_overrides_of_the_image(host: Host):
    pod = {
        "id": "over",
        "hostname": "own.name",
        "dns": ["192.0.2.53"],
        "dnsSearch": ["lab.example"],
        "files": [{"name": "motd", "encoding": "base64", "content": "aGVsbG8K"}],
        "volumes": [{"name": "shared"}],
        "containers": [
            {
                "name": "over-c",
                "image": host.image,
                "entrypoint": ["/bin/sh", "-c"],
                "command": [
                    (
                        "pwd; id -u; id -g; id -G; echo $COLOR $HOME; touch /x; cat /etc/motd; stat -c %a /etc/motd; "
                        "ulimit -n; sleep 1000"
                    )
                ],
                "workdir": "/made/for/it",
                "user": {"name": "1000", "group": "1001", "additionalGroups": ["7"]},
                "envs": [{"env": "COLOR", "value": "blue"}],
                "files": [{"path": "/etc/", "filename": "motd", "perm": "0640", "user": "1000", "group": "0"}],
                "volumes": [{"path": "/data", "volume": "shared"}],
                "ulimits": [{"Name": "nofile", "Soft": 512, "Hard": 512}],
            }
        ],
    }
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    host.daemon.json("POST", "/pod/start", podId="over")
    lines = until(lambda: (text := host.ok("logs", "over-c").splitlines()) and len(text) >= 8 and text)
    assert lines == ["/made/for/it", "1000", "1001", "1001 7", "blue /", "hello", "640", "512"]
    assert b"Permission denied" in host.ctl("logs", "over-c").stderr
    resolv = host.ok("exec", "over-c", "cat", "/etc/resolv.conf")
    assert "nameserver 192.0.2.53" in resolv
    assert "search lab.example" in resolv
    assert host.ok("exec", "over-c", "hostname") == "own.name\n"
    assert host.ok("exec", "over-c", "sh", "-c", "echo v > /data/f; cat /data/f") == "v\n"
    host.ok("rm", "over")


def test_a_read_only_root(host: Host):
    name = host.pod("readonly", "touch /x; echo $?; sleep 1000", options=["--read-only"])
    until(lambda: host.ok("logs", name) == "1\n")
    host.ok("rm", name)


def test_a_terminal(host: Host):
    name = host.pod("tty", "tty; stty size; sleep 1000", options=["-t"])
    assert until(lambda: host.ok("logs", name)).startswith("/dev/")
    info = host.daemon.json("GET", "/container/info", container=name)
    assert info["container"]["tty"] is True
    host.ok("rm", name)


def test_containers_come_and_go_in_a_running_pod(host: Host):
    name = host.pod("base", "sleep 1000")
    answer = host.daemon.json(
        "POST",
        "/container/create",
        body={"name": "extra", "image": host.image, "command": ["sh", "-c", "echo hi; exit 3"]},
        podId=name,
        status=201,
    )
    host.daemon.json("POST", "/container/start", container="extra")
    assert host.daemon.json("GET", "/exitcode", container="extra") == 3
    assert host.ok("logs", "extra") == "hi\n"
    host.daemon.json("POST", "/container/start", container="extra")
    assert host.daemon.json("GET", "/exitcode", container=answer["ID"][:12]) == 3
    assert host.daemon.request("POST", "/container/remove", container="extra")[0] == 204
    rows = host.daemon.json("GET", "/list", item="container", pod=name)["cData"]
    assert [row.split(":")[1] for row in rows] == [name]
    host.ok("rm", name)


def test_stop_and_kill_of_a_container(host: Host):
    name = host.pod("stoppable", "trap 'echo bye; exit 9' TERM; echo ready; while true; do sleep 0.1; done")
    until(lambda: "ready" in host.ok("logs", name))
    host.ok("stop", "-c", name)
    assert host.daemon.json("GET", "/exitcode", container=name) == 9
    assert "bye" in host.ok("logs", name)
    host.ok("start", "-c", name)
    host.ok("kill", name)
    assert host.daemon.json("GET", "/exitcode", container=name) == 137
    assert host.daemon.json("GET", "/list", item="pod", pod=name)["podData"][0].endswith(":running")
    host.ok("rm", name)


def test_idle_vms_as_the_first_api_had_them(host: Host):
    vm = host.daemon.json("POST", "/vm/create")["ID"]
    assert host.daemon.json("GET", "/list", item="vm", vm=vm)["vmData"] == [f"{vm}::idle"]
    spec = {
        "id": "onvm",
        "containers": [{"name": "onvm-c", "image": host.image, "command": ["sh", "-c", "echo here; sleep 1000"]}],
    }
    status, _, _ = host.daemon.request("POST", "/pod/create", podArgs=json.dumps(spec))
    assert status == 201
    assert host.daemon.json("POST", "/pod/start", podId="onvm", vmId=vm)["ID"] == vm
    until(lambda: host.ok("logs", "onvm-c") == "here\n")
    assert host.daemon.json("GET", "/list", item="vm", vm=vm)["vmData"] == [f"{vm}:onvm:associated"]
    assert host.ok("exec", "onvm-c", "sh", "-c", "ip -4 addr show eth0 | grep -c inet").strip() == "1"
    host.daemon.json("POST", "/pod/stop", podId="onvm", stopVM="no")
    assert host.daemon.json("GET", "/list", item="vm", vm=vm)["vmData"] == [f"{vm}::idle"]
    assert host.daemon.json("POST", "/pod/start", podId="onvm", vmId=vm)["ID"] == vm
    until(lambda: host.ok("logs", "onvm-c") == "here\nhere\n")
    status, _, body = host.daemon.request("POST", "/pod/start", podId="onvm", vmId="vm-nosuch")
    assert status >= 400, body
    assert host.daemon.request("DELETE", "/vm", vm=vm)[0] == 200
    until(lambda: host.daemon.json("GET", "/list", item="pod", pod="onvm")["podData"] == ["onvm:onvm::failed"])
    host.ok("rm", "onvm")
    host.assert_clean()


def test_pause_and_unpause(host: Host):
    name = host.pod("pausing", "while true; do echo tick; sleep 0.1; done")
    host.ok("pause", name)
    assert host.daemon.json("GET", "/list", item="pod", pod=name)["podData"][0].endswith(":paused")
    assert host.ctl("exec", name, "true").returncode == 255
    host.ok("unpause", name)
    assert host.ok("exec", name, "echo", "back") == "back\n"
    host.ok("rm", name)


def test_info_names_the_accelerator(host: Host):
    info = host.daemon.json("GET", "/info")
    assert info["ExecutionDriver"] == "libvirt"
    assert dict(info["DriverStatus"])["Accelerator"] in ("kvm", "tcg")


def test_a_vm_that_dies_is_noticed_and_cleaned_up(host: Host):
    import os
    import signal

    name = host.pod("crash", "sleep 1000")
    (qemu,) = host.left()["qemu"]
    os.kill(int(qemu), signal.SIGKILL)
    until(lambda: host.daemon.json("GET", "/list", item="pod", pod=name)["podData"] == [f"{name}:{name}::failed"])
    assert host.daemon.json("GET", "/exitcode", container=name) == 137
    host.ok("start", name)
    host.ok("rm", name)
    host.assert_clean()


@pytest.mark.timeout(900)  # twenty VMs, one after the other
def test_twenty_attached_runs_in_a_row_lose_nothing(host: Host):
    for number in range(20):
        done = host.ctl("run", "--rm", host.image, "sh", "-c", f"echo {number}; exit {number}")
        assert (done.returncode, done.stdout) == (number, b"%d\n" % number)
    host.assert_clean()
