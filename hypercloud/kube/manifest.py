"""From a service to the objects of a cluster. Pure functions.

| service | object |
| --- | --- |
| autorestart ALWAYS | Deployment |
| the same, sequential or with managed volumes | StatefulSet |
| the same, EVERY_NODE | DaemonSet |
| autorestart OFF or ON_FAILURE | a Job for each container |
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hypercloud import placement
from hypercloud.workload.describe import managed_volumes, volume_name, words
from hypercloud.workload.model import Port, Restart, ServiceSpec

Json = dict[str, Any]
SERVICE = "hypercloud.io/service"  # label: the service's uuid
NUMBER = "hypercloud.io/number"  # label of a Job: which container of the service it is
NAMESPACE = "hypercloud.io/namespace"  # annotation: of our API
REVISION = "hypercloud.io/revision"  # annotations of pods: of which specification they are
GENERATION = "hypercloud.io/generation"
LABELS = "hypercloud.io/labels"  # annotation: the service's labels, as JSON; values of labels of a cluster are short
REPLICAS = "hypercloud.io/replicas"  # annotation of what is stopped: how many there were
TAG = "tag.hypercloud.io/"  # begins labels of nodes
HELD = "hypercloud.io/stopped"  # a label that no node has: a DaemonSet that wants it has no pods
CONTAINER = "main"
POD_ID = "HYPERCLOUD_POD_ID"  # variable: a container's uuid is its pod's
_REFERENCE = re.compile(r"\$\$|\$\(([^()]*)\)")
WORKLOADS = ("Deployment", "StatefulSet", "DaemonSet", "Job")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A service and what goes with it.

    Args:
        spec: what its containers are.
        uuid, name, namespace: the service's.
        target: how many containers.
        revision, generation: what the pods are told to be of.
        env: all variables; ``$(NAME)`` in a value of ``own_env`` stands for another.
        own_env: variables that are made here.
        hosts: names and addresses that each container knows.
        secret: an object with further variables; "" = none.
        pull_secret: an object with credentials; "" = none.
        storage_class, volume_size: of managed volumes.
        grace: seconds between SIGTERM and SIGKILL.

    """

    spec: ServiceSpec
    uuid: str
    name: str
    namespace: str
    target: int
    revision: int
    generation: int
    env: Mapping[str, str] = field(default_factory=dict)
    own_env: Mapping[str, str] = field(default_factory=dict)
    hosts: Sequence[tuple[str, str]] = ()
    secret: str = ""
    pull_secret: str = ""
    storage_class: str = ""
    volume_size: str = "1Gi"
    grace: int = 10

    @property
    def object(self) -> str:
        """The name of the service's objects."""
        return object_name(self.name, self.uuid)


def object_name(name: str, uuid: str) -> str:
    """Return the name of a service's objects: it follows from its row, and is a name that Kubernetes takes."""
    slug = re.sub(r"[^a-z0-9-]", "-", name.lower()).strip("-")[:40].strip("-")
    return f"{slug if slug[:1].isalpha() else f's-{slug}'.strip('-')}-{uuid[:8]}"


def kind_of(spec: ServiceSpec) -> str:
    """Return the kind of object that a service is."""
    if spec.strategy == placement.EVERY_NODE:
        return "DaemonSet"
    if spec.autorestart is not Restart.ALWAYS:
        return "Job"
    return "StatefulSet" if spec.sequential or managed_volumes(spec, "") else "Deployment"


def selector(uuid: str) -> str:
    """Return what finds a service's objects."""
    return f"{SERVICE}={uuid}"


