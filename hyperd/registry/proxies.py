"""Which proxy a URL goes through: ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``NO_PROXY`` as Go's net/http reads them.

Upper case wins over lower case. A proxied URL is never on the loopback. ``NO_PROXY`` holds names (with their
subdomains), ``.suffixes``, addresses, CIDR blocks, each with an optional port, or ``*``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from urllib.parse import urlsplit

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxySettings:
    """The proxy rules of an environment.

    Args:
        environ: usually ``os.environ``.

    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._proxies = {
            scheme: environ.get(f"{scheme.upper()}_PROXY") or environ.get(f"{scheme}_proxy") or ""
            for scheme in _DEFAULT_PORTS
        }
        text = environ.get("NO_PROXY") or environ.get("no_proxy") or ""
        self._exceptions = [part.strip().lower() for part in text.split(",") if part.strip()]

    def proxy_for(self, url: str) -> str:
        """Return the proxy's URL for a URL, empty for a direct connection."""
        parts = urlsplit(url)
        proxy = self._proxies.get(parts.scheme, "")
        host = (parts.hostname or "").lower()
        if not proxy or not host or is_loopback(host):
            return ""
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
        if any(_matches(rule, host, port) for rule in self._exceptions):
            return ""
        return proxy if "://" in proxy else f"http://{proxy}"


def is_loopback(host: str) -> bool:
    """Tell whether a host name (without port) is ``localhost`` or a loopback address."""
    address = parse_address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def parse_address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an address, bare or in brackets; None for a name."""
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def split_host(host: str) -> tuple[str, int | None]:
    """Split ``host[:port]`` or ``[v6][:port]``; a port that is no number counts as part of nothing (None)."""
    name, _, port = host.rpartition(":")
    if name and port.isdigit() and (name.endswith("]") or ":" not in name):
        return name.strip("[]"), int(port)
    return host.strip("[]"), None


def _matches(rule: str, host: str, port: int) -> bool:
    if rule == "*":
        return True
    address = parse_address(host)
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    name, rule_port = split_host(rule)
    if rule_port is not None and rule_port != port:
        return False
    if address is not None:
        return parse_address(name) == address
    name = name.removeprefix("*")
    return host.endswith(name) if name.startswith(".") else host == name or host.endswith(f".{name}")
