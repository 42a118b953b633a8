"""From pods of this host to manifests: a Pod for each, and a claim for each named volume, as `/pod/info` tells.

What a manifest cannot say is named. A volume that it cannot say is an error: the pod would come up without its data.
"""

from __future__ import annotations

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_RESTART = {"always": "Always", "unless-stopped": "Always", "onFailure": "OnFailure", "never": "Never"}


def manifests(pods: Sequence[tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]], left: list[str]) -> str:
    """Return YAML.

    Args:
        pods: `PodInfo` of each, and its published ports.
        left: gets what the pods have and the manifests do not say.

    Raises:
        UsageProblem: a volume is of a kind that a manifest has no word for.

    """
    import yaml

    documents: list[dict[str, Any]] = []
    claims: dict[str, dict[str, Any]] = {}
    for info, ports in pods:
        spec = info.get("spec") or {}
        for volume in spec.get("volumes") or []:
            if volume.get("driver") == "volume":
                claims[str(volume["source"])] = _claim(str(volume["source"]))
        documents.append(_pod(info, ports, left))
    return str(yaml.safe_dump_all([*claims.values(), *documents], sort_keys=False, explicit_start=True))


def _claim(name: str) -> dict[str, Any]:
    resources = {"requests": {"storage": "1Gi"}}  # Kubernetes wants a number; hyperd asks for none
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": resources},
    }


def _pod(info: Mapping[str, Any], ports: Sequence[Mapping[str, Any]], left: list[str]) -> dict[str, Any]:
    spec, name = info.get("spec") or {}, str(info.get("podID", ""))
    metadata = _filled({"name": name.lower().replace("_", "-"), "labels": dict(spec.get("labels") or {})})
    made = [_Container(name, one, left) for one in spec.get("containers") or []]
    containers = [one.described for one in made]
    if containers and ports:
        # A published port is the pod's: any container may listen on it.
        containers[0]["ports"] = [port for rule in ports for port in _ports(rule)]
    used = {mount["name"] for one in containers for mount in one.get("volumeMounts", [])}
    volumes = [_volume(name, one) for one in spec.get("volumes") or [] if one.get("name") in used]
    limits = {"cpu": str(spec.get("vcpu") or 1), "memory": f"{spec.get('memory') or 128}Mi"}
    settings = dict(spec.get("settings") or {})
    shares = _shared(made, lambda one: one.shares, "pidNamespace", left)
    sysctls = _shared(made, lambda one: one.sysctls, "sysctl", left) or {}
    described = {
        "restartPolicy": _shared(made, lambda one: one.restart, "restartPolicy", left) or "Never",
        "terminationGracePeriodSeconds": _shared(made, lambda one: one.grace, "stopTimeout", left),
        "hostname": settings.pop("hostname", None),
        "shareProcessNamespace": shares,
        "dnsConfig": _dns(settings),
        "hostAliases": [
            {"ip": one["ip"], "hostnames": [one["name"]]} for one in settings.pop("extraHosts", None) or []
        ],
        "securityContext": _filled({"sysctls": [{"name": key, "value": text} for key, text in sysctls.items()]}),
        "resources": {"limits": limits},
        "containers": containers,
        "volumes": [*volumes, *(volume for one in made for volume in one.volumes)],
    }
    left += [f"Pod {name}: {key}" for key in settings]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": _filled(described)}


def _shared(made: Sequence[_Container], get: Callable[[_Container], Any], key: str, left: list[str]) -> Any:
    """Return what all containers have, for a field that only pods have in manifests: the first one's if they differ."""
    left += [f"{one.where}: its own {key}" for one in made[1:] if get(one) != get(made[0])]
    return get(made[0]) if made else None


def _dns(settings: dict[str, Any]) -> dict[str, Any]:
    options = [text.partition(":") for text in settings.pop("dnsOptions", None) or []]
    return _filled(
        {
            "nameservers": settings.pop("dns", None),
            "searches": settings.pop("dnsSearch", None),
            "options": [_filled({"name": name, "value": value}) for name, _, value in options],
        }
    )


