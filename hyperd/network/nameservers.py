"""Which name servers the guests are told to ask (resolv.conf(5))."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_address
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

# The second file is systemd-resolved's list of the real servers; the first then names only its stub on 127.0.0.53.
RESOLV_CONF = (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf"))
_MAX_SERVERS = 3  # MAXNS of the C library's resolver
_MAX_BYTES = 65536


def find_servers(configured: Sequence[str], files: Sequence[Path] = RESOLV_CONF) -> tuple[str, ...]:
    """Return the servers for a guest, at most three.

    Args:
        configured: from the configuration; taken as they are when there are any.
        files: read in this order; the first that names a server a guest can reach wins.

    Returns IPv4 addresses; none when the host knows only servers on its loopback interface or with IPv6 addresses,
    which a guest cannot reach.

    """
    if configured:
        return tuple(configured)[:_MAX_SERVERS]
    for path in files:
        servers = _usable(path)
        if servers:
            return servers
    log.warning("no name server that a guest can reach", files=[str(path) for path in files])
    return ()


def _usable(path: Path) -> tuple[str, ...]:
    try:
        with path.open("rb") as stream:
            text = stream.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return ()
    found: list[str] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or words[0] != "nameserver":
            continue
        try:
            address = ip_address(words[1])
        except ValueError:
            continue
        usable = isinstance(address, IPv4Address) and not address.is_loopback and not address.is_unspecified
        if usable and str(address) not in found:
            found.append(str(address))
    return tuple(found[:_MAX_SERVERS])
