"""From a cluster's objects to our values. What a cluster says is not trusted to have any shape."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from hypercloud.engine.model import Engine, EngineContainer, EngineFacts, EngineSpec, Health, PortMap
from hypercloud.kube.manifest import LABELS, TAG

_QUANTITY = re.compile(r"([0-9]{1,20}(?:\.[0-9]{0,20})?(?:[eE][+-]?[0-9]{1,2})?)([numkMGTPE]|[KMGTPE]i)?")
_FACTORS = {
    "n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18,
    "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40, "Pi": 2**50, "Ei": 2**60,
}  # fmt: skip
# Reasons for which a container waits and that do not go by themselves.
HOPELESS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "CreateContainerConfigError",
    "CreateContainerError",
    "RunContainerError",
    "CrashLoopBackOff",
)


@dataclass(frozen=True, kw_only=True)
class PodState:
    """How a pod is.

    Args:
        running: its program runs.
        ended: its program has ended for good.
        going: it is being removed.
        restarting: its program has ended and will be started again.
        trouble: why it does not run; "" = nothing is known to be wrong.
        exit_code: of the last time.

    """

    running: bool
    ended: bool
    going: bool
    restarting: bool
    trouble: str
    exit_code: int | None


def state(pod: Mapping[str, Any]) -> PodState:
    """Return how a pod is."""
    status = table(pod, "status")
    phase = text(status, "phase")
    own = _container_status(pod)
    now, before = table(own, "state"), table(own, "lastState")
    waiting = text(table(now, "waiting"), "reason")
    ended = table(now, "terminated") or table(before, "terminated")
    trouble = ""
    if waiting in HOPELESS:
        trouble = f"{waiting}: {text(table(now, 'waiting'), 'message')}".strip(": ")
    elif phase == "Pending":
        trouble = _unscheduled(status)
    elif phase == "Failed":
        trouble = f"{text(status, 'reason')}: {text(status, 'message')}".strip(": ")
    running = phase == "Running" and bool(table(now, "running"))
    return PodState(
        running=running,
        ended=phase in {"Succeeded", "Failed"},
        going="deletionTimestamp" in table(pod, "metadata"),
        restarting=phase == "Running" and not running and bool(ended),
        trouble=trouble,
        exit_code=whole(ended.get("exitCode")) if ended else None,
    )


def _unscheduled(status: Mapping[str, Any]) -> str:
    for one in things(status, "conditions"):
        if text(one, "type") == "PodScheduled" and text(one, "status") == "False":
            return f"{text(one, 'reason')}: {text(one, 'message')}".strip(": ")
    return ""


def container(pod: Mapping[str, Any], nodes: Mapping[str, str]) -> EngineContainer:
    """Return a pod as a container.

    Args:
        pod: as the API has it.
        nodes: ids of nodes by their names.

    """
    metadata, spec, status = table(pod, "metadata"), table(pod, "spec"), table(pod, "status")
    main, own, how = _main(pod), _container_status(pod), state(pod)
    running, ended = table(table(own, "state"), "running"), table(table(own, "state"), "terminated")
    limits = table(table(main, "resources"), "limits")
    address = text(status, "podIP")
    return EngineContainer(
        engine=nodes.get(text(spec, "nodeName"), ""),
        id=text(metadata, "uid"),
        name=text(metadata, "name"),
        image=text(main, "image"),
        image_id=text(own, "imageID"),
        created=text(metadata, "creationTimestamp"),
        running=how.running,
        restarting=how.restarting,
        pid=0,
        started_at=text(running or ended, "startedAt"),
        finished_at=text(ended, "finishedAt"),
        exit_code=how.exit_code or 0,
        error=how.trouble,
        oom_killed=text(ended, "reason") == "OOMKilled",
        env=tuple(f"{text(one, 'name')}={text(one, 'value')}" for one in things(main, "env") if "value" in one),
        labels=labels(metadata),
        hostname=text(spec, "hostname") or text(metadata, "name"),
        domainname="",
        args=texts(main, "args"),
        entrypoint=texts(main, "command"),
        tty=bool(main.get("tty")),
        cpu_shares=0,
        nano_cpus=int(quantity(limits.get("cpu")) * 1e9),
        cpuset="",
        memory=int(quantity(limits.get("memory"))),
        ports=ports(pod),
        asked_ports=(),
        links=(),
        binds=(),
        volumes=tuple(text(one, "mountPath") for one in things(main, "volumeMounts")),
        restart={"Always": "always", "OnFailure": "on-failure"}.get(text(spec, "restartPolicy"), "no"),
        restart_max=0,
        network_mode="host" if spec.get("hostNetwork") else "bridge",
        addresses={"cluster": address} if address else {},
        publish_all=False,
    )


def ports(pod: Mapping[str, Any]) -> tuple[PortMap, ...]:
    """Return the ports of a pod's container, with those of its node."""
    return tuple(
        PortMap(
            proto=text(one, "protocol").lower() or "tcp",
            container_port=whole(one.get("containerPort")),
            port=whole(one.get("hostPort")),
        )
        for one in things(_main(pod), "ports")
    )


