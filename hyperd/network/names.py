"""Which names the pods have on which network, and whom each pod asks for them. Rows are read, nothing is changed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import String, cast, select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow, ContainerRow, PodRow
from hyperd.db.spec_cache import stored_pod
from hyperd.network.dns import Entry, ServerKey
from hyperd.network.segments import Segment

# What a host name can be: letters, digits, '-', and what is used beyond the standard, '_'; parts joined by dots.
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*")
MAX_NAME = 253
Link = tuple[str, str, str]  # network, container, alias


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
    aliases: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if row.position and ":" not in row.address:
            continue
        if not row.position:
            aliases[row.network_id, row.owner] = row.aliases
            owned[row.owner].append(row)
        names = dict.fromkeys([*pods.get(row.owner, ()), row.owner, *aliases.get((row.network_id, row.owner), ())])
        entries[row.network_id].append(Entry(row.address, tuple(name for name in names if is_name(name))))
    keys = {(one,): _key([one], (), networks) for one in networks}
    servers = {key: entries[one] for (one,), key in keys.items()}
    links = _links(session, rows, networks)
    askers = []
    for owner, own in owned.items():
        ids = sorted({row.network_id for row in own})
        key = replace(_key(ids, tuple(own[0].dns), networks), links=tuple(links.get(owner, ())))
        if key not in servers:
            servers[key] = _linked([entry for one in ids for entry in entries[one]], links.get(owner, {}))
        askers += [
            Asker(address=row.address, gateway=networks[row.network_id].gateway, server=key)
            for row in own
            if row.network_id in networks
        ]
    return Names(servers=servers, askers=askers)


def _linked(entries: list[Entry], links: Mapping[Link, Sequence[str]]) -> list[Entry]:
    """Return entries with those of links, whose aliases mean nothing else then."""
    if not links:
        return entries
    aliases = {alias for _, _, alias in links}
    left = [Entry(one.address, tuple(name for name in one.names if name not in aliases)) for one in entries]
    return [
        *(entry for entry in left if entry.names),
        *(Entry(address, (alias,)) for (_, _, alias), addresses in links.items() for address in addresses),
    ]


def _links(
    session: Session, rows: Sequence[AddressRow], networks: Mapping[str, Segment]
) -> dict[str, dict[Link, Sequence[str]]]:
    """Return the links of pods on these networks, by pod, and where each leads to; empty = nowhere now."""
    owners = {row.owner for row in rows}
    # Few pods have links; the others' specifications need not be read.
    with_links = cast(PodRow.spec, String).like('%"links":%')
    found = session.execute(select(PodRow.id, PodRow.spec).where(PodRow.id.in_(owners), with_links)).all()
    if not found:
        return {}
    idents = {segment.name: segment.id for segment in networks.values()} | {one: one for one in networks}
    addresses: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows:
        if not row.position or ":" in row.address:
            addresses[row.network_id, row.owner].append(row.address)
    query = select(ContainerRow.id, ContainerRow.name, ContainerRow.pod_id)
    known = [(ident, name, pod) for ident, name, pod in session.execute(query)]
    links: dict[str, dict[Link, Sequence[str]]] = {}
    for owner, spec in found:
        for one in stored_pod(spec).networks:
            network = idents.get(one.network, "")
            for target, alias in one.links if network else ():
                if is_name(alias):
                    place = addresses.get((network, _pod_of(target, known)), ())
                    links.setdefault(owner, {})[network, target, alias] = place
    return links


def _pod_of(container: str, known: Iterable[tuple[str, str, str]]) -> str:
    """Return the pod of a container by its name, id or the beginning of an id; empty when there is none."""
    begun = ""
    for ident, name, pod in known:
        if container in (ident, name):
            return pod
        if ident.startswith(container):
            begun = pod
    return begun


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
