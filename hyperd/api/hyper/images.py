"""Images: list, pull, push, tag, remove, tell about, search, log in to a registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, g, request

from hyperd.api import answers, params
from hyperd.api.background import Finishing, Line, Progress, Waiting
from hyperd.api.context import engine
from hyperd.api.hyper import image_views
from hyperd.api.hyper.archives import import_image
from hyperd.api.hyper.routes import blueprint
from hyperd.api.jsonmessage import as_lines
from hyperd.errors import InvalidInput
from hyperd.image.model import ImageFilter
from hyperd.registry.auth import AuthConfig
from hyperd.registry.search import MAX_RESULTS

META = "x-meta-"


@blueprint.get("/images/get")
def list_images() -> Response:
    """List images as rows of text: repository, tag, id, time of creation, size."""
    pattern = params.text("filter").strip()
    wanted = ImageFilter(dangling=_dangling(), references=(pattern,) if pattern else ())
    found = engine().images.list(all_images=params.flag("all"), wanted=wanted)
    return answers.env({"imagesList": [row for image in found for row in image_views.rows(image)]})


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
        return import_image()
    tag = params.text("tag").strip()
    auth = AuthConfig.from_header(request.headers.get("X-Registry-Auth", ""))
    headers = {key: value for key, value in request.headers.items() if key.lower().startswith(META)}
    images = engine().images

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        images.pull(name, tag=tag, auth=auth, headers=headers, progress=as_lines(line), cancelled=cancelled)

    return Progress("pull", work, request_id=g.request_id).respond()


@blueprint.route("/image/push", methods=["POST"])
@blueprint.route("/images/push", methods=["POST"])
def push() -> Response:
    """Push an image and stream Docker's progress lines."""
    name = params.needed("remote")
    tag = params.text("tag").strip()
    auth, images = _push_auth(), engine().images
    headers = {key: value for key, value in request.headers.items() if key.lower().startswith(META)}

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        images.push(name, tag=tag, auth=auth, headers=headers, progress=as_lines(line), cancelled=cancelled)

    return Progress("push", work, request_id=g.request_id).respond()


def _push_auth() -> AuthConfig | None:
    """Read the credentials of a push: the header, or in its absence the body. Errors: InvalidInput without either."""
    if "X-Registry-Auth" in request.headers:
        return AuthConfig.from_header(request.headers["X-Registry-Auth"])
    body = params.body()
    if not body.strip():
        raise InvalidInput("Bad parameters and missing X-Registry-Auth: EOF")
    given: Any = params.json_text(body, "the credentials")
    if not isinstance(given, dict):
        raise InvalidInput("the credentials must be a JSON object")
    return AuthConfig.from_mapping(given)


@blueprint.post("/image/tag")
def tag_image() -> Response:
    """Give an image a further name."""
    name, repository = params.needed("imageId"), params.needed("repo")
    tag = params.text("tag").strip()
    engine().images.tag(name, f"{repository}:{tag}" if tag else repository)
    return answers.empty(201)


@blueprint.get("/image/inspect")
def inspect_image() -> Response:
    """Return everything that is known of an image, with Docker's field names."""
    return answers.plain_json(image_views.details(engine().images.reports.inspect(params.needed("imageId"))))


@blueprint.get("/image/history")
def image_history() -> Response:
    """Return the steps an image was made in, the newest first."""
    return answers.plain_json(image_views.history(engine().images.reports.history(params.needed("imageId"))))


@blueprint.post("/images/prune")
def prune_images() -> Response:
    """Remove nameless images, with ``all`` every image that no container uses."""
    wanted = ImageFilter(
        dangling=None if params.flag("all") else True, labels=params.texts("label"), until=params.moment("until")
    )
    return answers.plain_json(image_views.pruned(engine().images.prune(wanted)))


@blueprint.get("/images/df")
def images_usage() -> Response:
    """Return what images take of the disk."""
    return answers.plain_json(image_views.usage(engine().images.reports.usage()))


@blueprint.get("/images/search")
def search_images() -> Response:
    """Find repositories of a registry."""
    term = params.needed("term")
    limit = params.number("limit", low=1, high=MAX_RESULTS, default=25)
    auth = AuthConfig.from_header(request.headers.get("X-Registry-Auth", ""))
    reports = engine().images.reports

    def ask(_cancelled: Callable[[], bool]) -> list[dict[str, Any]]:
        return [image_views.found(one) for one in reports.search(term, limit=limit, auth=auth)]

    return Waiting("search", ask, request_id=g.request_id).respond()


@blueprint.delete("/image")
def remove_image() -> Response:
    """Remove an image or one of its names."""
    name = params.needed("imageId", message="image name cannot be blank")
    removed = engine().images.remove(name, force=params.flag("force"), noprune=params.flag("noprune"))
    return answers.env({"imagesList": image_views.removals(removed)})


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
    auth, images = AuthConfig(**fields), engine().images
    return Finishing("auth", lambda: images.authenticate(auth), answers.env({"Status": "Login Succeeded"})).respond()
