"""``GET /events`` of a real daemon; VMs only pretend."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.events import EventReader, past_events
from tests.support.registry import Layer, RegistryServer, busybox_tar
from tests.support.until import until

pytestmark = [pytest.mark.root, pytest.mark.registry]
HYPERCTL = str(Path(sys.executable).with_name("hyperctl"))


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with RegistryServer() as registry, HyperdLauncher(config="stop_grace = 1\n") as launcher:
        registry.push("busybox", "latest", [Layer(busybox_tar())])
        launcher.start()
        launcher.image = f"{registry.host}/busybox"
        status, _, _ = launcher.request("POST", "/image/create", imageName=launcher.image)
        assert status == 200
        yield launcher


def life(daemon: HyperdLauncher, name: str) -> None:
    pod = {"id": name, "containers": [{"name": f"{name}-c", "image": daemon.image, "command": ["sleep", "100"]}]}
    daemon.json("POST", "/pod/create", body=pod, status=201)
    daemon.json("POST", "/pod/start", podId=name)
    daemon.json("POST", "/pod/pause", podId=name, status=204)
    daemon.json("POST", "/pod/unpause", podId=name, status=204)
    daemon.json("DELETE", "/pod", podId=name)


def test_every_listener_sees_the_same(daemon):
    with EventReader(daemon) as one, EventReader(daemon) as two:
        life(daemon, "seen")
        ends = [
            reader.until(lambda event: event["Action"] == "destroy" and event["Type"] == "pod") for reader in (one, two)
        ]
    assert ends[0] == ends[1]
    actions = [event["Action"] for event in ends[0] if event["Type"] == "pod"]
    assert actions == ["create", "start", "pause", "unpause", "destroy"]


def test_pulls_and_removals(daemon):
    started = time.time()
    daemon.request("POST", "/image/create", imageName=daemon.image)
    events = past_events(daemon, since=started, filters={"type": {"image": True}})
    assert [(event["Action"], event["Actor"]["Attributes"]["name"]) for event in events] == [
        ("pull", f"{daemon.image}:latest")
    ]


def test_a_client_that_leaves_is_noticed_at_once(daemon):
    def open_streams() -> bytes:
        text = daemon.request("GET", "/metrics")[2]
        return next(line for line in text.splitlines() if line.startswith(b"hyperd_event_streams"))

    before = open_streams()
    with EventReader(daemon):
        until(lambda: open_streams() != before)
    until(lambda: open_streams() == before)


def test_http_1_0_and_versions(daemon):
    query = urllib.parse.urlencode({"since": "0.0", "until": f"{time.time():.3f}"})
    with daemon.raw() as sock:
        sock.sendall(f"GET /v1.17/events?{query} HTTP/1.0\r\n\r\n".encode())
        data = b""
        while piece := sock.recv(65536):
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"chunked" not in head
    assert [json.loads(line)["Type"] for line in body.splitlines()]


def ctl(daemon: HyperdLauncher, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HYPERCTL, "-H", daemon.host, *words], capture_output=True, text=True, timeout=60, check=False
    )


def test_hyperctl_events(daemon):
    started = f"{time.time():.3f}"
    life(daemon, "shown")
    ended = f"{time.time():.3f}"
    done = ctl(daemon, "events", "--since", started, "--until", ended, "--filter", "type=pod")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[1:4] for line in lines] == [
        ["pod", action, "shown"] for action in ("create", "start", "pause", "unpause", "destroy")
    ]
    assert lines[0].endswith("(name=shown)")
    done = ctl(daemon, "events", "--since", started, "--until", ended, "--format", "json", "--filter", "event=die")
    assert [json.loads(line)["Type"] for line in done.stdout.splitlines()] == ["container"]
    assert ctl(daemon, "events", "--filter", "nonsense").returncode == 255
    assert "unknown key" in ctl(daemon, "events", "--filter", "a=b").stderr


def test_hyperctl_follows_what_happens(daemon):
    words = [HYPERCTL, "-H", daemon.host, "events", "--filter", "type=pod"]
    client = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        until(lambda: b"hyperd_event_streams 1.0" in daemon.request("GET", "/metrics")[2])
        life(daemon, "followed")
        assert [client.stdout.readline().split()[2] for _ in range(2)] == [b"create", b"start"]
    finally:
        client.kill()
        client.communicate()


def test_hyperctl_restart_and_stats(daemon):
    pod = {"id": "rs", "containers": [{"name": "rs-c", "image": daemon.image, "command": ["sleep", "100"]}]}
    daemon.json("POST", "/pod/create", body=pod, status=201)
    daemon.json("POST", "/pod/start", podId="rs")
    assert ctl(daemon, "restart", "rs").stdout == "Successfully restarted the Pod(rs)\n"
    assert ctl(daemon, "restart", "-c", "-t", "1", "rs-c").stdout == "Successfully restarted container rs-c\n"
    done = ctl(daemon, "restart", "none")
    assert done.returncode == 255
    assert done.stderr.startswith("fail to restart pod none: ")
    assert ctl(daemon, "restart", "-t", "soon", "-c", "rs-c").returncode == 255
    shown = ctl(daemon, "stats", "rs")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[0].split()[:3] == ["NAME", "CPU", "MEMORY"]
    assert shown.stdout.splitlines()[1].split()[0] == "rs"
    assert json.loads(ctl(daemon, "stats", "--format", "json", "rs").stdout)["cpu"]["usage"]["total"] > 0
    daemon.json("DELETE", "/pod", podId="rs")
