"""Builds the document: paths from the table, request bodies from the marshmallow schemas that really read them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from flask import Flask
from marshmallow import Schema as MarshmallowSchema

from hyperd import __version__
from hyperd.api.hyper.network_schema import ConnectSchema, NetworkSchema
from hyperd.api.hyper.pod_schema import (
    ContainerSchema,
    ContainerUpdateSchema,
    EnvField,
    EnvSchema,
    PodSchema,
    Port,
    PortSchema,
    ServiceSchema,
    Table,
)
from hyperd.api.hyper.volumes import NamedVolumeSchema
from hyperd.api.openapi.operations import COMMON, JSON, OPERATIONS, PLAIN, Operation
from hyperd.api.openapi.schemas import ANSWERS, ref

OPENAPI = "3.1.0"
VERSION_ARGUMENT = "api_version"
DESCRIPTION = (
    "Every path is also there behind a version, such as /v1.17/info; any version is taken. Parameters may stand in "
    "the query or, for POST and PUT, in a form. Keys of JSON objects that are read match in any case, unknown ones are "
    "left out. Errors are plain text; with Accept: application/json they are objects."
)
STATUS_TEXTS = {
    400: "the request cannot be right",
    401: "credentials are missing or wrong",
    403: "not allowed",
    404: "there is no such object",
    409: "the object's state, or another object, forbids it",
    412: "the pod or container does not run",
    413: "too large",
    499: "the client left",
    500: "a fault of the host, the hypervisor or the guest",
    501: "not supported by this version or host",
    502: "the registry is at fault",
    503: "too much at once, or the pod is busy",
    504: "it did not happen in time",
    507: "the host's disk is full",
}
_READ = (
    EnvSchema,
    PodSchema,
    ContainerSchema,
    ContainerUpdateSchema,
    PortSchema,
    ServiceSchema,
    NetworkSchema,
    ConnectSchema,
    NamedVolumeSchema,
)
_ARGUMENT = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


def routes(app: Flask) -> Iterator[tuple[str, str, str]]:
    """Yield method, path in OpenAPI's writing and endpoint of every route without version prefix."""
    for rule in app.url_map.iter_rules():
        if VERSION_ARGUMENT not in rule.arguments:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, _ARGUMENT.sub(r"{\1}", rule.rule), rule.endpoint


def build(app: Flask) -> dict[str, Any]:
    """Build the document of an application; a route that the table does not have is left out (a test finds it)."""
    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="hyperd",
        version=__version__,
        openapi_version=OPENAPI,
        info={"description": DESCRIPTION},
        plugins=[plugin],
    )
    _teach(plugin)
    for schema in _READ:
        if _name(schema) not in spec.components.schemas:  # else it came with one that holds it
            spec.components.schema(_name(schema), schema=schema)
    for name, described in ANSWERS.items():
        spec.components.schema(name, component=described)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, endpoint in routes(app):
        operation = OPERATIONS.get(f"{method} {path}")
        if operation is not None:
            summary = (app.view_functions[endpoint].__doc__ or "").strip().partition("\n")[0]
            paths.setdefault(path, {})[method.lower()] = _operation(operation, method, path, summary)
    for path in sorted(paths):
        spec.path(path=path, operations=paths[path])
    return dict(spec.to_dict())


def _teach(plugin: MarshmallowPlugin) -> None:
    """Describe the fields that marshmallow's own do not cover."""

    def special(_converter: Any, field: Any, *, ret: dict[str, Any], **_: Any) -> dict[str, Any]:
        if isinstance(field, EnvField):
            return ref("EnvSpec")
        if isinstance(field, Port):
            kinds = [{"type": "string"}, {"type": "integer"}] if field.numbers else [{"type": "string"}]
            return {"anyOf": kinds, "description": "a port, or first-last"}
        if isinstance(field, Table) and "maxLength" in ret:
            return {"maxProperties": ret.pop("maxLength")}
        return {}

    if plugin.converter is None:
        raise TypeError("the plugin belongs to no document")
    plugin.converter.add_attribute_function(special)  # type: ignore[no-untyped-call]


def _name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    if not issubclass(kind, MarshmallowSchema):
        raise TypeError(schema)
    return str(kind.__name__).replace("Schema", "Spec")


def _operation(operation: Operation, method: str, path: str, summary: str) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    headers = [
        {"name": name, "in": "header", "required": False, "schema": {"type": "string"}} for name in operation.headers
    ]
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "summary": summary,
        "tags": [operation.tag],
        "parameters": [*in_path, *operation.query, *headers],
        "responses": {str(operation.status): _answer(operation)},
    }
    if operation.note:
        found["description"] = operation.note
    if operation.body is not None:
        media, schema = operation.body
        found["requestBody"] = {"required": operation.body_needed, "content": {media: {"schema": schema}}}
    if operation.upgrade:
        found["responses"]["101"] = {"description": "a raw stream both ways, for clients that ask for an upgrade"}
    for status in sorted({*COMMON, *operation.errors}):
        content = {PLAIN: {"schema": {"type": "string"}}, JSON: {"schema": ref("Error")}}
        found["responses"][str(status)] = {"description": STATUS_TEXTS[status], "content": content}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "done"}
    if operation.status != 204 and operation.media:
        answer["content"] = {operation.media: {"schema": operation.schema} if operation.schema else {}}
    return answer
