"""Images: list, pull, remove, log in to a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from flask import Response, g, request

from hyperd.api import answers, params
from hyperd.api.aside import Line, Progress
from hyperd.api.context import engine
from hyperd.api.hyper.routes import blueprint
from hyperd.errors import InvalidInput, NotSupported
from hyperd.registry.auth import AuthConfig

META = "x-meta-"


@blueprint.get("/images/get")
def list_images() -> Response:
    """List images as rows of text: repository, tag, id, time of creation, size."""
    found = engine().images.list(
        all_images=params.flag("all"), dangling=_dangling(), pattern=params.text("filter").strip()
    )
    rows = []
    for image in found:
        end = f"{image.id.removeprefix('sha256:')}:{int(image.created_at)}:{image.size}"
        rows += [f"{tag}:{end}" for tag in image.tags or ("<none>:<none>",)]
    return answers.env({"imagesList": rows})


def _dangling() -> bool | None:
    """Read ``filters``: ``{"dangling":["true"]}``, or the newer form with an object. Errors: InvalidInput."""
    raw = params.text("filters").strip()
    if not raw:
        return None
    filters = params.json_text(raw, "filters")
    if not isinstance(filters, dict) or set(filters) - {"dangling"}:
        raise InvalidInput("filters must be a JSON object with the key dangling")
    values = filters.get("dangling", [])
    if not values:
        return None
    if not isinstance(values, (list, dict)) or any(value not in ("true", "false", "1", "0") for value in values):
        raise InvalidInput('filters: dangling must be ["true"] or ["false"]')
    return next(iter(values)) in ("true", "1")


@blueprint.post("/image/create")
def pull() -> Response:
    """Pull an image and stream Docker's progress lines."""
    name = params.text("imageName").strip()
    if not name:
        params.needed("fromSrc", message="imageName is required")
        raise NotSupported("importing an image from a tar file is not supported yet")
    tag = params.text("tag").strip()
    auth = AuthConfig.from_header(request.headers.get("X-Registry-Auth", ""))
    headers = {key: value for key, value in request.headers.items() if key.lower().startswith(META)}
    images = engine().images

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        images.pull(name, tag=tag, auth=auth, headers=headers, progress=line, cancelled=cancelled)

    return Progress("pull", work, request_id=g.request_id).respond()


@blueprint.delete("/image")
def remove_image() -> Response:
    """Remove an image or one of its names."""
    name = params.needed("imageId", message="image name cannot be blank")
    removed = engine().images.remove(name, force=params.flag("force"), noprune=params.flag("noprune"))
    return answers.env({"imagesList": removed})


@blueprint.post("/auth")
def authenticate() -> Response:
    """Try credentials on their registry."""
    given: Any = params.body_json("the credentials")
    if not isinstance(given, dict):
        raise InvalidInput("the credentials must be a JSON object")
    known = ("username", "password", "auth", "email", "serveraddress", "identitytoken", "registrytoken")
    fields = {}
    for key, value in given.items():
        if key.lower() in known and value is not None:
            if not isinstance(value, str):
                raise InvalidInput(f"{key}: must be a string")
            fields[key.lower()] = value
    return answers.env({"Status": engine().images.authenticate(AuthConfig(**fields))})


@blueprint.route("/image/push", methods=["POST"])
@blueprint.route("/images/push", methods=["POST"])
@blueprint.route("/image/build", methods=["POST"])
@blueprint.route("/image/load", methods=["POST"])
@blueprint.route("/images/save", methods=["GET"])
def not_yet() -> NoReturn:
    """Refuse what is to come."""
    verb = request.path.rsplit("/", 1)[-1]
    raise NotSupported(f"image {verb} is not supported yet")
