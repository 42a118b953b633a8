"""What the API can do to pods and containers that run, in real VMs: signals, names, restarts, events, labels."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest

from hyperd.guest.layout import SCRATCH
from tests.support.events import EventReader, past_events
from tests.support.until import until
from tests.vm.conftest import Host, launch
from tests.vm.lifecycle import client, info, make, restarts

pytestmark = [pytest.mark.vm, pytest.mark.registry]


TRAPS = "trap 'echo usr1' USR1; trap 'echo hup' HUP; trap 'exit 7' TERM; echo ready; while true; do sleep 0.1; done"


def test_signals_for_containers_and_pods(host: Host):
    make(
        host,
        {
            "id": "signals",
            "containers": [{"name": f"sig{n}", "command": ["sh", "-c", TRAPS]} for n in (1, 2)],
        },
    )
    for name in ("sig1", "sig2"):
        until(lambda name=name: "ready" in host.ok("logs", name))
    assert host.daemon.request("POST", "/container/kill", container="sig1", signal="SIGUSR1")[0] == 201
    until(lambda: host.ok("logs", "sig1") == "ready\nusr1\n")
    assert host.daemon.request("POST", "/pod/kill", podName="signals", signal=1)[0] == 200
    for name in ("sig1", "sig2"):
        until(lambda name=name: host.ok("logs", name).endswith("hup\n"))
    host.daemon.json("POST", "/pod/kill", podName="signals", container="sig2", signal="TERM")
    assert host.daemon.json("GET", "/exitcode", container="sig2") == 7
    assert host.daemon.request("POST", "/container/kill", container="sig2", signal=9)[0] == 201  # not running: fine
    host.daemon.json("POST", "/container/kill", container="sig1", signal=9)
    assert host.daemon.json("GET", "/exitcode", container="sig1") == 137
    assert host.daemon.json("GET", "/list", item="pod", pod="signals")["podData"][0].endswith(":running")
    host.daemon.json("POST", "/pod/kill", podName="signals", signal=9)
    assert host.daemon.json("GET", "/list", item="pod", pod="signals")["podData"][0].endswith(":failed")
    assert host.left()["qemu"] == []
    host.ok("rm", "signals")
    host.assert_clean()


def test_stop_signal_of_the_specification(host: Host):
    script = "trap 'echo int; exit 3' INT; trap 'echo term; exit 4' TERM; echo ready; while true; do sleep 0.1; done"
    make(host, {"id": "stopsig", "containers": [{"name": "st", "command": ["sh", "-c", script], "StopSignal": "INT"}]})
    until(lambda: "ready" in host.ok("logs", "st"))
    host.ok("stop", "-c", "st")
    assert host.daemon.json("GET", "/exitcode", container="st") == 3
    host.ok("rm", "stopsig")


def test_containers_in_a_stopped_pod_and_names(host: Host):
    make(host, {"id": "shelf", "containers": [{"name": "first", "command": ["sleep", "1000"]}]})
    host.ok("stop", "shelf")
    answer = host.daemon.json(
        "POST",
        "/container/create",
        body={"name": "second", "image": host.image, "command": ["sh", "-c", "echo hi; sleep 1000"]},
        podId="shelf",
        status=201,
    )
    assert host.daemon.json("POST", "/container/rename", oldName="second", newName="renamed")["ID"] == "renamed"
    assert host.daemon.request("POST", "/container/rename", oldName="renamed", newName="first")[0] == 409
    assert host.daemon.request("GET", "/container/info", container="second")[0] == 404
    host.daemon.json("POST", "/pod/start", podId="shelf")
    until(lambda: host.ok("logs", "renamed") == "hi\n")
    assert info(host, answer["ID"])["container"]["name"] == "/renamed"
    # While it runs, too; log and exec follow the container, not its name.
    host.daemon.json("POST", "/container/rename", oldName="renamed", newName="again")
    assert host.ok("exec", "again", "echo", "x") == "x\n"
    assert host.ok("logs", "again") == "hi\n"
    host.ok("stop", "shelf")
    assert host.daemon.request("POST", "/container/remove", container="again")[0] == 204
    rows = host.daemon.json("GET", "/list", item="container", pod="shelf")["cData"]
    assert [row.split(":")[1] for row in rows] == ["first"]
    host.daemon.json("POST", "/pod/start", podId="shelf")
    assert host.ok("exec", "first", "echo", "y") == "y\n"
    # What the removed one had written went at the start: nobody could reach the pod's disk before.
    written = host.ok("exec", "-m", "shelf", "/sbin/busybox", "ls", f"{SCRATCH}/containers").split()
    assert written == [info(host, "first")["container"]["containerID"]]
    assert list((host.daemon.root / "pods" / "shelf" / "removed").iterdir()) == []
    host.ok("rm", "shelf")
    host.assert_clean()


def test_labels_of_a_pod(host: Host):
    make(host, {"id": "labelled", "labels": {"a": "1"}, "containers": [{"command": ["sleep", "1000"]}]})
    daemon = host.daemon
    assert daemon.json("POST", "/pod/labels", podId="labelled", labels='{"b":"2"}', status=201)["Code"] == 0
    status, _, body = daemon.request("POST", "/pod/labels", podId="labelled", labels='{"a":"9","c":"3"}')
    assert (status, body.decode().strip()) == (409, "Can't update label a without override flag")
    assert daemon.json("GET", "/pod/info", podName="labelled")["spec"]["labels"] == {"a": "1", "b": "2"}
    daemon.json("POST", "/pod/labels", podId="labelled", labels='{"a":"9"}', override="true", status=201)
    daemon.restart()
    assert daemon.json("GET", "/pod/info", podName="labelled")["spec"]["labels"] == {"a": "9", "b": "2"}
    assert (
        host.ok("exec", daemon.json("GET", "/list", item="container")["cData"][0].split(":")[1], "echo", "z") == "z\n"
    )
    host.ok("rm", "labelled")


def test_a_restart_by_the_api(host: Host):
    make(host, {"id": "again", "containers": [{"name": "re", "command": ["sh", "-c", "echo run; exec sleep 1000"]}]})
    until(lambda: host.ok("logs", "re") == "run\n")
    with client(host, "logs", "-f", "re") as follower:
        assert follower.stdout.readline() == b"run\n"
        host.daemon.json("POST", "/container/restart", container="re", t=1)
        until(lambda: host.ok("logs", "re") == "run\nrun\n")
        assert follower.wait(60) == 0  # with the run that it followed
    assert restarts(host, "re") == 0
    host.ok("stop", "-c", "re")
    host.daemon.json("POST", "/container/restart", container="re")
    until(lambda: host.ok("logs", "re") == "run\nrun\nrun\n")
    host.ok("rm", "again")
    host.assert_clean()


def test_always_restarts_until_it_is_stopped(host: Host):
    script = "echo run $(cat /n 2>/dev/null | wc -l); echo x >> /n; exit 0"
    pod = {"id": "always", "restartPolicy": "always", "containers": [{"name": "al", "command": ["sh", "-c", script]}]}
    make(host, pod)
    with client(host, "logs", "-f", "al") as follower:
        lines = [follower.stdout.readline() for _ in range(4)]
        assert lines == [b"run %d\n" % number for number in range(4)]
        until(lambda: restarts(host, "al") >= 3)
        host.ok("stop", "-c", "al")
        assert follower.wait(60) == 0
    count, log = restarts(host, "al"), host.ok("logs", "al")
    assert count >= 3
    time.sleep(4)  # longer than the next delay would have been
    assert (restarts(host, "al"), host.ok("logs", "al")) == (count, log)
    assert info(host, "al")["status"]["waiting"] == {}
    host.ok("start", "-c", "al")
    until(lambda: restarts(host, "al") >= 1)
    host.ok("rm", "always")
    host.assert_clean()


def test_on_failure_ends_with_success_and_attached_clients_see_every_run(host: Host):
    script = "read line; echo got $line; n=$(cat /n 2>/dev/null || echo 0); echo $((n+1)) > /n; test $n -ge 2"
    pod = {"id": "onf", "containers": [{"name": "onf", "command": ["sh", "-c", script], "restartPolicy": "onFailure"}]}
    make(host, pod, start=False)
    with client(host, "attach", "onf") as attached:
        host.daemon.json("POST", "/pod/start", podId="onf")
        for number, word in enumerate((b"one", b"two", b"three")):
            until(lambda number=number: restarts(host, "onf") == number)  # what is typed before goes to the run before
            attached.stdin.write(word + b"\n")
            attached.stdin.flush()
            assert attached.stdout.readline() == b"got " + word + b"\n"
        assert attached.wait(60) == 0
    assert restarts(host, "onf") == 2
    assert host.daemon.json("GET", "/exitcode", container="onf") == 0
    host.ok("rm", "onf")


def test_no_restart_after_kill_and_never(host: Host):
    make(
        host,
        {
            "id": "noagain",
            "restartPolicy": "always",
            "containers": [
                {"name": "killed", "command": ["sleep", "1000"]},
                {"name": "never", "command": ["false"], "restartPolicy": "never"},
            ],
        },
    )
    assert host.daemon.json("GET", "/exitcode", container="never") == 1
    host.daemon.json("POST", "/container/kill", container="killed", signal=9)
    assert host.daemon.json("GET", "/exitcode", container="killed") == 137
    time.sleep(1)
    for name in ("killed", "never"):
        assert restarts(host, name) == 0
        assert info(host, name)["status"]["phase"] == "failed"
    # A signal from inside is no API kill.
    host.ok("start", "-c", "killed")
    host.ok("exec", "-m", "noagain", "/sbin/busybox", "killall", "-9", "sleep")
    until(lambda: restarts(host, "killed") == 1)
    host.ok("rm", "noagain")
    host.assert_clean()


def test_restarts_survive_the_daemon(registry):
    daemon, host = launch(registry)
    with daemon:
        script = "echo run; read wait < /fifo; exit 1"
        start = "mkfifo /fifo 2>/dev/null; " + script
        pod = {
            "id": "outlive",
            "restartPolicy": "always",
            "containers": [{"name": "ol", "command": ["sh", "-c", start]}],
        }
        make(host, pod)
        until(lambda: host.ok("logs", "ol") == "run\n")
        host.ok("exec", "ol", "sh", "-c", "(sleep 1; echo go > /fifo) > /dev/null 2>&1 < /dev/null &")
        daemon.kill()
        time.sleep(2)  # it ends while no daemon runs
        daemon.start()
        until(lambda: restarts(host, "ol") == 1)
        until(lambda: host.ok("logs", "ol") == "run\nrun\n")
        host.ok("rm", "outlive")
        host.assert_clean()


def test_an_end_and_output_while_no_daemon_runs_have_their_own_times(registry):
    """The guest knows when they were; the daemon that came later does not make them its own time."""
    daemon, host = launch(registry)
    with daemon:
        script = "mkfifo /fifo; echo up; read go < /fifo; echo said; exit 7"
        make(host, {"id": "late", "containers": [{"name": "late", "command": ["sh", "-c", script]}]})
        until(lambda: host.ok("logs", "late") == "up\n")
        host.ok("exec", "late", "sh", "-c", "(sleep 1; echo go > /fifo) > /dev/null 2>&1 < /dev/null &")
        daemon.kill()
        time.sleep(8)  # it ends a second later; the rest is what the times must not have
        before = time.time()
        daemon.start()
        until(lambda: host.daemon.json("GET", "/exitcode", container="late") == 7)
        status = host.daemon.json("GET", "/container/info", container="late")["status"]["terminated"]
        stamp, said = host.ok("logs", "-t", "--tail", "1", "late").split()
        assert said == "said"
        for text in (status["finishedAt"], stamp):
            moment = datetime.fromisoformat(text[:19] + "+00:00").timestamp()
            assert moment < before - 2, (text, before)
        host.ok("rm", "late")
        host.assert_clean()


def test_a_pause_holds_restarts_back(host: Host):
    make(host, {"id": "held", "restartPolicy": "always", "containers": [{"name": "held", "command": ["sleep", "0.5"]}]})
    until(lambda: restarts(host, "held") >= 3)
    until(lambda: info(host, "held")["status"]["waiting"] == {"reason": "Restarting"})
    host.ok("pause", "held")
    before = restarts(host, "held")
    time.sleep(3)
    assert restarts(host, "held") == before
    host.ok("unpause", "held")
    until(lambda: restarts(host, "held") > before)
    host.ok("rm", "held")


def test_events_of_a_whole_life(host: Host):
    started = time.time()
    with EventReader(host.daemon) as everything, EventReader(host.daemon, filters={"type": ["pod"]}) as pods:
        pod = {
            "id": "told",
            "labels": {"team": "red"},
            "containers": [{"name": "tc", "command": ["sh", "-c", "exit 4"]}],
        }
        make(host, pod)
        assert host.daemon.json("GET", "/exitcode", container="tc") == 4
        host.daemon.json("POST", "/container/rename", oldName="tc", newName="tc2")
        host.ok("stop", "told")
        host.ok("rm", "told")
        seen = everything.until(lambda event: (event["Type"], event["Action"]) == ("pod", "destroy"))
        assert [event["Action"] for event in pods.until(lambda event: event["Action"] == "destroy")] == [
            "create",
            "start",
            "stop",
            "destroy",
        ]
    names = [f"{event['Type']} {event['Action']}" for event in seen]
    for wanted in ("container create", "vm boot", "container start", "container die", "container rename", "vm gone"):
        assert wanted in names, names
    assert names.count("network connect") == names.count("network disconnect") == 1
    assert names.index("vm boot") < names.index("container start") < names.index("container die")
    died = next(event for event in seen if event["Action"] == "die")
    assert died["Actor"]["Attributes"]["exitCode"] == "4"
    assert died["Actor"]["Attributes"]["podID"] == "told"
    assert died["from"] == host.image
    times = [event["timeNano"] for event in seen]
    assert times == sorted(set(times))
    red = past_events(host.daemon, since=started, filters={"label": ["team=red"], "type": ["pod"]})
    assert [event["Action"] for event in red] == ["create", "start", "stop", "destroy"]
    assert past_events(host.daemon, since=started, filters={"label": ["team=blue"]}) == []
    container = died["Actor"]["ID"]
    mine = past_events(host.daemon, since=started, filters={"container": [container[:12]]})
    assert [event["Action"] for event in mine] == ["create", "start", "die", "rename", "destroy"]
    assert json.loads(json.dumps(mine)) == mine
