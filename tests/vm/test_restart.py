"""kill -9 of the daemon at bad moments: what runs runs on, nothing is lost, nothing leaks."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.support.until import until
from tests.vm.conftest import Host, launch

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture
def own(registry):
    """A daemon of the test's own."""
    daemon, host = launch(registry)
    with daemon:
        yield host
        for row in daemon.json("GET", "/list", item="pod")["podData"]:
            host.ctl("rm", row.split(":")[0])
        host.assert_clean()


def test_a_megabyte_a_second_of_output_has_no_hole_and_no_line_twice(own: Host):
    # 100 bytes a line, in bursts of 2,000 lines; 40 bursts.
    line = "x" * 91
    burst = f"awk -v a=$((i*2000+1)) 'BEGIN {{ for (n = a; n < a + 2000; n++) printf \"%08d{line}\\n\", n }}'"
    script = f"i=0; while [ $i -lt 40 ]; do {burst}; i=$((i+1)); sleep 0.1; done; echo end"
    name = own.pod("noisy", script)
    for _ in range(3):
        time.sleep(1.0)
        own.daemon.restart(kill=True)
    until(lambda: own.ok("logs", "--tail", "1", name) == "end\n", 120)
    lines = own.ok("logs", name).splitlines()
    assert lines[-1] == "end"
    numbers = [int(text[:8]) for text in lines[:-1]]
    assert numbers == list(range(1, 80_001))
    assert {len(text) for text in lines[:-1]} == {99}


def test_everything_works_on_a_pod_of_an_earlier_daemon(own: Host):
    name = own.pod(
        "survivor", "trap 'exit 7' TERM; echo one; read line; echo got $line; while true; do sleep 0.1; done"
    )
    until(lambda: own.ok("logs", name) == "one\n")
    vm = own.daemon.json("GET", "/list", item="vm")["vmData"]
    address = own.address(name)
    own.daemon.restart(kill=True)
    assert own.daemon.json("GET", "/list", item="vm")["vmData"] == vm
    assert own.daemon.json("GET", "/list", item="pod")["podData"][0].endswith(":running")
    assert own.address(name) == address
    assert own.ctl("exec", name, "sh", "-c", "cat; exit 4", stdin=b"in").returncode == 4
    client = own.background("attach", name)
    assert client.stdin
    client.stdin.write(b"hello\n")
    client.stdin.flush()
    assert client.stdout
    assert client.stdout.readline() == b"got hello\n"
    own.ok("stop", "-c", name)
    assert client.wait(60) == 7
    for pipe in (client.stdin, client.stdout, client.stderr):
        assert pipe
        pipe.close()
    assert own.ok("logs", name) == "one\ngot hello\n"
    own.ok("start", "-c", name)
    own.ok("stop", name)
    own.ok("start", name)
    own.ok("rm", name)


def test_exit_codes_of_the_time_without_a_daemon_are_known(own: Host):
    name = own.pod("ends", "sleep 2; echo last words; exit 23")
    runner = own.background("exec", name, "sh", "-c", "sleep 2; exit 5")
    time.sleep(0.5)
    own.daemon.kill()
    runner.communicate(timeout=90)
    time.sleep(4)
    own.daemon.start()
    assert own.daemon.json("GET", "/exitcode", container=name) == 23
    assert own.ok("logs", name) == "last words\n"
    own.ok("rm", name)


def test_a_paused_pod_stays_paused(own: Host):
    name = own.pod("frozen", "while true; do echo tick; sleep 0.1; done")
    own.ok("pause", name)
    own.daemon.restart(kill=True)
    assert own.daemon.json("GET", "/list", item="pod")["podData"][0].endswith(":paused")
    own.ok("unpause", name)
    assert own.ok("exec", name, "echo", "awake") == "awake\n"
    before = len(own.ok("logs", name).splitlines())
    until(lambda: len(own.ok("logs", name).splitlines()) > before)
    own.daemon.restart(kill=True)
    own.ok("pause", name)
    own.ok("rm", name)


def test_a_pod_that_writes_at_once_after_a_pause_is_met_at_once(own: Host):
    name = own.pod("busy", "while true; do echo tick; usleep 2000; done")
    for daemons in (1, 2, 1):
        own.ok("pause", name)
        for _ in range(daemons):
            own.daemon.restart(kill=True)
        own.ok("unpause", name)
        assert own.ok("exec", name, "echo", "awake") == "awake\n"
    assert "agent.silent" not in own.daemon.log()
    own.ok("rm", name)


@pytest.mark.parametrize("moment", [0.02, 0.1, 0.3, 0.6, 0.9, 1.2, 1.5, 1.8, 2.2])
def test_killed_in_the_middle_of_a_run(own: Host, moment):
    client = own.background("run", "--name", "victim", own.image, "sh", "-c", "echo hi; sleep 1000")
    time.sleep(moment)
    own.daemon.kill()
    client.communicate(timeout=90)
    own.daemon.start()
    rows = own.daemon.json("GET", "/list", item="pod")["podData"]
    states = {row.split(":")[3] for row in rows}
    assert states <= {"pending", "failed", "running"}
    qemu = own.left()["qemu"]
    assert len(qemu) == len(own.daemon.json("GET", "/list", item="vm")["vmData"]) == (states == {"running"})
    for row in rows:
        name = row.split(":")[0]
        if row.endswith(":running"):
            until(lambda: own.ok("logs", "victim") == "hi\n")
        else:
            own.ok("start", name)  # what is not running can be started
        own.ok("rm", name)


def test_killed_in_the_middle_of_stop_and_rm(own: Host):
    for verb, moment in (("stop", 0.1), ("stop", 0.4), ("rm", 0.05), ("rm", 0.15)):
        name = own.pod("leaving", "trap '' TERM; while true; do sleep 1; done")
        client = own.background(verb, name)
        time.sleep(moment)
        own.daemon.kill()
        client.communicate(timeout=90)
        own.daemon.start()
        rows = own.daemon.json("GET", "/list", item="pod")["podData"]
        assert [row.split(":")[3] for row in rows] in ([], ["failed"], ["running"]), (verb, rows)
        for row in rows:
            own.ok("rm", row.split(":")[0])
        until(lambda: not any(own.left().values()), 20)  # a copy of rows of what the killed daemon removed goes soon


def test_sigterm_leaves_pods_running(own: Host):
    name = own.pod("stays", "sleep 1000")
    own.daemon.restart()
    assert own.ok("exec", name, "echo", "here") == "here\n"
    own.ok("rm", name)


def test_two_daemons_side_by_side(own: Host, registry):
    other_daemon, other = launch(registry)
    with other_daemon:
        one, two = own.pod("same", "sleep 1000"), other.pod("same", "sleep 1000")
        assert own.ok("exec", one, "hostname") == other.ok("exec", two, "hostname")
        other.ok("rm", two)
        other.assert_clean()
        assert own.ok("exec", one, "echo", "fine") == "fine\n"
        own.ok("rm", one)


def test_a_second_daemon_on_the_same_root_is_refused(own: Host):
    argv = [*own.daemon._command, "--config", str(own.daemon.config_path), "--root", str(own.daemon.root)]
    done = subprocess.run(
        [*argv, "--host", f"unix://{own.daemon.directory}/other"], capture_output=True, timeout=150, check=False
    )
    assert done.returncode != 0
    assert b"Traceback" not in done.stderr
    assert own.ok("list")
