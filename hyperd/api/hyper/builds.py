"""Builds of images from Dockerfiles."""

from __future__ import annotations

from collections.abc import Callable

from flask import Response, g, request

from hyperd.api import bodies, params
from hyperd.api.background import Line, Progress
from hyperd.api.build_settings import MAX_MEMORY, cpus, known_network, strings, with_settings
from hyperd.api.context import engine, may_fetch
from hyperd.api.credentials import registry_config
from hyperd.api.hyper.routes import blueprint
from hyperd.api.jsonmessage import as_lines
from hyperd.build.order import BuildOrder


@blueprint.post("/image/build")
def build_image() -> Response:
    """Build an image and stream Docker's progress lines."""
    period, quota = _number("cpuperiod"), _number("cpuquota")
    order = BuildOrder(
        dockerfile=params.text("dockerfile").strip(),
        tags=[tag.strip() for tag in (*params.texts("t"), *params.texts("name")) if tag.strip()],
        remote=params.text("remote").strip(),
        quiet=params.flag("q"),
        no_cache=params.flag("nocache"),
        pull=params.flag("pull"),
        remove=params.flag("rm", default=True) or params.flag("forcerm"),
        target=params.text("target").strip(),
        arguments=_map("buildargs"),
        labels=_map("labels"),
        memory=params.number("memory", low=0, high=MAX_MEMORY, default=0),
        vcpu=cpus(period, quota),
        auth=registry_config(request.headers.get("X-Registry-Config", "")),
        may_fetch=may_fetch(),
    )
    order = with_settings(order, request.args.getlist, known_network)
    with bodies.uploaded() as chunks:
        prepared = engine().builds.prepare(order, chunks)

    def work(line: Callable[[Line], None], cancelled: Callable[[], bool]) -> None:
        prepared.run(progress=as_lines(line), cancelled=cancelled)

    return Progress("build", work, request_id=g.request_id).respond()


def _number(name: str) -> int:
    return params.number(name, low=-1, high=1 << 40, default=0)


def _map(name: str) -> dict[str, str]:
    """Read a JSON object of strings. Errors: InvalidInput."""
    raw = params.text(name).strip()
    return strings(params.json_text(raw, name) if raw else {}, name)
