"""Between Shipyard's image and the Docker API: a description to create from, and back from what runs.

What was asked travels in a label, so that it is there again after a restart of this program or on another server. A
container of another origin is read by the rules the original had: its type and labels in ``_citadel_type`` and
``_citadel_labels``, CPUs from the CPU shares.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from hypercloud import strict
from hypercloud.engine.model import EngineContainer, PortMap, with_tag
from hypercloud.fleet.model import Image

LABEL = "io.hypercloud.shipyard"  # JSON of what the engine's description does not tell
EXTENSION = "io.hypercloud.extension"
# DOCKERCLOUD_AUTH is a token with all rights of a namespace: it is for the container alone.
_DROPPED = {"HOME", "DEBIAN_FRONTEND", "PATH", "_citadel_type", "_citadel_labels", "DOCKERCLOUD_AUTH"}
SMALLEST_SHARES = 2  # what the kernel takes
DEPTH = 40  # of a label's nesting; that of a request's body is as deep
LARGEST = 2**50  # CPUs or MiB
ORDINARY = 4096  # characters of a label that is kept in memory once it was read


def description(image: Image, engine_cpus: float, extra_labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Return the body of ``POST /containers/create``.

    Args:
        image: what is wanted.
        engine_cpus: CPUs of the engine; CPU shares are a part of them.
        extra_labels: further labels.

    """
    kept = {
        "type": image.type,
        "labels": list(image.labels),
        "cpus": image.cpus,
        "memory": image.memory,
        "user_data": dict(image.user_data),
        "bind_ports": [dataclasses.asdict(port) for port in image.bind_ports],
        "links": dict(image.links),
    }
    shares = max(SMALLEST_SHARES, int(image.cpus * 100.0 / engine_cpus)) if image.cpus and engine_cpus else 0
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in image.bind_ports:
        where = {"HostIp": port.host_ip, "HostPort": str(port.port) if port.port else ""}
        bindings.setdefault(f"{port.container_port}/{port.proto}", []).append(where)
    body: dict[str, Any] = {
        "Image": with_tag(image.name),
        "Hostname": image.hostname,
        "Domainname": image.domainname,
        "Env": [f"{key}={value}" for key, value in image.environment.items()],
        "Labels": {LABEL: json.dumps(kept, sort_keys=True), **(extra_labels or {})},
        "ExposedPorts": {key: {} for key in bindings},
        "HostConfig": {
            "CpuShares": shares,
            "CpusetCpus": image.cpuset,
            "Memory": int(image.memory * 2**20),
            "PortBindings": bindings,
            "PublishAllPorts": image.publish,
            "Links": [f"{name}:{alias}" for name, alias in image.links.items()],
            "Binds": [volume for volume in image.volumes if ":" in volume],
            "RestartPolicy": {"Name": image.restart, "MaximumRetryCount": image.restart_max},
            "NetworkMode": image.network_mode or "default",
        },
    }
    if image.args:
        body["Cmd"] = list(image.args)
    if image.entrypoint:
        body["Entrypoint"] = list(image.entrypoint)
    volumes: dict[str, Any] = {volume: {} for volume in image.volumes if ":" not in volume}
    if volumes:
        body["Volumes"] = volumes
    return body


def image_of(seen: EngineContainer, engine_cpus: float) -> Image:
    """Return what a container was made from."""
    pairs = dict(item.partition("=")[::2] for item in seen.env)
    kept = _kept(seen)
    labels = tuple(str(label) for label in kept["labels"]) if "labels" in kept else _citadel_labels(pairs)
    return Image(
        name=seen.image,
        container_name=seen.name,
        cpus=cpus_of(seen, engine_cpus),
        cpuset=seen.cpuset,
        memory=memory_of(seen),
        entrypoint=seen.entrypoint if "type" not in kept else (),
        environment={key: value for key, value in pairs.items() if key not in _DROPPED},
        hostname=seen.hostname,
        domainname=seen.domainname,
        args=seen.args,
        type=str(kept.get("type") or pairs.get("_citadel_type") or "service"),
        labels=labels,
        bind_ports=_bound(kept["bind_ports"], seen) if kept.get("bind_ports") else _published(seen),
        user_data=kept.get("user_data") or {},
        volumes=(*seen.binds, *seen.volumes),
        links=kept.get("links") or dict(link.partition(":")[::2] for link in seen.links),
        restart=seen.restart if seen.restart != "no" else "",
        restart_max=seen.restart_max,
        publish=seen.publish_all,
        network_mode="" if seen.network_mode in {"default", "bridge"} else seen.network_mode,
    )


