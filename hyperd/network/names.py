"""Which names the pods have on which network, and whom each pod asks for them. Rows are read, nothing is changed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow, ContainerRow
from hyperd.network.dns import Entry, ServerKey
from hyperd.network.segments import Segment

# What a host name can be: letters, digits, '-', and what is used beyond the standard, '_'; parts joined by dots.
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
MAX_NAME = 253


@dataclass(frozen=True, kw_only=True)
class Asker:
    """A pod's address on a network, the server that it asks there and whose answers it gets."""

    address: str
    gateway: str
    server: ServerKey


@dataclass(frozen=True, kw_only=True)
class Names:
    """What the servers have to know: entries for each server, and who asks which one."""

    servers: dict[ServerKey, list[Entry]]
    askers: list[Asker]


def names_of(session: Session, segments: Iterable[Segment], addresses: Iterable[AddressRow]) -> Names:
    """Return the names on these networks, of all pods' addresses.

    Every network has a server, and so has every set of them that a pod is on.
    """
    networks = {segment.id: segment for segment in segments if segment.id}
    if not networks:
        return Names(servers={}, askers=[])
    rows = [row for row in addresses if row.network_id]
    pods = _pod_names(session, {row.owner for row in rows})
    entries: dict[str, list[Entry]] = defaultdict(list)
    owned: dict[str, list[AddressRow]] = defaultdict(list)
    for row in rows:
        names = dict.fromkeys([*pods.get(row.owner, ()), row.owner, *row.aliases])
        entries[row.network_id].append(Entry(row.address, tuple(name for name in names if is_name(name))))
        owned[row.owner].append(row)
    keys = {(one,): _key([one], (), networks) for one in networks}
    servers = {key: entries[one] for (one,), key in keys.items()}
    askers = []
    for own in owned.values():
        ids = sorted({row.network_id for row in own})
        key = _key(ids, tuple(own[0].dns), networks)
        servers.setdefault(key, [entry for one in ids for entry in entries[one]])
        askers += [
            Asker(address=row.address, gateway=networks[row.network_id].gateway, server=key)
            for row in own
            if row.network_id in networks
        ]
    return Names(servers=servers, askers=askers)


def is_name(name: str) -> bool:
    """Return whether a name can be asked for."""
    return len(name) <= MAX_NAME and _NAME.fullmatch(name) is not None


def _key(ids: list[str], upstream: tuple[str, ...], networks: dict[str, Segment]) -> ServerKey:
    closed = all(networks[one].internal for one in ids if one in networks)
    return ServerKey(networks=tuple(ids), upstream=() if closed else upstream, closed=closed)


def _pod_names(session: Session, pods: set[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    if pods:
        query = select(ContainerRow.pod_id, ContainerRow.name).where(ContainerRow.pod_id.in_(pods))
        for pod, name in session.execute(query.order_by(ContainerRow.position)):
            found[pod].append(name)
    return found
