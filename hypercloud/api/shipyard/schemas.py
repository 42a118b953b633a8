"""What Shipyard's clients send about containers, engines and extensions."""

from __future__ import annotations

from typing import Any

from marshmallow import EXCLUDE, Schema, fields, validate

from hypercloud.engine.model import PortMap
from hypercloud.fleet.model import Extension, Image

_SIZE = validate.Range(min=0, max=2**40)


class _Loose(Schema):
    class Meta:
        """Unknown keys are ignored, as the original did."""

        unknown = EXCLUDE


def _texts() -> fields.List[Any]:
    return fields.List(fields.String(validate=validate.Length(max=4096)), load_default=list, allow_none=True)


def _pairs() -> fields.Dict:
    return fields.Dict(keys=fields.String(), values=fields.String(), load_default=dict, allow_none=True)


def _string() -> fields.String:
    return fields.String(load_default="", allow_none=True, validate=validate.Length(max=4096))


class PortSchema(_Loose):
    """A port to publish."""

    proto = fields.String(load_default="tcp", validate=validate.OneOf(["tcp", "udp"]))
    host_ip = _string()
    port = fields.Integer(load_default=0, allow_none=True, validate=validate.Range(0, 65535))
    container_port = fields.Integer(required=True, validate=validate.Range(1, 65535))


class RestartSchema(_Loose):
    """A restart policy."""

    name = fields.String(
        load_default="", allow_none=True, validate=validate.OneOf(["", "no", "on-failure", "always", "unless-stopped"])
    )
    maximum_retry = fields.Integer(load_default=0, allow_none=True, validate=validate.Range(0, 2**31))


class ImageSchema(_Loose):
    """What to run."""

    name = fields.String(required=True, validate=validate.Length(1, 500))
    container_name = _string()
    cpus = fields.Float(load_default=0.0, allow_none=True, validate=_SIZE)
    cpuset = _string()
    memory = fields.Float(load_default=0.0, allow_none=True, validate=_SIZE)
    entrypoint = _texts()
    environment = _pairs()
    hostname = _string()
    domain = _string()
    args = _texts()
    type = fields.String(load_default="service", allow_none=True)
    labels = _texts()
    bind_ports = fields.List(fields.Nested(PortSchema), load_default=list, allow_none=True)
    user_data = fields.Dict(load_default=dict, allow_none=True)
    volumes = _texts()
    links = _pairs()
    restart_policy = fields.Nested(RestartSchema, load_default=dict, allow_none=True)
    publish = fields.Boolean(load_default=False, allow_none=True)
    network_mode = _string()


class InnerEngineSchema(_Loose):
    """An engine's address and size."""

    id = fields.String(required=True)
    addr = fields.String(required=True, validate=validate.Length(1, 500))
    cpus = fields.Float(load_default=0.0, validate=_SIZE)
    memory = fields.Float(load_default=0.0, validate=_SIZE)
    labels = _texts()


class EngineSchema(_Loose):
    """An engine with its certificates."""

    ssl_cert = fields.String(load_default="", allow_none=True)
    ssl_key = fields.String(load_default="", allow_none=True)
    ca_cert = fields.String(load_default="", allow_none=True)
    engine = fields.Nested(InnerEngineSchema, required=True)


class ExtensionConfigSchema(_Loose):
    """How an extension's containers run."""

    container_name = _string()
    cpus = fields.Float(load_default=0.0, validate=_SIZE)
    memory = fields.Float(load_default=0.0, validate=_SIZE)
    environment = _pairs()
    links = _pairs()
    args = _texts()
    volumes = _texts()
    ports = fields.List(fields.Nested(PortSchema), load_default=list, allow_none=True)
    deploy_per_engine = fields.Boolean(load_default=False)
    prompt_args = fields.Boolean(load_default=False)
    prompt_env = fields.Boolean(load_default=False)


class ExtensionSchema(_Loose):
    """An extension."""

    name = fields.String(required=True, validate=validate.Length(1, 200))
    image = fields.String(required=True, validate=validate.Length(1, 500))
    author = _string()
    description = _string()
    version = _string()
    url = _string()
    config = fields.Nested(ExtensionConfigSchema, load_default=dict)


def port_of(data: dict[str, Any]) -> PortMap:
    """Return a port from what was loaded."""
    return PortMap(
        proto=data["proto"],
        container_port=data["container_port"],
        port=data.get("port") or 0,
        host_ip=data.get("host_ip") or "",
    )


def image_of(data: dict[str, Any]) -> Image:
    """Return an image from what was loaded."""
    restart = data.get("restart_policy") or {}
    name = restart.get("name") or ""
    return Image(
        name=data["name"],
        container_name=(data["container_name"] or "").lstrip("/"),
        cpus=data["cpus"] or 0.0,
        cpuset=data["cpuset"] or "",
        memory=data["memory"] or 0.0,
        entrypoint=tuple(data["entrypoint"] or ()),
        environment=data["environment"] or {},
        hostname=data["hostname"] or "",
        domainname=data["domain"] or "",
        args=tuple(data["args"] or ()),
        type=data["type"] or "service",
        labels=tuple(data["labels"] or ()),
        bind_ports=tuple(port_of(one) for one in data["bind_ports"] or ()),
        user_data=data["user_data"] or {},
        volumes=tuple(data["volumes"] or ()),
        links=data["links"] or {},
        restart="" if name == "no" else name,
        restart_max=(restart.get("maximum_retry") or 0) if name == "on-failure" else 0,
        publish=bool(data["publish"]),
        network_mode=data["network_mode"] or "",
    )


def extension_of(data: dict[str, Any]) -> Extension:
    """Return an extension from what was loaded."""
    config = data["config"] or {}
    return Extension(
        id="",
        name=data["name"],
        image=data["image"],
        author=data["author"] or "",
        description=data["description"] or "",
        version=data["version"] or "",
        url=data["url"] or "",
        container_name=config.get("container_name") or "",
        cpus=config.get("cpus") or 0.0,
        memory=config.get("memory") or 0.0,
        environment=config.get("environment") or {},
        links=config.get("links") or {},
        args=tuple(config.get("args") or ()),
        volumes=tuple(config.get("volumes") or ()),
        ports=tuple(port_of(one) for one in config.get("ports") or ()),
        deploy_per_engine=bool(config.get("deploy_per_engine")),
        prompt_args=bool(config.get("prompt_args")),
        prompt_env=bool(config.get("prompt_env")),
    )
