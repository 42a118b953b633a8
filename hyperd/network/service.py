"""Networks as objects: made, listed, removed. What carries them is a driver (``hyperd.network.driver``).

Who is on a network is the pods' business: ``hyperd.pod.network`` connects and disconnects them.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from hyperd.db.models import AddressRow, NetworkRow, PodRow
from hyperd.db.session import Database
from hyperd.errors import Conflict, Forbidden, InvalidInput, NotFound, NotSupported
from hyperd.event.bus import EventBus
from hyperd.network.addresses import rows_of
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import DEFAULT, HOST, NONE, Attachment, Driver, Network, NetworkSpec
from hyperd.network.segments import find_row, network_of

log = structlog.get_logger(__name__)

MAX_NETWORKS = 1000
_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_. -]{0,126}[A-Za-z0-9_.-])?")


class NetworkService:
    """Keeps the networks of one daemon.

    Args:
        driver: carries them.
        database: of the daemon.
        events: is told of networks that come and go.

    """

    def __init__(self, *, driver: NetworkDriver, database: Database, events: EventBus) -> None:
        self._driver = driver
        self._database = database
        self._events = events
        self._since = datetime.now(UTC)
        self._lock = threading.Lock()

    # -- looking

    def all(self) -> list[Network]:
        """Return every network with its attachments: those that are always there first, then by age."""
        with self._database.reading() as session:
            rows = session.scalars(select(NetworkRow).order_by(NetworkRow.created_at, NetworkRow.id)).all()
            found = [*self._builtin(), *(network_of(row) for row in rows)]
            addresses = _by_place(rows_of(session))
            return [self._attached(session, network, addresses[_place(network)]) for network in found]

    def get(self, network: str) -> Network:
        """Return the network with this name, id, or unique beginning of an id.

        Errors: NotFound; Conflict when several ids begin so.
        """
        with self._database.reading() as session:
            found = self._find(session, network)
            of_it = {"bridge": found.bridge, "network_id": ""} if found.builtin else {"network_id": found.id}
            query = select(AddressRow).filter_by(**of_it)
            rows = session.scalars(query.order_by(AddressRow.owner, AddressRow.slot, AddressRow.position)).all()
            return self._attached(session, found, rows)

    # -- changing

    def create(self, spec: NetworkSpec) -> Network:
        """Make a network.

        On failure nothing is left. Errors: InvalidInput, Conflict (name, subnet or bridge in use), NotSupported
        (driver), Busy (no free subnet), HostFault.
        """
        if not _NAME.fullmatch(spec.name):
            raise InvalidInput(
                f"{spec.name!r} is not a network's name",
                resolution="use up to 128 letters, digits, '_', '.', '-', inner blanks; begin with a letter or a digit",
            )
        if spec.driver != Driver.BRIDGE:
            raise NotSupported(f"network driver {spec.driver!r} is not supported", resolution="use bridge")
        with self._lock:
            with self._database.reading() as session:
                known = session.scalars(select(NetworkRow.name)).all()
            if spec.name in {*known, *(network.name for network in self._builtin())}:
                raise Conflict(f"network with name {spec.name} already exists")
            if len(known) >= MAX_NETWORKS:
                raise Conflict(f"there are {len(known)} networks already", resolution="remove some")
            network_id = secrets.token_hex(32)
            self._driver.add(network_id, spec)
        made = self.get(network_id)
        log.info("network.created", network=made.name, id=made.id, subnet=made.subnet, bridge=made.bridge)
        self._tell("create", made)
        return made

    def remove(self, network: str) -> Network:
        """Remove a network and return what it was.

        Errors: NotFound, Conflict (a pod is on it), Forbidden (it is one that is always there), HostFault.
        """
        with self._lock:
            found = self.get(network)
            if found.builtin:
                raise Forbidden(f"{found.name} is a pre-defined network and cannot be removed")
            self._driver.drop(found.id)
        log.info("network.removed", network=found.name, id=found.id)
        self._tell("destroy", found)
        return found

    def prune(self, chosen: Callable[[Network], bool] = lambda _network: True) -> list[Network]:
        """Remove the networks that no pod is on and that are chosen; return what they were. Errors: HostFault."""
        removed = []
        for network in self.all():
            if network.builtin or network.attachments or not chosen(network):
                continue
            try:
                removed.append(self.remove(network.id))
            except (NotFound, Conflict) as error:  # somebody was quicker
                log.info("network.not_pruned", network=network.name, reason=str(error))
        return removed

    def forget(self, network: str, pod: str) -> None:
        """Give back what a pod that does not exist any more has on a network. Errors: NotFound (nothing), HostFault."""
        found = self.get(network)
        with self._database.reading() as session:
            gone = session.get(PodRow, pod) is None
        slots = [one.slot for one in found.attachments if one.pod == pod]
        if not gone or not slots:
            raise NotFound(f"endpoint {pod[:200]} not found", kind="endpoint", name=pod)
        for slot in slots:
            self._driver.detach(pod, slot)
        log.info("network.forgotten", network=found.name, pod=pod)

    # -- inside

    def _builtin(self) -> list[Network]:
        return [
            replace(self._driver.default(), id=_fixed_id(DEFAULT), name=DEFAULT),
            Network(id=_fixed_id(HOST), name=HOST, driver=Driver.HOST, created_at=self._since, builtin=True),
            Network(id=_fixed_id(NONE), name=NONE, driver=Driver.NONE, created_at=self._since, builtin=True),
        ]

    def _find(self, session: Session, network: str) -> Network:
        for known in self._builtin():
            if network == known.name or (len(network) >= 12 and known.id.startswith(network)):
                return known
        return network_of(find_row(session, network))

    def _attached(self, session: Session, network: Network, rows: Sequence[AddressRow]) -> Network:
        """Return a network with its attachments, made of its addresses by pod and NIC."""
        if not network.bridge:
            return network
        if network.builtin:  # VMs of the pool and builds have addresses of it, too
            pods = set(session.scalars(select(PodRow.id)))
            rows = [row for row in rows if row.owner in pods]
        prefix = network.subnet.partition("/")[2]
        nics: dict[tuple[str, int], list[AddressRow]] = {}
        for row in rows:
            nics.setdefault((row.owner, row.slot), []).append(row)
        return replace(
            network,
            attachments=tuple(
                Attachment(
                    pod=pod,
                    slot=slot,
                    addresses=tuple(f"{row.address}/{row.prefix or prefix}" for row in own),
                    mac=own[0].mac,
                    aliases=tuple(own[0].aliases),
                )
                for (pod, slot), own in nics.items()
            ),
        )

    def _tell(self, action: str, network: Network) -> None:
        self._events.publish("network", action, network.id, name=network.name, type=network.driver.value)


def _place(network: Network) -> str:
    """Return what the addresses of a network have in common: its id, or the bridge of the daemon's own."""
    return network.bridge if network.builtin else network.id


def _by_place(rows: Iterable[AddressRow]) -> defaultdict[str, list[AddressRow]]:
    found = defaultdict(list)
    for row in rows:
        found[row.network_id or row.bridge].append(row)
    return found


def _fixed_id(name: str) -> str:
    """Return the id of a network that is always there: the same on every host."""
    return hashlib.sha256(f"hyperd network {name}".encode()).hexdigest()
