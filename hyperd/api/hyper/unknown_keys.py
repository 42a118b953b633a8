"""Keys of a specification that nobody knows: they are dropped, and the caller is told which."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from marshmallow import fields

from hyperd.api.hyper.pod_schema import ContainerSchema, PodSchema, Wire
from hyperd.errors import InvalidInput

MAX_WARNINGS = 32
_LIKE = 0.7  # how much alike two keys must be, from 0 to 1
_LONG = 80  # characters; no longer key is like a known one
_MANIFEST = {"apiversion", "kind"}
_POD, _CONTAINER = PodSchema(), ContainerSchema()


def refuse_manifest(data: object) -> None:
    """Refuse a Kubernetes manifest where a pod of ours is expected. Errors: InvalidInput."""
    if isinstance(data, Mapping) and {key.lower() for key in data if isinstance(key, str)} >= _MANIFEST:
        raise InvalidInput(
            "this is a Kubernetes manifest, not a pod of hyperd",
            details="it has apiVersion and kind",
            resolution="hyperctl kube play runs manifests",
        )


def pod_warnings(data: object) -> list[str]:
    """Return a warning for each unknown key of a pod, at most 32."""
    return _warnings(_POD, data)


def container_warnings(data: object) -> list[str]:
    """Return a warning for each unknown key of a container, at most 32."""
    return _warnings(_CONTAINER, data)


def _warnings(schema: Wire, data: object) -> list[str]:
    found: list[str] = []
    for path, nearest in _unknown(schema, data, ""):
        if len(found) == MAX_WARNINGS:
            break
        found.append(f"unknown key {path}: it is ignored" + (f"; did you mean {nearest}?" if nearest else ""))
    return found


def _unknown(schema: Wire, data: object, before: str) -> Iterator[tuple[str, str]]:
    """Yield path and nearest known key of each unknown one."""
    if not isinstance(data, Mapping):
        return
    names = {(field.data_key or name).lower(): (field.data_key or name, field) for name, field in schema.fields.items()}
    for key, value in data.items():
        if not isinstance(key, str):
            continue
        lower = key.lower()
        if lower in schema.aliases:
            lower = schema.aliases[lower].lower()
        if lower not in names:
            like = difflib.get_close_matches(lower, names, n=1, cutoff=_LIKE) if len(lower) <= _LONG else []
            yield f"{before}{key[:80]}", names[like[0]][0] if like else ""
            continue
        yield from _inside(names[lower][1], value, f"{before}{names[lower][0]}")


def _inside(field: Any, value: object, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(field, fields.Nested) and isinstance(field.schema, Wire):
        yield from _unknown(field.schema, value, f"{path}.")
    elif isinstance(field, fields.List) and isinstance(value, list):
        for index, item in enumerate(value):
            yield from _inside(field.inner, item, f"{path}[{index}]")
