"""From manifests (Pod, Deployment, ConfigMap, Secret, PersistentVolumeClaim) to pods as the API takes them.

Names are podman's: the pod of the Deployment `web` is `web-pod` (`web-pod-0`, `web-pod-1`... when there are several),
and its container `app` is `web-pod-app`.
"""

from __future__ import annotations

import base64
import binascii
from functools import partial

from hyperctl import spec
from hyperctl.api.errors import UsageProblem
from hyperctl.kube.reader import Node
from hyperctl.spec import filled

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

_MIB = 1 << 20
_GUEST = 64  # MiB that the guest itself takes beside what containers ask for
_LEAST = 128  # MiB of a VM that nobody has said anything of
_RESTART = {"": "always", "Always": "always", "OnFailure": "onFailure", "Never": "never"}
_PULL = {"": "", "IfNotPresent": "", "Always": "always", "Never": "never"}
_MAX_REPLICAS = 1000


class Plan:
    """What manifests ask for.

    Args:
        pods: as the API takes them.
        claims: names of the volumes that PersistentVolumeClaims declare.
        unknown: paths of what is not understood and does nothing.

    """

    def __init__(self, pods: list[dict[str, Any]], claims: list[str], unknown: list[str]) -> None:
        self.pods = pods
        self.claims = claims
        self.unknown = unknown


def plan(manifests: Sequence[Mapping[str, Any]], more: Sequence[Mapping[str, Any]] = ()) -> Plan:
    """Read manifests.

    Args:
        manifests: documents of one file.
        more: further documents whose ConfigMaps and Secrets may be named.

    Raises:
        UsageProblem: something is not what Kubernetes takes, asks for what cannot be had, or names what is not there.

    """
    unknown: list[str] = []
    data = _Data(unknown)
    for manifest in (*more, *manifests):
        if manifest["kind"] in {"ConfigMap", "Secret"}:
            data.add(manifest)
    found = Plan([], [], unknown)
    for manifest in manifests:
        kind = manifest["kind"]
        if kind == "Pod":
            found.pods.append(_Pod(manifest, data, unknown).described)
        elif kind == "Deployment":
            found.pods += _deployment(manifest, data, unknown)
        elif kind == "PersistentVolumeClaim":
            found.claims.append(_claim(manifest, unknown))
        elif kind not in {"ConfigMap", "Secret"}:
            unknown.append(f"kind {kind}")
    names = [pod["id"] for pod in found.pods]
    for name in names:
        if names.count(name) > 1:
            raise UsageProblem(f"two pods are called {name}")
    return found


def _named(top: Node) -> str:
    """Return the name of a manifest; what else its metadata say to people and programs loses nothing."""
    metadata = top.node("metadata")
    metadata.path = f"{top.path}.metadata"
    metadata.ignore("labels", "annotations", "namespace", "creationTimestamp", "uid", "resourceVersion", "generation")
    return metadata.name()


def _claim(manifest: Mapping[str, Any], unknown: list[str]) -> str:
    """Return the name of a PersistentVolumeClaim; a volume here has no bound, and whatever access is asked for."""
    top = Node(manifest, "PersistentVolumeClaim", unknown)
    top.ignore("apiVersion", "kind", "status")
    name = _named(top)
    top.path = f"PersistentVolumeClaim {name}"
    spec = top.node("spec")
    spec.path = f"{top.path}: spec"
    spec.ignore("accessModes", "volumeMode")
    spec.node("resources").node("requests").ignore("storage")
    top.done()
    return name


def _deployment(manifest: Mapping[str, Any], data: _Data, unknown: list[str]) -> list[dict[str, Any]]:
    top = Node(manifest, "Deployment", unknown)
    top.ignore("apiVersion", "kind", "status")
    name = _named(top)
    top.path = f"Deployment {name}"
    spec = top.node("spec")
    spec.ignore("selector", "strategy", "revisionHistoryLimit", "progressDeadlineSeconds", "minReadySeconds")
    count = spec.number("replicas")
    count = 1 if count is None else count
    if not 0 <= count <= _MAX_REPLICAS:
        raise spec.wrong("replicas", f"a number from 0 to {_MAX_REPLICAS}")
    template = spec.take("template")
    if not isinstance(template, dict):
        raise spec.wrong("template", "an object")
    spec.node("template").ignore("metadata", "spec")
    top.done()
    pods = []
    for index in range(count):
        pod_name = f"{name}-pod" if count == 1 else f"{name}-pod-{index}"
        metadata = {**(template.get("metadata") or {}), "name": pod_name}
        one = {"kind": "Pod", "metadata": metadata, "spec": template.get("spec")}
        # What is not understood is named once, not for every replica.
        pods.append(_Pod(one, data, unknown if index == 0 else []).described)
    ports = [port for pod in pods for port in pod.get("portmappings", []) if port.get("hostPort")]
    if count > 1 and ports:
        raise UsageProblem(
            f"Deployment {name}: {count} replicas cannot all have the host's port {ports[0]['hostPort']}: "
            "leave hostPort away, or set replicas to 1"
        )
    return pods


