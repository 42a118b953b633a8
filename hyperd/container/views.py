"""What the API shows of containers (``ContainerInfo`` and the rows of ``list``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from hyperd.container.plan import Program
from hyperd.container.states import ContainerState, phase
from hyperd.db.models import ContainerRow
from hyperd.spec.model import ContainerSpec, PortSpec, VolumeRef, parse_ports


@dataclass(frozen=True, kw_only=True)
class ContainerView:
    """A container as ``GET /list?item=container`` shows it."""

    id: str
    name: str
    pod_id: str
    status: str


def rfc3339(seconds: float | None) -> str:
    """Give a time as RFC 3339 with whole seconds, empty for none."""
    return "" if seconds is None else f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def container_status(row: ContainerRow) -> dict[str, Any]:
    """Give ``ContainerStatus``: the original client needs all three objects, empty or not."""
    status: dict[str, Any] = {
        "name": row.name,
        "containerID": row.id,
        "phase": phase(row),
        "waiting": {},
        "running": {},
        "terminated": {},
        "restartCount": row.restart_count,
    }
    if row.restart_at is not None:
        status["waiting"] = {"reason": "Restarting"}
    if row.state in (ContainerState.CREATED, ContainerState.STARTING):
        status["waiting"] = {"reason": "Pending"}
    elif row.state == ContainerState.RUNNING:
        status["running"] = {"startedAt": rfc3339(row.started_at)}
    else:
        status["terminated"] = {
            "exitCode": row.exit_code or 0,
            "reason": "Succeeded" if row.exit_code == 0 else "Failed",
            "message": "",
            "startedAt": rfc3339(row.started_at),
            "finishedAt": rfc3339(row.finished_at),
        }
    return status


def _ports(published: PortSpec) -> list[dict[str, Any]]:
    """Give ``ContainerPort`` objects, whose ports are numbers; host port 0 = not published."""
    inner = parse_ports(published.container_port)
    outer = parse_ports(published.host_port) if published.host_port else range(0)
    return [
        {
            "name": "",
            "hostPort": outer[index] if len(outer) == len(inner) else 0,
            "containerPort": port,
            "protocol": published.protocol,
        }
        for index, port in enumerate(inner)
    ]


def container_object(
    row: ContainerRow, spec: ContainerSpec, program: Program | None, volumes: Sequence[VolumeRef]
) -> dict[str, Any]:
    """Give ``Container`` of the original's API."""
    env = program.env if program else dict(spec.envs)
    return {
        "name": "/" + row.name,
        "containerID": row.id,
        "image": spec.image,
        "imageID": row.image_id,
        "workingDir": program.workdir if program else spec.workdir,
        "user": program.user if program else spec.user.name,
        "tty": program.tty if program else bool(spec.tty),
        "commands": list(spec.command),
        "args": list(program.argv) if program else [],
        "ports": [port for published in spec.ports for port in _ports(published)],
        "env": [{"env": key, "value": value} for key, value in env.items()],
        "volumeMounts": [{"name": ref.volume, "mountPath": ref.path, "readOnly": ref.read_only} for ref in volumes],
        "labels": dict(spec.labels),
    }
