"""``docker stats``: counters of a container's control group and of its VM's network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Response, g

from hyperd.api.background import Background, Form, Waiting, json_line
from hyperd.api.context import engine
from hyperd.api.docker import answers, params, words
from hyperd.api.docker.lookup import container
from hyperd.api.docker.routes import blueprint
from hyperd.container.model import Container
from hyperd.container.stats import ContainerStats
from hyperd.errors import HyperError, NotFound

if TYPE_CHECKING:
    from hyperd.engine import Engine

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
    """Return samples of a container's counters every second, or one with ``stream=0``."""
    found, running = container(name), engine()
    if params.flag("stream", default=True):
        return Background("stats", lambda send, left: _follow(running, found, send, left), Form()).respond()
    if not found.running or found.paused:
        return answers.as_json(_empty(found))
    if params.flag("one-shot"):
        return answers.as_json(stats_object(running.stats.container(found.id), None))

    def ask(_left: Callable[[], bool]) -> dict[str, Any]:
        before = running.stats.container(found.id)
        time.sleep(INTERVAL)  # in a worker of Waiting: the two samples that a rate needs
        return stats_object(running.stats.container(found.id), before)

    return Waiting("stats", ask, request_id=g.request_id).respond()


def _follow(running: Engine, found: Container, send: Callable[[bytes], None], left: Callable[[], bool]) -> None:
    """Send a sample every second until the client leaves or the container is removed."""
    before: ContainerStats | None = None
    while not left():
        try:
            now = running.stats.container(found.id)
            sample = stats_object(now, before)
            before = now
        except HyperError:
            # It does not run now; clients wait for it as they do with Docker.
            try:
                running.containers.queries.inspect(found.id)
            except NotFound:
                return
            sample, before = _empty(found), None
        send(json_line(sample))
        time.sleep(INTERVAL)  # in a worker of Background, which counts them; a client that left is seen after it
