"""Containers in sandboxes, and short commands in them."""

from __future__ import annotations

import contextlib
import secrets
from dataclasses import fields

from hyperd.api.cri import kept, views
from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.errors import AlreadyExists
from hyperd.api.cri.sandboxes import sandbox_id
from hyperd.api.cri.specs import OWNER, has_labels, read_container, read_limits
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.model import Container, ContainerUpdate
from hyperd.container.states import ContainerState
from hyperd.engine import Engine
from hyperd.errors import Conflict, InvalidInput, NotAlive, NotFound, NotSupported, Timeout
from hyperd.pod.states import PodState
from hyperd.spec.model import ExecSpec, Limits

SIGKILL = 9
OUTPUT_LIMIT = (16 << 20) - 4096  # bytes of both outputs of ExecSync: kubelet takes no larger answer
FOREVER = 10 * 365 * 86_400.0  # seconds; ExecSync without a timeout


def create(call: Call, request: pb.CreateContainerRequest) -> pb.CreateContainerResponse:
    """Add a container to a sandbox that is ready. Errors: as the services'."""
    engine = call.engine
    pod = engine.pods.inspect(sandbox_id(engine, request.pod_sandbox_id))
    sandbox = kept.sandbox(pod.spec.annotations)
    spec = read_container(request.config, sandbox, ident=secrets.token_hex(32))
    with call.room.sandbox_lock(pod.id):
        pod = engine.pods.inspect(pod.id)
        if pod.state != PodState.RUNNING:
            raise NotAlive(f"the sandbox {pod.id} is not ready")
        for other in pod.containers:
            if kept.container(other.spec.annotations).metadata == request.config.metadata:
                raise AlreadyExists(f"the container {other.id} has the same name and attempt in this sandbox")
        engine.containers.create(pod.id, spec, may_fetch=False)
    return pb.CreateContainerResponse(container_id=spec.id)


def start(call: Call, request: pb.StartContainerRequest) -> pb.StartContainerResponse:
    """Start a container that never ran. Errors: Conflict, as the services'."""
    found = container(call.engine, request.container_id)
    if found.state != ContainerState.CREATED:
        raise Conflict(f"the container {found.id} is {found.state}", resolution="create another one")
    call.engine.containers.start(found.id)
    failure = call.engine.containers.queries.inspect(found.id).error
    if failure:
        raise InvalidInput(f"the container {found.id} cannot be started", details=failure)
    return pb.StartContainerResponse()


def stop(call: Call, request: pb.StopContainerRequest) -> pb.StopContainerResponse:
    """Stop a container; one that does not run or is unknown is no error."""
    with contextlib.suppress(NotFound, NotAlive):
        found = container(call.engine, request.container_id)
        if found.live and request.timeout > 0:
            call.engine.containers.stop(found.id, grace=float(request.timeout))
        elif found.live:
            call.engine.containers.stop(found.id, grace=0.0, signal=SIGKILL)
    return pb.StopContainerResponse()


def remove(call: Call, request: pb.RemoveContainerRequest) -> pb.RemoveContainerResponse:
    """Remove a container, running or not; an unknown one is no error."""
    with contextlib.suppress(NotFound):
        found = container(call.engine, request.container_id)
        if found.live:
            with contextlib.suppress(NotAlive):
                call.engine.containers.stop(found.id, grace=0.0, signal=SIGKILL)
        call.engine.containers.remove(found.id)
    return pb.RemoveContainerResponse()


def listed(call: Call, request: pb.ListContainersRequest) -> pb.ListContainersResponse:
    """List containers."""
    wanted = request.filter
    found = []
    for one in call.engine.containers.queries.briefs(OWNER):
        if not one.pod_id.startswith(wanted.pod_sandbox_id) or not one.id.startswith(wanted.id):
            continue
        item = views.container_item(one)
        if wanted.HasField("state") and wanted.state.state != item.state:
            continue
        if has_labels(item.labels, wanted.label_selector):
            found.append(item)
    return pb.ListContainersResponse(containers=found)


def status(call: Call, request: pb.ContainerStatusRequest) -> pb.ContainerStatusResponse:
    """Describe a container. Errors: NotFound."""
    found = container(call.engine, request.container_id)
    return pb.ContainerStatusResponse(
        status=views.container_status(found),
        info={"hyperd": views.container_info(found)} if request.verbose else {},
    )


def update(call: Call, request: pb.UpdateContainerResourcesRequest) -> pb.UpdateContainerResourcesResponse:
    """Change limits, which hold at once; what is 0 stays. Errors: NotFound, InvalidInput, NotSupported."""
    found = container(call.engine, request.container_id)
    given = request.linux
    if given.oom_score_adj and given.oom_score_adj != found.spec.oom_score_adj:
        raise NotSupported("oom_score_adj of a container cannot be changed")
    limits = read_limits(given)
    changed = {
        one.name: getattr(limits, one.name) for one in fields(Limits) if getattr(limits, one.name) not in (0, "")
    }
    if given.cpu_quota < 0:
        changed.update(cpu_quota=0, cpu_period=0)
    call.engine.containers.update(found.id, ContainerUpdate(limits=changed))
    return pb.UpdateContainerResourcesResponse()


def exec_sync(call: Call, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
    """Run a command and give its output. Errors: Timeout when its time is over, as the services'."""
    found = container(call.engine, request.container_id)
    if not found.running:
        raise NotAlive(f"the container {found.id} is not running")
    seconds = float(request.timeout) if request.timeout > 0 else FOREVER
    left = call.seconds_left()
    result = call.engine.execs.run(
        found.id,
        ExecSpec(argv=tuple(request.cmd)),
        timeout=seconds if left is None else min(seconds, left),
        limit=OUTPUT_LIMIT,
    )
    if result.timed_out:
        raise Timeout(f"the command did not end in {request.timeout} s and was killed")
    stderr = result.stderr[: max(OUTPUT_LIMIT - len(result.stdout), OUTPUT_LIMIT // 2)]
    stdout = result.stdout[: OUTPUT_LIMIT - len(stderr)]
    return pb.ExecSyncResponse(stdout=stdout, stderr=stderr, exit_code=result.exit_code)


def reopen_log(call: Call, request: pb.ReopenContainerLogRequest) -> pb.ReopenContainerLogResponse:
    """Write on in a new log file: the client has moved the old one. Errors: NotFound, NotAlive, NotSupported."""
    call.engine.containers.streams.reopen_log(container(call.engine, request.container_id).id)
    return pb.ReopenContainerLogResponse()


def container(engine: Engine, ident: str) -> Container:
    """Return a container of this dialect. Errors: NotFound, InvalidInput (no id)."""
    if not ident:
        raise InvalidInput("no id of a container was given")
    with contextlib.suppress(NotFound):
        found = engine.containers.queries.inspect(ident)
        if engine.containers.records.pod_spec(found.pod_id).owner == OWNER:
            return found
    raise NotFound(f"there is no container {ident[:100]}", kind="container", name=ident[:100])


METHODS: dict[str, Method] = {
    "CreateContainer": create,
    "StartContainer": start,
    "StopContainer": stop,
    "RemoveContainer": remove,
    "ListContainers": listed,
    "ContainerStatus": status,
    "UpdateContainerResources": update,
    "ExecSync": exec_sync,
    "ReopenContainerLog": reopen_log,
}
