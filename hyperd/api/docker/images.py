"""Images: list, pull, import, inspect, history, push, tag, remove, search, prune, credentials."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from flask import Response, g, request

from hyperd.api import bodies
from hyperd.api.background import Finishing, Line, Progress, Waiting
from hyperd.api.context import engine, may_fetch
from hyperd.api.docker import answers, image_views, params, policy, versions
from hyperd.api.docker.params import Filters
from hyperd.api.docker.routes import blueprint
from hyperd.api.jsonmessage import as_lines
from hyperd.build.importer import FROM_BODY, ImportOrder
from hyperd.container.fetch import check_allowed
from hyperd.errors import Forbidden, ImageNotFound, InvalidInput, Unauthorized
from hyperd.image.model import ImageFilter
from hyperd.image.signing.signature import SignatureRefused
from hyperd.registry.auth import AuthConfig
from hyperd.registry.search import MAX_RESULTS

META = "x-meta-"
_STARS = re.compile(r"[0-9]{1,9}")
_LIST_KEYS = ("before", "dangling", "label", "reference", "since", "until")
_PRUNE_KEYS = ("dangling", "label", "label!", "until")


@blueprint.get("/images/json")
def list_images() -> Response:
    """List images, the newest first."""
    filters = params.filters(_LIST_KEYS)
    references = filters.get("reference", ())
    if params.text("filter"):  # of clients before API 1.28
        references = (*references, params.text("filter"))
    wanted = ImageFilter(
        dangling=params.truth(filters, "dangling"),
        references=references,
        labels=filters.get("label", ()),
        before=filters.get("before", ()),
        since=filters.get("since", ()),
        until=_until(filters),
    )
    found = engine().images.list(all_images=params.flag("all"), wanted=wanted)
    spoken = versions.requested()
    rows = [image_views.row(image, spoken) for image in found]
    return answers.as_json(rows)


def _until(filters: Filters) -> float | None:
    return params.moment(filters["until"][0]) if "until" in filters else None


@blueprint.post("/images/create")
def create_image() -> Response:
    """Pull an image, or import one (``fromSrc``); stream how far it is."""
    source = params.text("fromSrc")
    if source:
        return _import(source)
    name, tag = params.text("fromImage").strip(), params.text("tag").strip()
    if not name:
        raise InvalidInput("fromImage or fromSrc is required")
    if params.text("registry"):  # of API 1.8 and before
        name = f"{params.text('registry')}/{name}"
    _check_platform(params.text("platform"))
    auth, headers = credentials(), _meta()
    images = engine().images

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        with _denial_told(name):
            if tag or images.names_one(name):
                images.pull(name, tag=tag, auth=auth, headers=headers, progress=as_lines(line), cancelled=cancelled)
            else:  # no tag means all of them
                images.pull_all(name, auth=auth, headers=headers, progress=as_lines(line), cancelled=cancelled)

    return Progress("pull", work, request_id=g.request_id).respond()


@contextlib.contextmanager
def _denial_told(name: str) -> Iterator[None]:
    """Tell in Docker's words that a registry denies a repository: it does so for those that do not exist, too.

    Errors: ImageNotFound.
    """
    try:
        yield
    except SignatureRefused:
        raise  # said by this daemon, not by the registry
    except (Unauthorized, Forbidden) as error:
        text = f"pull access denied for {name[:300]}, repository does not exist or may require 'docker login'"
        raise ImageNotFound(text, details=str(error)) from error


def _check_platform(platform: str) -> None:
    if platform and platform.split("/")[:2] not in (["linux"], ["linux", "amd64"]):
        raise InvalidInput(
            f"images of the platform {platform[:40]!r} cannot run here", details="this host is linux/amd64"
        )


def _import(source: str) -> Response:
    repository, tag = params.text("repo").strip(), params.text("tag").strip()
    order = ImportOrder(
        source=source,
        name=f"{repository}:{tag}" if tag else repository,
        message=params.text("message"),
        changes=request.args.getlist("changes"),
    )
    imports = engine().imports
    if source == FROM_BODY:
        with bodies.uploaded() as chunks:
            imports.check(order)
            return answers.as_json({"status": imports.from_body(order, chunks)})
    check_allowed("import", may_fetch=may_fetch(), instead="send the file itself")

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        imports.from_url(order, progress=as_lines(line), cancelled=cancelled)

    return Progress("import", work, request_id=g.request_id).respond()


def credentials() -> AuthConfig | None:
    """Return the credentials of the request, None for an anonymous caller."""
    return AuthConfig.from_header(request.headers.get("X-Registry-Auth", ""))


def _meta() -> dict[str, str]:
    return {key: value for key, value in request.headers.items() if key.lower().startswith(META)}


@blueprint.get("/images/<path:name>/json")
def inspect_image(name: str) -> Response:
    """Return everything that is known of an image."""
    return answers.as_json(image_views.inspect(_reports("inspect", name), versions.requested()))


@blueprint.get("/images/<path:name>/history")
def image_history(name: str) -> Response:
    """Return the steps an image was made in, the newest first."""
    return answers.as_json(image_views.history(_reports("history", name), versions.requested()))


def _reports(kind: str, name: str) -> Any:
    try:
        return getattr(engine().images.reports, kind)(name)
    except ImageNotFound as error:
        raise no_such_image(name) from error


def no_such_image(name: str) -> ImageNotFound:
    """Return the error in Docker's words."""
    return ImageNotFound(f"No such image: {policy.with_tag(name[:300])}")


