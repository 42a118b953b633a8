"""What a client wants of a service, before the services it names are looked up; and the checks of a specification."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from hypercloud import placement
from hypercloud.db.models import ServiceRow, StackRow
from hypercloud.engine.model import with_tag
from hypercloud.errors import Conflict, Forbidden, InvalidInput, NotFound
from hypercloud.workload.describe import words
from hypercloud.workload.model import Binding, Destroy, Link, Restart, ServiceSpec, State
from hypercloud.workload.store import Transaction

MOST = 1000  # containers of a service
Check = Callable[[ServiceSpec], None]  # raises Forbidden
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}", re.IGNORECASE)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,499}")
_KEY = re.compile(r"[^=\0]{1,256}")


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A service as a client describes it.

    ``values``: fields of ServiceSpec that were given; in ``links`` and ``bindings`` other services are named by uuid,
    name, or ``name.stack``.
    """

    name: str | None = None
    nickname: str | None = None
    target: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)


def default_name(image: str) -> str:
    """Return the name of a service that was given none: its image's, without the registry and the namespace."""
    name = image.partition("@")[0].rpartition("/")[2].partition(":")[0]
    return re.sub(r"[^A-Za-z0-9-]", "-", name).strip("-") or "service"


def check_name(kind: str, name: str) -> str:
    """Return a name. Errors: InvalidInput: names become parts of host names."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"the {kind}'s name is not allowed", details=repr(name[:80]), resolution="letters, digits and '-'"
        )
    return name


def resolve(tx: Transaction, namespace: str, stack: str | None, reference: str) -> ServiceRow:
    """Return the service that a reference names; one of the same stack is preferred. Errors: NotFound."""
    alive = (ServiceRow.namespace == namespace, ServiceRow.state != State.TERMINATED)
    if _UUID.fullmatch(reference):
        found = tx.session.scalar(select(ServiceRow).where(ServiceRow.uuid == reference, *alive))
    else:
        name, _, other = reference.partition(".")
        query = select(ServiceRow).where(ServiceRow.name == name, *alive)
        if other:
            stacks = select(StackRow.uuid).where(
                StackRow.namespace == namespace, StackRow.name == other, StackRow.state != State.TERMINATED
            )
            found = tx.session.scalar(query.where(ServiceRow.stack.in_(stacks)))
        else:
            found = tx.session.scalar(query.where(ServiceRow.stack == stack)) if stack else None
            found = found or tx.session.scalar(query.where(ServiceRow.stack.is_(None)))
    if found is None:
        raise NotFound("the service that is linked to does not exist", details=reference[:100])
    return found


def apply(tx: Transaction, draft: Draft, base: ServiceSpec | None, namespace: str, stack: str | None) -> ServiceSpec:
    """Return a specification: the base's fields, the draft's over them, and other services looked up.

    Errors: InvalidInput, NotFound for a service, Conflict for a change to or from EVERY_NODE.
    """
    values = dict(draft.values)
    if "links" in values:
        found = [(resolve(tx, namespace, stack, one.to), one.name) for one in values["links"]]
        values["links"] = tuple(Link(to=row.uuid, name=name or row.name) for row, name in found)
    if "bindings" in values:
        values["bindings"] = tuple(_binding(tx, namespace, stack, one) for one in values["bindings"])
    if "image" in values:
        values["image"] = with_tag(values["image"])
    if base is None:
        if not values.get("image"):
            raise InvalidInput("image: Missing data for required field.")
        spec = ServiceSpec(**values)
    else:
        spec = dataclasses.replace(base, **values)
        if (base.strategy == placement.EVERY_NODE) != (spec.strategy == placement.EVERY_NODE):
            raise Conflict("a service cannot be changed to or from the strategy EVERY_NODE")
    check(spec)
    return spec


def _binding(tx: Transaction, namespace: str, stack: str | None, one: Binding) -> Binding:
    if not one.volumes_from:
        return one
    return dataclasses.replace(one, volumes_from=resolve(tx, namespace, stack, one.volumes_from).uuid)


def check(spec: ServiceSpec) -> None:
    """Check what the fields' types do not say. Errors: InvalidInput."""
    if not _IMAGE.fullmatch(spec.image):
        raise InvalidInput("the image's name is not allowed", details=repr(spec.image[:200]))
    if spec.autorestart is Restart.ALWAYS and spec.autodestroy is not Destroy.OFF:
        raise InvalidInput("autodestroy must be OFF when autorestart is ALWAYS")
    if spec.strategy not in placement.STRATEGIES:
        raise InvalidInput("unknown deployment strategy", details=spec.strategy[:40])
    for key in spec.env:
        if not _KEY.fullmatch(key) or "\0" in spec.env[key]:
            raise InvalidInput("the name or value of a variable is not allowed", details=repr(key[:80]))
    for label in spec.labels:
        if label.startswith("io.hypercloud"):
            raise InvalidInput("labels that begin with io.hypercloud are the server's own", details=label[:100])
    for one in spec.bindings:
        paths = [path for path in (one.host_path, one.container_path) if path]
        if not all(path.startswith("/") and ":" not in path and "\0" not in path for path in paths):
            raise InvalidInput("the paths of a binding must begin with / and have no colon", details=str(paths)[:200])
        if not one.container_path and not one.volumes_from:
            raise InvalidInput("a binding needs container_path or volumes_from")
    outer = [(port.outer, port.protocol) for port in spec.ports if port.outer]
    if len(set(outer)) != len(outer):
        raise InvalidInput("two ports have one outer_port", details=str(sorted(outer)))
    words(spec.command, "run_command")
    words(spec.entrypoint, "entrypoint")


def check_host_access(spec: ServiceSpec) -> None:
    """Refuse what reaches into the node itself: engines are shared by all accounts. Errors: Forbidden."""
    reaching = {
        "privileged": spec.privileged,
        "host_path": any(one.host_path for one in spec.bindings),
        "net host": spec.net == "host",
        "pid host": spec.pid == "host",
        "devices": spec.devices,
        "cap_add": spec.cap_add,
        "security_opt": spec.security_opt,
        "cgroup_parent": spec.cgroup_parent,
    }
    used = [name for name, value in reaching.items() if value]
    if used:
        raise Forbidden(
            "only administrators may give a container access to its node",
            details=", ".join(used),
            resolution="[engines] user_host_access of the configuration allows it to everybody",
        )


def check_target(target: int, spec: ServiceSpec) -> int:
    """Return a number of containers. Errors: InvalidInput, Conflict for EVERY_NODE."""
    if not 1 <= target <= MOST:
        raise InvalidInput(f"target_num_containers must be from 1 to {MOST}", details=str(target))
    if spec.strategy == placement.EVERY_NODE and target != 1:
        raise Conflict("a service with the strategy EVERY_NODE has one container on each node and cannot be scaled")
    return target
