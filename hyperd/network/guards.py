"""White lists: who may reach a pod. Rows, and what the tables are told of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import GuardRow
from hyperd.errors import InvalidInput
from hyperd.network import ruleset
from hyperd.network.addresses import AddressPool, rows_of

_LOOPBACK = IPv4Network("127.0.0.0/8")


@dataclass(frozen=True)
class Guard:
    """Who may reach a pod: ``internal`` networks every port, ``external`` ones published ports. CIDR notation."""

    internal: tuple[str, ...] = ()
    external: tuple[str, ...] = ()


def put(session: Session, owner: str, guard: Guard | None) -> None:
    """Set or (None) remove a pod's white lists. Errors: InvalidInput for what is no IPv4 network."""
    row = session.get(GuardRow, owner)
    if guard is not None:
        for text in (*guard.internal, *guard.external):
            _network(text)
        session.merge(GuardRow(owner=owner, internal=list(guard.internal), external=list(guard.external)))
    elif row is not None:
        session.delete(row)
    session.flush()


def prune(session: Session, owners: Collection[str]) -> None:
    """Drop the rows of all other owners."""
    for row in session.scalars(select(GuardRow)):
        if row.owner not in owners:
            session.delete(row)


def rules(session: Session, pool: AddressPool) -> list[ruleset.Guard]:
    """Return the tables' part: one entry for each address on the daemon's bridge that has white lists."""
    guarded = {row.owner: row for row in session.scalars(select(GuardRow))}
    if not guarded:
        return []
    return [
        ruleset.Guard(
            address=row.address,
            mac=row.mac,
            tap=row.tap,
            internal=_sources(guarded[row.owner].internal, pool.gateway.ip, own=IPv4Address(row.address)),
            external=_sources(guarded[row.owner].external, pool.gateway.ip),
        )
        for row in rows_of(session)
        if row.owner in guarded and row.bridge == pool.bridge
    ]


def _sources(texts: Iterable[str], gateway: IPv4Address, own: IPv4Address | None = None) -> tuple[str, ...]:
    """Return networks that do not overlap (the kernel's sets refuse that).

    The host counts as the gateway when it connects from its loopback addresses; the pod may reach itself.
    """
    networks = [_network(text) for text in texts]
    if any(gateway in network for network in networks):
        networks.append(_LOOPBACK)
    if own is not None:
        networks.append(IPv4Network(own))
    return tuple(str(network) for network in collapse_addresses(networks))


def _network(text: str) -> IPv4Network:
    try:
        return IPv4Network(text, strict=False)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not an IPv4 network of a white list") from error
