"""The keys of a stack file: clients post the YAML's content untouched, so one service may mix both kinds of keys."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from hypercloud.db.models import ServiceRow
from hypercloud.errors import InvalidInput
from hypercloud.workload.model import Destroy, Restart, decode

_SIZE = re.compile(r"(\d{1,15}(?:\.\d+)?)\s*([bkmgt]?)b?", re.IGNORECASE)
_UNITS = {"": 2**-20, "b": 2**-20, "k": 2**-10, "m": 1.0, "g": 1024.0, "t": 1024.0**2}
_PORT = re.compile(r"(?:(?:[0-9.]+:)?(\d*):)?(\d{1,5})(?:/(tcp|udp))?")
_RESTART = {"no": Restart.OFF, "on-failure": Restart.ON_FAILURE, "always": Restart.ALWAYS}
_DESTROY = {"no": Destroy.OFF, "on-success": Destroy.ON_SUCCESS, "always": Destroy.ALWAYS}
REFUSED = ("build", "external_links", "env_file")
LISTS = ("cap_add", "cap_drop", "devices", "dns", "dns_search", "extra_hosts", "security_opt")


def to_api(service: Mapping[str, Any]) -> dict[str, Any]:
    """Return a service with the API's keys for the stack file's. Errors: InvalidInput."""
    found = dict(service)
    for key in REFUSED:
        if key in found:
            raise InvalidInput(f"{key} is not supported in stack files")
    take = found.pop
    if "command" in found:
        found["run_command"] = _command(take("command"))
    if not isinstance(found.get("entrypoint", ""), str | None):
        found["entrypoint"] = _command(found["entrypoint"])
    if "environment" in found:
        found["container_envvars"] = [{"key": k, "value": v} for k, v in _pairs(take("environment"), "environment")]
    if "ports" in found or "expose" in found:
        ports = [_port(one, published=True) for one in _sequence(take("ports", []), "ports")]
        ports += [_port(one, published=False) for one in _sequence(take("expose", []), "expose")]
        found["container_ports"] = [*_sequence(found.get("container_ports") or [], "container_ports"), *ports]
    if "links" in found:
        found["linked_to_service"] = [_link(one) for one in _sequence(take("links"), "links")]
    if "volumes" in found or "volumes_from" in found:
        bindings = [_volume(one) for one in _sequence(take("volumes", []), "volumes")]
        bindings += [_donor(one) for one in _sequence(take("volumes_from", []), "volumes_from")]
        found["bindings"] = [*_sequence(found.get("bindings") or [], "bindings"), *bindings]
    if "restart" in found:
        found["autorestart"] = _choice(take("restart"), _RESTART, "restart")
    if str(found.get("autodestroy", "")).lower() in _DESTROY and found.get("autodestroy") not in set(Destroy):
        found["autodestroy"] = _DESTROY[str(found["autodestroy"]).lower()]
    for key, name in (("mem_limit", "memory"), ("memswap_limit", "memory_swap")):
        if key in found:
            value = take(key)
            found[name] = -1 if name == "memory_swap" and str(value).strip() == "-1" else _size(value, key)
    if isinstance(found.get("deployment_strategy"), str):
        found["deployment_strategy"] = found["deployment_strategy"].upper()
    if "labels" in found and not isinstance(found["labels"], Mapping | None):
        found["labels"] = {key: str(value) for key, value in _pairs(found["labels"], "labels")}
    for key in ("dns", "dns_search"):
        if isinstance(found.get(key), str):
            found[key] = [found[key]]
    return found


def services_of(data: Any) -> list[dict[str, Any]]:
    """Return the services of a request: a list, or a map from names as in the file. Errors: InvalidInput."""
    if data is None:
        return []
    if isinstance(data, Mapping):
        if not all(isinstance(one, Mapping) for one in data.values()):
            raise InvalidInput("services: each must be an object")
        return [{"name": name, **one} for name, one in data.items()]
    found = _sequence(data, "services")
    if not all(isinstance(one, Mapping) for one in found):
        raise InvalidInput("services: each must be an object")
    return [dict(one) for one in found]


def export(row: ServiceRow, names: Mapping[str, str]) -> dict[str, Any]:
    """Return a service as it would stand in a stack file; what is the default is left out.

    Args:
        row: the service.
        names: of the services it may name, by uuid.

    """
    spec = decode(row.spec)
    restart = {value: key for key, value in _RESTART.items()}
    destroy = {value: key for key, value in _DESTROY.items()}
    found: dict[str, Any] = {
        "image": spec.image,
        "command": spec.command,
        "entrypoint": spec.entrypoint,
        "environment": dict(spec.env),
        "ports": [
            f"{one.outer}:{one.inner}{_suffix(one.protocol)}" if one.outer else f"{one.inner}{_suffix(one.protocol)}"
            for one in spec.ports
            if one.published
        ],
        "expose": [f"{one.inner}{_suffix(one.protocol)}" for one in spec.ports if not one.published],
        "links": [_exported_link(names[one.to], one.name) for one in spec.links if one.to in names],
        "volumes": [
            f"{one.host_path}:{one.container_path}{'' if one.writable else ':ro'}"
            if one.host_path
            else one.container_path
            for one in spec.bindings
            if one.container_path
        ],
        "volumes_from": [names[one.volumes_from] for one in spec.bindings if one.volumes_from in names],
        "restart": restart[spec.autorestart] if spec.autorestart is not Restart.OFF else "",
        "autodestroy": destroy[spec.autodestroy] if spec.autodestroy is not Destroy.OFF else "",
        "autoredeploy": spec.autoredeploy,
        "sequential_deployment": spec.sequential,
        "deployment_strategy": spec.strategy.lower() if spec.strategy != "EMPTIEST_NODE" else "",
        "target_num_containers": row.target if row.target != 1 else 0,
        "tags": list(spec.tags),
        "roles": list(spec.roles),
        "labels": dict(spec.labels),
        "net": spec.net if spec.net != "bridge" else "",
        "pid": spec.pid if spec.pid != "none" else "",
        "mem_limit": f"{spec.memory}m" if spec.memory else "",
        "memswap_limit": f"{spec.memory_swap}m" if spec.memory_swap > 0 else spec.memory_swap or "",
    }
    for key in ("cgroup_parent", "cpu_shares", "cpuset", "domainname", "hostname", "mac_address", "privileged",
                "read_only", "stdin_open", "tty", "user", "working_dir"):  # fmt: skip
        found[key] = getattr(spec, key)
    found |= {key: list(getattr(spec, key)) for key in LISTS}
    return {key: value for key, value in found.items() if value}


def _suffix(protocol: str) -> str:
    return "" if protocol == "tcp" else f"/{protocol}"


def _exported_link(service: str, name: str) -> str:
    return service if name == service else f"{service}:{name}"


def _command(value: Any) -> str:
    if isinstance(value, list):
        return shlex.join(str(one) for one in value)
    if value is None or isinstance(value, str):
        return value or ""
    raise InvalidInput("a command must be a text or a list", details=repr(value)[:100])


def _sequence(value: Any, key: str) -> Sequence[Any]:
    if value is None:
        return []
    if isinstance(value, list):
        return value
    raise InvalidInput(f"{key} must be a list", details=repr(value)[:100])


def _pairs(value: Any, key: str) -> list[tuple[str, Any]]:
    """Return a map, or a list of ``K=V``, as pairs; a bare ``K`` is empty: the client would have filled it in."""
    if isinstance(value, Mapping):
        return [(str(name), inner) for name, inner in value.items()]
    found = []
    for one in _sequence(value, key):
        name, _, inner = str(one).partition("=")
        found.append((name, inner))
    return found


def _port(value: Any, *, published: bool) -> dict[str, Any]:
    found = _PORT.fullmatch(str(value).strip())
    if found is None or not 1 <= int(found[2]) <= 65535:
        raise InvalidInput("a port is like 80, 8080:80 or 53/udp", details=repr(value)[:60])
    port: dict[str, Any] = {"inner_port": int(found[2]), "protocol": found[3] or "tcp", "published": published}
    if published and found[1]:
        port["outer_port"] = int(found[1])
    return port


def _link(value: Any) -> dict[str, str]:
    if not isinstance(value, str) or not value:
        raise InvalidInput("a link is like service, or service:name", details=repr(value)[:100])
    service, _, name = value.partition(":")
    return {"to_service": service, "name": name or service.partition(".")[0]}


def _volume(value: Any) -> dict[str, Any]:
    parts = str(value).split(":")
    if not 1 <= len(parts) <= 3:
        raise InvalidInput("a volume is like /container, or /host:/container[:ro]", details=repr(value)[:100])
    if len(parts) == 1:
        return {"container_path": parts[0]}
    return {"host_path": parts[0], "container_path": parts[1], "rewritable": parts[2:] != ["ro"]}


def _donor(value: Any) -> dict[str, Any]:
    service, _, mode = str(value).partition(":")
    return {"volumes_from": service, "rewritable": mode != "ro"}


def _choice(value: Any, choices: Mapping[str, Any], key: str) -> str:
    text = "no" if value is False else str(value).partition(":")[0]
    if text not in choices:
        raise InvalidInput(f"{key} must be one of {', '.join(choices)}", details=text[:40])
    return str(choices[text])


def _size(value: Any, key: str) -> int:
    """Return MiB of ``512m``, ``1g`` or a number of bytes; what is not 0 is at least 1."""
    found = _SIZE.fullmatch(str(value).strip())
    if found is None:
        raise InvalidInput(f"{key} is like 512m or 1g", details=repr(value)[:60])
    size = float(found[1]) * _UNITS[found[2].lower()]
    return max(1, int(size)) if size else 0
