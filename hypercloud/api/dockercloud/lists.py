"""Lists: pages, and filters by the query."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlencode

from flask import Response, jsonify, request
from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from hypercloud.api.bodies import number

PAGE = 25
LARGEST = 1000
_T = TypeVar("_T")
Filter = Callable[[str], Any]  # the text of the query to a condition of SQLAlchemy


def page(rows: Sequence[_T], view: Callable[[_T], dict[str, Any]]) -> Response:
    """Return the page of a list that the query asks for."""
    limit, offset = _window()
    return envelope([view(one) for one in rows[offset : offset + limit]], len(rows), limit, offset)


def select_page(
    session: Session, query: Select[Any], filters: Mapping[str, Filter], *, alive: Any = None
) -> tuple[Sequence[Any], int, int, int]:
    """Return the rows of the page that the query asks for, how many there are in all, limit and offset.

    Args:
        session: the database's.
        query: with its order.
        filters: by the name of their parameter; those that are not in the request do not count.
        alive: the condition for what is not terminated. A name is free when its bearer is, so whoever asks by name, as
            clients do for every command, means the one that has it now; without one, those that had it.

    """
    for name, condition in filters.items():
        if (text := request.args.get(name)) is not None:
            query = query.where(condition(text))
    limit, offset = _window()
    if alive is not None and "name" in request.args and "state" not in request.args:
        now = query.where(alive)
        query = now if session.execute(now.limit(1)).first() is not None else query
    total = session.scalar(select(func.count()).select_from(query.order_by(None).subquery())) or 0
    return session.scalars(query.limit(limit).offset(offset)).all(), total, limit, offset


def envelope(objects: list[dict[str, Any]], total: int, limit: int, offset: int) -> Response:
    """Return a page with its ``meta``."""
    return jsonify(
        {
            "meta": {
                "limit": limit,
                "next": _link(offset + limit, limit) if offset + limit < total else None,
                "offset": offset,
                "previous": _link(max(0, offset - limit), limit) if offset > 0 else None,
                "total_count": total,
            },
            "objects": objects,
        }
    )


def matches(values: Mapping[str, Any]) -> bool:
    """Say whether an object that is no row has all the values that the query asks for.

    Args:
        values: by the name of their parameter; a list matches when it contains the text.

    """
    for name, value in values.items():
        text = request.args.get(name)
        if text is None:
            continue
        if isinstance(value, bool):
            found = text.lower() == str(value).lower()
        elif isinstance(value, list):
            found = any(text.strip("/") == str(one).strip("/") for one in value)
        else:
            found = text.strip("/") == str(value).strip("/")
        if not found:
            return False
    prefix = request.args.get("uuid__startswith")
    return prefix is None or str(values.get("uuid", "")).startswith(prefix)


def _window() -> tuple[int, int]:
    limit = number("limit", default=PAGE, least=0, most=LARGEST) or LARGEST
    return limit, number("offset", default=0, least=0, most=2**31)


def _link(offset: int, limit: int) -> str:
    args = [(key, value) for key, value in request.args.items(multi=True) if key not in {"limit", "offset"}]
    return f"{request.path}?{urlencode([*args, ('limit', limit), ('offset', offset)])}"
