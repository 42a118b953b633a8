"""Containers: list, create, inspect, start, stop, signal, rename, pause, update, remove."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from flask import Response

from hyperd.api.background import Finishing
from hyperd.api.context import engine
from hyperd.api.docker import (
    answers,
    container_filters,
    limits,
    params,
    policy,
    refusals,
    schema,
    start_body,
    versions,
)
from hyperd.api.docker.container_views import Shown, inspect, row
from hyperd.api.docker.create import (
    REQUEST,
    Order,
    checked_name,
    new_id,
    read_order,
    read_restart,
)
from hyperd.api.docker.errors import NotModified
from hyperd.api.docker.lookup import STORAGE_DRIVER, Lookup, container, has_ipv6
from hyperd.api.docker.mounts import Mounts
from hyperd.api.docker.routes import blueprint
from hyperd.api.docker.streams import console_size
from hyperd.errors import Conflict, HyperError, ImageNotFound, InvalidInput, NotFound
from hyperd.image.model import Image

_CREATE, _HOST_CONFIG, _RESOURCES = schema.Create(), schema.HostConfig(), schema.Resources()


@blueprint.get("/containers/json")
@blueprint.get("/containers/ps")
def list_containers() -> Response:
    """List containers, the newest first."""
    filters = params.filters(container_filters.KEYS)
    container_filters.check(filters)
    since, before = _anchors(filters)
    limit = params.number("limit", 0)
    everything = params.flag("all") or limit > 0 or bool(since or before) or container_filters.wants_all(filters)
    found = Lookup(engine()).all()
    found = _between(found, since=since, before=before)
    found = container_filters.apply(found, filters, image_ids=_image_ids)
    if not everything:
        found = [one for one in found if one.container.live]
    if limit > 0:
        found = found[:limit]
    if params.flag("size"):
        found = [replace(one, sizes=policy.sizes(one.container)) for one in found]
    spoken = versions.requested()
    return answers.as_json([row(one, spoken) for one in found])


def _anchors(filters: params.Filters) -> tuple[str, str]:
    """Return the containers of ``since`` and ``before``: parameters of old clients, filters of new ones."""
    since = params.text("since") or next(iter(filters.get("since", ())), "")
    before = params.text("before") or next(iter(filters.get("before", ())), "")
    return since, before


def _between(found: list[Shown], *, since: str, before: str) -> list[Shown]:
    if since:
        after = container(since)
        found = [one for one in found if one.container.created_at > after.created_at]
    if before:
        until = container(before)
        found = [one for one in found if one.container.created_at < until.created_at]
    return found


def _image_ids(name: str) -> set[str]:
    """Return the ids of an image and of those built from it here."""
    try:
        root = engine().images.get(name).id
    except ImageNotFound:
        return set()
    found, grown = {root}, True
    every = engine().images.list(all_images=True)
    while grown:
        children = {image.id for image in every if image.parent in found} - found
        found |= children
        grown = bool(children)
    return found


@blueprint.post("/containers/create")
def create_container() -> Response:
    """Create a container and its pod."""
    body = schema.spelled(_CREATE, params.body_object())
    given = schema.load(_CREATE, _with_legacy_keys(body))
    name = checked_name(params.text("name")) if params.text("name") else ""
    order = _order(given, body, name)
    size = policy.vm_of(policy.joined(order)) if order.joins else order.pod.resource
    limits.check_cpus(order.container.limits, size)
    terminal = console_size(given["HostConfig"]["ConsoleSize"]) if given["Tty"] else None
    if name:
        policy.create(order)
    else:
        policy.create_unnamed(order)
    if terminal:
        with contextlib.suppress(HyperError):  # it has nothing to run, which its start tells
            engine().containers.streams.resize(order.container.id, *terminal)
    warnings: list[str] | None = [*order.warnings, *limits.warnings(order.container.limits, size)]
    if versions.is_legacy() and not warnings:
        warnings = None
    return answers.as_json({"Id": order.container.id, "Warnings": warnings}, 201)


def _with_legacy_keys(body: Mapping[str, Any]) -> dict[str, Any]:
    """Move keys that API 1.17 and before had in ``Config`` to ``HostConfig``."""
    found = dict(body)
    given = found.get("HostConfig") or {}
    if not isinstance(given, dict):
        return found  # the schema tells it
    host = dict(given)
    for key in ("Memory", "MemorySwap", "CpuShares", "Dns", "VolumesFrom", "Privileged", "SecurityOpt"):
        if key in found and not host.get(key):
            host[key] = found[key]
    if found.get("Cpuset") and not host.get("CpusetCpus"):
        host["CpusetCpus"] = found["Cpuset"]
    found["HostConfig"] = host
    return found


def _order(given: Mapping[str, Any], body: Mapping[str, Any], name: str) -> Order:
    if not given["Image"]:
        raise InvalidInput("config cannot be empty in order to create a container", resolution="name an Image")
    try:
        image = engine().images.get(given["Image"])
    except ImageNotFound as error:
        raise ImageNotFound(f"No such image: {policy.with_tag(given['Image'])}") from error
    _check_platform(image, params.text("platform"), given["Image"])
    order = read_order(
        given,
        ident=new_id(),
        name=name,
        exposed=image.defaults.exposed_ports,
        default_memory=engine().config.hypervisor.default_memory,
        volumes_of=_mounts_of,
        has_ipv6=has_ipv6,
    )
    return policy.annotated(order, {REQUEST: json.dumps(policy.kept(body), separators=(",", ":"))})


def _check_platform(image: Image, wanted: str, name: str) -> None:
    """Refuse an image that is for another platform than the client wants. Errors: ImageNotFound, as for Docker."""
    parts = [part for part in wanted.lower().split("/") if part]
    has = [image.config.get(key) or usual for key, usual in (("os", "linux"), ("architecture", ""), ("variant", ""))]
    if any(part != known for part, known in zip(parts, has, strict=False) if known) or len(parts) > len(has):
        raise ImageNotFound(
            f"image with reference {name[:200]} was found but its platform ({'/'.join(map(str, filter(None, has)))}) "
            f"does not match the specified platform ({wanted[:60]})"
        )


def _mounts_of(name: str) -> Mounts:
    return Mounts(refs=container(name).spec.volumes)


@blueprint.get("/containers/<name>/json")
def inspect_container(name: str) -> Response:
    """Describe a container."""
    shown = Lookup(engine()).one(name)
    if params.flag("size"):
        shown = replace(shown, sizes=policy.sizes(shown.container))
    return answers.as_json(inspect(shown, versions.requested(), driver=STORAGE_DRIVER))


@blueprint.post("/containers/<name>/start")
def start_container(name: str) -> Response:
    """Start a container; old clients send its ``HostConfig`` with that."""
    found = container(name)
    body = params.body(optional=True)
    if body and not versions.is_legacy() and not versions.is_bare():
        raise InvalidInput(
            "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
        )
    if found.live:
        raise NotModified
    if body:
        start_body.apply(found, schema.load(_HOST_CONFIG, body))
    policy.start(found)
    return answers.empty()


@blueprint.post("/containers/<name>/stop")
def stop_container(name: str) -> Response:
    """Stop a container: its stop signal, then SIGKILL after ``t`` seconds."""
    found = container(name)
    if not found.live and found.restart_at is None:
        raise NotModified
    stop = policy.stopping(found, grace=_grace(), name=params.text("signal"))
    return Finishing("stop", stop, answers.empty()).respond()


@blueprint.post("/containers/<name>/restart")
def restart_container(name: str) -> Response:
    """Stop a container if it runs, then start it."""
    restart = policy.restarting(container(name), grace=_grace(), name=params.text("signal"))
    return Finishing("restart", restart, answers.empty()).respond()


def _grace() -> float | None:
    """Return ``t`` in seconds; below 0 waits without end."""
    return float(params.number("t")) if params.text("t").strip() else None


@blueprint.post("/containers/<name>/kill")
def kill_container(name: str) -> Response:
    """Send a signal, SIGKILL by default, whose effect is waited for."""
    try:
        found = container(name)
    except NotFound as error:
        raise NotFound(f"Cannot kill container: {name[:200]}: {error.brief}") from error
    kill = policy.killing(found, params.text("signal") or "KILL")
    return Finishing("kill", kill, answers.empty()).respond()


@blueprint.post("/containers/<name>/pause")
def pause_container(name: str) -> Response:
    """Stop the CPUs of the container's VM."""
    policy.pause(container(name))
    return answers.empty()


