"""Networks that somebody has made, for tests: namespaces are in the place of pods."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

from hyperd.event.bus import EventBus
from hyperd.network.model import Lease, Network, NetworkSpec, NicWish
from hyperd.network.service import NetworkService
from tests.support.dns import addresses
from tests.support.netns import Namespace
from tests.support.netsite import Site


class Networks:
    """A daemon's networks, removed at the end."""

    def __init__(self, site: Site, stack: ExitStack) -> None:
        self.site = site
        self.events = EventBus()
        self.service = NetworkService(driver=site.network, database=site.database, events=self.events)
        self._stack = stack
        stack.callback(self.clear)

    def restart(self) -> None:
        self.site.restart()
        self.service = NetworkService(driver=self.site.network, database=self.site.database, events=self.events)

    def ask(self, pod: Namespace, network: str, name: str) -> list[str]:
        """What a pod hears when it asks the server of a network."""
        return addresses(pod.socket(socket.SOCK_DGRAM), self.service.get(network).gateway, name)

    def heard(self, pod: Namespace, network: str, name: str) -> list[str]:
        """The same, nothing while there is no server."""
        try:
            return self.ask(pod, network, name)
        except OSError:
            return []

    def make(self, name: str, **fields: Any) -> Network:
        return self.service.create(NetworkSpec(name=name, **fields))

    def pod(self, name: str, *networks: str, **more: tuple[str, ...]) -> tuple[Namespace, list[Lease]]:
        """A namespace with one NIC on each network; the first is eth0."""
        leases = self.site.network.reserve(name, [NicWish(network=network, **more) for network in networks])
        namespace = Namespace()
        self._stack.callback(namespace.close)
        for number, lease in enumerate(leases):
            namespace.plug(
                host_end=lease.tap,
                bridge=lease.bridge,
                mac=lease.mac,
                cidr=lease.cidr,
                gateway=lease.gateway if not any(one.gateway for one in leases[:number]) else "",
                name=f"eth{number}",
            )
        return namespace, leases

    def clear(self) -> None:
        for network in self.service.all():
            for one in network.attachments:
                self.site.network.release(one.pod)
        self.service.prune()