def cpus_of(seen: EngineContainer, engine_cpus: float) -> float:
    """Return the CPUs that a container has reserved."""
    if kept := _kept(seen).get("cpus"):
        return float(kept)
    if seen.nano_cpus:
        return seen.nano_cpus / 1e9
    return seen.cpu_shares / 100.0 * engine_cpus if seen.cpu_shares < 100 else 0.0  # 1024 is Docker's own default


def memory_of(seen: EngineContainer) -> float:
    """Return the MiB that a container has reserved."""
    return float(_kept(seen).get("memory") or seen.memory // 2**20)


def _kept(seen: EngineContainer) -> Mapping[str, Any]:
    """Return what our label tells; a label that somebody else wrote counts for nothing."""
    text = seen.labels.get(LABEL)
    if not text:
        return {}
    return _read_once(text) if len(text) <= ORDINARY else _read(text)


def _read(text: str) -> Mapping[str, Any]:
    """Return what a label says."""
    try:
        found = strict.loads(text)
    except ValueError:
        return {}
    if not isinstance(found, dict) or strict.deeper(found, DEPTH):
        return {}
    kinds = {"labels": list, "type": str, "user_data": dict, "bind_ports": list, "links": dict}
    kept = {key: value for key, value in found.items() if key in kinds and isinstance(value, kinds[key])}
    kept |= {key: amount for key in ("cpus", "memory") if (amount := _amount(found.get(key))) is not None}
    if "links" in kept:
        kept["links"] = {name: alias for name, alias in kept["links"].items() if isinstance(alias, str)}
    if "bind_ports" in kept:
        kept["bind_ports"] = [port for one in kept["bind_ports"] if (port := _port(one)) is not None]
    return kept


_read_once = lru_cache(1024)(_read)  # every list reads the label of each container several times


def _amount(value: Any) -> float | None:
    """Return a number of CPUs or MiB; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value <= LARGEST else None


def _port(value: Any) -> PortMap | None:
    """Return a port as ``description`` writes it; None for what is none."""
    if not isinstance(value, dict):
        return None
    numbers = [value.get("container_port", 0), value.get("port", 0)]
    texts = [value.get("proto", "tcp"), value.get("host_ip", "")]
    if not all(type(one) is int and 0 <= one <= 65_535 for one in numbers):
        return None
    if not all(isinstance(one, str) for one in texts):
        return None
    return PortMap(proto=texts[0], container_port=numbers[0], port=numbers[1], host_ip=texts[1])


def _citadel_labels(pairs: Mapping[str, str]) -> tuple[str, ...]:
    """Return the labels as the original kept them; no labels are one empty label, as its lists showed."""
    return tuple(pairs.get("_citadel_labels", "").split(","))


def _bound(asked: Sequence[PortMap], seen: EngineContainer) -> tuple[PortMap, ...]:
    """Return the ports that were asked, with those the engine chose."""
    free = list(seen.ports)
    found = []
    for one in asked:
        wanted = one
        for mapped in free:
            same = (mapped.proto, mapped.container_port) == (wanted.proto, wanted.container_port)
            if same and wanted.port in {0, mapped.port} and mapped.host_ip == wanted.host_ip:
                free.remove(mapped)
                wanted = mapped
                break
        found.append(wanted)
    return tuple(found)


def _published(seen: EngineContainer) -> tuple[PortMap, ...]:
    return tuple(port for port in (seen.ports or seen.asked_ports) if port.port or port.host_ip)
