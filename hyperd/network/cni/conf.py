"""The network configuration of this host: files that the administrator or a network's own daemon has written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperd.errors import HostFault

VERSIONS = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
SUFFIXES = (".conf", ".conflist", ".json")
MAX_FILE = 1 << 20  # bytes
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")
_TYPE = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class NetworkList:
    """A network configuration list: plugins that are run one after the other.

    Args:
        name: of the network. version: of the specification that the plugins are to follow.
        plugins: the configuration of each. check: whether CHECK may be asked.

    """

    name: str
    version: str
    plugins: tuple[Mapping[str, Any], ...]
    check: bool = True


def find(directory: Path) -> NetworkList:
    """Return the configuration that holds: the first in the order of the files' names that can be used.

    Errors: HostFault, which says why there is none.
    """
    try:
        paths = sorted(path for path in directory.iterdir() if path.suffix in SUFFIXES)
    except OSError as error:
        raise HostFault("there is no network configuration (CNI)", details=str(error)) from error
    reasons = []
    for path in paths:
        try:
            return read(path)
        except HostFault as error:
            reasons.append(str(error))
    details = "; ".join(reasons)[:1000] or f"{directory} has no file that ends in {', '.join(SUFFIXES)}"
    raise HostFault("there is no network configuration (CNI)", details=details)


def read(path: Path) -> NetworkList:
    """Read a file, which has a list or a single plugin. Errors: HostFault."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise HostFault(f"{path} is larger than {MAX_FILE} bytes")
        found = json.loads(data)
    except (OSError, ValueError, RecursionError) as error:
        raise HostFault(f"{path} cannot be read", details=str(error)) from error
    try:
        return parse(found)
    except HostFault as error:
        raise HostFault(f"{path} is no network configuration", details=str(error)) from error


def parse(found: object) -> NetworkList:
    """Return the list that JSON describes. Errors: HostFault."""
    if not isinstance(found, dict):
        raise HostFault("it is no object")
    name, version = found.get("name"), found.get("cniVersion", "")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise HostFault(f"name is {name!r}"[:200])
    if version not in VERSIONS:
        raise HostFault(f"cniVersion is {version!r}, and none of {', '.join(VERSIONS)}"[:300])
    plugins = found.get("plugins", [found])
    if not isinstance(plugins, list) or not plugins:
        raise HostFault("plugins is no list, or an empty one")
    return NetworkList(
        name=name,
        version=version,
        plugins=tuple(_plugin(one) for one in plugins),
        check=found.get("disableCheck") not in (True, "true"),
    )


def _plugin(one: object) -> Mapping[str, Any]:
    if not isinstance(one, dict):
        raise HostFault("a plugin is no object")
    kind = one.get("type")
    if not isinstance(kind, str) or not _TYPE.fullmatch(kind):  # it is part of a path
        raise HostFault(f"a plugin's type is {kind!r}"[:200])
    if not isinstance(one.get("capabilities", {}), dict):
        raise HostFault(f"capabilities of {kind} is no object")
    return one


def missing(network: NetworkList, directories: Sequence[Path]) -> list[str]:
    """Return the plugins of a list that are in none of the directories."""
    kinds = dict.fromkeys(str(one["type"]) for one in network.plugins)
    return [kind for kind in kinds if not any((directory / kind).is_file() for directory in directories)]
