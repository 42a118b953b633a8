"""Pod files: JSON or YAML of the user made into what the API takes (UserPod, reference hyperd-api.md section 2).

Keys match whatever their case, as Go's decoder does; keys the API does not know are left out with a warning, and values
equal to Go's zero values silently, where they mean the same. In YAML every scalar is read as text and converted by the
type of its field, so that `value: yes`, `perm: 0644` and `hostport: 8080` mean what they say.
"""

from __future__ import annotations

import json

from hyperctl import output, uploads
from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

# A shape is one of these words, a list with one shape, or an object's fields.
_TEXT, _NUMBER, _FLAG, _TABLE, _PORT = "a string", "a number", "true or false", "an object of strings", "a port"

_PORT_RULE = {"containerPort": _PORT, "hostPort": _PORT, "protocol": _TEXT, "hostIP": _TEXT}
_VOLUME: dict[str, Any] = {
    "name": _TEXT,
    "source": _TEXT,
    "format": _TEXT,
    "option": {"user": _TEXT, "keyring": _TEXT, "monitors": [_TEXT]},
    "fstype": _TEXT,
    "cache": _TEXT,
}
_FILE = {"name": _TEXT, "encoding": _TEXT, "uri": _TEXT, "content": _TEXT}
CONTAINER: dict[str, Any] = {
    "id": _TEXT,
    "name": _TEXT,
    "image": _TEXT,
    "workdir": _TEXT,
    "restartPolicy": _TEXT,
    "tty": _FLAG,
    "sysctl": _TABLE,
    "envs": [{"env": _TEXT, "value": _TEXT}],
    "command": [_TEXT],
    "entrypoint": [_TEXT],
    "ports": [{**_PORT_RULE, "servicePort": _PORT}],
    "volumes": [{"path": _TEXT, "volume": _TEXT, "readOnly": _FLAG, "detail": _VOLUME}],
    "files": [{"path": _TEXT, "filename": _TEXT, "perm": _TEXT, "user": _TEXT, "group": _TEXT, "detail": _FILE}],
    "user": {"name": _TEXT, "group": _TEXT, "additionalGroups": [_TEXT]},
    "labels": _TABLE,
    "StopSignal": _TEXT,
    "ulimits": [{"Name": _TEXT, "Hard": _NUMBER, "Soft": _NUMBER}],
    "init": _FLAG,
    "healthcheck": {
        "command": [_TEXT],
        "shell": _FLAG,
        "disabled": _FLAG,
        "interval": _NUMBER,
        "timeout": _NUMBER,
        "startPeriod": _NUMBER,
        "startInterval": _NUMBER,
        "retries": _NUMBER,
    },
    "restartMax": _NUMBER,
    "autoRemove": _FLAG,
    "stopTimeout": _NUMBER,
    "limits": {
        "memory": _NUMBER,
        "memoryReservation": _NUMBER,
        "memorySwap": _NUMBER,
        "nanoCpus": _NUMBER,
        "cpuShares": _NUMBER,
        "cpuPeriod": _NUMBER,
        "cpuQuota": _NUMBER,
        "cpusetCpus": _TEXT,
        "pids": _NUMBER,
    },
    "security": {
        "privileged": _FLAG,
        "capAdd": [_TEXT],
        "capDrop": [_TEXT],
        "seccomp": _TEXT,
        "noNewPrivileges": _FLAG,
        "maskedPaths": [_TEXT],
        "readonlyPaths": [_TEXT],
        "groupAdd": [_TEXT],
    },
    "tmpfs": [{"path": _TEXT, "size": _NUMBER, "mode": _TEXT, "options": [_TEXT]}],
    "devices": [{"source": _TEXT, "target": _TEXT, "permissions": _TEXT}],
    "pidNamespace": _TEXT,
    "shmSize": _NUMBER,
    "oomScoreAdj": _NUMBER,
    "logPath": _TEXT,
    "readOnly": _FLAG,
    "cache": _TEXT,
}
POD: dict[str, Any] = {
    "id": _TEXT,
    "hostname": _TEXT,
    "type": _TEXT,
    "restartPolicy": _TEXT,
    "tty": _FLAG,
    "labels": _TABLE,
    "resource": {"vcpu": _NUMBER, "memory": _NUMBER},
    "log": {"type": _TEXT, "config": _TABLE},
    "dns": [_TEXT],
    "dnsOptions": [_TEXT],
    "dnsSearch": [_TEXT],
    "containers": [CONTAINER],
    "files": [_FILE],
    "volumes": [_VOLUME],
    "interfaces": [
        {
            "id": _TEXT,
            "bridge": _TEXT,
            "ip": _TEXT,
            "ifname": _TEXT,
            "mac": _TEXT,
            "mtu": _NUMBER,
            "gateway": _TEXT,
        }
    ],
    "networks": [
        {
            "network": _TEXT,
            "aliases": [_TEXT],
            "links": [{"container": _TEXT, "alias": _TEXT}],
            "ip": _TEXT,
            "ip6": _TEXT,
            "mac": _TEXT,
        }
    ],
    "extraHosts": [{"name": _TEXT, "ip": _TEXT}],
    "services": [
        {
            "serviceIP": _TEXT,
            "servicePort": _NUMBER,
            "protocol": _TEXT,
            "hosts": [{"hostIP": _TEXT, "hostPort": _NUMBER}],
        }
    ],
    "portmappingWhiteLists": {"internalNetworks": [_TEXT], "externalNetworks": [_TEXT]},
    "portmappings": [_PORT_RULE],
}
# Fields whose zero value is something else than the field's absence.
_MEANT = {"stopTimeout", "maskedPaths", "readonlyPaths"}
_YES, _NO = {"true", "yes", "on"}, {"false", "no", "off"}


