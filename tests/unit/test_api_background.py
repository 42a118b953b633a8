"""Work behind a request: what is left when it cannot be begun, and what a client that leaves gets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from flask import Flask, request

from hyperd.api import background
from hyperd.api.background import Background, Form
from hyperd.api.hyper import errors
from hyperd.errors import Busy, Cancelled


@pytest.fixture
def app() -> Flask:
    made = Flask(__name__)
    errors.register(made)
    return made


def test_work_that_gets_no_thread_takes_no_place(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    closed: list[bool] = []

    def ask() -> None:
        Background("x", lambda _send, _token: b"", Form(whole=True), close=lambda: closed.append(True)).respond()

    with app.test_request_context("/"):
        with monkeypatch.context() as none_left:
            none_left.setattr(threading.Thread, "start", refuse)
            for _ in range(background.MAX_REMOTE + 1):
                with pytest.raises(Busy, match="no thread"):
                    ask()
        assert len(closed) == background.MAX_REMOTE + 1
        ask()


class Left:
    """The body of a client that has left."""

    def read(self, _size: int) -> bytes:
        raise Cancelled("the client left while it sent")


def test_a_client_that_leaves_a_refused_body_is_no_fault(app: Flask, caplog: pytest.LogCaptureFixture) -> None:
    app.config["MAX_CONTENT_LENGTH"] = 10

    @app.post("/")
    def view() -> Any:
        return request.get_data()

    environ = {"wsgi.input": Left(), "CONTENT_LENGTH": "100", "REQUEST_METHOD": "POST"}
    answer = app.test_client().open("/", environ_overrides=environ)
    assert answer.status_code == 413
    assert "Traceback" not in caplog.text