class _Data:
    """The ConfigMaps and Secrets, by name and key, as bytes."""

    def __init__(self, unknown: list[str]) -> None:
        self._unknown = unknown
        self._found: dict[tuple[str, str], dict[str, bytes]] = {}

    def add(self, manifest: Mapping[str, Any]) -> None:
        """Read one."""
        kind = str(manifest["kind"])
        node = Node(manifest, kind, self._unknown)
        node.ignore("apiVersion", "kind", "type", "immutable")
        name = _named(node)
        node.path = f"{kind} {name}"
        plain = {
            key: value.encode() for key, value in node.table("data" if kind == "ConfigMap" else "stringData").items()
        }
        key = "binaryData" if kind == "ConfigMap" else "data"
        for entry, text in node.table(key).items():
            try:
                plain.setdefault(entry, base64.b64decode("".join(text.split()), validate=True))
            except (binascii.Error, ValueError):
                raise UsageProblem(f"{kind} {name}: {key}.{entry} is not base64") from None
        node.done()
        self._found[kind, name] = plain

    def get(self, kind: str, name: str, where: str, *, optional: bool) -> dict[str, bytes]:
        """Return the values of one.

        Raises:
            UsageProblem: it is not there and must be.

        """
        found = self._found.get((kind, name))
        if found is None and not optional:
            raise UsageProblem(f"{where}: there is no {kind} {name} in the file")
        return found or {}


