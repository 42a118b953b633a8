"""Addresses of engines, and which of them may be used.

An engine's address makes this server connect somewhere, so it is checked twice: as text when the engine is added, and
at each connection by the address that the name really led to (a name may lead elsewhere later).
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from urllib.parse import urlsplit

from hypercloud.config.model import EnginesConfig
from hypercloud.errors import Forbidden, InvalidInput

PORTS = {"http": 2375, "https": 2376, "tcp": 2375}


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an engine is: a socket's path, or scheme, host and port."""

    scheme: str  # unix | http | https
    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def base_url(self) -> str:
        """The URL as the Docker client wants it."""
        if self.scheme == "unix":
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def parse(text: str, *, tls: bool = False) -> Address:
    """Return the parts of an engine's address.

    Args:
        text: ``unix:///path``, ``http://host:port``, ``https://host:port`` or ``tcp://host:port``.
        tls: tcp means https.

    Errors: InvalidInput.

    """
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise InvalidInput("the engine's address is no URL", details=f"{text[:200]}: {error}") from None
    if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/") and len(parts.path) < 100:
        return Address(scheme="unix", path=parts.path)
    plain = parts.path in {"", "/"} and not (parts.query or parts.fragment or parts.username or parts.password)
    if parts.scheme not in PORTS or not parts.hostname or not plain:
        raise InvalidInput(
            "the engine's address must be http://host:port, https://host:port, tcp://host:port or unix:///path",
            details=text[:200],
        )
    scheme = "https" if parts.scheme == "https" or (parts.scheme == "tcp" and tls) else "http"
    return Address(scheme=scheme, host=parts.hostname, port=port or PORTS["https" if scheme == "https" else "http"])


class Policy:
    """Says which addresses may be connected to.

    Args:
        config: the networks and sockets that the administrator of this host allows.

    """

    def __init__(self, config: EnginesConfig) -> None:
        self._networks = [ipaddress.ip_network(one) for one in config.networks]
        local = [parse(config.local)] if config.local else []
        self._sockets = {*config.sockets, *(one.path for one in local if one.scheme == "unix")}

    def check(self, address: Address) -> None:
        """Check an address as it is written. Errors: Forbidden."""
        if address.scheme == "unix":
            if address.path not in self._sockets:
                raise Forbidden(
                    "this socket may not be used as an engine",
                    details=address.path,
                    resolution="name it in [engines] sockets of the configuration",
                )
            return
        try:
            ipaddress.ip_address(address.host)
        except ValueError:
            return  # a name: looked at when it is connected to
        self.check_peer(address.host)

    def check_peer(self, peer: str) -> None:
        """Check the address that a connection has. Errors: Forbidden."""
        found = ipaddress.ip_address(peer.split("%", maxsplit=1)[0])
        found = getattr(found, "ipv4_mapped", None) or found
        if self._networks:
            allowed = any(found in network for network in self._networks)
        else:
            special = found.is_link_local or found.is_multicast or found.is_unspecified
            allowed = not (special or (found.is_reserved and not found.is_loopback))
        if not allowed:
            raise Forbidden(
                "engines may not have this address",
                details=str(found),
                resolution="[engines] networks of the configuration says which networks are allowed",
            )
