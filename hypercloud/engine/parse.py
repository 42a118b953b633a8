"""From the Docker API's ``inspect`` to our values. An engine's answer is not trusted to have any shape."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from hypercloud.engine.model import EngineContainer, PortMap

_DIGITS = re.compile(r"[0-9]{1,5}")


def container(engine: str, data: Mapping[str, Any]) -> EngineContainer:
    """Return a container from ``GET /containers/ID/json``."""
    config, state = _dict(data.get("Config")), _dict(data.get("State"))
    host, network = _dict(data.get("HostConfig")), _dict(data.get("NetworkSettings"))
    restart = _dict(host.get("RestartPolicy"))
    return EngineContainer(
        engine=engine,
        id=_text(data.get("Id") or data.get("ID")),
        name=_text(data.get("Name")).lstrip("/"),
        image=_text(config.get("Image")),
        image_id=_text(data.get("Image")),
        created=_text(data.get("Created")),
        running=bool(state.get("Running")),
        restarting=bool(state.get("Restarting")),
        pid=_number(state.get("Pid")),
        started_at=_text(state.get("StartedAt")),
        finished_at=_text(state.get("FinishedAt")),
        exit_code=_number(state.get("ExitCode")),
        error=_text(state.get("Error")),
        oom_killed=bool(state.get("OOMKilled")),
        env=_texts(config.get("Env")),
        labels={_text(key): _text(value) for key, value in _dict(config.get("Labels")).items()},
        hostname=_text(config.get("Hostname")),
        domainname=_text(config.get("Domainname")),
        args=_texts(config.get("Cmd")),
        entrypoint=_texts(config.get("Entrypoint")),
        tty=bool(config.get("Tty")),
        cpu_shares=_number(host.get("CpuShares")),
        nano_cpus=_number(host.get("NanoCpus")),
        cpuset=_text(host.get("CpusetCpus")),
        memory=_number(host.get("Memory")),
        ports=_ports(network.get("Ports")),
        asked_ports=_ports(host.get("PortBindings")),
        links=_texts(host.get("Links")),
        binds=_texts(host.get("Binds")),
        volumes=tuple(_dict(config.get("Volumes"))),
        restart=_text(restart.get("Name")),
        restart_max=_number(restart.get("MaximumRetryCount")),
        network_mode=_text(host.get("NetworkMode")),
        addresses=_addresses(network),
        publish_all=bool(host.get("PublishAllPorts")),
    )


def _ports(value: Any) -> tuple[PortMap, ...]:
    """``{"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}]}``; one for each address family is given once."""
    found: dict[PortMap, None] = {}
    for inner, bindings in _dict(value).items():
        port, _, proto = str(inner).partition("/")
        if not _DIGITS.fullmatch(port):
            continue
        for binding in bindings if isinstance(bindings, list) else [{}]:
            where = _dict(binding)
            outer, address = _text(where.get("HostPort")), _text(where.get("HostIp"))
            mapped = PortMap(
                proto=proto or "tcp",
                container_port=int(port),
                port=int(outer) if _DIGITS.fullmatch(outer) else 0,
                host_ip="" if address in {"0.0.0.0", "::"} else address,  # noqa: S104 - both mean all; nothing is bound
            )
            found[mapped] = None
    return tuple(found)


def _addresses(network: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for name, where in _dict(network.get("Networks")).items():
        if address := _text(_dict(where).get("IPAddress")):
            found[str(name)] = address
    if not found and (address := _text(network.get("IPAddress") or network.get("IpAddress"))):
        found["bridge"] = address
    return found


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(item for item in value if isinstance(item, str)) if isinstance(value, list) else ()


def _number(value: Any) -> int:
    return int(value) if isinstance(value, int | float) and math.isfinite(value) else 0
