"""How Shipyard writes containers, engines and events."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypercloud.engine.model import Engine, PortMap
from hypercloud.engine.service import capacity
from hypercloud.event.bus import Record
from hypercloud.fleet.model import ClusterInfo, Container, Extension, Image

STRING_STATES = ("shipyard-cli", "jclouds", "shipyard-client")  # clients that take "running", not the object


def container(one: Container, *, string_state: bool) -> dict[str, Any]:
    """Return a container; ``string_state`` as the last released servers wrote it."""
    seen = one.seen
    state: Any = {"started_at": seen.started_at, "pid": seen.pid, "running": seen.running}
    if string_state:
        state = "running" if seen.running else "stopped"
    return {
        "state": state,
        "ports": [port(mapped) for mapped in seen.ports if mapped.port],
        "engine": engine_inner(one.engine),
        "image": image(one.image),
        "id": seen.id,
        "name": f"/{seen.name}",
    }


def port(one: PortMap) -> dict[str, Any]:
    """Return a port; what is not known is left out."""
    found: dict[str, Any] = {"container_port": one.container_port}
    if one.host_ip:
        found["host_ip"] = one.host_ip
    if one.port:
        found["port"] = one.port
    return {**found, "proto": one.proto}


def image(one: Image) -> dict[str, Any]:
    """Return an image; empty fields are left out, but the restart policy."""
    restart: dict[str, Any] = {"name": one.restart} if one.restart else {}
    if one.restart_max:
        restart["maximum_retry"] = one.restart_max
    found = {
        "labels": list(one.labels),
        "bind_ports": [port(mapped) for mapped in one.bind_ports],
        "links": dict(one.links),
        "type": one.type,
        "hostname": one.hostname,
        "domain": one.domainname,
        "environment": dict(one.environment),
        "memory": _plain(one.memory),
        "cpus": _plain(one.cpus),
        "cpuset": one.cpuset,
        "name": one.name,
        "container_name": one.container_name,
        "entrypoint": list(one.entrypoint),
        "args": list(one.args),
        "volumes": list(one.volumes),
        "user_data": dict(one.user_data),
        "publish": one.publish,
        "network_mode": one.network_mode,
    }
    return {"restart_policy": restart} | {key: value for key, value in found.items() if value}


def engine_inner(one: Engine) -> dict[str, Any]:
    """Return what a container says of its engine."""
    cpus, memory = capacity(one)
    return {
        "labels": list(one.spec.labels),
        "memory": _plain(round(memory, 2)),
        "cpus": _plain(cpus),
        "addr": one.spec.addr,
        "id": one.spec.name,
    }


def engine(one: Engine) -> dict[str, Any]:
    """Return an engine. Its key is never shown, its certificates are no secret."""
    found: dict[str, Any] = {"engine": engine_inner(one), "id": one.spec.id}
    if one.spec.ssl_cert:
        found["ssl_cert"] = one.spec.ssl_cert
    if one.spec.ca_cert:
        found["ca_cert"] = one.spec.ca_cert
    facts = one.facts
    found["health"] = {"status": str(facts.health), "response_time": int(facts.response_time * 1e9)}
    found["docker_version"] = facts.version
    return found


def cluster(one: ClusterInfo, version: str) -> dict[str, Any]:
    """Return the sums over all engines."""
    return {
        "reserved_memory": _plain(round(one.reserved_memory, 2)),
        "reserved_cpus": _plain(round(one.reserved_cpus, 4)),
        "image_count": one.image_count,
        "engine_count": one.engine_count,
        "container_count": one.container_count,
        "memory": _plain(round(one.memory, 2)),
        "cpus": _plain(one.cpus),
        "version": version,
    }


def event(one: Record, engines: dict[str, Engine]) -> dict[str, Any]:
    """Return an event."""
    found: dict[str, Any] = {
        "type": one.type,
        "time": datetime.fromtimestamp(one.time, UTC).isoformat().replace("+00:00", "Z"),
        "tags": list(one.tags),
    }
    if one.engine:
        known = engines.get(one.engine)
        found["engine"] = engine_inner(known) if known is not None else {"id": one.engine}
    if one.container:
        found["container"] = {"id": one.container, "image": {"name": one.image, "restart_policy": {}}}
    if one.message:
        found["message"] = one.message
    return found


def extension(one: Extension) -> dict[str, Any]:
    """Return an extension."""
    return {
        "id": one.id,
        "name": one.name,
        "image": one.image,
        "author": one.author,
        "description": one.description,
        "version": one.version,
        "url": one.url,
        "config": {
            "container_name": one.container_name,
            "cpus": _plain(one.cpus),
            "memory": _plain(one.memory),
            "environment": dict(one.environment),
            "links": dict(one.links),
            "args": list(one.args),
            "volumes": list(one.volumes),
            "ports": [port(mapped) for mapped in one.ports],
            "deploy_per_engine": one.deploy_per_engine,
            "prompt_args": one.prompt_args,
            "prompt_env": one.prompt_env,
        },
    }


def _plain(number: float) -> float:
    """Write 4096, not 4096.0."""
    return int(number) if number == int(number) else number
