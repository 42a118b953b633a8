"""Containers with what clients are shown beside them: image, networks, volumes."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from hyperd.api.context import engine
from hyperd.api.docker.container_views import Shown
from hyperd.api.docker.network_views import Attachment
from hyperd.container.model import Container
from hyperd.errors import ImageNotFound, NotFound

if TYPE_CHECKING:
    from hyperd.engine import Engine

STORAGE_DRIVER = "squashfs-overlay"


class Lookup:
    """Reads what one request needs; images and networks are read once each."""

    def __init__(self, running: Engine) -> None:
        self._engine = running
        self.image = cache(self._image)

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
        config, name = self.image(found.image_id, found.image_name)
        pod = self._engine.containers.records.pod_spec(found.pod_id)
        return Shown(
            container=found,
            pod=pod,
            image_config=config,
            image_name=name,
            attachments=self._attachments(found),
        )

    def _image(self, image_id: str, image_name: str) -> tuple[Mapping[str, Any], str]:
        """Return the configuration, and the name as ``ps`` shows it: the id when the name means another one now."""
        try:
            config = self._engine.images.get(image_id).config
        except ImageNotFound:
            return {}, image_id
        try:
            same = self._engine.images.get(image_name).id == image_id
        except ImageNotFound:
            same = False
        return config, image_name if same else image_id

    def _attachments(self, found: Container) -> list[Attachment]:
        """Return the networks of a container's pod."""
        pod = self._engine.containers.records.pod_spec(found.pod_id)
        if pod.network_disabled:
            return [Attachment(network="none", network_id="none")]
        attachments = []
        for text in found.addresses[:1] or ("",):
            address, prefix, gateway = _split(text)
            attachments.append(
                Attachment(
                    network="bridge",
                    network_id="bridge",
                    endpoint_id=found.id if text else "",
                    address=address,
                    prefix=prefix,
                    gateway=gateway,
                )
            )
        return attachments


def _split(cidr: str) -> tuple[str, int, str]:
    """Return address, prefix length and the first address of the subnet, which is the bridge's."""
    if not cidr:
        return "", 0, ""
    interface = ipaddress.ip_interface(cidr)
    return str(interface.ip), interface.network.prefixlen, str(next(interface.network.hosts()))


def container(name: str) -> Container:
    """Return a container by name, id or the beginning of an id. Errors: NotFound in Docker's words."""
    try:
        return engine().containers.queries.inspect(name)
    except NotFound as error:
        raise NotFound(f"No such container: {name[:200]}", details=error.details) from error
