"""Load-balanced services of a pod: not there yet, and said so."""

from __future__ import annotations

from typing import NoReturn

from hyperd.api import params
from hyperd.api.context import engine
from hyperd.api.hyper.routes import blueprint
from hyperd.errors import NotSupported


@blueprint.route("/service/list", methods=["GET"])
@blueprint.route("/service/add", methods=["POST"])
@blueprint.route("/service/update", methods=["POST"])
@blueprint.route("/service", methods=["DELETE"])
def no_services() -> NoReturn:
    """Refuse; an unknown pod is still an unknown pod."""
    engine().pods.info(params.needed("podId", "podName", "pod"))
    raise NotSupported("services of a pod are not supported yet")
