"""Containers in the words of hyperd's API: ``ContainerInfo``, ``ContainerStatus`` and the phases of lists."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hyperd.api.hyper import settings
from hyperd.container.contents import PathStat
from hyperd.container.model import Container, ContainerSummary, Exec, Health
from hyperd.container.signals import signal_name
from hyperd.container.states import ContainerState
from hyperd.spec.model import parse_ports
from hyperd.stream.logs import now_text


def rfc3339(seconds: float | None) -> str:
    """Return a time as RFC 3339 with whole seconds, empty for none."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def phase(container: Container | ContainerSummary) -> str:
    """Return the word of ``list`` and ``info``: pending, running, succeeded or failed."""
    if container.state == ContainerState.RUNNING:
        return "running"
    if container.state in (ContainerState.CREATED, ContainerState.STARTING):
        return "pending"
    return "succeeded" if container.exit_code == 0 else "failed"


def container_info(container: Container) -> dict[str, Any]:
    """Return ``ContainerInfo``."""
    return {
        "container": container_object(container),
        "createdAt": int(container.created_at),
        "podID": container.pod_id,
        "status": container_status(container),
        "warnings": list(container.warnings),
        "pid": container.pid,
        "oomKilled": container.oom_killed,
        "health": None if container.health is None else health_object(container.health),
    }


def container_status(container: Container) -> dict[str, Any]:
    """Return ``ContainerStatus``: the original client needs all three objects, empty or not."""
    status: dict[str, Any] = {
        "name": container.name,
        "containerID": container.id,
        "phase": phase(container),
        "waiting": {},
        "running": {},
        "terminated": {},
        "restartCount": container.restart_count,
    }
    if container.restart_at is not None:
        status["waiting"] = {"reason": "Restarting"}
    if container.state in (ContainerState.CREATED, ContainerState.STARTING):
        status["waiting"] = {"reason": "Pending"}
    elif container.state == ContainerState.RUNNING:
        status["running"] = {"startedAt": rfc3339(container.started_at)}
    else:
        status["terminated"] = {
            "exitCode": container.exit_code or 0,
            "reason": "Succeeded" if container.exit_code == 0 else "Failed",
            "message": container.error,
            "startedAt": rfc3339(container.started_at),
            "finishedAt": rfc3339(container.finished_at),
        }
    return status


def container_object(container: Container) -> dict[str, Any]:
    """Return ``Container`` of the original's API."""
    spec, program = container.spec, container.program
    env = program.env if program else dict(spec.envs)
    return {
        "name": "/" + container.name,
        "containerID": container.id,
        "image": spec.image,
        "imageID": container.image_id,
        "workingDir": program.workdir if program else spec.workdir,
        "user": program.user if program else spec.user.name,
        "tty": program.tty if program else bool(spec.tty),
        "commands": list(spec.command),
        "args": list(program.argv) if program else [],
        "ports": _ports(container),
        "env": [{"env": key, "value": value} for key, value in env.items()],
        "volumeMounts": [
            {"name": mount.volume, "mountPath": mount.path, "readOnly": mount.read_only} for mount in container.mounts
        ],
        "labels": dict(spec.labels),
        "stopSignal": signal_name(container.stop_signal),
        "restartPolicy": container.restart_policy,
        "settings": settings.of_container(spec),
    }


def _ports(container: Container) -> list[dict[str, Any]]:
    """Return ``ContainerPort`` objects; host port 0 = not published.

    A container that names no ports shows those of its pod, whose network it has.
    """
    outer: dict[tuple[str, int], list[int]] = {}
    for mapping in container.ports:
        outer.setdefault((mapping.protocol, mapping.container_port), []).append(mapping.host_port)
    named = [(port.protocol, inner) for port in container.spec.ports for inner in parse_ports(port.container_port)]
    return [
        {"name": "", "hostPort": host, "containerPort": inner, "protocol": protocol}
        for protocol, inner in dict.fromkeys(named or outer)
        for host in outer.get((protocol, inner), [0])
    ]


def health_object(health: Health) -> dict[str, Any]:
    """Return ``Health``; the newest result is the last."""
    return {
        "status": str(health.state),
        "failingStreak": health.failing_streak,
        "log": [
            {
                "start": rfc3339(result.started_at),
                "end": rfc3339(result.finished_at),
                "exitCode": result.exit_code,
                "output": result.output,
            }
            for result in health.log
        ],
    }


def path_stat(found: PathStat) -> dict[str, Any]:
    """Return ``PathStat``; ``mode`` is ``st_mode`` of Linux."""
    return {
        "name": found.name,
        "mode": found.mode,
        "size": found.size,
        "mtime": now_text(int(found.mtime * 1e9)),
        "link": found.link,
        "target": found.target,
    }


def exec_object(execution: Exec) -> dict[str, Any]:
    """Return ``ExecInfo``; the exit code is null until it has ended."""
    spec = execution.spec
    return {
        "id": execution.id,
        "containerID": execution.container_id,
        "command": list(spec.argv),
        "tty": spec.tty,
        "privileged": spec.privileged,
        "user": spec.user.name + (f":{spec.user.group}" if spec.user.group else ""),
        "workdir": spec.workdir,
        "state": str(execution.state),
        "exitCode": execution.exit_code,
        "pid": execution.pid,
        "createdAt": rfc3339(execution.created_at),
        "startedAt": rfc3339(execution.started_at),
        "finishedAt": rfc3339(execution.finished_at),
    }
