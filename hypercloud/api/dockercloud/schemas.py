"""What clients send about services and stacks, in the API's own words; ``stackfile`` knows the stack file's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from hypercloud.api.bodies import load
from hypercloud.api.dockercloud import stackfile
from hypercloud.api.dockercloud.uris import last_part
from hypercloud.errors import InvalidInput
from hypercloud.workload.drafts import Draft
from hypercloud.workload.model import Binding, Destroy, Link, Port, Restart

MOST = 500  # entries of a list
TEXT = validate.Length(max=4096)


class Loose(Schema):
    """Unknown keys are ignored: the stack file has some that mean nothing here."""

    class Meta:
        """As above."""

        unknown = EXCLUDE


class PortSchema(Loose):
    """A port of a service's containers."""

    protocol = fields.String(load_default="tcp", validate=validate.OneOf(["tcp", "udp"]))
    inner_port = fields.Integer(required=True, validate=validate.Range(1, 65535))
    outer_port = fields.Integer(load_default=None, allow_none=True, validate=validate.Range(1, 65535))
    published = fields.Boolean(load_default=None, allow_none=True)


class VariableSchema(Loose):
    """A variable of a service's containers."""

    key = fields.String(required=True, validate=validate.Length(1, 256))
    value = fields.Raw(load_default="")


class LinkSchema(Loose):
    """A link to another service."""

    to_service = fields.String(required=True, validate=validate.Length(1, 500))
    name = fields.String(load_default="", allow_none=True, validate=validate.Length(max=100))


class BindingSchema(Loose):
    """A volume of a service's containers."""

    host_path = fields.String(load_default="", allow_none=True, validate=TEXT)
    container_path = fields.String(load_default="", allow_none=True, validate=TEXT)
    rewritable = fields.Boolean(load_default=True, allow_none=True)
    volumes_from = fields.String(load_default="", allow_none=True, validate=TEXT)


def _text() -> fields.String:
    return fields.String(allow_none=True, validate=TEXT)


def _texts() -> fields.List[Any]:
    return fields.List(fields.String(validate=TEXT), allow_none=True, validate=validate.Length(max=MOST))


def _nested(schema: type[Schema]) -> fields.List[Any]:
    return fields.List(fields.Nested(schema), allow_none=True, validate=validate.Length(max=MOST))


class ServiceSchema(Loose):
    """A service in the API's words."""

    image = fields.String(validate=validate.Length(1, 500))
    name = _text()
    nickname = _text()
    target_num_containers = fields.Integer(allow_none=True)
    run_command = _text()
    entrypoint = _text()
    container_ports = _nested(PortSchema)
    container_envvars = _nested(VariableSchema)
    linked_to_service = _nested(LinkSchema)
    bindings = _nested(BindingSchema)
    autorestart = fields.Enum(Restart, by_value=True, allow_none=True)
    autodestroy = fields.Enum(Destroy, by_value=True, allow_none=True)
    sequential_deployment = fields.Boolean(allow_none=True)
    roles = fields.List(fields.String(validate=validate.OneOf(["global"])), allow_none=True)
    privileged = fields.Boolean(allow_none=True)
    deployment_strategy = fields.String(
        allow_none=True, validate=validate.OneOf(["EMPTIEST_NODE", "HIGH_AVAILABILITY", "EVERY_NODE"])
    )
    tags = fields.List(fields.Raw(), allow_none=True, validate=validate.Length(max=MOST))
    autoredeploy = fields.Boolean(allow_none=True)
    net = fields.String(allow_none=True, validate=validate.OneOf(["bridge", "host"]))
    pid = fields.String(allow_none=True, validate=validate.OneOf(["none", "host", ""]))
    working_dir = _text()
    user = _text()
    hostname = _text()
    domainname = _text()
    mac_address = _text()
    cgroup_parent = _text()
    tty = fields.Boolean(allow_none=True)
    stdin_open = fields.Boolean(allow_none=True)
    read_only = fields.Boolean(allow_none=True)
    dns = _texts()
    dns_search = _texts()
    cap_add = _texts()
    cap_drop = _texts()
    devices = _texts()
    extra_hosts = _texts()
    security_opt = _texts()
    labels = fields.Dict(keys=fields.String(), values=fields.String(), allow_none=True)
    cpu_shares = fields.Integer(allow_none=True, validate=validate.Range(0, 262_144))
    cpuset = _text()
    memory = fields.Integer(allow_none=True, validate=validate.Range(0, 2**30))
    memory_swap = fields.Integer(allow_none=True, validate=validate.Range(-1, 2**30))


