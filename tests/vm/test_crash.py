"""VMs that end by themselves: what their pods' restart policies make of it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.events import past_events
from tests.support.footprint import qemu_commands
from tests.support.until import until
from tests.vm.conftest import Host, launch
from tests.vm.lifecycle import client, info, make, restarts

pytestmark = [pytest.mark.vm, pytest.mark.registry]

RUN = "echo x >> /n; sync; echo run $(cat /n | wc -l); sleep 1000"  # said when it is on the pod's disk


def pod_state(host: Host, name: str) -> str:
    row = host.daemon.json("GET", "/list", item="pod", pod=name)["podData"][0]
    return str(row.rsplit(":", 1)[1])


def vms_of(host: Host) -> list[int]:
    """Return the processes of pods' VMs; a template may be in the making beside them."""
    return [pid for pid, command in qemu_commands(host.daemon).items() if b"guest=vm-" in command]


def vm_of(host: Host) -> int:
    (pid,) = vms_of(host)
    return pid


def crash(host: Host) -> None:
    pid = vm_of(host)
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())


def restarted(host: Host, since: float) -> int:
    """Return how often policies have started containers again."""
    events = past_events(host.daemon, since=since)
    return sum((event["Type"], event["Action"]) == ("container", "restart") for event in events)


def test_a_killed_vm_comes_back_with_what_shall_run(host: Host):
    began = time.time()
    make(
        host,
        {
            "id": "phoenix",
            "restartPolicy": "always",
            "containers": [
                {"name": "ph-a", "command": ["sh", "-c", RUN]},
                {"name": "ph-f", "command": ["sleep", "1000"], "restartPolicy": "onFailure"},
                {"name": "ph-n", "command": ["sleep", "1000"], "restartPolicy": "never"},
                {"name": "ph-0", "command": ["true"], "restartPolicy": "onFailure"},
            ],
        },
    )
    assert host.daemon.json("GET", "/exitcode", container="ph-0") == 0
    until(lambda: host.ok("logs", "ph-a") == "run 1\n")
    with client(host, "logs", "-f", "ph-a") as follower, client(host, "attach", "ph-a") as attached:
        assert follower.stdout.readline() == b"run 1\n"
        for run in (1, 2):
            crash(host)
            until(lambda run=run: restarts(host, "ph-a") == run)
            assert follower.stdout.readline() == b"run %d\n" % (run + 1)  # the pod's disk is the same
            until(lambda run=run: restarted(host, began) == 2 * run)  # a crash amid the other's start is another story
        assert attached.stdout.readline().startswith(b"run ")
        until(lambda: restarts(host, "ph-f") == 2)
        assert pod_state(host, "phoenix") == "running"
        assert [info(host, name)["status"]["phase"] for name in ("ph-a", "ph-f", "ph-n", "ph-0")] == [
            "running",
            "running",
            "failed",
            "succeeded",
        ]
        assert host.daemon.json("GET", "/exitcode", container="ph-n") == 137
        assert host.ok("exec", "ph-a", "echo", host.address("phoenix")).startswith("10.213.")
        host.ok("stop", "phoenix")
        assert follower.wait(60) == 0
    told = [
        (event["Type"], event["Action"], event["Actor"]["Attributes"].get("by"))
        for event in past_events(host.daemon, since=began)
        if (event["Type"], event["Action"]) in {("pod", "die"), ("pod", "start"), ("container", "restart")}
    ]
    assert told[:3] == [("pod", "start", None), ("pod", "die", None), ("pod", "start", "policy")]
    assert told.count(("pod", "start", "policy")) == told.count(("pod", "die", None)) == 2
    assert told.count(("container", "restart", "policy")) == 4
    time.sleep(1)
    assert vms_of(host) == []
    host.ok("rm", "phoenix")
    host.assert_clean()


def test_a_guest_that_panics_comes_back(host: Host):
    make(
        host, {"id": "panic", "restartPolicy": "onFailure", "containers": [{"name": "pa", "command": ["sleep", "99"]}]}
    )
    before = vm_of(host)
    host.ctl("exec", "-m", "panic", "/sbin/busybox", "sh", "-c", "echo c > /proc/sysrq-trigger")
    until(lambda: restarts(host, "pa") == 1 and info(host, "pa")["status"]["phase"] == "running")
    assert vm_of(host) != before
    gone = next(line for line in host.daemon.log().splitlines() if "event=vm.gone" in line and "pod=panic" in line)
    assert "ksys_write" in gone.partition("last_words=")[2]  # of the trace that a panic prints
    assert host.ok("exec", "pa", "echo", "back") == "back\n"
    host.ok("rm", "panic")


