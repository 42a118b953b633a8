"""Checkpoints: a container is saved with all of its sandbox, which is one VM (``hyperd.pod.checkpoint``)."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.containers import container
from hyperd.api.cri.sandboxes import sandbox_id
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.errors import Cancelled, Conflict, InvalidInput, NotAlive, Timeout

POD_FILE = "pod.tar"  # in the directory of CheckpointPod


def save_container(call: Call, request: pb.CheckpointContainerRequest) -> pb.CheckpointContainerResponse:
    """Save the sandbox of a container into a file. Errors: Conflict (the file exists), as ``Checkpoints.make``."""
    found = container(call.engine, request.container_id)
    if not found.running:
        raise NotAlive(f"the container {found.id} is not running")
    if request.timeout < 0:
        raise InvalidInput("the timeout is below 0")
    path = _path(request.location)
    if not path.parent.is_dir():
        raise InvalidInput(f"there is no directory {path.parent}")
    _write(call, found.pod_id, path, seconds=float(request.timeout) or math.inf)
    return pb.CheckpointContainerResponse()


def save_pod(call: Call, request: pb.CheckpointPodRequest) -> pb.CheckpointPodResponse:
    """Save a sandbox into an empty directory. Errors: InvalidInput, Conflict, as ``Checkpoints.make``."""
    ident = sandbox_id(call.engine, request.pod_sandbox_id)
    if request.options:
        raise InvalidInput("no option of a checkpoint is known", details=", ".join(sorted(request.options))[:200])
    wanted = sorted(container(call.engine, one).id for one in request.container_ids)
    live = sorted(one.id for one in call.engine.pods.inspect(ident).containers if one.running)
    if not wanted or wanted != live:
        raise InvalidInput(
            "a sandbox is saved with all of its containers that are running",
            details=f"those are {', '.join(live) or 'none'}",
        )
    directory = _path(request.output_path)
    if not directory.is_dir() or any(directory.iterdir()):
        raise InvalidInput(f"{directory} is no empty directory")
    _write(call, ident, directory / POD_FILE, seconds=math.inf)
    return pb.CheckpointPodResponse()


def _path(text: str) -> Path:
    path = Path(text)
    if not path.is_absolute() or "\0" in text or len(text) > 4096:
        raise InvalidInput("a checkpoint needs an absolute path", details=repr(text[:100]))
    return path


def _write(call: Call, pod_id: str, path: Path, *, seconds: float) -> None:
    """Save a pod; it goes on when the client leaves, or after so many seconds. Errors: Timeout."""
    until = time.monotonic() + seconds
    if path.exists():
        raise Conflict(f"{path} exists already")

    def over() -> bool:
        return time.monotonic() > until

    def cancelled() -> bool:
        return over() or not call.active()

    with _late(over, seconds):
        call.engine.checkpoints.write(pod_id, path, cancelled=cancelled)


@contextlib.contextmanager
def _late(over: Callable[[], bool], seconds: float) -> Iterator[None]:
    try:
        yield
    except Cancelled as error:
        if over():
            raise Timeout(f"the checkpoint was not done in {seconds:g} s") from error
        raise


METHODS: dict[str, Method] = {
    "CheckpointContainer": save_container,
    "CheckpointPod": save_pod,
}