def labels(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Return the labels of an object, and those of its service, which stand in an annotation."""
    found = {key: value for key, value in table(metadata, "labels").items() if isinstance(value, str)}
    with contextlib.suppress(ValueError):
        more = json.loads(text(table(metadata, "annotations"), LABELS) or "{}")
        if isinstance(more, dict):
            found |= {key: value for key, value in more.items() if isinstance(value, str)}
    return found


def annotation(thing: Mapping[str, Any], name: str) -> str:
    """Return an annotation of an object."""
    return text(table(table(thing, "metadata"), "annotations"), name)


def node(thing: Mapping[str, Any]) -> Engine:
    """Return a node as an engine."""
    metadata, status = table(thing, "metadata"), table(thing, "status")
    info = table(status, "nodeInfo")
    capacity = table(status, "capacity")
    ready = next((one for one in things(status, "conditions") if text(one, "type") == "Ready"), {})
    up = text(ready, "status") == "True"
    address = next(
        (text(one, "address") for one in things(status, "addresses") if text(one, "type") == "InternalIP"), ""
    )
    memory = quantity(capacity.get("memory"))
    spec = EngineSpec(
        id=text(metadata, "uid"),
        name=text(metadata, "name"),
        addr=f"https://[{address}]" if ":" in address else f"https://{address}" if address else "",
        cpus=quantity(capacity.get("cpu")),
        memory=memory / 2**20,
        labels=tuple(sorted(_node_label(key, value) for key, value in labels(metadata).items())),
        created=when(metadata.get("creationTimestamp")) or 0.0,
    )
    facts = EngineFacts(
        health=Health.UP if up else Health.DOWN if ready else Health.PENDING,
        error="" if up else text(ready, "message") or text(ready, "reason"),
        version=text(info, "containerRuntimeVersion"),
        api_version=text(info, "kubeletVersion"),
        cpus=math.ceil(quantity(capacity.get("cpu"))),
        memory=int(memory),
        images=len(things(status, "images")),
        last_seen=when(ready.get("lastHeartbeatTime")),
    )
    return Engine(spec=spec, facts=facts)


def _node_label(key: str, value: str) -> str:
    return key.removeprefix(TAG) if key.startswith(TAG) and not value else f"{key}={value}"


def images(thing: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the images of a node as the Docker API has them."""
    found: list[Mapping[str, Any]] = []
    for one in things(table(thing, "status"), "images"):
        names = texts(one, "names")
        tags = [name for name in names if "@" not in name]
        found.append({"RepoTags": tags, "Size": whole(one.get("sizeBytes")), "Id": names[0] if names else ""})
    return found


# -- parts -----------------------------------------------------------------------------------------------------------


def _main(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(things(table(pod, "spec"), "containers")), {})


def _container_status(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    return next(iter(things(table(pod, "status"), "containerStatuses")), {})


def table(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """Return a part that is an object."""
    found = value.get(key)
    return found if isinstance(found, Mapping) else {}


def things(value: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    """Return a part that is a list of objects."""
    found = value.get(key)
    return [one for one in found if isinstance(one, Mapping)] if isinstance(found, list) else []


def texts(value: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return a part that is a list of texts."""
    found = value.get(key)
    return tuple(one for one in found if isinstance(one, str)) if isinstance(found, list) else ()


def text(value: Mapping[str, Any], key: str) -> str:
    """Return a part that is a text."""
    found = value.get(key)
    return found if isinstance(found, str) else ""


def whole(value: Any) -> int:
    """Return a whole number; 0 for what is none."""
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def quantity(value: Any) -> float:
    """Return a quantity such as ``500m`` or ``4Gi``; 0 for what is none."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    found = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    return float(found[1]) * _FACTORS.get(found[2] or "", 1.0) if found else 0.0


def when(value: Any) -> float | None:
    """Return a time in seconds since the epoch; None for what is none."""
    with contextlib.suppress(ValueError):
        if isinstance(value, str) and value:
            return datetime.fromisoformat(value).timestamp()
    return None
