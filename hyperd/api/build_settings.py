"""Parameters of a build that say how its steps run, as both Docker's API and hyperd's take them.

Each is carried out, told as without effect by name in the build's output, or refused by name.
"""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hyperd.api.context import engine
from hyperd.build.order import GATEWAY, NO_NETWORK, BuildOrder
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import Ulimit

MAX_SHM = 1 << 40  # bytes
MAX_MEMORY = 1 << 40  # bytes
_CFS_PERIOD = 100_000  # microseconds
_MAX_CPUS = 64
_MAX_ITEMS = 256
_DEFAULT_NETWORKS = {"", "default", "bridge"}
# What limits containers that share a kernel; a build has a VM of its own.
_WITHOUT_EFFECT = {
    "memswap": ("", "0", "-1"),
    "cpushares": ("", "0"),
    "cpusetcpus": ("",),
    "cpusetmems": ("",),
    "cgroupparent": ("",),
}

Values = Callable[[str], Sequence[str]]


def known_network(name: str) -> str:
    """Return the name of a network by name or id. Errors: NotFound, Conflict (several ids begin so)."""
    return engine().networks.get(name).name


def with_settings(order: BuildOrder, values: Values, network: Callable[[str], str]) -> BuildOrder:
    """Return an order with what these parameters say.

    Args:
        order: what the dialect has read.
        values: gives all values of a parameter of the request, by its name.
        network: looks a network up.

    Raises:
        InvalidInput: a value of a wrong form.
        NotFound: there is no such network.
        NotSupported: what a build here cannot have.

    """

    def one(name: str) -> str:
        return next(iter(values(name)), "").strip()

    if one("isolation").lower() not in ("", "default"):
        raise NotSupported("an isolation of builds is for Windows")
    if options := _list(one("securityopt"), "securityopt"):
        raise NotSupported(f"a build has no security options: {options[0][:60]}")
    return replace(
        order,
        network=_network(one("networkmode"), network),
        hosts=_hosts(values("extrahosts")),
        shm_size=_size(one("shmsize")),
        ulimits=_ulimits(one("ulimits")),
        cache_from=tuple(_list(one("cachefrom"), "cachefrom")),
        platform=one("platform"),
        notes=tuple(
            f"{name}={one(name)[:40]} has no effect: a build has a VM of its own, memory and CPUs are its limits"
            for name, empty in _WITHOUT_EFFECT.items()
            if one(name) not in empty
        ),
    )


def cpus(period: int, quota: int) -> int:
    """Return the CPUs of a build's VM, 0 = as configured; of ``cpuperiod`` and ``cpuquota``, both microseconds."""
    return min(_MAX_CPUS, -(-quota // (period or _CFS_PERIOD))) if quota > 0 else 0


def strings(value: Any, name: str) -> dict[str, str]:
    """Return the texts of a decoded JSON object; an item that is null, such as an argument without one, is left out.

    Errors: InvalidInput that names the parameter.
    """
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(item is None or isinstance(item, str) for item in value.values()):
        raise InvalidInput(f"{name} must be a JSON object of strings")
    return {str(key): item for key, item in value.items() if item is not None}


def _network(name: str, known: Callable[[str], str]) -> str:
    if name in _DEFAULT_NETWORKS:
        return ""
    if name == NO_NETWORK:
        return NO_NETWORK
    if name != "host" and not name.startswith("container:"):
        found = known(name)
        return "" if found in _DEFAULT_NETWORKS else found
    raise NotSupported(
        f"a build cannot use the network {name[:60]!r}",
        details="its steps run in a VM, which has no part in the host's network or a container's",
        resolution="use default, none or a network of this daemon",
    )


def _hosts(texts: Sequence[str]) -> tuple[tuple[str, str], ...]:
    found = []
    for text in [one for item in texts for one in _list(item, "extrahosts")]:
        name, separator, address = text.partition("=") if "=" in text else text.partition(":")
        address = address.strip("[]")
        if not name or not separator or any(char.isspace() for char in text):
            raise InvalidInput(f"bad host {text[:100]!r}", resolution="such as name:192.0.2.1")
        if address != GATEWAY:
            try:
                ipaddress.ip_address(address)
            except ValueError as error:
                raise InvalidInput(f"invalid IP address in add-host: {address[:60]!r}") from error
        found.append((name, address))
    if len(found) > _MAX_ITEMS:
        raise InvalidInput(f"a build can have {_MAX_ITEMS} hosts")
    return tuple(found)


def _size(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_SHM))) or int(text) > MAX_SHM:
        raise InvalidInput(f"shmsize must be a number of bytes, not {text[:40]!r}")
    return int(text)


def _list(text: str, name: str) -> list[str]:
    """Read one text, or a JSON array of them."""
    if not text.strip():
        return []
    if not text.lstrip().startswith("["):
        return [text.strip()]
    value = _decoded(text, name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or len(value) > _MAX_ITEMS:
        raise InvalidInput(f"{name} must be a JSON array of strings")
    return value


def _ulimits(text: str) -> tuple[Ulimit, ...]:
    value = _decoded(text, "ulimits") if text else []
    if not isinstance(value, list | None) or len(value or ()) > _MAX_ITEMS:
        raise InvalidInput("ulimits must be a JSON array of objects")
    return tuple(_ulimit(item) for item in value or ())


def _ulimit(item: object) -> Ulimit:
    if not isinstance(item, Mapping):
        raise InvalidInput("ulimits must be a JSON array of objects")
    fields: dict[str, Any] = {str(key).lower(): value for key, value in item.items()}
    name, soft, hard = fields.get("name"), fields.get("soft", 0), fields.get("hard", fields.get("soft", 0))
    good = isinstance(name, str) and all(isinstance(one, int) and -1 <= one < 2**63 for one in (soft, hard))
    if not good or not isinstance(name, str):
        raise InvalidInput("a ulimit has Name, Soft and Hard")
    return Ulimit(name=name, soft=soft, hard=hard)


def _decoded(text: str, name: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{name} is not JSON", details=str(error)[:200]) from error
