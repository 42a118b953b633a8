"""Requests that a web page sends without its reader's knowledge are refused.

A browser on this host, or in its network, reaches an unprotected TCP address. Two things give such a page away: it says
where it comes from (``Origin``, RFC 6454, and ``Sec-Fetch-Site``), and a page that has had its own name lead to our
address (DNS rebinding) asks for that name (``Host``). Callers on unix sockets are no browsers.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Collection
from functools import cache

from flask import request

from hyperd.api.context import LISTENER, engine
from hyperd.errors import Forbidden

_HOST = re.compile(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]*)(?::[0-9]{1,5})?")
_FOREIGN_SITES = frozenset({"cross-site", "same-site"})


def check_origin() -> None:
    """Check the request's Origin, and without TLS its Host. Errors: Forbidden."""
    listener = request.environ.get(LISTENER)
    if listener is None or listener.local:
        return
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin")
    foreign = origin is not None and origin.partition("://")[2] != host
    if foreign or request.headers.get("Sec-Fetch-Site", "") in _FOREIGN_SITES:
        raise Forbidden("web pages may not use this API", details=f"Origin: {(origin or '')[:100]}")
    # With TLS a page under another name gets no answer: the certificate is not for that name.
    if not listener.tls and not is_own_name(host, engine().config.api.allowed_hosts):
        raise Forbidden(
            "the name of this host in the request is not known here",
            details=f"Host: {host[:100]}",
            resolution="use its address, or name it in allowed_hosts of [api]",
        )


def is_own_name(host: str, allowed: Collection[str]) -> bool:
    """Return whether a ``Host`` is an address, this host's name, allowed by the configuration, or empty."""
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    name = found[1].lower().rstrip(".")
    if not name or name == "localhost" or name in own_names() or name in {one.lower() for one in allowed}:
        return True
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return False
    return True


@cache
def own_names() -> frozenset[str]:
    """Return the names of this host, without and with its domain."""
    return frozenset({socket.gethostname().lower(), socket.getfqdn().lower()})
