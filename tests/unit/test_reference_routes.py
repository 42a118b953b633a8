"""The routes the original daemon (and its first description) had: each is served, and asked for by some test."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
from flask import Flask

from hyperd.app import create_app
from hyperd.event.bus import EventBus

TESTS = Path(__file__).resolve().parents[1]

ORIGINAL = (
    "POST /pod/create",
    "POST /pod/start",
    "POST /pod/stop",
    "DELETE /pod",
    "GET /list",
    "GET /pod/info",
    "GET /pod/stats",
    "POST /pod/labels",
    "POST /pod/kill",
    "POST /pod/pause",
    "POST /pod/unpause",
    "GET /pod/ID/portmappings",
    "PUT /pod/ID/portmappings/add",
    "PUT /pod/ID/portmappings/delete",
    "POST /vm/create",
    "DELETE /vm",
    "GET /service/list",
    "POST /service/add",
    "POST /service/update",
    "DELETE /service",
    "GET /container/info",
    "GET /container/logs",
    "POST /container/create",
    "POST /container/start",
    "POST /container/stop",
    "POST /container/kill",
    "POST /container/remove",
    "POST /container/rename",
    "POST /container/commit",
    "POST /exec/create",
    "POST /exec/start",
    "GET /exitcode",
    "GET /container/exitcode",
    "POST /attach",
    "POST /tty/resize",
    "POST /execvm",
    "GET /images/get",
    "GET /images/save",
    "POST /image/create",
    "POST /image/load",
    "POST /image/push",
    "POST /images/push",
    "DELETE /image",
    "POST /image/build",
    "GET /info",
    "GET /version",
    "POST /auth",
    "GET /_ping",
)


@cache
def app() -> Flask:
    return create_app(SimpleNamespace(events=EventBus()))


@cache
def asked() -> str:
    """The text of every test that talks to a daemon."""
    files = [path for kind in ("functional", "conformance", "vm") for path in sorted((TESTS / kind).glob("*.py"))]
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


@pytest.mark.parametrize("prefix", ["", "/v1.17", "/v1.1.0", "/v0.1"])
@pytest.mark.parametrize("route", ORIGINAL)
def test_it_is_served(route, prefix):
    method, path = route.split()
    endpoint, values = app().url_map.bind("").match(prefix + path, method=method)
    view = app().view_functions[endpoint]
    assert view.__module__.startswith("hyperd.api.")
    assert values.keys() <= {"api_version", "pod_id", "action"}


@pytest.mark.parametrize("route", ORIGINAL)
def test_some_test_asks_for_it(route):
    path = route.split()[1].replace("ID", "[^/\"']+")
    assert re.search(rf"[\"'}}\s]{path}[\"'?]", asked()), f"no test asks for {route}"
