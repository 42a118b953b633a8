"""What a container is linked to, where that can be reached, and where a new container may go."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from urllib.parse import urlsplit

from sqlalchemy import select

from hypercloud.db.models import ContainerRow, ServiceRow
from hypercloud.engine.model import Engine
from hypercloud.engine.service import EngineService, capacity
from hypercloud.placement import Candidate
from hypercloud.workload import links
from hypercloud.workload.model import Goal, ServiceSpec, State, decode
from hypercloud.workload.store import Transaction


def host_of(engine: Engine) -> str:
    """Return the address under which an engine's published ports are reached from other engines; "" = none is known."""
    parts = urlsplit(engine.spec.addr)
    return (parts.hostname or "") if parts.scheme in {"http", "https", "tcp"} else ""


def targets(tx: Transaction, service: str) -> list[ContainerRow]:
    """Return the containers of a service that a link can lead to."""
    rows = tx.containers(service)
    return [one for one in rows if one.goal == Goal.RUNNING and one.state == State.RUNNING and one.engine]


def endpoints(row: ContainerRow, engine: str, hosts: dict[str, str]) -> tuple[links.Endpoint, ...]:
    """Return how a container's ports are reached from an engine.

    On the same engine by its own address; from another by the ports it publishes there.
    """
    found = []
    for port in row.ports:
        if row.engine == engine and row.private_ip:
            found.append(
                links.Endpoint(inner=port["inner"], protocol=port["protocol"], host=row.private_ip, port=port["inner"])
            )
        elif row.engine != engine and port["published"] and port["outer"] and (host := hosts.get(row.engine or "")):
            found.append(links.Endpoint(inner=port["inner"], protocol=port["protocol"], host=host, port=port["outer"]))
    return tuple(found)


def target(row: ContainerRow, engine: str, hosts: dict[str, str]) -> links.Target:
    """Return a container as a link sees it from an engine."""
    env = {**links.pairs(row.image_env), **decode(row.spec).env}
    return links.Target(uuid=row.uuid, name=row.name, endpoints=endpoints(row, engine, hosts), env=env)


def reachable(row: ContainerRow, engine: str, hosts: dict[str, str]) -> bool:
    """Say whether a link from an engine to a container leads anywhere."""
    return row.engine == engine or bool(endpoints(row, engine, hosts))


def candidates(tx: Transaction, engines: EngineService, service: ServiceRow, spec: ServiceSpec) -> list[Candidate]:
    """Return the engines that answer, as placement sees them."""
    up = [one for one in engines.engines() if one.up]
    hosts = {one.spec.id: host_of(one) for one in up}
    running = {one.id: one.engine for one in engines.containers() if one.running}
    coming = tx.session.execute(
        select(ContainerRow.engine, ContainerRow.docker_id).where(
            ContainerRow.state == State.STARTING, ContainerRow.engine.is_not(None)
        )
    ).all()
    counts = Counter(running.values())
    counts.update(one.engine for one in coming if one.docker_id not in running)
    mine = Counter(one.engine for one in tx.containers(service.uuid) if one.goal == Goal.RUNNING)
    linked = [targets(tx, one.to) for one in spec.links]
    donors = [targets(tx, one.volumes_from) for one in spec.bindings if one.volumes_from]
    found = []
    for engine in up:
        here = engine.spec.id
        near = all(not rows or any(reachable(row, here, hosts) for row in rows) for rows in linked)
        near = near and all(any(row.engine == here for row in rows) for rows in donors)
        cpus, memory = capacity(engine)
        found.append(
            Candidate(
                id=here,
                name=engine.spec.name,
                labels=frozenset(engine.spec.labels),
                cpus=cpus,
                memory=memory,
                running=counts[here],
                of_service=mine[here],
                has_links=near,
            )
        )
    return found


def self_variables(
    row: ContainerRow, service: ServiceRow, engine: Engine, base_url: str, domain: str
) -> dict[str, str]:
    """Return the variables by which a container knows itself, its service and its node."""
    app, infra = f"/api/app/v1/{row.namespace}", f"/api/infra/v1/{row.namespace}"
    found: dict[str, str] = {}
    for prefix, uri, fqdn, hostname in (
        ("CONTAINER", f"{app}/container/{row.uuid}/", f"{row.name}.{row.uuid[:8]}.cont.{domain}", row.name),
        ("SERVICE", f"{app}/service/{service.uuid}/", f"{service.name}.{service.uuid[:8]}.svc.{domain}", service.name),
        (
            "NODE",
            f"{infra}/node/{engine.spec.id}/",
            f"{engine.spec.id[:8]}.node.{domain}",
            f"{engine.spec.id[:8]}",
        ),
    ):
        found |= {
            f"DOCKERCLOUD_{prefix}_API_URI": uri,
            f"DOCKERCLOUD_{prefix}_API_URL": base_url.rstrip("/") + uri,
            f"DOCKERCLOUD_{prefix}_FQDN": fqdn,
            f"DOCKERCLOUD_{prefix}_HOSTNAME": hostname,
        }
    return found


def authorization(username: str, secret: str) -> str:
    """Return the header value that a container with the role ``global`` may use."""
    return "Basic " + base64.b64encode(f"{username}:{secret}".encode()).decode()


def earlier(rows: Sequence[ContainerRow], row: ContainerRow) -> list[ContainerRow]:
    """Return the containers of a sequential service that came before one."""
    return [one for one in rows if one.number < row.number and one.state == State.RUNNING]