class _Pod:
    """One Pod; `described` is what the API takes."""

    def __init__(self, manifest: Mapping[str, Any], data: _Data, unknown: list[str]) -> None:
        top = Node(manifest, "Pod", unknown)
        top.ignore("apiVersion", "kind", "status")
        self._name = _named(top)
        metadata = top.node("metadata")
        metadata.path = f"Pod {self._name}: metadata"
        self._data = data
        self._spec = top.node("spec")
        self._spec.path = f"Pod {self._name}: spec"
        self._security = self._spec.node("securityContext")
        self._ports: list[dict[str, str]] = []
        self._memory = self._cpus = 0.0
        labels = metadata.table("labels")
        nodes = self._spec.nodes("containers")
        for node in nodes:
            node.path = f"Pod {self._name}: container {node.name()}"
        self._mounted = [str(one.take("name")) for node in nodes for one in node.nodes("volumeMounts")]
        self._volumes = {node.name(): self._volume(node) for node in self._spec.nodes("volumes")}
        containers = [self._container(node) for node in nodes]
        if not containers:
            raise self._spec.wrong("containers", "a list with at least one container")
        self.described = self._whole(containers, labels)
        top.done()

    def _whole(self, containers: list[dict[str, Any]], labels: dict[str, str]) -> dict[str, Any]:
        spec = self._spec
        if "initContainers" in spec:
            raise UsageProblem(
                f"{spec.path}.initContainers cannot be had: nothing runs before the others in a pod here"
            )
        if spec.flag("hostNetwork"):
            raise UsageProblem(f"{spec.path}.hostNetwork cannot be had: a pod is a machine of its own; use hostPort")
        spec.ignore("enableServiceLinks", "schedulerName", "serviceAccount", "serviceAccountName", "dnsPolicy")
        spec.ignore("automountServiceAccountToken", "preemptionPolicy", "priority")
        dns = spec.node("dnsConfig")
        options = [
            f"{name}:{value}" if value else name
            for node in dns.nodes("options")
            for name, value in [(node.text("name"), node.text("value"))]
        ]
        nameservers, searches = dns.texts("nameservers"), dns.texts("searches")
        sizes = spec.node("resources").node("limits")
        cpus, memory = sizes.quantity("cpu") or self._cpus, sizes.quantity("memory")
        mebibytes = -(-int(memory or self._memory) // _MIB)
        if mebibytes and not memory:
            mebibytes = max(_LEAST, mebibytes + _GUEST)
        pod = {
            "id": self._name,
            "hostname": spec.text("hostname") or self._name.partition(".")[0][:63],
            "labels": labels,
            "resource": {"vcpu": max(1, -(-int(cpus * 1000) // 1000)), "memory": mebibytes or _LEAST},
            "restartPolicy": self._restart(),
            "containers": containers,
            "files": [file for volume in self._volumes.values() for file in volume.files],
            "volumes": [volume.described for volume in self._volumes.values() if volume.described and volume.used],
            "portmappings": self._ports,
            "extraHosts": [
                {"name": name, "ip": one.text("ip")}
                for one in spec.nodes("hostAliases")
                for name in one.texts("hostnames")
            ],
            "dns": nameservers,
            "dnsSearch": searches,
            "dnsOptions": options,
        }
        return {**filled(pod), "log": {}}

    def _restart(self) -> str:
        policy = self._spec.text("restartPolicy")
        if policy not in _RESTART:
            raise self._spec.wrong("restartPolicy", "Always, OnFailure or Never")
        return _RESTART[policy]

    def _container(self, node: Node) -> dict[str, Any]:
        name = node.name()
        node.ignore("stdin", "stdinOnce", "terminationMessagePath", "terminationMessagePolicy")
        if not node.text("image"):
            raise node.wrong("image", "the name of an image")
        mounts, files, memory = self._mounts(node)
        variables = self._environment(node)
        limits = self._limits(node.node("resources"))
        for port in node.nodes("ports"):
            self._port(port)
        described = {
            "pidNamespace": "pod" if self._spec.flag("shareProcessNamespace") else "",
            "name": f"{self._name}-{name}",
            "image": node.text("image"),
            "entrypoint": [_with_variables(word, variables) for word in node.texts("command")],
            "command": [_with_variables(word, variables) for word in node.texts("args")],
            "workdir": node.text("workingDir"),
            "restartPolicy": self._restart(),
            "tty": node.flag("tty"),
            "envs": [{"env": key, "value": value} for key, value in variables.items()],
            "volumes": mounts,
            "files": files,
            "limits": limits,
            "tmpfs": memory,
            "pull": self._pull(node),
            **self._rights(node.node("securityContext")),
        }
        if (grace := self._spec.number("terminationGracePeriodSeconds")) is not None:
            described["stopTimeout"] = grace
        return filled(described)

    @staticmethod
    def _pull(node: Node) -> str:
        policy = node.text("imagePullPolicy")
        if policy not in _PULL:
            raise node.wrong("imagePullPolicy", "Always, IfNotPresent or Never")
        return _PULL[policy]

    def _rights(self, node: Node) -> dict[str, Any]:
        """Return user, groups and the like of a container, from its own context or the pod's."""
        user = node.number("runAsUser")
        group = node.number("runAsGroup")
        user = self._security.number("runAsUser") if user is None else user
        group = self._security.number("runAsGroup") if group is None else group
        groups = [str(one) for one in self._security.take("supplementalGroups") or []]
        if (fs_group := self._security.number("fsGroup")) is not None:
            groups.append(str(fs_group))
        sysctls = {one.text("name"): one.text("value") for one in self._security.nodes("sysctls")}
        node.ignore("runAsNonRoot", "seLinuxOptions", "windowsOptions")
        capabilities, profile = node.node("capabilities"), node.node("seccompProfile")
        security = {
            "privileged": node.flag("privileged"),
            "capAdd": [spec.capability(text) for text in capabilities.texts("add")],
            "capDrop": [spec.capability(text) for text in capabilities.texts("drop")],
            "noNewPrivileges": not node.flag("allowPrivilegeEscalation", default=True),
            "seccomp": self._seccomp(profile),
        }
        self._security.ignore("runAsNonRoot", "seLinuxOptions", "windowsOptions", "fsGroupChangePolicy")
        return {
            "readOnly": node.flag("readOnlyRootFilesystem"),
            "user": filled(
                {
                    "name": "" if user is None else str(user),
                    "group": "" if group is None else str(group),
                    "additionalGroups": groups,
                }
            ),
            "sysctl": sysctls,
            "security": filled(security),
        }

    @staticmethod
    def _seccomp(node: Node) -> str:
        kind = node.text("type")
        if kind not in {"", "RuntimeDefault", "Unconfined"}:
            raise node.wrong("type", "RuntimeDefault or Unconfined")
        return "unconfined" if kind == "Unconfined" else ""

    def _limits(self, node: Node) -> dict[str, int]:
        """Return what a container may use; add that, or at least what it asks for, to the VM's size."""
        limits, requests = node.node("limits"), node.node("requests")
        requests.ignore("ephemeral-storage")  # there is no bound: it gets what it asks for
        cpus, memory = limits.quantity("cpu"), limits.quantity("memory")
        asked_cpus, asked_memory = requests.quantity("cpu"), requests.quantity("memory")
        self._cpus += cpus or asked_cpus or 0.0
        self._memory += memory or asked_memory or 0.0
        return filled({"memory": int(memory or 0), "nanoCpus": round((cpus or 0) * 1_000_000_000)})

    def _port(self, node: Node) -> None:
        node.ignore("name")
        inner, outer = node.number("containerPort"), node.number("hostPort")
        protocol = node.text("protocol", "TCP").lower()
        address = node.text("hostIP")
        if inner is None or not 0 < inner < 65536:
            raise node.wrong("containerPort", "a port")
        if not outer:
            return  # only a word to the reader, as in Kubernetes
        rule = {"containerPort": str(inner), "hostPort": str(outer), "protocol": protocol}
        self._ports.append({**rule, **spec.host_ip(address)})

    def _environment(self, node: Node) -> dict[str, str]:
        found: dict[str, str] = {}
        for source in node.nodes("envFrom"):
            prefix = source.text("prefix")
            for key, kind in (("configMapRef", "ConfigMap"), ("secretRef", "Secret")):
                if key in source:
                    reference = source.node(key)
                    values = self._referred(reference, kind)
                    found |= {prefix + name: _as_text(value, reference.path) for name, value in values.items()}
        for one in node.nodes("env"):
            name = one.text("name")
            if not name:
                raise one.wrong("name", "a name")
            value = one.text("value") if "valueFrom" not in one else self._value_from(one.node("valueFrom"))
            one.ignore("value")
            if value is not None:
                found[name] = _with_variables(value, found)
        return found

    def _referred(self, reference: Node, kind: str) -> dict[str, bytes]:
        name, optional = reference.name(), reference.flag("optional")
        return self._data.get(kind, name, reference.path, optional=optional)

    def _value_from(self, node: Node) -> str | None:
        for key, kind in (("configMapKeyRef", "ConfigMap"), ("secretKeyRef", "Secret")):
            if key in node:
                reference = node.node(key)
                values, wanted = self._referred(reference, kind), reference.text("key")
                if wanted not in values:
                    if reference.flag("optional"):
                        return None
                    raise UsageProblem(f"{reference.path}: there is no key {wanted} in {kind} {reference.text('name')}")
                return _as_text(values[wanted], reference.path)
        if "fieldRef" in node:
            reference = node.node("fieldRef")
            reference.ignore("apiVersion")
            field = reference.text("fieldPath")
            known = {"metadata.name": self._name, "metadata.namespace": "default", "spec.nodeName": _host()}
            if field in known:
                return known[field]
            raise UsageProblem(f"{reference.path}.fieldPath {field} cannot be had: only {', '.join(known)}")
        raise UsageProblem(f"{node.path} cannot be had: only configMapKeyRef, secretKeyRef and fieldRef")

    def _volume(self, node: Node) -> _Volume:
        name = node.name()
        node.path = f"Pod {self._name}: volume {name}"
        volume = _Volume(f"{self._name}-{name}")
        readers: dict[str, Callable[[Node], None]] = {
            "hostPath": volume.host_path,
            "emptyDir": partial(volume.empty_dir, shared=self._mounted.count(name) > 1),
            "persistentVolumeClaim": volume.claim,
        }
        for key, read in readers.items():
            if key in node:
                read(node.node(key))
        for key, kind in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if key in node:
                source = node.node(key)
                wanted = source.text("secretName" if kind == "Secret" else "name")
                values = self._data.get(kind, wanted, source.path, optional=source.flag("optional"))
                volume.of_values(source, values)
        if volume.kind == "":
            raise UsageProblem(f"{node.path} is of a kind that cannot be had here")
        return volume

    def _mounts(self, node: Node) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
        """Return the mounts of a container, the files that are put into it, and its file systems in memory."""
        mounts: list[dict[str, Any]] = []
        files: list[dict[str, Any]] = []
        memory: list[dict[str, Any]] = []
        for one in node.nodes("volumeMounts"):
            name, path = one.text("name"), one.text("mountPath")
            if not path.startswith("/"):
                raise one.wrong("mountPath", "an absolute path")
            if name not in self._volumes:
                raise UsageProblem(f"{one.path}: there is no volume {name}")
            below = one.text("subPath")
            if one.text("mountPropagation") not in {"", "None"}:
                raise one.wrong("mountPropagation", "None: nothing else can be had")
            volume = self._volumes[name]
            if volume.kind == "values":
                one.ignore("readOnly")
                files += volume.files_at(path, below, one)
            elif volume.kind == "memory" and not below:
                memory.append(filled({"path": path, "size": volume.size, "options": ["ro"] * one.flag("readOnly")}))
            else:
                if below:
                    raise UsageProblem(f"{one.path}.subPath can only be had of a configMap or a secret")
                volume.used = True
                read_only = one.flag("readOnly") or volume.read_only
                mounts.append(filled({"path": path, "volume": volume.name, "readOnly": read_only}))
        return mounts, files, memory


class _Volume:
    """A volume of a pod.

    Its kind is `values` (files with the values of a ConfigMap or Secret), `memory` (a file system in memory, where one
    container alone has it; else it is on disk) or `volume` (anything else).
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.kind = ""
        self.read_only = False
        self.used = False
        self.size = 0  # bytes, of one in memory
        self.described: dict[str, Any] = {}
        self.files: list[dict[str, Any]] = []
        self._paths: dict[str, tuple[str, int]] = {}  # path below the mount: name of the file, its mode

    def host_path(self, node: Node) -> None:
        """Take a directory of the host; `DirectoryOrCreate` is made by whoever creates the pod."""
        path, kind = node.text("path"), node.text("type")
        if not path.startswith("/"):
            raise node.wrong("path", "an absolute path")
        if kind not in {"", "Directory", "DirectoryOrCreate", "File"}:
            raise node.wrong("type", "Directory, DirectoryOrCreate or File: nothing else can be given to a pod")
        self.kind = "volume"
        self.described = {"name": self.name, "source": path, "format": "vfs"}
        if kind == "DirectoryOrCreate":
            self.described["make"] = True  # taken away before it is sent

    def empty_dir(self, node: Node, *, shared: bool) -> None:
        """Take a new volume, on disk or in memory; one that several containers share is on disk."""
        medium = node.text("medium")
        if medium not in {"", "Memory"}:
            raise node.wrong("medium", "Memory, or left away")
        self.kind, self.described = "memory" if medium and not shared else "volume", {"name": self.name}
        if self.kind == "memory":  # one on disk has no bound: the field is not understood
            self.size = int(node.quantity("sizeLimit") or 0)

    def claim(self, node: Node) -> None:
        """Take a named volume of this host."""
        self.read_only = node.flag("readOnly")
        self.kind = "volume"
        self.described = {"name": self.name, "source": node.name("claimName"), "format": "volume"}

    def of_values(self, node: Node, values: Mapping[str, bytes]) -> None:
        """Take files with values, those that `items` names or all."""
        self.kind = "values"
        mode = node.number("defaultMode")
        mode = 0o644 if mode is None else mode
        wanted = [(one.text("key"), one.text("path"), one.number("mode")) for one in node.nodes("items")]
        for key, path, own in wanted or [(key, key, None) for key in values]:
            if key not in values:
                raise UsageProblem(f"{node.path}.items: there is no key {key}")
            if not path or path.startswith("/") or ".." in path.split("/"):
                raise UsageProblem(f"{node.path}.items: '{path}' is not a path below the volume")
            name = f"{self.name}-{path.replace('/', '-')}"
            content = base64.b64encode(values[key]).decode()
            self.files.append({"name": name, "encoding": "base64", "content": content})
            self._paths[path] = (name, mode if own is None else own)

    def files_at(self, place: str, below: str, node: Node) -> list[dict[str, Any]]:
        """Return the files of a mount; with a subPath that is a file, that one alone, at the mount's own path."""
        found = []
        for path, (name, mode) in self._paths.items():
            if below and path != below and not path.startswith(f"{below}/"):
                continue
            inside = path.removeprefix(below).strip("/")
            target = f"{place.rstrip('/')}/{inside}" if inside else place
            found.append({"path": target, "filename": name, "perm": f"{mode:04o}"})
        if below and not found:
            raise UsageProblem(f"{node.path}.subPath: there is no {below} in the volume")
        return found


def _with_variables(value: str, known: Mapping[str, str]) -> str:
    """Replace `$(NAME)` by a known variable; `$$(NAME)` is `$(NAME)`."""
    import re

    def replaced(match: re.Match[str]) -> str:
        if match[0].startswith("$$"):
            return match[0][1:]
        return known.get(match[1], match[0])

    return re.sub(r"\$?\$\(([A-Za-z_][A-Za-z0-9_.-]*)\)", replaced, value)


def _as_text(value: bytes, where: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise UsageProblem(f"{where}: a value is no text in UTF-8, which a variable must be") from None


def _host() -> str:
    import socket

    return socket.gethostname()
