"""Addresses of objects, and dates, as Docker Cloud wrote them."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from urllib.parse import urlsplit

from hypercloud.errors import InvalidInput
from hypercloud.event.bus import Ref

PROVIDER, REGION, NODETYPE = "byo", "default", "host"
SUBSYSTEMS = {
    "stack": "app",
    "service": "app",
    "container": "app",
    "node": "infra",
    "nodecluster": "infra",
    "registry": "repo",
    "repository": "repo",
}
SHARED = {"action": "audit", "provider": "infra", "region": "infra", "az": "infra", "nodetype": "infra"}


def uri(kind: str, key: str, namespace: str = "") -> str:
    """Return an object's address."""
    if kind in SHARED:
        return f"/api/{SHARED[kind]}/v1/{kind}/{key}/"
    return f"/api/{SUBSYSTEMS[kind]}/v1/{namespace}/{kind}/{key}/"


def of_ref(ref: Ref, namespace: str) -> str:
    """Return the address of what an event names."""
    return uri(ref.kind, ref.uuid, namespace)


def last_part(text: str) -> str:
    """Return the uuid at the end of an address, or the text itself."""
    return urlsplit(text).path.strip("/").rpartition("/")[2]


def date(seconds: float | None) -> str | None:
    """Return a time as ``Mon, 13 Oct 2014 11:01:43 +0000``."""
    return None if seconds is None else format_datetime(datetime.fromtimestamp(int(seconds), UTC))


def iso(seconds: float) -> str:
    """Return a time as ``2016-02-01T16:47:28Z``."""
    return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def seconds(text: str) -> float:
    """Return a date of a filter as seconds. Errors: InvalidInput."""
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        try:
            found = read(text)
        except (ValueError, TypeError):
            continue
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    raise InvalidInput("a date is like Mon, 13 Oct 2014 11:01:43 +0000 or 2014-10-13", details=text[:60])