def workload(plan: Plan) -> Json:
    """Return the Deployment, StatefulSet or DaemonSet of a service."""
    kind, spec = kind_of(plan.spec), plan.spec
    found: Json = {"selector": {"matchLabels": {SERVICE: plan.uuid}}, "template": _template(plan)}
    if kind != "DaemonSet":
        found["replicas"] = plan.target
    if kind == "Deployment":
        # Two pods with one port of a node are not on it at the same time: then the old one goes first.
        surge: Json = {"maxSurge": 0, "maxUnavailable": 1} if _on_nodes(spec) else {"maxSurge": 1, "maxUnavailable": 0}
        found["strategy"] = {"type": "RollingUpdate", "rollingUpdate": surge}
        found["revisionHistoryLimit"] = 2
    elif kind == "StatefulSet":
        found["serviceName"] = plan.object
        found["podManagementPolicy"] = "OrderedReady" if spec.sequential else "Parallel"
        claims = [{"metadata": {"name": name}, "spec": _claim(plan)} for name, _ in managed_volumes(spec, plan.uuid)]
        if claims:
            found["volumeClaimTemplates"] = claims
    return {"metadata": _metadata(plan), "spec": found}


def job(plan: Plan, number: int) -> Json:
    """Return the Job of one container."""
    template = _template(plan, number)
    return {
        "metadata": _metadata(plan, number),
        "spec": {
            "parallelism": 1,
            "completions": 1,
            # Without a restart policy the program runs once, whatever becomes of it.
            "backoffLimit": 0 if plan.spec.autorestart is Restart.OFF else 2**31 - 1,
            "template": template,
        },
    }


def job_name(plan: Plan, number: int) -> str:
    """Return the name of the Job of one container."""
    return f"{plan.object}-{number}"


def claims(plan: Plan, number: int) -> list[Json]:
    """Return the volumes of a Job's container; a StatefulSet makes its own."""
    return [
        {"metadata": {"name": f"{name}-{number}", "labels": {SERVICE: plan.uuid}}, "spec": _claim(plan)}
        for name, _ in managed_volumes(plan.spec, plan.uuid)
    ]


def inner_service(plan: Plan) -> Json:
    """Return the Service by which others in the cluster reach a service; without ports it is only a name."""
    ports = [{**_port(one), "targetPort": one.inner} for one in plan.spec.ports]
    spec: Json = {"selector": {SERVICE: plan.uuid}}
    spec |= {"ports": ports} if ports else {"clusterIP": "None"}
    return {"metadata": _metadata(plan), "spec": spec}


def outer_service(plan: Plan) -> Json | None:
    """Return the Service for published ports whose number the cluster chooses; None when there are none."""
    ports = [{**_port(one), "targetPort": one.inner} for one in plan.spec.ports if one.published and not one.outer]
    if not ports or plan.spec.net == "host":
        return None
    metadata = _metadata(plan) | {"name": outer_name(plan.object)}
    return {"metadata": metadata, "spec": {"type": "NodePort", "selector": {SERVICE: plan.uuid}, "ports": ports}}


def outer_name(name: str) -> str:
    """Return the name of the Service for published ports."""
    return f"{name}-public"


def secret(plan: Plan, name: str, values: Mapping[str, str]) -> Json:
    """Return a Secret with variables."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    return {"metadata": _metadata(plan) | {"name": name}, "type": "Opaque", "data": data}


def pull_secret(plan: Plan, name: str, credentials: Mapping[str, str]) -> Json:
    """Return a Secret with the credentials for a registry."""
    pair = f"{credentials['username']}:{credentials['password']}"
    auths = {
        "auths": {
            credentials["serveraddress"]: {
                "username": credentials["username"],
                "password": credentials["password"],
                "auth": base64.b64encode(pair.encode()).decode(),
            }
        }
    }
    data = base64.b64encode(json.dumps(auths).encode()).decode()
    made = _metadata(plan) | {"name": name}
    return {"metadata": made, "type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": data}}


def held(value: str | None) -> Json:
    """Return the change that takes all pods of a DaemonSet away ("true"), or lets them come (None)."""
    return {"spec": {"template": {"spec": {"nodeSelector": {HELD: value}}}}}


def expanded(value: str, known: Mapping[str, str]) -> str:
    """Return what a program sees of a variable's value: ``$$`` is one, ``$(NAME)`` another variable if it is known."""
    return _REFERENCE.sub(lambda found: "$" if found[0] == "$$" else known.get(found[1], found[0]), value)


