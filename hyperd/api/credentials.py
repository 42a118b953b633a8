"""Credentials of several registries in one header (``X-Registry-Config``), as builds get them."""

from __future__ import annotations

import base64
import contextlib
import json

from hyperd.errors import InvalidInput
from hyperd.image.transfer.pull import host_of
from hyperd.registry.auth import AuthConfig


def registry_config(header: str) -> dict[str, AuthConfig]:
    """Read ``X-Registry-Config``: credentials by registry; what cannot be read is left out."""
    text = header.strip().replace("+", "-").replace("/", "_")
    try:
        data = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (ValueError, RecursionError):
        return {}
    found = {}
    for server, value in data.items() if isinstance(data, dict) else ():
        auth = AuthConfig.from_mapping({"serveraddress": server, **value}) if isinstance(value, dict) else None
        if auth is not None:
            with contextlib.suppress(InvalidInput):
                found[host_of(str(server))] = auth
    return found
