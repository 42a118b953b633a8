"""Images as archives: save, load, import."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from flask import Response, g

from hyperd.api import params
from hyperd.api.background import Progress
from hyperd.api.bodies import Download, uploaded
from hyperd.api.context import engine, may_fetch
from hyperd.api.hyper.routes import blueprint
from hyperd.api.jsonmessage import Line, as_lines
from hyperd.build.importer import FROM_BODY, ImportOrder
from hyperd.container.fetch import check_allowed
from hyperd.errors import InvalidInput

TAR = "application/x-tar"
OCI = "oci"


@blueprint.get("/images/save")
def save_images() -> Response:
    """Return images as one tar."""
    names = [name for text in params.texts("names", "name") if (name := text.strip())]
    layout = params.text("format").strip().lower()
    if layout not in {"", OCI, "docker", "docker-archive", "oci-archive"}:
        raise InvalidInput(f"there is no format {layout[:40]!r}", resolution="use docker or oci")
    references, images = _references(), engine().images

    def make(left: Callable[[], bool]) -> Iterator[bytes]:
        return images.save(names, oci=layout.startswith(OCI), references=references, cancelled=left)

    return Download("save", make, content_type=TAR).respond()


@blueprint.post("/image/load")
def load_images() -> Response:
    """Load the images of an archive."""
    name, references = params.text("name").strip(), _references()
    lines: list[Line] = []
    with uploaded() as chunks:
        engine().images.load(chunks, name=name, references=references, progress=as_lines(lines.append))
    return _lines(lines)


def import_image() -> Response:
    """Make an image of the tar of a root file system, from the body or a URL; a part of ``/image/create``."""
    source = params.needed("fromSrc", message="imageName is required")
    repository, tag = params.text("repo").strip(), params.text("tag").strip()
    if tag and not repository:
        raise InvalidInput("a tag needs a repository")
    order = ImportOrder(
        source=source,
        name=f"{repository}:{tag}" if tag else repository,
        message=params.text("message"),
        changes=[change for raw in params.texts("changes", "change") for change in instructions(raw)],
    )
    imports = engine().imports
    if source == FROM_BODY:
        with uploaded() as chunks:
            imports.check(order)
            return _lines([{"status": imports.from_body(order, chunks)}])
    check_allowed("import", may_fetch=may_fetch(), instead="send the file itself")

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        imports.from_url(order, progress=as_lines(line), cancelled=cancelled)

    return Progress("import", work, request_id=g.request_id).respond()


def instructions(raw: str) -> list[str]:
    """Read one ``changes``: an instruction, or a JSON array of them. Errors: InvalidInput."""
    if not raw.lstrip().startswith("["):
        return [raw]
    value = params.json_text(raw, "changes")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput("changes must be instructions, or a JSON array of them")
    return list(value)


def _references() -> dict[str, str]:
    if not params.text("refs").strip():
        return {}
    value: Any = params.json_text(params.text("refs"), "refs")
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise InvalidInput("refs must be a JSON object of strings")
    return dict(value)


def _lines(lines: list[Line]) -> Response:
    body = "".join(json.dumps(line, separators=(",", ":")) + "\r\n" for line in lines)
    return Response(body, 200, content_type="application/json")