def tag_label(tag: str) -> tuple[str, str]:
    """Return the label of nodes that a tag means: ``KEY=VALUE`` is one of the cluster's own, a word one of ours."""
    key, equals, value = tag.partition("=")
    return (key, value) if equals else (f"{TAG}{tag}", "")


# -- parts -----------------------------------------------------------------------------------------------------------


def _metadata(plan: Plan, number: int | None = None) -> Json:
    labels = {SERVICE: plan.uuid, "app.kubernetes.io/managed-by": "hypercloud"}
    name = plan.object
    if number is not None:
        labels[NUMBER] = str(number)
        name = job_name(plan, number)
    return {"name": name, "labels": labels, "annotations": _annotations(plan)}


def _annotations(plan: Plan) -> dict[str, str]:
    found = {NAMESPACE: plan.namespace, REVISION: str(plan.revision), GENERATION: str(plan.generation)}
    if plan.spec.labels:
        found[LABELS] = json.dumps(dict(plan.spec.labels), sort_keys=True)
    return found


def _on_nodes(spec: ServiceSpec) -> bool:
    """Say whether a pod takes ports of its node."""
    return spec.net == "host" or any(one.outer and one.published for one in spec.ports)


def _port(one: Port) -> Json:
    return {"name": f"{one.protocol}-{one.inner}", "port": one.inner, "protocol": one.protocol.upper()}


def _claim(plan: Plan) -> Json:
    found: Json = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": plan.volume_size}}}
    return found | ({"storageClassName": plan.storage_class} if plan.storage_class else {})


def _template(plan: Plan, number: int | None = None) -> Json:
    labels = {SERVICE: plan.uuid}
    if number is not None:
        labels[NUMBER] = str(number)
    return {"metadata": {"labels": labels, "annotations": _annotations(plan)}, "spec": _pod(plan, number)}


def _pod(plan: Plan, number: int | None) -> Json:
    spec = plan.spec
    found: Json = {
        "containers": [_container(plan)],
        "restartPolicy": {Restart.OFF: "Never", Restart.ON_FAILURE: "OnFailure"}.get(spec.autorestart, "Always"),
        "terminationGracePeriodSeconds": plan.grace,
        "enableServiceLinks": False,
        "automountServiceAccountToken": False,
    }
    if volumes := _volumes(plan, number):
        found["volumes"] = volumes
    if spec.hostname:
        found["hostname"] = spec.hostname
    if spec.net == "host":
        found["hostNetwork"] = True
    if spec.pid == "host":
        found["hostPID"] = True
    if plan.pull_secret:
        found["imagePullSecrets"] = [{"name": plan.pull_secret}]
    if spec.tags:
        found["nodeSelector"] = dict(tag_label(one) for one in spec.tags)
    if aliases := _aliases(plan):
        found["hostAliases"] = aliases
    if spec.dns or spec.dns_search:
        found["dnsConfig"] = {"nameservers": list(spec.dns), "searches": list(spec.dns_search)}
        if spec.dns:
            found["dnsPolicy"] = "None"
    if spec.strategy == placement.HIGH_AVAILABILITY:
        found["topologySpreadConstraints"] = [
            {
                "maxSkew": 1,
                "topologyKey": "kubernetes.io/hostname",
                "whenUnsatisfiable": "ScheduleAnyway",
                "labelSelector": {"matchLabels": {SERVICE: plan.uuid}},
            }
        ]
    return found