@blueprint.post("/containers/<name>/unpause")
def unpause_container(name: str) -> Response:
    """Let a paused container continue."""
    policy.unpause(container(name))
    return answers.empty()


@blueprint.post("/containers/<name>/rename")
def rename_container(name: str) -> Response:
    """Give a container another name."""
    new = params.text("name")
    if not new.strip("/"):
        raise InvalidInput("Neither old nor new names may be empty")
    engine().containers.rename(container(name).id, checked_name(new))
    return answers.empty()


@blueprint.post("/containers/<name>/update")
def update_container(name: str) -> Response:
    """Change limits and restart policy of a container."""
    given = schema.load(_RESOURCES, params.body_object())
    found = container(name)
    asked = given["RestartPolicy"]
    refusals.refuse_update(given)
    changed, size = limits.read_changes(given, found.spec.limits), policy.vm_of(found)
    limits.check_cpus(changed, size)
    policy.update(
        found,
        limits=changed,
        restart=read_restart(asked, auto_remove=found.spec.auto_remove) if asked and asked["Name"] else None,
        restart_max=int(asked["MaximumRetryCount"]) if asked else 0,
    )
    warnings = [*refusals.warn_resources(given), *limits.warnings(changed, size)]
    return answers.as_json({"Warnings": warnings})


@blueprint.delete("/containers/<name>")
def remove_container(name: str) -> Response:
    """Remove a container; with ``v`` its anonymous volumes, with ``force`` also one that runs."""
    if params.flag("link"):
        raise Conflict(f"Conflict, cannot remove the default link name of the container /{name[:200]}")
    remove = policy.removing(container(name), force=params.flag("force"), volumes=params.flag("v"))
    return Finishing("remove", remove, answers.empty()).respond()


@blueprint.delete("/containers/<parent>/<alias>")
def remove_link(parent: str, alias: str) -> Response:
    """Take away the link that a container has under this alias."""
    if not params.flag("link"):
        raise NotFound("page not found")
    engine().pods.net.attachments.unlink(container(parent).pod_id, alias)
    return answers.empty()


@blueprint.post("/containers/prune")
def prune_containers() -> Response:
    """Remove the containers that do not run."""
    filters = params.filters(("until", "label", "label!"))
    removed, freed = policy.prune(filters)
    return answers.as_json({"ContainersDeleted": removed or None, "SpaceReclaimed": freed})
