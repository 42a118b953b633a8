"""Containers with what clients are shown beside them: image, networks, volumes."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

from hyperd.api.context import engine
from hyperd.api.docker.container_views import Shown
from hyperd.api.docker.mounts import NAMED
from hyperd.api.docker.network_views import Attachment, endpoint_id
from hyperd.container.model import Container
from hyperd.errors import ImageNotFound, NotFound
from hyperd.image.model import ContainerDefaults
from hyperd.network.model import Network
from hyperd.spec.model import NetworkAttachment, PodSpec

if TYPE_CHECKING:
    from hyperd.engine import Engine

STORAGE_DRIVER = "squashfs-overlay"


class Lookup:
    """Reads what one request needs; images, networks and volumes are read once each, and only if they are needed."""

    def __init__(self, running: Engine) -> None:
        self._engine = running
        self.image = cache(self._image)

    @cached_property
    def networks(self) -> list[Network]:
        """Return all networks."""
        return self._engine.networks.all()

    @cached_property
    def volume_paths(self) -> Mapping[str, str]:
        """Return where the named volumes are on this host, by name."""
        return {volume.name: volume.mountpoint for volume in self._engine.volumes.all()}

    def all(self) -> list[Shown]:
        """Return every container, the newest first."""
        found = []
        for container in self._engine.containers.queries.all():
            with contextlib.suppress(NotFound):  # its pod has just been removed
                found.append(self.shown(container))
        return sorted(found, key=lambda one: one.container.created_at, reverse=True)

    def one(self, name: str) -> Shown:
        """Return a container by name, id or the beginning of an id. Errors: NotFound."""
        return self.shown(container(name))

    def shown(self, found: Container) -> Shown:
        """Add what is shown beside a container. Errors: NotFound (its pod is gone)."""
        image, name = self.image(found.image_id, found.image_name)
        pod = self._engine.containers.records.pod_spec(found.pod_id)
        return Shown(
            container=found,
            pod=pod,
            image=image,
            image_name=name,
            attachments=self._attachments(found, pod),
            volume_paths=self.volume_paths if any(one.format == NAMED for one in found.mounts) else {},
        )

    def _image(self, image_id: str, image_name: str) -> tuple[ContainerDefaults, str]:
        """Return what it says for containers, and its name in ``ps``: its id when the name means another one now."""
        try:
            defaults = self._engine.images.get(image_id).defaults
        except ImageNotFound:
            return ContainerDefaults(), image_id
        try:
            same = self._engine.images.get(image_name).id == image_id
        except ImageNotFound:
            same = False
        return defaults, image_name if same else image_id

    def _attachments(self, found: Container, pod: PodSpec) -> list[Attachment]:
        """Return the networks of a container's pod: those it is on, or will be on when it starts."""
        if pod.network_disabled:
            return [Attachment(network="none", network_id=self._network("none").id)]
        wishes = {wish.network: wish for wish in pod.networks}
        attached = [self._attached(network, found, wishes) for network in self.networks if _is_on(network, found)]
        if attached or found.live:
            return attached
        names = list(wishes) or ["bridge"]
        return [self._planned(name, found, wishes.get(name)) for name in names]

    def _network(self, name: str) -> Network:
        return next(one for one in self.networks if name in (one.name, one.id))

    def _attached(self, network: Network, found: Container, wishes: Mapping[str, NetworkAttachment]) -> Attachment:
        lease = next(one for one in network.attachments if one.pod == found.pod_id)
        address, prefix = _split(lease.addresses[0]) if lease.addresses else ("", 0)
        address6, prefix6 = _split(lease.ipv6) if lease.ipv6 else ("", 0)
        wish = wishes.get(network.name) or wishes.get(network.id)
        return Attachment(
            network=network.name,
            network_id=network.id,
            endpoint_id=endpoint_id(network.id, found.pod_id),
            address=address,
            prefix=prefix,
            gateway="" if network.internal else network.gateway,
            address6=address6,
            prefix6=prefix6,
            gateway6="" if network.internal else network.gateway6,
            mac=lease.mac,
            aliases=_aliases(network, found, lease.aliases),
            **_wished(wish),
        )

    def _planned(self, name: str, found: Container, wish: NetworkAttachment | None) -> Attachment:
        network = next((one for one in self.networks if name in (one.name, one.id)), None)
        return Attachment(
            network=network.name if network else name,
            network_id=network.id if network else "",
            mac=wish.mac if wish else "",
            aliases=_aliases(network, found, wish.aliases if wish else ()),
            **_wished(wish),
        )


def _wished(wish: NetworkAttachment | None) -> dict[str, Any]:
    """Return the fields of ``Attachment`` that say what was asked for."""
    if wish is None:
        return {}
    return {
        "fixed": wish.ipv4,
        "link_local": wish.link_local,
        "asked_ipv6": wish.ipv6 or wish.unused_ipv6,
        "links": tuple(f"{name}:{alias}" for name, alias in wish.links),
        "options": wish.options,
    }


def _is_on(network: Network, found: Container) -> bool:
    return any(one.pod == found.pod_id for one in network.attachments)


def _aliases(network: Network | None, found: Container, aliases: Sequence[str]) -> tuple[str, ...]:
    """Return the names on a network; Docker adds the short id where names are resolved, and clients look for it."""
    if network is None or not network.resolves:
        return tuple(aliases)
    return tuple(dict.fromkeys((*aliases, found.id[:12])))


def _split(cidr: str) -> tuple[str, int]:
    """Return address and prefix length."""
    interface = ipaddress.ip_interface(cidr)
    return str(interface.ip), interface.network.prefixlen


def network_of(name: str) -> Network:
    """Return a network by name, id or the beginning of an id. Errors: NotFound in Docker's words."""
    try:
        return engine().networks.get(name)
    except NotFound as error:
        raise NotFound(f"network {name[:200]} not found") from error


def has_ipv6(name: str) -> bool:
    """Return whether a network has IPv6 addresses; one that does not exist has none."""
    return any(one.subnet6 and name in (one.name, one.id) for one in engine().networks.all())


def network_names() -> set[str]:
    """Return the names and ids of all networks."""
    return {word for one in engine().networks.all() for word in (one.name, one.id)}


def container(name: str) -> Container:
    """Return a container by name, id or the beginning of an id. Errors: NotFound in Docker's words."""
    try:
        return engine().containers.queries.inspect(name)
    except NotFound as error:
        raise NotFound(f"No such container: {name[:200]}", details=error.details) from error
