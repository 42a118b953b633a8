"""``docker stats``: counters of a container's control group and of its VM's network."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from typing import Any

from flask import Response

from hyperd.api import takeover
from hyperd.api.background import SEND_TIMEOUT, has_left
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, words
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.model import Container
from hyperd.container.stats import ContainerStats
from hyperd.errors import HyperError
from hyperd.stream.frames import LAST_CHUNK, chunk

INTERVAL = 1.0  # seconds between two samples
_NETWORK = ("rx_bytes", "rx_packets", "rx_errors", "rx_dropped", "tx_bytes", "tx_packets", "tx_errors", "tx_dropped")
_ZERO: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}


def cpu_object(stats: ContainerStats) -> dict[str, Any]:
    """Return ``cpu_stats``; the system's time is that of the VM's CPUs since its boot."""
    return {
        "cpu_usage": {
            "total_usage": stats.cpu.total,
            "usage_in_kernelmode": stats.cpu.system,
            "usage_in_usermode": stats.cpu.user,
        },
        "system_cpu_usage": stats.time_ns * max(stats.cpus, 1),
        "online_cpus": max(stats.cpus, 1),
        "throttling_data": _ZERO["throttling_data"],
    }


def stats_object(stats: ContainerStats, before: ContainerStats | None) -> dict[str, Any]:
    """Return one sample, with the one before it, which clients need for percentages."""
    memory, disk = stats.memory, stats.disk
    return {
        "read": words.rfc3339(stats.time_ns / 1e9),
        "preread": words.rfc3339(before.time_ns / 1e9) if before else words.NEVER,
        "name": f"/{stats.name}",
        "id": stats.id,
        "num_procs": 0,
        "pids_stats": {
            "current": stats.processes,
            **({"limit": stats.processes_limit} if stats.processes_limit else {}),
        },
        "cpu_stats": cpu_object(stats),
        "precpu_stats": cpu_object(before) if before else _ZERO,
        "memory_stats": {
            "usage": memory.usage,
            "max_usage": memory.peak,
            "limit": memory.limit,
            "stats": {
                "anon": memory.anon,
                "file": memory.file,
                "inactive_file": memory.inactive_file,
                "pgfault": memory.page_faults,
                "pgmajfault": memory.major_faults,
            },
        },
        "blkio_stats": {
            "io_service_bytes_recursive": [
                {"major": 8, "minor": 0, "op": "read", "value": disk.read_bytes},
                {"major": 8, "minor": 0, "op": "write", "value": disk.write_bytes},
            ],
            "io_serviced_recursive": None,
            "io_queue_recursive": None,
            "io_service_time_recursive": None,
            "io_wait_time_recursive": None,
            "io_merged_recursive": None,
            "io_time_recursive": None,
            "sectors_recursive": None,
        },
        "storage_stats": {},
        "networks": {one.name: {key: one.counters.get(key, 0) for key in _NETWORK} for one in stats.interfaces},
    }


def _empty(found: Container) -> dict[str, Any]:
    """Return the sample of a container that does not run."""
    return {
        "read": words.NEVER,
        "preread": words.NEVER,
        "name": f"/{found.name}",
        "id": found.id,
        "pids_stats": {},
        "cpu_stats": _ZERO,
        "precpu_stats": _ZERO,
        "memory_stats": {},
        "blkio_stats": {},
        "storage_stats": {},
        "num_procs": 0,
    }


@blueprint.get("/containers/<name>/stats")
def stats(name: str) -> Response:
    """Give samples of a container's counters every second, or one with ``stream=0``."""
    found = container(name)
    service = engine().stats
    if not params.flag("stream", default=True):
        if not found.running or found.paused:
            return answers.as_json(_empty(found))
        before = None
        if not params.flag("one-shot"):
            before = service.container(found.id)
            time.sleep(INTERVAL)
        return answers.as_json(stats_object(service.container(found.id), before))
    chunked = takeover.speaks_chunks()
    taken = takeover.take(takeover.stream_head("application/json", chunked=chunked))
    running = engine()

    def send(value: dict[str, Any]) -> None:
        data = json.dumps(value, separators=(",", ":")).encode() + b"\n"
        taken.sock.sendall(chunk(data) if chunked else data)

    def sample() -> None:
        before: ContainerStats | None = None
        with taken.sock as sock, contextlib.suppress(OSError):
            sock.settimeout(SEND_TIMEOUT)
            while not has_left(sock):
                try:
                    now = running.stats.container(found.id)
                    send(stats_object(now, before))
                    before = now
                except HyperError:
                    # It does not run now; clients wait for it as they do with Docker.
                    try:
                        running.containers.queries.inspect(found.id)
                    except HyperError:
                        break
                    send(_empty(found))
                    before = None
                time.sleep(INTERVAL)
            if chunked:
                sock.sendall(LAST_CHUNK)

    threading.Thread(target=sample, name="stats", daemon=True).start()
    return takeover.gone()