class _Container:
    """One container: `described` is the manifest's; the other attributes are what a manifest says of the pod."""

    def __init__(self, pod: str, one: Mapping[str, Any], left: list[str]) -> None:
        self._one = one
        self._settings = dict(one.get("settings") or {})
        self._name = (str(one.get("name", "")).removeprefix("/").removeprefix(f"{pod}-") or "main").lower()
        self._name = self._name.replace("_", "-")
        self.where = f"Pod {pod}: container {self._name}"
        self._left = left
        self.restart = _RESTART.get(str(one.get("restartPolicy", "")), "")
        self.shares = self._settings.pop("pidNamespace", None) == "pod"
        self.sysctls: dict[str, str] = self._settings.pop("sysctl", None) or {}
        self.grace = self._grace()
        self.volumes: list[dict[str, Any]] = []
        self.described = self._whole()
        left += [f"{self.where}: {key}" for key in self._settings]

    def _grace(self) -> int | None:
        grace = self._settings.get("stopTimeout")
        return None if grace is None or grace < 0 else self._settings.pop("stopTimeout")

    def _whole(self) -> dict[str, Any]:
        one = self._one
        words = [str(word) for word in one.get("args") or []]
        mounts = [
            _filled({"name": mount["name"], "mountPath": mount["mountPath"], "readOnly": mount.get("readOnly")})
            for mount in one.get("volumeMounts") or []
        ]
        described = {
            "name": self._name,
            "image": one.get("image"),
            "command": words,
            "args": [] if words else [str(word) for word in one.get("commands") or []],
            "workingDir": one.get("workingDir") if one.get("workingDir") != "/" else "",
            "tty": bool(one.get("tty")),
            "env": [{"name": pair["env"], "value": pair.get("value", "")} for pair in one.get("env") or []],
            "resources": self._resources(),
            "volumeMounts": [*mounts, *(self._tmpfs(entry) for entry in self._settings.pop("tmpfs", None) or [])],
            "securityContext": self._rights(),
        }
        return _filled(described)

    def _resources(self) -> dict[str, Any]:
        limits = self._settings.pop("limits", None) or {}
        memory, cpus = limits.pop("memory", 0), limits.pop("nanoCpus", 0)
        self._left += [f"{self.where}: limits.{key}" for key in limits]
        found = {"cpu": f"{-(-cpus // 1_000_000)}m" if cpus else "", "memory": str(memory) if memory else ""}
        return _filled({"limits": _filled(found)})

    def _tmpfs(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        name, options = f"{self._name}-tmpfs-{len(self.volumes)}", list(entry.get("options") or [])
        size = {"sizeLimit": str(entry["size"])} if entry.get("size") else {}
        self.volumes.append({"name": name, "emptyDir": {"medium": "Memory", **size}})
        if entry.get("mode", "1777") != "1777" or set(options) - {"ro"}:
            self._left.append(f"{self.where}: mode and options of the tmpfs {entry['path']}")
        return _filled({"name": name, "mountPath": entry["path"], "readOnly": "ro" in options})

    def _rights(self) -> dict[str, Any]:
        user, _, group = str(self._one.get("user") or "").partition(":")
        asked = self._settings.pop("user", None) or {}
        for key, value in asked.items():
            if key == "additionalGroups" or not str(value).isdecimal():
                self._left.append(f"{self.where}: user.{key} {value if isinstance(value, str) else ' '.join(value)}")
        given = self._settings.pop("security", None) or {}
        context: dict[str, Any] = {
            "runAsUser": int(user) if user.isdecimal() else None,
            "runAsGroup": int(group) if group.isdecimal() else None,
            "privileged": given.pop("privileged", None),
            "capabilities": _filled({"add": given.pop("capAdd", None), "drop": given.pop("capDrop", None)}),
            "readOnlyRootFilesystem": self._settings.pop("readOnly", None),
        }
        if given.pop("noNewPrivileges", False):
            context["allowPrivilegeEscalation"] = False
        if given.get("seccomp") == "unconfined":
            context["seccompProfile"] = {"type": given.pop("seccomp").capitalize()}
        self._left += [f"{self.where}: security.{key}" for key in given]
        return {key: value for key, value in context.items() if value not in (None, {})}


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


def _volume(pod: str, one: Mapping[str, Any]) -> dict[str, Any]:
    name, source, driver = str(one["name"]), one.get("source"), one.get("driver")
    if driver == "vfs":
        return {"name": name, "hostPath": {"path": source}}
    if driver == "volume":
        return {"name": name, "persistentVolumeClaim": {"claimName": source}}
    if driver:
        raise UsageProblem(f"Pod {pod}: the volume {name} is of the kind {driver}, which a manifest has no word for")
    return {"name": name, "emptyDir": {}}


def _filled(value: dict[str, Any]) -> dict[str, Any]:
    return {key: item for key, item in value.items() if item is not False and item not in (None, "", [], {})}
