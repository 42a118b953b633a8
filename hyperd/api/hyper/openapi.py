"""``GET /openapi.json``: the API's own description."""

from __future__ import annotations

from flask import Response, current_app

from hyperd.api import answers
from hyperd.api.hyper.routes import blueprint

EXTENSION = "hyperd-openapi"


@blueprint.get("/openapi.json")
def openapi() -> Response:
    """Describe this API as an OpenAPI document."""
    if EXTENSION not in current_app.extensions:
        from hyperd.api.openapi.document import build  # 50 ms and 5 MB that most daemons never need

        current_app.extensions[EXTENSION] = build(current_app._get_current_object())  # type: ignore[attr-defined]
    return answers.plain_json(current_app.extensions[EXTENSION])
