"""A client of Kubernetes' CRI over grpcio: ``client.RuntimeService.Version()``, arguments are the request's fields."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

import grpc
from google.protobuf.message_factory import GetMessageClass

from hyperd.api.cri.v1 import api_pb2 as pb

TIMEOUT = 150.0  # seconds of one call


class CriClient:
    """A connection to a daemon's socket; methods of both services are attributes."""

    def __init__(self, path: Path, *, api_version: str = "v1") -> None:
        options = [("grpc.default_authority", "localhost"), ("grpc.max_receive_message_length", 16 << 20)]
        self._channel = grpc.insecure_channel(f"unix:{path}", options=options)
        self._methods: dict[str, Any] = {}
        for service in pb.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                request = GetMessageClass(method.input_type)
                call = (self._channel.unary_stream if method.server_streaming else self._channel.unary_unary)(
                    f"/runtime.{api_version}.{service.name}/{method.name}",
                    request_serializer=request.SerializeToString,
                    response_deserializer=GetMessageClass(method.output_type).FromString,
                )
                self._methods[method.name] = (request, call)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._channel.close()

    def __getattr__(self, name: str) -> Any:
        request, call = self._methods[name]
        return lambda **fields: call(request(**fields), timeout=TIMEOUT)

    def begin(self, name: str, **fields: Any) -> Any:
        """Call a method whose answer nobody waits for; give the call."""
        request, call = self._methods[name]
        return call.future(request(**fields), timeout=TIMEOUT)

    def raw(self, path: str) -> Any:
        """Call a method that the interface of ours does not have."""
        return self._channel.unary_unary(path)(b"", timeout=TIMEOUT)