def _container(plan: Plan) -> Json:
    spec = plan.spec
    found: Json = {
        "name": CONTAINER,
        "image": spec.image,
        # A redeploy asks the registry; what is started the first time takes what is there.
        "imagePullPolicy": "Always" if plan.generation > 1 else "IfNotPresent",
        "env": _variables(plan),
    }
    if spec.entrypoint:
        found["command"] = [_literal(one) for one in words(spec.entrypoint, "entrypoint")]
    if spec.command:
        found["args"] = [_literal(one) for one in words(spec.command, "run_command")]
    if spec.working_dir:
        found["workingDir"] = spec.working_dir
    if spec.tty:
        found["tty"] = True
    if spec.stdin_open:
        found["stdin"] = True
    if plan.secret:
        found["envFrom"] = [{"secretRef": {"name": plan.secret}}]
    if spec.ports:
        found["ports"] = [_container_port(one, spec) for one in spec.ports]
    if mounts := _mounts(plan):
        found["volumeMounts"] = mounts
    if resources := _resources(spec):
        found["resources"] = resources
    if security := _security(spec):
        found["securityContext"] = security
    return found


def _variables(plan: Plan) -> list[Json]:
    """Return the variables; Kubernetes expands ``$(NAME)`` in them, so that what users wrote is escaped."""
    by_field = {POD_ID: "metadata.uid", "DOCKERCLOUD_CONTAINER_HOSTNAME": "metadata.name"}
    by_field["DOCKERCLOUD_NODE_HOSTNAME"] = "spec.nodeName"
    found: list[Json] = [
        {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in by_field.items()
    ]
    found += [{"name": name, "value": value} for name, value in plan.own_env.items()]
    found += [{"name": name, "value": _literal(value)} for name, value in plan.env.items() if name not in by_field]
    return found


def _literal(text: str) -> str:
    return text.replace("$", "$$")  # each pair is one again, whatever follows it


def _container_port(one: Port, spec: ServiceSpec) -> Json:
    found: Json = {"containerPort": one.inner, "protocol": one.protocol.upper()}
    if one.published and one.outer and spec.net != "host":
        found["hostPort"] = one.outer
    return found


def _mounts(plan: Plan) -> list[Json]:
    found = []
    for index, one in enumerate(plan.spec.bindings):
        name = f"host-{index}" if one.host_path else volume_name(plan.uuid, one.container_path)
        where = one.container_path or one.host_path
        found.append({"name": name, "mountPath": where, **({} if one.writable else {"readOnly": True})})
    return found


def _volumes(plan: Plan, number: int | None) -> list[Json]:
    """Return a pod's volumes; those of a StatefulSet's templates are added by the cluster."""
    found: list[Json] = [
        {"name": f"host-{index}", "hostPath": {"path": one.host_path}}
        for index, one in enumerate(plan.spec.bindings)
        if one.host_path
    ]
    if number is not None:
        found += [
            {"name": name, "persistentVolumeClaim": {"claimName": f"{name}-{number}"}}
            for name, _ in managed_volumes(plan.spec, plan.uuid)
        ]
    return found


def _aliases(plan: Plan) -> list[Json]:
    by_address: dict[str, list[str]] = {}
    for name, address in plan.hosts:
        by_address.setdefault(address, []).append(name)
    for one in plan.spec.extra_hosts:
        name, _, address = one.partition(":")
        by_address.setdefault(address, []).append(name)
    return [{"ip": address, "hostnames": names} for address, names in by_address.items()]


def _resources(spec: ServiceSpec) -> Json:
    requests: Json = {}
    limits: Json = {}
    if spec.cpu_shares:
        requests["cpu"] = f"{max(1, spec.cpu_shares * 1000 // 1024)}m"  # the kubelet makes shares of it again
    if spec.memory:
        requests["memory"] = limits["memory"] = f"{spec.memory}Mi"
    return {key: value for key, value in (("requests", requests), ("limits", limits)) if value}


def _security(spec: ServiceSpec) -> Json:
    found: Json = {}
    if spec.privileged:
        found["privileged"] = True
    if spec.read_only:
        found["readOnlyRootFilesystem"] = True
    if spec.user:
        user, _, group = spec.user.partition(":")
        found["runAsUser"] = int(user)
        if group:
            found["runAsGroup"] = int(group)
    capabilities = {"add": list(spec.cap_add), "drop": list(spec.cap_drop)}
    if any(capabilities.values()):
        found["capabilities"] = {key: value for key, value in capabilities.items() if value}
    return found
