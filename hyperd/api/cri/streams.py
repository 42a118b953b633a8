"""Streams: each call answers where its stream can be fetched (``streaming.py``)."""

from __future__ import annotations

from collections.abc import Callable

from hyperd.api.cri.call import Call, Method
from hyperd.api.cri.containers import container
from hyperd.api.cri.remote import ERROR, RESIZE, STDERR, STDIN, STDOUT
from hyperd.api.cri.sandboxes import sandbox_id
from hyperd.api.cri.streaming import Ports, Streams
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.container.model import Container
from hyperd.container.process import AttachOptions, AttachSession
from hyperd.errors import InvalidInput, NotAlive
from hyperd.pod.states import PodState
from hyperd.spec.model import ExecSpec


def execute(call: Call, request: pb.ExecRequest) -> pb.ExecResponse:
    """Offer a program in a container. Errors: NotFound, NotAlive, InvalidInput, Busy."""
    found = _running(call, request.container_id)
    if not request.cmd or not request.cmd[0]:
        raise InvalidInput("no command given")
    spec = ExecSpec(
        argv=tuple(request.cmd),
        tty=request.tty,
        stdin=request.stdin,
        stdout=request.stdout,
        stderr=request.stderr,
    )
    execs = call.engine.execs

    def make() -> AttachSession:
        return execs.start(found.id, execs.create(found.id, spec))

    return pb.ExecResponse(url=_offer(call, "exec", request, make, tells_code=True))


def attach(call: Call, request: pb.AttachRequest) -> pb.AttachResponse:
    """Offer a container's own program. Errors: NotFound, NotAlive, InvalidInput, Busy."""
    found = _running(call, request.container_id)
    tty = bool(found.spec.tty)
    once = found.spec.stdin_once
    options = AttachOptions(
        stdin=request.stdin and found.spec.open_stdin,
        streams=_outputs(request) if not tty else frozenset({STDOUT}),
        ends_input=once,
        leaves_input_ended=once and request.stdin,
    )

    def make() -> AttachSession:
        return call.engine.containers.streams.attach(_running(call, found.id).id, options)

    return pb.AttachResponse(url=_offer(call, "attach", request, make, tells_code=False))


def port_forward(call: Call, request: pb.PortForwardRequest) -> pb.PortForwardResponse:
    """Offer connections to ports of a sandbox. Errors: NotFound, NotAlive, InvalidInput, Busy."""
    pod = call.engine.pods.inspect(sandbox_id(call.engine, request.pod_sandbox_id))
    if pod.state != PodState.RUNNING:
        raise NotAlive(f"the sandbox {pod.id} is not ready")
    bad = [port for port in request.port if not 1 <= port <= 65_535]
    if bad:
        raise InvalidInput(f"{bad[0]} is no port")
    what = Ports(ports=tuple(request.port), connect=lambda port: call.engine.execs.connect(pod.id, port))
    return pb.PortForwardResponse(url=call.room.streaming.offer("portforward", what))


def _running(call: Call, ident: str) -> Container:
    found = container(call.engine, ident)
    if not found.running:
        raise NotAlive(f"the container {found.id} is not running")
    return found


def _outputs(request: pb.ExecRequest | pb.AttachRequest) -> frozenset[int]:
    return frozenset({STDOUT} if request.stdout else ()) | frozenset({STDERR} if request.stderr else ())


def _offer(
    call: Call,
    kind: str,
    request: pb.ExecRequest | pb.AttachRequest,
    make: Callable[[], AttachSession],
    *,
    tells_code: bool,
) -> str:
    if request.tty and request.stderr:
        raise InvalidInput("a terminal has no stderr of its own: tty and stderr exclude each other")
    if not (request.stdin or request.stdout or request.stderr):
        raise InvalidInput("one of stdin, stdout and stderr is needed")
    roles = {ERROR, *_outputs(request), *([STDIN] if request.stdin else ()), *([RESIZE] if request.tty else ())}
    return call.room.streaming.offer(kind, Streams(roles=frozenset(roles), make=make, tells_code=tells_code))


METHODS: dict[str, Method] = {"Exec": execute, "Attach": attach, "PortForward": port_forward}