@blueprint.post("/images/<path:name>/push")
def push_image(name: str) -> Response:
    """Push an image; stream how far it is."""
    tag = params.text("tag").strip()
    if params.text("registry"):
        name = f"{params.text('registry')}/{name}"
    auth = credentials() or _credentials_in_body()
    headers, images = _meta(), engine().images

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        images.push(name, tag=tag, auth=auth, headers=headers, progress=as_lines(line), cancelled=cancelled)

    return Progress("push", work, request_id=g.request_id).respond()


def _credentials_in_body() -> AuthConfig | None:
    """Return credentials as clients before X-Registry-Auth sent them."""
    given = params.body(optional=True)
    return AuthConfig.from_mapping(given) if isinstance(given, Mapping) else None


@blueprint.post("/images/<path:name>/tag")
def tag_image(name: str) -> Response:
    """Give an image a further name."""
    repository, tag = params.text("repo").strip(), params.text("tag").strip()
    if not repository:
        raise InvalidInput("repository name must have at least one component")
    try:
        engine().images.tag(name, f"{repository}:{tag}" if tag else repository)
    except ImageNotFound as error:
        raise no_such_image(name) from error
    return answers.empty(200 if versions.requested() < (1, 10) else 201)


@blueprint.delete("/images/<path:name>")
def remove_image(name: str) -> Response:
    """Remove an image or one of its names."""
    try:
        removed = engine().images.remove(name, force=params.flag("force"), noprune=params.flag("noprune"))
    except ImageNotFound as error:
        raise no_such_image(name) from error
    return answers.as_json(image_views.removals(removed, versions.requested()))


@blueprint.get("/images/search")
def search_images() -> Response:
    """Find repositories of a registry."""
    term = params.text("term")
    if not term:
        raise InvalidInput("a term is needed", resolution="give ?term=")
    filters = params.filters(("is-automated", "is-official", "stars"))
    limit = params.number("limit", 25) or 25
    if not 1 <= limit <= MAX_RESULTS:
        raise InvalidInput(f"Limit {limit} is outside the range of [1, {MAX_RESULTS}]")
    official, automated = params.truth(filters, "is-official"), params.truth(filters, "is-automated")
    stars = max((int(word) for word in filters.get("stars", ()) if _STARS.fullmatch(word)), default=0)
    spoken, auth, reports = versions.requested(), credentials(), engine().images.reports

    def ask(_cancelled: Callable[[], bool]) -> list[dict[str, Any]]:
        return [
            image_views.found_repository(one, spoken)
            for one in reports.search(term, limit=limit, auth=auth)
            if one.stars >= stars and official in (None, one.official) and automated in (None, one.automated)
        ]

    return Waiting("search", ask, request_id=g.request_id).respond()


@blueprint.post("/images/prune")
def prune_images() -> Response:
    """Remove nameless images; with ``dangling=false`` every one that no container uses."""
    filters = params.filters(_PRUNE_KEYS)
    dangling = params.truth(filters, "dangling")
    wanted = ImageFilter(
        dangling=True if dangling in (None, True) else None,
        labels=filters.get("label", ()),
        without_labels=filters.get("label!", ()),
        until=_until(filters),
    )
    pruned = engine().images.prune(wanted)
    steps: Sequence[dict[str, str]] = image_views.removals(pruned.removed, versions.requested())
    return answers.as_json({"ImagesDeleted": list(steps) or None, "SpaceReclaimed": pruned.freed})


@blueprint.post("/auth")
def authenticate() -> Response:
    """Try credentials on their registry."""
    given = params.body_object()
    auth = AuthConfig.from_mapping(given)
    if auth is None:
        raise InvalidInput("no credentials were given", resolution="send username and password")
    images, good = engine().images, answers.as_json({"Status": "Login Succeeded", "IdentityToken": ""})
    return Finishing("auth", lambda: images.authenticate(auth), good).respond()
