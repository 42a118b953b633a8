"""Builds a dialect's OpenAPI 3.1 document: paths from its table, bodies from the schemas that really read them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from flask import Flask, Response, current_app, jsonify

from hypercloud import __version__

Schema = dict[str, Any]
OPENAPI = "3.1.0"
JSON, PLAIN = "application/json", "text/plain"
NAMESPACE = "namespace"
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer"}
COUNT: Schema = {"type": "integer", "minimum": 0}
NUMBER: Schema = {"type": "number", "minimum": 0}
FLAG: Schema = {"type": "boolean"}
TEXTS: Schema = {"type": "object", "additionalProperties": TEXT}
STATUS_TEXTS = {
    400: "the request is not right",
    401: "credentials are missing or wrong",
    403: "not allowed",
    404: "there is no such object, or it is not yours",
    405: "it cannot be had here",
    409: "the object's state, or another object, forbids it",
    415: "not JSON",
    429: "too many wrong attempts; Retry-After says how long to wait",
    500: "a fault of an engine or of the server",
    501: "the back end cannot do it, and says why",
    503: "an engine does not answer",
}
_ARGUMENT = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method of one path; its summary is the docstring of the view.

    Args:
        tag: kind of object.
        query: parameters, see ``q``.
        body: name of the schema of a JSON body; ``body_needed`` tells whether there must be one.
        status, media, schema: of a good answer; without a schema it has no JSON. A status of 0: there is none.
        errors: statuses beside those that every request may have.
        public: needs no credentials.
        note: what else is to be said.

    """

    tag: str
    query: Sequence[Schema] = ()
    body: str = ""
    body_needed: bool = True
    status: int = 200
    media: str = JSON
    schema: Schema | None = None
    errors: Sequence[int] = ()
    public: bool = False
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """An API that is described.

    Args:
        name: of its blueprint.
        title, description: of the document.
        operations: by method and path.
        read: marshmallow's schemas of bodies.
        answers: schemas of answers by name.
        common: statuses that every request may be answered with.
        error: media type and schema of errors.
        security: schemes by name, any of which will do.

    """

    name: str
    title: str
    description: str
    operations: Mapping[str, Operation]
    read: Sequence[type[Any]]
    answers: Mapping[str, Schema]
    common: Sequence[int]
    error: tuple[str, Schema]
    security: Mapping[str, Schema] = field(default_factory=dict)


def q(name: str, text: str = "", schema: Schema = TEXT, *, needed: bool = False) -> Schema:
    """Return a parameter of the query."""
    return {"name": name, "in": "query", "required": needed, "description": text, "schema": schema}


def ref(name: str) -> Schema:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def thing(optional: str = "", /, **properties: Schema) -> Schema:
    """Return an object all of whose properties are there, but those named in ``optional`` (separated by blanks)."""
    needed = [name for name in properties if name not in optional.split()]
    return {"type": "object", "properties": properties, **({"required": needed} if needed else {})}


def many(item: Schema) -> Schema:
    """Return an array."""
    return {"type": "array", "items": item}


def maybe(schema: Schema) -> Schema:
    """Return a schema that null fits, too."""
    return {"anyOf": [schema, {"type": "null"}]}


def said(schema: Schema, text: str) -> Schema:
    """Return a schema with its description."""
    return {**schema, "description": text}


def routes(app: Flask, blueprint: str) -> Iterator[tuple[str, str, str, bool]]:
    """Yield method, path as OpenAPI writes it, endpoint and "is a websocket" of a blueprint's routes.

    Those with a namespace in their path are left out: they are there without one as well.
    """
    for rule in app.url_map.iter_rules():
        if rule.endpoint.partition(".")[0] == blueprint and NAMESPACE not in rule.arguments:
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield method, _ARGUMENT.sub(r"{\1}", rule.rule), rule.endpoint, bool(rule.websocket)


def served(dialect: Dialect) -> Response:
    """Answer with a dialect's document."""
    key = f"hypercloud-openapi-{dialect.name}"
    if key not in current_app.extensions:
        current_app.extensions[key] = build(current_app, dialect)
    return jsonify(current_app.extensions[key])


def build(app: Flask, dialect: Dialect) -> dict[str, Any]:
    """Return the document of a dialect; a route that its table does not have is left out (a test finds it)."""
    # Time and memory that most servers never need.
    from apispec import APISpec
    from apispec.ext.marshmallow import MarshmallowPlugin

    plugin = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title=dialect.title,
        version=__version__,
        openapi_version=OPENAPI,
        info={"description": dialect.description},
        plugins=[plugin],
    )
    for schema in dialect.read:
        if _name(schema) not in spec.components.schemas:  # else it came with one that holds it
            spec.components.schema(_name(schema), schema=schema)
    for name, described in dialect.answers.items():
        spec.components.schema(name, component=described)
    for name, described in dialect.security.items():
        spec.components.security_scheme(name, described)
    paths: dict[str, dict[str, Any]] = {}
    for method, path, endpoint, is_stream in routes(app, dialect.name):
        operation = dialect.operations.get(f"{method} {path}")
        if operation is not None:
            summary = (app.view_functions[endpoint].__doc__ or "").strip().partition("\n")[0]
            described = _operation(dialect, operation, method, path, is_stream=is_stream)
            paths.setdefault(path, {})[method.lower()] = {"summary": summary, **described}
    for path in sorted(paths):
        spec.path(path=path, operations=paths[path])
    return dict(spec.to_dict())


def _name(schema: Any) -> str:
    kind = schema if isinstance(schema, type) else type(schema)
    return kind.__name__.replace("Schema", "Spec")


def _operation(dialect: Dialect, operation: Operation, method: str, path: str, *, is_stream: bool) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)}", path)
    ]
    answers: dict[str, Any] = {}
    if is_stream:
        answers["101"] = {"description": "a websocket whose messages are JSON, one object each"}
    elif operation.status:
        answers[str(operation.status)] = _answer(operation)
    media, schema = dialect.error
    for status in sorted({*dialect.common, *operation.errors}):
        answers[str(status)] = {"description": STATUS_TEXTS[status], "content": {media: {"schema": schema}}}
    found: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{path}").strip("_"),
        "tags": [operation.tag],
        "parameters": [*in_path, *operation.query],
        "responses": answers,
        "security": [] if operation.public else [{name: []} for name in dialect.security],
    }
    if operation.note:
        found["description"] = operation.note
    if operation.body:
        content = {JSON: {"schema": ref(operation.body)}}
        found["requestBody"] = {"required": operation.body_needed, "content": content}
    return found


def _answer(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "done"}
    if operation.schema is not None:
        answer["content"] = {operation.media: {"schema": operation.schema}}
    return answer