def test_without_a_policy_and_by_the_apis_wish_nothing_comes_back(host: Host):
    make(host, {"id": "mortal", "containers": [{"name": "mo", "command": ["sleep", "1000"]}]})
    crash(host)
    until(lambda: pod_state(host, "mortal") == "failed")
    make(
        host, {"id": "always", "restartPolicy": "always", "containers": [{"name": "al", "command": ["sleep", "1000"]}]}
    )
    host.ok("vm", "rm", host.daemon.json("GET", "/list", item="vm")["vmData"][0].split(":")[0])
    until(lambda: pod_state(host, "always") == "failed")
    time.sleep(1)
    assert vms_of(host) == []
    host.ok("rm", "mortal", "always")
    host.assert_clean()


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    """Hold a TCP port on every address of this host; give it."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("", port))
        taken.listen()
        yield int(taken.getsockname()[1])


def test_a_vm_that_dies_while_no_daemon_runs(registry):
    """It comes back as soon as that can be; until somebody says that it shall not."""
    with listening() as port:
        daemon, host = launch(registry)
    with daemon:
        pod = {
            "id": "outlive",
            "restartPolicy": "always",
            "containers": [{"name": "ol", "command": ["sleep", "1000"]}],
            "portmappings": [{"containerPort": "80", "hostPort": str(port), "protocol": "tcp"}],
        }
        make(host, pod)
        for end in ("free", "stop"):
            daemon.kill()
            crash(host)
            daemon.log_path.write_text("")
            with listening(port):
                daemon.start()
                until(lambda: daemon.log().count("container.restart_failed") >= 3)  # again and again, ever later
                assert pod_state(host, "outlive") == "failed"
                assert info(host, "ol")["status"]["waiting"] == {"reason": "Restarting"}
                if end == "stop":
                    host.ok("stop", "outlive")
            if end == "free":
                until(lambda: info(host, "ol")["status"]["phase"] == "running")
                assert pod_state(host, "outlive") == "running"
                assert host.ok("exec", "ol", "echo", "back") == "back\n"
        time.sleep(3)
        assert pod_state(host, "outlive") == "failed"
        assert info(host, "ol")["status"]["waiting"] == {}
        host.ok("start", "outlive")
        assert host.ok("exec", "ol", "echo", "again") == "again\n"
        host.ok("rm", "outlive")
        host.assert_clean()


def test_a_guest_that_does_not_answer_is_told_of_and_comes_back(host: Host) -> None:
    """Of two: one comes back, the other one is stopped while it is silent."""
    pids = {}
    for name in ("deaf", "lost"):
        make(host, {"id": name, "containers": [{"name": f"{name}-c", "command": ["sleep", "1000"]}]})
        vm_id = host.daemon.json("GET", "/pod/info", podName=name)["vm"]
        pids[name] = int(subprocess.check_output(["pgrep", "-f", f"qemu-system.*guest={vm_id}"]).split()[0])

    def status(name: str) -> str:
        return str(host.daemon.json("GET", "/list", item="vm", pod=name)["vmData"][0].rsplit(":", 1)[1])

    for pid in pids.values():
        os.kill(pid, signal.SIGSTOP)
    try:
        until(lambda: [status(name) for name in pids] == ["silent"] * 2)
        assert "does not answer" in host.daemon.json("GET", "/pod/info", podName="deaf")["status"]["message"]
        done = host.ctl("exec", "deaf-c", "true")
        assert done.returncode != 0
        assert b"does not answer" in done.stdout + done.stderr
        host.ok("stop", "lost")
    finally:
        os.kill(pids["deaf"], signal.SIGCONT)
    until(lambda: status("deaf") == "associated")
    assert host.ctl("exec", "deaf-c", "true").returncode == 0
    host.ok("rm", "deaf")
    host.ok("rm", "lost")
    host.assert_clean()
