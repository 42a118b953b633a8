"""Pods saved while they run, as archives, and made of archives again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from http import HTTPStatus

from flask import Response

from hyperd.api import answers, params
from hyperd.api.bodies import Download, uploaded
from hyperd.api.context import engine, may_fetch
from hyperd.api.hyper.archives import TAR
from hyperd.api.hyper.routes import blueprint
from hyperd.spec.model import PodSpec


@blueprint.post("/pod/checkpoint")
def checkpoint() -> Response:
    """Save a pod that runs: memory, devices and disk of its VM, as one tar; it goes on, or stays paused if asked."""
    pod_id, pause = params.needed("podId", "podName", "pod"), params.flag("pause")
    checkpoints = engine().checkpoints

    def make(left: Callable[[], bool]) -> Iterator[bytes]:
        return checkpoints.make(pod_id, pause=pause, cancelled=left)

    return Download("checkpoint", make, content_type=TAR).respond()


@blueprint.post("/pod/restore")
def restore() -> Response:
    """Make a pod of an archive; it goes on where it was saved. Its only 404 is a missing image."""
    system, restorer = engine().system, engine().restorer

    def check(spec: PodSpec) -> None:
        system.check_size(spec.resource)

    with uploaded() as chunks:
        outcome = restorer.restore(chunks, may_fetch=may_fetch(), check=check)
    return answers.code(outcome.pod_id, HTTPStatus.CREATED, warnings=outcome.warnings)
