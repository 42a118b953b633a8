"""Who answers which method, and how errors become statuses."""

from __future__ import annotations

import contextlib
import itertools
import uuid
from collections.abc import Callable, Generator, Iterator
from typing import Any

import grpc
import structlog
from google.protobuf.message_factory import GetMessageClass

from hyperd.api.cri import checkpoints, containers, events, images, metrics, sandboxes, stats, streams, system
from hyperd.api.cri.call import API_VERSIONS, Call, Method, Room
from hyperd.api.cri.errors import code_of
from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.errors import HyperError

log = structlog.get_logger(__name__)

SERVICES: dict[str, dict[str, Method]] = {
    "RuntimeService": {
        **system.METHODS,
        **sandboxes.METHODS,
        **containers.METHODS,
        **streams.METHODS,
        **stats.METHODS,
        **metrics.METHODS,
        **checkpoints.METHODS,
    },
    "ImageService": images.METHODS,
}
STREAMS: dict[str, Callable[[Call, Any], Generator[Any, None, None]]] = {"GetContainerEvents": events.stream}
_STREAMED = "lists are not streamed yet; {} has the same in one answer"
REASONS = {
    "RestorePod": "a saved sandbox goes on at once, its containers cannot wait for a start; use hyperctl restore",
    "UpdatePodSandboxResources": "a virtual machine keeps the size that it was booted with",
    "StreamPodSandboxMetrics": _STREAMED.format("ListPodSandboxMetrics"),
    "StreamPodSandboxes": _STREAMED.format("ListPodSandbox"),
    "StreamPodSandboxStats": _STREAMED.format("ListPodSandboxStats"),
    "StreamContainers": _STREAMED.format("ListContainers"),
    "StreamContainerStats": _STREAMED.format("ListContainerStats"),
    "StreamImages": _STREAMED.format("ListImages"),
}


def handlers(room: Room) -> grpc.GenericRpcHandler:
    """Return what grpc asks for the handler of a method."""
    return _Handlers(room)


class _Handlers(grpc.GenericRpcHandler):
    """Finds who answers a method; what is in no table is answered, too, with the reason."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._known: dict[str, Any] = {}
        for name, methods in SERVICES.items():
            described = pb.DESCRIPTOR.services_by_name[name]
            for version, method in itertools.product(API_VERSIONS, described.methods):
                if method.server_streaming:
                    make, answer = grpc.unary_stream_rpc_method_handler, self._streaming(method.name, version)
                else:
                    make = grpc.unary_unary_rpc_method_handler
                    answer = self._answering(method.name, methods[method.name], version)
                self._known[f"/runtime.{version}.{name}/{method.name}"] = make(
                    answer,
                    request_deserializer=GetMessageClass(method.input_type).FromString,
                    response_serializer=GetMessageClass(method.output_type).SerializeToString,
                )

    def service(self, handler_call_details: Any) -> Any:
        path = handler_call_details.method
        return self._known.get(path) or grpc.unary_unary_rpc_method_handler(_refusing(path))

    def _answering(self, name: str, method: Method, version: str) -> Callable[[Any, Any], Any]:
        def answer(request: Any, context: Any) -> Any:
            with _told(name, context):
                return method(self._call(context, version), request)

        return answer

    def _streaming(self, name: str, version: str) -> Callable[[Any, Any], Iterator[Any]]:
        def answer(request: Any, context: Any) -> Iterator[Any]:
            with _told(name, context):
                found = STREAMS[name](self._call(context, version), request)
                with contextlib.closing(found):
                    context.send_initial_metadata(())  # from now on nothing is missed
                    yield from found

        return answer

    def _call(self, context: Any, version: str) -> Call:
        return Call(
            room=self._room,
            active=context.is_active,
            seconds_left=context.time_remaining,
            api_version=version,
        )


@contextlib.contextmanager
def _told(name: str, context: Any) -> Iterator[None]:
    """Tell the client of errors of the block as statuses."""
    try:
        yield
    except HyperError as error:
        log.debug("cri.refused", method=name, error=str(error))
        context.abort(getattr(grpc.StatusCode, code_of(error)), str(error))
    except Exception:
        number = uuid.uuid4().hex[:12]
        log.exception("cri.internal_error", method=name, number=number)
        context.abort(grpc.StatusCode.INTERNAL, f"internal error {number}: see the daemon's log")


def _refusing(path: str) -> Callable[[Any, Any], Any]:
    name = path.rpartition("/")[2]

    def answer(_request: Any, context: Any) -> Any:
        reason = REASONS.get(name, "the runtime does not know it")
        context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{path[:200]} is not served: {reason}")

    return answer
