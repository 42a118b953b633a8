"""A daemon's network on the real kernel, with namespaces in the place of pods, and what tests ask of it."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from hyperd.config.model import NetworkConfig
from hyperd.db.session import Database
from hyperd.event.bus import EventBus
from hyperd.network.bridged import BridgeDriver
from hyperd.network.model import Lease
from tests.support.netns import Namespace, serve_tcp
from tests.support.ports import fresh_net


def fresh_config() -> NetworkConfig:
    """A bridge, table and subnet that nobody else on this machine uses."""
    tag = secrets.token_hex(3)
    return NetworkConfig(
        bridge=f"hyt{tag}",
        subnet=f"{fresh_net(120)}.0/24",
        nft_table=f"hyt{tag}",
    )


class Site:
    """A daemon's network with namespaces as pods."""

    def __init__(self, directory: Path, stack: ExitStack, config: NetworkConfig | None = None) -> None:
        self.config = config or fresh_config()
        self.database = Database(directory / f"{self.config.bridge}.db")
        self.database.create_all()
        self._stack = stack
        stack.callback(self.database.close)
        self.events = EventBus()
        self.network = BridgeDriver(config=self.config, database=self.database, events=self.events)
        stack.callback(self.close)
        self.network.open()

    def pod(self, name: str) -> tuple[Namespace, Lease]:
        """A namespace with what the network leases to the pod."""
        lease = self.network.allocate(name)
        namespace = Namespace()
        self._stack.callback(namespace.close)
        namespace.plug(host_end=lease.tap, bridge=lease.bridge, mac=lease.mac, cidr=lease.cidr, gateway=lease.gateway)
        return namespace, lease

    def close(self) -> None:
        """Leave nothing, whatever the test did."""
        self.network.close()
        BridgeDriver(config=self.config, database=self.database).destroy()

    def restart(self) -> None:
        """What a new daemon does after its predecessor was killed."""
        self.network.close()
        self.network = BridgeDriver(config=self.config, database=self.database, events=self.events)
        self.network.open()

    def rules(self) -> str:
        """What the kernel has."""
        return "".join(
            subprocess.run(
                ["nft", "list", "table", family, self.config.nft_table],
                capture_output=True,
                text=True,
                check=family != "ip6",  # there is none without a network that has IPv6
            ).stdout
            for family in ("ip", "ip6", "bridge")
        )


def address_of(lease: Lease) -> str:
    return lease.cidr.split("/", maxsplit=1)[0]


@contextmanager
def web(namespace: Namespace) -> Iterator[int]:
    """A server on port 80 of a pod that tells who asks."""
    with serve_tcp(namespace.socket(), ("", 80), lambda peer: f"from {peer}".encode()) as port:
        yield port


def refused(work: Callable[[], object]) -> bool:
    """Tell whether a connection fails."""
    try:
        work()
    except (ConnectionRefusedError, TimeoutError):
        return True
    return False


def outside(stack: ExitStack) -> tuple[Namespace, str, str]:
    """A machine on another network of the host: namespace, its address, the host's address towards it."""
    namespace = Namespace()
    stack.callback(namespace.close)
    net = fresh_net(200)
    namespace.link(host_end=f"o{secrets.token_hex(5)}", host_cidr=f"{net}.1/24", cidr=f"{net}.2/24")
    return namespace, f"{net}.2", f"{net}.1"
