"""Pods: create, start, stop, delete, list, look at, signal, pause, label."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from flask import Response, g, request

from hyperd.api import answers, params
from hyperd.api.background import Finishing, Waiting
from hyperd.api.context import engine, lists, may_fetch
from hyperd.api.hyper import pod_views, stats_views
from hyperd.api.hyper.containers import check_image
from hyperd.api.hyper.pod_spec import parse_pod
from hyperd.api.hyper.routes import blueprint
from hyperd.api.hyper.unknown_keys import pod_warnings, refuse_manifest
from hyperd.errors import Conflict, ImageNotFound, NotFound
from hyperd.spec.limits import beyond

OVERRIDE = frozenset({"yes", "true"})


def _pod_id() -> str:
    return params.needed("podId", "podName", "pod")


def _pod_json() -> Any:
    """Return the pod's JSON: the body, else the ``podArgs`` of query or form."""
    if request.mimetype != params.FORM and params.body():
        return params.body_json("the pod")
    return params.json_text(params.needed("podArgs", message="no pod given: neither a body nor podArgs"), "podArgs")


@blueprint.post("/pod/create")
def create() -> Response:
    """Define a pod. Its only 404 is a missing image: clients pull and try again on it."""
    defaults, given = engine().config.hypervisor, _pod_json()
    refuse_manifest(given)
    spec = parse_pod(given, default_vcpu=defaults.default_vcpu, default_memory=defaults.default_memory)
    engine().system.check_size(spec.resource)
    for index, container in enumerate(spec.containers):
        check_image(container.image, f"containers[{index}].image")
    pods, fetches, warnings = engine().pods, may_fetch(), pod_warnings(given)
    for container in spec.containers:
        warnings += beyond(container.limits, spec.resource)

    def made(_cancelled: Callable[[], bool] = lambda: False) -> dict[str, Any]:
        try:
            return answers.code_of(pods.create(spec, may_fetch=fetches), warnings=warnings)
        except ImageNotFound:
            raise
        except NotFound as error:
            raise Conflict(error.brief, details=error.details, resolution=error.resolution) from error

    if any(file.uri for file in spec.files):  # their servers may be slow
        return Waiting("create", made, request_id=g.request_id, status=HTTPStatus.CREATED).respond()
    return answers.env(made(), HTTPStatus.CREATED)


@blueprint.post("/pod/start")
def start() -> Response:
    """Start a pod, on an idle VM if one is named."""
    return answers.code(engine().pods.start(_pod_id(), vm_id=params.text("vmId").strip()))


@blueprint.post("/pod/stop")
def stop() -> Response:
    """Stop a pod, its containers by SIGKILL after ``t`` seconds; with ``stopVM=no`` its VM stays, idle."""
    pod_id, pods, stop_vm = _pod_id(), engine().pods, params.flag("stopVM", "stopVm", default=True)
    grace = params.grace()
    return Finishing("stop", lambda: pods.stop(pod_id, stop_vm=stop_vm, grace=grace), answers.code(pod_id)).respond()


@blueprint.delete("/pod")
def remove() -> Response:
    """Stop and forget a pod."""
    pod_id, pods = _pod_id(), engine().pods
    return Finishing("remove", lambda: pods.remove(pod_id), answers.code(pod_id)).respond()


@blueprint.get("/list")
def list_items() -> Response:
    """List pods, containers or VMs as rows of text. 201 is what the original answers."""
    item = params.needed("item", message="item is required: pod, container or vm")
    pod_id, vm_id = params.text("pod").strip(), params.text("vm").strip()
    return answers.text(lists().get(item, pod_id=pod_id, vm_id=vm_id), 201)


@blueprint.get("/pod/info")
def info() -> Response:
    """Describe a pod."""
    return answers.plain_json(pod_views.pod_info(engine().pods.inspect(params.needed("podName", "podId", "pod"))))


@blueprint.get("/pod/stats")
def stats() -> Response:
    """Return the counters of a running pod; times in ns, sizes in bytes."""
    return answers.plain_json(stats_views.pod_stats(engine().stats.pod(params.needed("podId", "podName", "pod"))))


@blueprint.post("/pod/labels")
def labels() -> Response:
    """Set labels; existing ones only with ``override``."""
    pod_id = _pod_id()
    engine().pods.set_labels(pod_id, params.json_map("labels"), override=params.strict_flag("override", words=OVERRIDE))
    return answers.code(pod_id, 201)


@blueprint.post("/pod/kill")
def kill() -> Response:
    """Send a signal to one container of a pod or to all."""
    number = params.signal_number()
    engine().pods.kill(params.needed("podName", "podId", "pod"), container=params.text("container"), signal=number)
    return answers.env({})


@blueprint.post("/pod/pause")
def pause() -> Response:
    """Stop the CPUs of a pod."""
    engine().pods.pause(_pod_id())
    return answers.empty()


@blueprint.post("/pod/unpause")
def unpause() -> Response:
    """Let a paused pod go on."""
    engine().pods.unpause(_pod_id())
    return answers.empty()
