"""Answers whose head is sent at once and whose body comes when something has happened.

A client that starts a container only when it knows that somebody waits for it needs the head first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response

from hyperd.api.background import Background, CancelToken, Form, Send, json_line


class HeadFirst:
    """A question that was registered before the answer's head is sent.

    Args:
        name: of the thread.
        ask: gets a function that tells whether the client has left, returns the answer as JSON value.
        failed: makes the answer when ``ask`` raised something.
        close: gives the question up when it is never asked.

    """

    def __init__(
        self,
        name: str,
        ask: Callable[[Callable[[], bool]], Any],
        *,
        failed: Callable[[Exception], Any],
        close: Callable[[], object] = lambda: None,
    ) -> None:
        def run(send: Send, cancelled: CancelToken) -> None:
            send(json_line(ask(cancelled)))

        form = Form(head_first=True, failed=lambda error: json_line(failed(error)))
        self._background = Background(name, run, form, close=close)

    def respond(self) -> Response:
        """Send the head; the rest is sent by a thread of its own. Errors: as Background.respond."""
        return self._background.respond()
