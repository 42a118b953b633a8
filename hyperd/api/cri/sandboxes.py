"""Sandboxes: pods without containers, whose VM runs from the beginning."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator
from dataclasses import replace

from hyperd.api.cri import kept, views
from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.errors import AlreadyExists
from hyperd.api.cri.specs import OWNER, has_labels, host_volume, read_sandbox
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.engine import Engine
from hyperd.errors import HyperError, InvalidInput, NotFound
from hyperd.pod.model import Pod
from hyperd.spec.model import VolumeSpec
from hyperd.vm import mounts


def run(call: Call, request: pb.RunPodSandboxRequest) -> pb.RunPodSandboxResponse:
    """Make a sandbox and boot its VM; after a failure nothing is left. Errors: as the services'."""
    engine, config = call.engine, request.config
    shape = engine.config.hypervisor
    spec = read_sandbox(
        config,
        ident=secrets.token_hex(32),
        handler=request.runtime_handler,
        default_vcpu=shape.default_vcpu,
        default_memory=shape.default_memory,
        cni=engine.cni.configured,
    )
    spec = replace(spec, volumes=_mounted(config.metadata.uid))
    call.room.booting.add(spec.id)
    try:
        with call.room.creating:
            _check_metadata(engine, config.metadata)
            engine.pods.create(spec, may_fetch=False)
        _start(engine, spec.id)
    finally:
        call.room.booting.discard(spec.id)
    return pb.RunPodSandboxResponse(pod_sandbox_id=spec.id)


def _start(engine: Engine, ident: str) -> None:
    try:
        engine.pods.start(ident)
    except BaseException:
        with contextlib.suppress(HyperError):
            engine.pods.remove(ident)
        raise


def _mounted(uid: str) -> tuple[VolumeSpec, ...]:
    """Return the volumes that kubelet has mounted for a pod's containers: its VM must be one that can have them."""
    part = f"/pods/{uid}/volumes/"
    return tuple(map(host_volume, sorted({mounted.path for mounted in mounts.table() if part in mounted.path})))


def stop(call: Call, request: pb.StopPodSandboxRequest) -> pb.StopPodSandboxResponse:
    """Kill everything in a sandbox and stop it; one that is stopped or unknown is no error."""
    with contextlib.suppress(NotFound):
        call.engine.pods.stop(sandbox_id(call.engine, request.pod_sandbox_id), grace=0.0)
    return pb.StopPodSandboxResponse()


def remove(call: Call, request: pb.RemovePodSandboxRequest) -> pb.RemovePodSandboxResponse:
    """Remove a sandbox with everything in it; an unknown one is no error."""
    with contextlib.suppress(NotFound):
        call.engine.pods.remove(sandbox_id(call.engine, request.pod_sandbox_id))
    return pb.RemovePodSandboxResponse()


def status(call: Call, request: pb.PodSandboxStatusRequest) -> pb.PodSandboxStatusResponse:
    """Describe a sandbox and its containers. Errors: NotFound."""
    pod = call.engine.pods.inspect(sandbox_id(call.engine, request.pod_sandbox_id))
    return pb.PodSandboxStatusResponse(
        status=views.sandbox_status(pod),
        containers_statuses=[views.container_status(one) for one in pod.containers],
        timestamp=time.time_ns(),
        info={"hyperd": views.sandbox_info(pod)} if request.verbose else {},
    )


def listed(call: Call, request: pb.ListPodSandboxRequest) -> pb.ListPodSandboxResponse:
    """List sandboxes, but those that are still being made."""
    wanted = request.filter
    found, booting = [], set(call.room.booting)
    for pod in call.engine.pods.briefs(OWNER):
        if pod.id in booting or pod.id in call.room.booting:  # it may have become ready, or begun, since
            continue
        item = views.sandbox_item(pod)
        if wanted.HasField("state") and wanted.state.state != item.state:
            continue
        if item.id.startswith(wanted.id) and has_labels(item.labels, wanted.label_selector):
            found.append(item)
    return pb.ListPodSandboxResponse(items=found)


def pods(engine: Engine, beginning: str = "") -> Iterator[Pod]:
    """Yield the pods of this dialect whose id begins so."""
    for brief in engine.pods.briefs(OWNER):
        if brief.id.startswith(beginning):
            with contextlib.suppress(NotFound):  # it has just been removed
                yield engine.pods.inspect(brief.id)


def sandbox_id(engine: Engine, ident: str) -> str:
    """Return the id of a pod of this dialect, which may be given by its beginning.

    Errors: NotFound (none, or several), InvalidInput (no id).
    """
    if not ident:
        raise InvalidInput("no id of a sandbox was given")
    with contextlib.suppress(NotFound):
        if engine.containers.records.pod_spec(ident).owner == OWNER:
            return ident
    found = [one.id for one in engine.pods.briefs(OWNER) if one.id.startswith(ident)]
    if len(found) == 1:
        return found[0]
    raise NotFound(f"there is no sandbox {ident[:100]}", kind="pod", name=ident[:100])


def _check_metadata(engine: Engine, metadata: pb.PodSandboxMetadata) -> None:
    for pod in engine.pods.briefs(OWNER):
        if kept.sandbox(pod.annotations).metadata == metadata:
            raise AlreadyExists(
                f"the sandbox {pod.id} has the same name, namespace, uid and attempt",
                details=f"{metadata.namespace}/{metadata.name} {metadata.uid} {metadata.attempt}",
            )


METHODS: dict[str, Method] = {
    "RunPodSandbox": run,
    "StopPodSandbox": stop,
    "RemovePodSandbox": remove,
    "PodSandboxStatus": status,
    "ListPodSandbox": listed,
}
