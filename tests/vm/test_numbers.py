"""What is counted: statistics of pods and the daemon's metrics, of real VMs."""

from __future__ import annotations

import re
import socket
from typing import Any

import pytest

from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def stats(host: Host, pod: str) -> dict[str, Any]:
    found: dict[str, Any] = host.daemon.json("GET", "/pod/stats", podId=pod)
    return found


def of_container(host: Host, pod: str, name: str) -> dict[str, Any]:
    return next(one for one in stats(host, pod)["container_stats"] if one["name"] == name)


def total(numbers: dict[str, Any]) -> int:
    return int(numbers["cpu"]["usage"]["total"])


def test_statistics_tell_the_busy_container_from_the_idle_one(host: Host):
    pod = {
        "id": "counted",
        "resource": {"vcpu": 1, "memory": 160},
        "containers": [
            {"name": "busy", "image": host.image, "command": ["sh", "-c", "read go < /fifo; while true; do :; done"]},
            {"name": "idle", "image": host.image, "command": ["sleep", "1000"]},
        ],
    }
    pod["containers"][0]["command"][2] = "mkfifo /fifo; " + pod["containers"][0]["command"][2]
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    status, _, body = host.daemon.request("GET", "/pod/stats", podId="counted")
    assert (status, body) == (412, b"Can not get pod stats for non-running pod (counted)\n")
    host.daemon.json("POST", "/pod/start", podId="counted")
    first = stats(host, "counted")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", first["timestamp"])
    host.ok("exec", "busy", "sh", "-c", "echo go > /fifo")
    until(lambda: total(of_container(host, "counted", "busy")) > 1_500_000_000)  # ns
    second = stats(host, "counted")
    busy, idle = (next(one for one in second["container_stats"] if one["name"] == name) for name in ("busy", "idle"))
    assert total(idle) < total(busy) / 3
    assert busy["cpu"]["usage"]["user"] > 0
    assert (
        total(second) - total(first) > 200_000_000
    )  # a guest that waits for the host counts that, too; the host does not
    (only,) = second["cpu"]["usage"]["per_cpu_usage"]
    assert 0 < only <= total(second)
    assert busy["cpu"]["usage"]["per_cpu_usage"] == [total(busy)]  # of a guest with one CPU that is known
    # Memory: bytes, within the VM's; what the guest has is more than what its containers use.
    assert 0 < second["memory"]["working_set"] <= second["memory"]["usage"] < 160 * 2**20
    assert 0 < busy["memory"]["usage"] < second["memory"]["usage"]
    host.ok("exec", "idle", "sh", "-c", "dd if=/dev/zero of=/dev/shm/x bs=1M count=20 2>/dev/null")
    assert of_container(host, "counted", "idle")["memory"]["usage"] > idle["memory"]["usage"] + 19 * 2**20
    assert stats(host, "counted")["memory"]["usage"] > second["memory"]["usage"] + 15 * 2**20
    host.ok("rm", "counted")
    host.assert_clean()


def sockets(host: Host, pod: str, state: str) -> int:
    network = stats(host, pod)["network"]
    return int(network["tcp"][state]) + int(network["tcp6"][state])


def test_network_disk_and_pause(host: Host):
    listen = "nc -l -p 7001 -e sleep 1000 & nc -l -p 7000 > /dev/null; sleep 1000"
    one, two = host.pod("one", listen), host.pod("two", "sleep 1000")
    until(lambda: sockets(host, one, "Listen") == 2)
    assert sockets(host, one, "Established") == 0
    with socket.create_connection((host.address(one), 7001), timeout=90):
        until(lambda: sockets(host, one, "Established") == 1)
        assert sockets(host, one, "Listen") == 1
    until(lambda: sockets(host, one, "CloseWait") == 1)  # the program does not look at it
    before = stats(host, one)
    send = f"dd if=/dev/zero bs=64k count=32 2>/dev/null | nc {host.address(one)} 7000"
    until(lambda: host.ctl("exec", two, "sh", "-c", send).returncode == 0)
    (nic,) = stats(host, one)["network"]["interfaces"]
    (old,) = before["network"]["interfaces"]
    assert nic["name"] == "eth0"
    assert nic["rx_bytes"] - old["rx_bytes"] > 2**21
    assert nic["rx_packets"] > old["rx_packets"]
    host.ok("exec", one, "sh", "-c", "dd if=/dev/urandom of=/file bs=1M count=8 2>/dev/null; sync")
    after = stats(host, one)

    def written(numbers: dict[str, Any]) -> int:
        return sum(int(disk["stat"]["Write"]) for disk in numbers["block"]["io_service_bytes_recursive"])

    assert written(after) - written(before) >= 8 * 2**20
    (disk,) = after["filesystem"]
    assert disk["usage"] - before["filesystem"][0]["usage"] >= 8 * 2**20
    assert disk["capacity"] == disk["usage"] + disk["available"]
    host.ok("pause", one)
    paused = stats(host, one)  # what the host knows
    assert paused["container_stats"] == []
    assert paused["network"]["tcp"] is None
    assert total(paused) >= total(after)
    host.ok("unpause", one)
    assert [entry["name"] for entry in stats(host, one)["container_stats"]] == [one]
    host.ok("rm", one, two)


def metric(host: Host, name: str) -> float:
    text = host.daemon.request("GET", "/metrics")[2].decode()
    found = re.search(rf"^{re.escape(name)} ([0-9.e+]+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_metrics_follow_what_happens(host: Host):
    boots, restarts = metric(host, "hyperd_vm_boot_seconds_count"), metric(host, "hyperd_container_restarts_total")
    output = metric(host, "hyperd_output_bytes_total")
    pod = {"id": "metered", "restartPolicy": "onFailure"}
    command = ["sh", "-c", "echo 12345; test -e /x && exec sleep 1000; touch /x; exit 1"]
    pod["containers"] = [{"name": "metered", "image": host.image, "command": command}]
    host.daemon.json("POST", "/pod/create", body=pod, status=201)
    assert host.daemon.json("GET", "/list", item="pod")["podData"] == ["metered:metered::pending"]
    assert metric(host, 'hyperd_pods{state="pending"}') == 1
    host.daemon.json("POST", "/pod/start", podId="metered")
    assert metric(host, 'hyperd_pods{state="running"}') == 1
    assert metric(host, 'hyperd_vms{state="associated"}') == 1
    assert metric(host, "hyperd_vm_boot_seconds_count") == boots + 1
    until(lambda: metric(host, "hyperd_container_restarts_total") == restarts + 1)
    until(lambda: metric(host, "hyperd_output_bytes_total") == output + 12)
    assert metric(host, 'hyperd_containers{state="running"}') == 1
    assert metric(host, "hyperd_image_pulls_total") == 1
    assert metric(host, "process_resident_memory_bytes") > 2**24
    route = 'hyperd_http_request_duration_seconds_count{code="201",method="POST",route="/pod/create"}'
    assert metric(host, route) >= 1
    host.ok("rm", "metered")
    assert metric(host, 'hyperd_pods{state="running"}') == 0
    text = host.daemon.request("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert text[1]["Content-Type"].startswith("application/openmetrics-text")
    assert text[2].endswith(b"# EOF\n")
    # A path that is no route gets no metric of its own.
    host.daemon.request("GET", "/no/such/path")
    assert b"/no/such/path" not in host.daemon.request("GET", "/metrics")[2]