def load(name: str, *, yaml: bool, shape: dict[str, Any]) -> dict[str, Any]:
    """Read a file into the form the API takes.

    Args:
        name: path of the file; `-` is stdin, and what begins with a brace is the JSON text itself.
        yaml: it is YAML; else JSON.
        shape: POD or CONTAINER.

    Raises:
        UsageProblem: it cannot be read, is not JSON or YAML, or a field has the wrong type.

    """
    if name.startswith("{"):
        name, data = "the pod on the command line", name.encode("utf-8", "surrogateescape")
    else:
        data = uploads.small_file(name)
    value = _yaml(data, name) if yaml else _json(data, name)
    if not isinstance(value, dict):
        raise UsageProblem(f"{name}: expected an object with the pod's fields")
    if {"apiVersion", "kind"} <= value.keys():
        raise UsageProblem(f"{name} is a manifest of Kubernetes, not a pod file: hyperctl kube play {name}")
    fitter = _Fitter(name, texts=yaml)
    fitted = fitter.fields(value, shape, "")
    for warning in fitter.warnings:
        output.complain(f"hyperctl WARNING: {warning}")
    return fitted


def _json(data: bytes, name: str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise UsageProblem(f"{name} is not JSON: {error}") from error


def _yaml(data: bytes, name: str) -> object:
    import yaml

    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)
    try:
        return yaml.load(data, Loader=loader)  # noqa: S506 - the base loader makes texts, lists and tables only
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UsageProblem(f"{name} is not YAML: {error}") from error


class _Fitter:
    """Fit values to a shape; `texts` says that scalars are texts yet to be converted."""

    def __init__(self, name: str, *, texts: bool) -> None:
        self._name = name
        self._texts = texts
        self.warnings: list[str] = []

    def fields(self, value: dict[Any, Any], shape: dict[str, Any], path: str) -> dict[str, Any]:
        """Return the known fields of an object under their proper names, without zero values."""
        names = {name.lower(): name for name in shape}
        out: dict[str, Any] = {}
        for key, item in value.items():
            name = names.get(str(key).lower())
            if name is None:
                self.warnings.append(self._unknown(f"{path}.{key}" if path else str(key), str(key), list(shape)))
            if name is None or item is None:
                continue
            fitted = self._fit(item, shape[name], f"{path}.{name}" if path else name)
            meant = name in _MEANT or (
                name == "tty" and shape is CONTAINER
            )  # a container's `false` overrides its pod's
            if fitted or isinstance(fitted, dict) or (meant and fitted is not None):
                out[name] = fitted
            else:
                out.pop(name, None)  # the last of several spellings counts, as in Go
        return {name: out[name] for name in shape if name in out}

    def _fit(self, value: object, shape: Any, path: str) -> object:
        if self._texts and isinstance(value, str) and not isinstance(shape, str) and value in {"", "~", "null"}:
            return None
        if isinstance(shape, list):
            if not isinstance(value, list):
                raise self._wrong(path, "a list")
            items = (
                self._fit(item, shape[0], f"{path}[{index}]") for index, item in enumerate(value) if item is not None
            )
            return [item for item in items if item is not None]
        if isinstance(shape, dict):
            if not isinstance(value, dict):
                raise self._wrong(path, "an object")
            return self.fields(value, shape, path)
        if shape == _TABLE:
            if not isinstance(value, dict):
                raise self._wrong(path, _TABLE)
            return {str(key): self._scalar(item, _TEXT, f"{path}.{key}") for key, item in value.items()}
        return self._scalar(value, shape, path)

    def _scalar(self, value: object, shape: str, path: str) -> object:
        if self._texts and isinstance(value, str):
            value = _converted(value, shape)
        if shape == _PORT and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        kind = {_NUMBER: int, _FLAG: bool}.get(shape, str)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise self._wrong(path, shape)
        return value

    def _unknown(self, path: str, key: str, known: list[str]) -> str:
        import difflib

        near = difflib.get_close_matches(key.lower(), [name.lower() for name in known], n=1)
        meant = [name for name in known if name.lower() in near]
        return f"{self._name}: {path} is not known and does nothing" + (f"; did you mean {meant[0]}?" if meant else "")

    def _wrong(self, path: str, expected: str) -> UsageProblem:
        return UsageProblem(f"{self._name}: {path} must be {expected}")


def _converted(text: str, shape: str) -> object:
    """Convert a YAML scalar to the type of its field; what does not convert stays a text."""
    if shape == _NUMBER:
        try:
            return int(text)
        except ValueError:
            return text
    if shape == _FLAG and text.lower() in _YES | _NO:
        return text.lower() in _YES
    return text
