"""Errors in the words of hyperd's own API."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
import structlog
from flask import Flask

from hyperd import errors
from hyperd.api.hyper.errors import register, status_of
from hyperd.errors import HyperError

JSON = {"Accept": "application/json"}


def answer(error: Exception, headers: dict[str, str] | None = None) -> tuple[int, object, list[str]]:
    """Return status, body and the levels that were logged."""
    app = Flask("test")
    register(app)

    @app.get("/")
    def fail() -> str:
        raise error

    with structlog.testing.capture_logs() as lines:
        found = app.test_client().get("/", headers=headers)
    return found.status_code, found.json if headers else found.text, [line["log_level"] for line in lines]


def classes() -> Iterator[type[HyperError]]:
    for one in vars(errors).values():
        if isinstance(one, type) and issubclass(one, HyperError):
            yield one


def test_every_class_has_a_status_of_its_own_or_its_base() -> None:
    assert {one.__name__: status_of(one("x")) for one in classes()} == {
        "HyperError": 500,
        "InvalidInput": 400,
        "Unauthorized": 401,
        "Forbidden": 403,
        "NotFound": 404,
        "ImageNotFound": 404,
        "Conflict": 409,
        "NotAlive": 412,
        "TooLarge": 413,
        "HostFault": 500,
        "DriverError": 500,
        "AgentError": 500,
        "OutOfSpace": 507,
        "Cancelled": 499,
        "NotSupported": 501,
        "RegistryError": 502,
        "Busy": 503,
        "Timeout": 504,
        "ProgramFailed": 500,
    }


@pytest.mark.parametrize("kind", list(classes()))
def test_users_mistakes_are_no_errors_of_the_daemon(kind: type[HyperError]) -> None:
    status, text, levels = answer(kind("it failed", details="why", resolution="do this"))
    assert text == "it failed: why (do this)\n"
    assert (levels == ["error"]) == (status in {500, 507} and kind is not errors.ProgramFailed)


def test_the_object_is_named() -> None:
    error = errors.NotFound("no such container", kind="container", name="web-1")
    assert answer(error, JSON)[:2] == (
        404,
        {
            "message": "no such container",
            "details": "",
            "resolution": "",
            "code": 404,
            "kind": "container",
            "name": "web-1",
        },
    )
    assert errors.AgentError("x", errno=2, kind="container", name="y").kind == "container"
    assert "kind" not in answer(errors.Busy("full"), JSON)[1]  # type: ignore[operator]


def test_no_descriptors_are_told_as_such() -> None:
    status, text, _ = answer(OSError(errno.EMFILE, "Too many open files"))
    assert (status, text) == (503, "the daemon has no file descriptors left (allow more (ulimit -n))\n")
