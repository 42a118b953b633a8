"""From pods of this host to manifests: a Pod for each, and a claim for each named volume, as `/pod/info` tells."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_RESTART = {"always": "Always", "onFailure": "OnFailure", "never": "Never"}


def manifests(pods: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> str:
    """Give YAML.

    Args:
        pods: `PodInfo` of each, and its published ports.

    """
    import yaml

    documents: list[dict[str, Any]] = []
    claims: dict[str, dict[str, Any]] = {}
    for info, ports in pods:
        spec = info.get("spec") or {}
        for volume in spec.get("volumes") or []:
            if volume.get("driver") == "volume":
                claims[str(volume["source"])] = _claim(str(volume["source"]))
        documents.append(_pod(info, ports))
    return str(yaml.safe_dump_all([*claims.values(), *documents], sort_keys=False, explicit_start=True))


def _claim(name: str) -> dict[str, Any]:
    resources = {"requests": {"storage": "1Gi"}}  # Kubernetes wants a number; hyperd asks for none
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources},
    }


def _pod(info: Mapping[str, Any], ports: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    spec, name = info.get("spec") or {}, str(info.get("podID", ""))
    metadata = _filled({"name": name.lower().replace("_", "-"), "labels": dict(spec.get("labels") or {})})
    containers = [_container(name, one) for one in spec.get("containers") or []]
    if containers and ports:
        # A published port is the pod's: any container may listen on it.
        containers[0]["ports"] = [port for rule in ports for port in _ports(rule)]
    used = {mount["name"] for one in containers for mount in one.get("volumeMounts", [])}
    volumes = [_volume(one) for one in spec.get("volumes") or [] if one.get("name") in used]
    limits = {"cpu": str(spec.get("vcpu") or 1), "memory": f"{spec.get('memory') or 128}Mi"}
    policy = _RESTART.get(str(spec.get("restartPolicy", "")), "Never")
    described = {
        "restartPolicy": policy,
        "resources": {"limits": limits},
        "containers": containers,
        "volumes": volumes,
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _filled(described)}


def _container(pod: str, one: Mapping[str, Any]) -> dict[str, Any]:
    name = str(one.get("name", "")).removeprefix("/").removeprefix(f"{pod}-") or "main"
    user, _, group = str(one.get("user") or "").partition(":")
    context = {
        "runAsUser": int(user) if user.isdecimal() else None,
        "runAsGroup": int(group) if group.isdecimal() else None,
    }
    words = [str(word) for word in one.get("args") or []]
    described = {
        "name": name.lower().replace("_", "-"),
        "image": one.get("image"),
        "command": words,
        "args": [] if words else [str(word) for word in one.get("commands") or []],
        "workingDir": one.get("workingDir") if one.get("workingDir") != "/" else "",
        "tty": bool(one.get("tty")),
        "env": [{"name": pair["env"], "value": pair.get("value", "")} for pair in one.get("env") or []],
        "volumeMounts": [
            _filled({"name": mount["name"], "mountPath": mount["mountPath"], "readOnly": mount.get("readOnly")})
            for mount in one.get("volumeMounts") or []
        ],
        "securityContext": {key: value for key, value in context.items() if value is not None},
    }
    return _filled(described)


def _ports(rule: Mapping[str, Any]) -> list[dict[str, Any]]:
    inner, outer = _range(rule.get("containerPort")), _range(rule.get("hostPort"))
    return [
        _filled(
            {
                "containerPort": port,
                "hostPort": host,
                "hostIP": rule.get("hostIP"),
                "protocol": str(rule.get("protocol", "tcp")).upper(),
            }
        )
        for port, host in zip(inner, outer, strict=False)
    ]


def _range(text: object) -> range:
    first, _, last = str(text or "0").partition("-")
    return range(int(first), int(last or first) + 1)


def _volume(one: Mapping[str, Any]) -> dict[str, Any]:
    name, source, driver = str(one["name"]), one.get("source"), one.get("driver")
    if driver == "vfs":
        return {"name": name, "hostPath": {"path": source}}
    if driver == "volume":
        return {"name": name, "persistentVolumeClaim": {"claimName": source}}
    return {"name": name, "emptyDir": {}}


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item not in (None, "", [], {}, False)}
