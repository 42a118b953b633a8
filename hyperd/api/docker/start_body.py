"""The ``HostConfig`` that clients before API 1.24 send with start.

Dockerd took it for the whole of a container's settings. Here what it changes is added to a container that has not run
yet; what it repeats changes nothing, so that a start can be sent twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from hyperd.api.context import engine
from hyperd.api.docker import schema
from hyperd.api.docker.container_views import Shown, host_config
from hyperd.api.docker.create import (
    DEFAULT_NETWORKS,
    REQUEST,
    read_capabilities,
    read_extra_hosts,
    read_link,
    read_ports,
    read_restart,
)
from hyperd.api.docker.lookup import Lookup, container
from hyperd.api.docker.mounts import Mounts, read_mounts
from hyperd.api.docker.policy import check_links, provided
from hyperd.api.docker.refusals import refuse
from hyperd.container.model import Container
from hyperd.errors import Conflict, NotSupported
from hyperd.spec.model import ContainerSpec, NetworkAttachment, PodSpec

# What can be changed at a start, and what is only the client's own.
_PORTS = ("PortBindings", "PublishAllPorts")
_MOUNTS = ("Binds", "VolumesFrom")
_SECURITY = ("Privileged", "CapAdd", "CapDrop")
_NAMES = ("Dns", "DnsSearch", "DnsOptions", "ExtraHosts", "Links")
_TAKEN = (*_PORTS, *_MOUNTS, *_SECURITY, *_NAMES, "RestartPolicy")
_FREE = ("ContainerIDFile",)
_HOST = schema.HostConfig()


def apply(found: Container, host: Mapping[str, Any]) -> None:
    """Change a container as the ``HostConfig`` of its start says: mounts, ports, names, privileges, restart policy.

    Args:
        found: a container that does not run.
        host: what ``schema.HostConfig`` read.

    Errors: NotSupported (a key that a start cannot change, by name), Conflict (it has run before), InvalidInput.

    """
    shown = Lookup(engine()).shown(found)
    changed = _changed(host, shown)
    others = [key for key in changed if key not in _TAKEN]
    # Whose network and processes it shares is compared above.
    shared = {key: "" for key in ("NetworkMode", "PidMode") if str(host[key]).startswith("container:")}
    refuse({"Hostname": ""}, {**host, "NetworkMode": "", **shared})
    if others:
        raise NotSupported(
            f"HostConfig.{others[0]} cannot be changed by the start of a container",
            details="of the start's HostConfig are taken: " + ", ".join(_TAKEN),
            resolution="give it when the container is created",
        )
    if changed and found.run_count:
        raise Conflict(f"the container {found.name} has run: its settings are fixed", details=", ".join(changed))
    if changed:
        _apply(found, {key: host[key] for key in changed})


def _changed(host: Mapping[str, Any], shown: Shown) -> list[str]:
    """Return the keys that say something, and something else than what the container has."""
    now, nothing = schema.load(_HOST, host_config(shown)), schema.load(_HOST, {})
    found = [key for key, value in host.items() if value not in (nothing[key], now[key]) and key not in _FREE]
    return [key for key in found if not _same(key, host[key], now[key])]


def _same(key: str, asked: Any, now: Any) -> bool:
    """Tell whether two values mean the same, where there are several words for it."""
    if key == "NetworkMode":
        return asked in DEFAULT_NETWORKS and now in DEFAULT_NETWORKS
    if key == "RestartPolicy":
        return (asked["Name"] or "no", asked["MaximumRetryCount"]) == (now["Name"] or "no", now["MaximumRetryCount"])
    if key == "Links":
        return {read_link(entry) for entry in asked} == {read_link(entry) for entry in now}
    return key in ("CapAdd", "CapDrop") and set(read_capabilities(asked)) == set(read_capabilities(now))


def _apply(found: Container, asked: Mapping[str, Any]) -> None:
    running, host = engine(), {**schema.load(_HOST, {}), **asked}
    mounts = read_mounts({"Volumes": ()}, host, ident=found.id, volumes_of=_mounts_of)
    ports = read_ports({"ExposedPorts": ()}, host, running.images.get(found.image_id).defaults.exposed_ports)
    if ports:  # first: a start that fails here is repeated with the same words
        running.pods.net.note_ports(found.pod_id, ports)
    if any(key in asked for key in _NAMES):
        check_links(_links(asked))
        running.pods.net.attachments.amend(found.pod_id, _named(asked))
    with provided(mounts):
        running.containers.amend(found.id, _change(asked, mounts))


def _links(asked: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple(read_link(entry) for entry in asked.get("Links", ()))


def _named(asked: Mapping[str, Any]) -> Callable[[PodSpec], PodSpec]:
    """Return what gives a pod the name servers, hosts and links of a start, instead of those that it had."""

    def change(spec: PodSpec) -> PodSpec:
        if "Links" in asked:
            first, *others = spec.networks or (NetworkAttachment(network="bridge"),)
            spec = replace(spec, networks=(replace(first, links=_links(asked)), *others))
        return replace(
            spec,
            dns=tuple(asked.get("Dns", spec.dns)),
            dns_search=tuple(asked.get("DnsSearch", spec.dns_search)),
            dns_options=tuple(asked.get("DnsOptions", spec.dns_options)),
            extra_hosts=read_extra_hosts(asked["ExtraHosts"]) if "ExtraHosts" in asked else spec.extra_hosts,
        )

    return change


def _mounts_of(name: str) -> Mounts:
    return Mounts(refs=container(name).spec.volumes)


def _change(asked: Mapping[str, Any], mounts: Mounts) -> Callable[[ContainerSpec], ContainerSpec]:
    def change(spec: ContainerSpec) -> ContainerSpec:
        new = {ref.path for ref in mounts.refs}
        security = replace(
            spec.security,
            privileged=bool(asked.get("Privileged", spec.security.privileged)),
            cap_add=read_capabilities(asked["CapAdd"]) if "CapAdd" in asked else spec.security.cap_add,
            cap_drop=read_capabilities(asked["CapDrop"]) if "CapDrop" in asked else spec.security.cap_drop,
        )
        changed = replace(
            spec,
            volumes=(*(ref for ref in spec.volumes if ref.path not in new), *mounts.refs),
            security=security,
            annotations={**spec.annotations, REQUEST: _remembered(spec, asked)},
        )
        policy = asked.get("RestartPolicy")
        if policy is None:
            return changed
        word = read_restart(policy, auto_remove=spec.auto_remove)
        return replace(changed, restart_policy=word, restart_max=policy["MaximumRetryCount"])

    return change


def _remembered(spec: ContainerSpec, asked: Mapping[str, Any]) -> str:
    """Return what the client has asked for, now with the words of the start."""
    text = spec.annotations.get(REQUEST, "")
    body = json.loads(text) if text else {}
    words = {key: asked[key] for key in (*_PORTS, *_MOUNTS) if key in asked}
    return json.dumps({**body, "HostConfig": {**(body.get("HostConfig") or {}), **words}}, separators=(",", ":"))