_PLAIN = {
    "image": "image",
    "run_command": "command",
    "entrypoint": "entrypoint",
    "autorestart": "autorestart",
    "autodestroy": "autodestroy",
    "sequential_deployment": "sequential",
    "privileged": "privileged",
    "deployment_strategy": "strategy",
    "autoredeploy": "autoredeploy",
    "labels": "labels",
    **{
        key: key
        for key in (
            "net", "pid", "working_dir", "user", "hostname", "domainname", "mac_address", "cgroup_parent", "tty",
            "stdin_open", "read_only", "cpu_shares", "cpuset", "memory", "memory_swap",
        )
    },
}  # fmt: skip
_LISTS = ("roles", "dns", "dns_search", "cap_add", "cap_drop", "devices", "extra_hosts", "security_opt")
_EMPTY: dict[str, Any] = {
    "autorestart": Restart.OFF, "autodestroy": Destroy.OFF, "strategy": "EMPTIEST_NODE", "net": "bridge", "pid": "none",
    "labels": {}, "sequential": False, "privileged": False, "autoredeploy": False, "tty": False, "stdin_open": False,
    "read_only": False, "cpu_shares": 0, "memory": 0, "memory_swap": 0,
}  # fmt: skip


def draft(body: Mapping[str, Any]) -> Draft:
    """Return what a client wants of a service; the keys of the stack file are understood as well.

    Errors: InvalidInput.
    """
    data = load(ServiceSchema(), stackfile.to_api(body))
    values: dict[str, Any] = {}
    for key, name in _PLAIN.items():
        if key in data:
            values[name] = data[key] if data[key] is not None and data[key] != "" else _EMPTY.get(name, "")
    for key in _LISTS:
        if key in data:
            values[key] = tuple(data[key] or ())
    if "container_ports" in data:
        values["ports"] = tuple(_port(one) for one in data["container_ports"] or ())
    if "container_envvars" in data:
        values["env"] = {one["key"]: _value(one["value"]) for one in data["container_envvars"] or ()}
    if "linked_to_service" in data:
        links = data["linked_to_service"] or ()
        values["links"] = tuple(Link(to=last_part(one["to_service"]), name=one["name"] or "") for one in links)
    if "bindings" in data:
        values["bindings"] = tuple(_binding(one) for one in data["bindings"] or ())
    if "tags" in data:
        values["tags"] = tuple(dict.fromkeys(tag_name(one) for one in data["tags"] or ()))
    return Draft(
        name=data.get("name") or None,
        nickname=data.get("nickname"),
        target=data.get("target_num_containers"),
        values=values,
    )


def tag_name(tag: Any) -> str:
    """Return a tag given as ``{"name": "t"}`` or as text. Errors: InvalidInput."""
    name = tag.get("name") if isinstance(tag, Mapping) else tag
    if not isinstance(name, str) or not name or len(name) > 100:
        raise InvalidInput("a tag must be a text, or an object with its name", details=repr(tag)[:100])
    return name


def _port(data: Mapping[str, Any]) -> Port:
    published = data["published"] if data["published"] is not None else data["outer_port"] is not None
    outer = data["outer_port"] or 0
    return Port(
        protocol=data["protocol"], inner=data["inner_port"], outer=outer if published else 0, published=published
    )


def _binding(data: Mapping[str, Any]) -> Binding:
    return Binding(
        host_path=data["host_path"] or "",
        container_path=data["container_path"] or "",
        writable=data["rewritable"] is not False,
        volumes_from=last_part(data["volumes_from"] or ""),
    )


def _value(value: Any) -> str:
    """Return a variable's value; YAML makes numbers and truth values of some texts."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidInput("the value of a variable must be a text", details=repr(value)[:100])
