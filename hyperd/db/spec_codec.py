"""Specifications as the database keeps them: the dataclasses of ``hyperd.spec.model`` to JSON objects and back.

The codec follows the fields' types, so a new field with a default needs nothing here. A field that has its default is
not written and is filled in when it is read; a field that is not known is ignored, so that a row of a newer program
that says no more than a default can be read. The object carries the version of the format under ``v``.

A change that a reader of the version before would understand wrongly (another default, another meaning or name of a
field) raises ``VERSION`` and comes with a migration that rewrites the rows.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from hyperd.errors import HostFault

VERSION = 1
KEY = "v"

T = TypeVar("T")
Convert = Callable[[Any], Any]


def dump(value: object) -> dict[str, Any]:
    """Return a specification as a JSON object."""
    return {KEY: VERSION, **_coder(cast("Any", type(value))).encode(value)}


def load(kind: type[T], data: Mapping[str, Any]) -> T:
    """Return the specification of a row.

    Args:
        kind: which dataclass of ``hyperd.spec.model``.
        data: the JSON object, as ``dump`` gave it.

    Errors: HostFault when it is of a newer format, or damaged.

    """
    version = data.get(KEY, 0)
    if version != VERSION:
        raise HostFault(
            f"a {kind.__name__} in the database has the format {version}",
            details=f"this hyperd reads format {VERSION}",
            resolution="start the hyperd that wrote it",
        )
    try:
        return cast("T", _coder(cast("Any", kind)).decode(data))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise HostFault(f"a {kind.__name__} in the database is damaged", details=str(error)[:300]) from error


class _Coder:
    """Both directions for one dataclass; the work that depends on types alone is done once."""

    def __init__(self, kind: type) -> None:
        self._kind = kind
        hints = get_type_hints(kind)
        self._fields = []
        for field in fields(kind):
            default = field.default_factory() if field.default_factory is not MISSING else field.default
            self._fields.append((field.name, default, *_converters(hints[field.name])))
        self._decoders = {name: decode for name, _, _, decode in self._fields}

    def encode(self, value: Any) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, default, encode, _ in self._fields:
            item = getattr(value, name)
            if item is not default and item != default:
                out[name] = encode(item)
        return out

    def decode(self, data: Mapping[str, Any]) -> Any:
        decoders = self._decoders
        if not isinstance(data, Mapping):
            raise TypeError(f"a {self._kind.__name__} is no object")
        return self._kind(**{name: decoders[name](item) for name, item in data.items() if name in decoders})


@cache
def _coder(kind: type) -> _Coder:
    return _Coder(kind)


def _converters(hint: Any) -> tuple[Convert, Convert]:
    """Return how values of a type are written and read."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (only,) = [one for one in inner if one is not type(None)]
        encode, decode = _converters(only)
        return _optional(encode), _optional(decode)
    if origin is tuple and inner[-1] is Ellipsis:
        encode, decode = _converters(inner[0])
        return lambda items: [encode(item) for item in items], lambda items: tuple([decode(item) for item in items])
    if origin is tuple:
        pairs = [_converters(one) for one in inner]
        return (
            lambda items: [encode(item) for (encode, _), item in zip(pairs, items, strict=True)],
            lambda items: tuple([decode(item) for (_, decode), item in zip(pairs, items, strict=True)]),
        )
    if origin is not None and issubclass(origin, Mapping):
        return dict, _exactly(dict)
    if is_dataclass(hint):
        coder = _coder(cast("type", hint))
        return coder.encode, coder.decode
    if hint in (str, int, bool):
        return _same, _exactly(hint)
    if hint is float:
        return float, float
    raise TypeError(f"the codec of specifications does not know {hint}")


def _same(value: Any) -> Any:
    return value


def _exactly(kind: type) -> Convert:
    """Refuse other JSON types: a damaged row shall not become a strange pod."""

    def decode(value: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"{str(value)[:80]!r} is no {kind.__name__}")
        return value

    return decode


def _optional(convert: Convert) -> Convert:
    return lambda value: None if value is None else convert(value)
