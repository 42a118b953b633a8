"""What a client said and no specification has: kept in an annotation, in the client's own form.

Kubernetes' own annotations must come back as they were, so this one is taken out again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import lru_cache

from hyperd.api.cri.v1 import api_pb2 as pb
from hyperd.errors import InvalidInput

CONFIG, HANDLER = "hyperd.cri/config", "hyperd.cri/handler"
_OURS = (CONFIG, HANDLER)
_KEPT = 512  # configurations that were read; kubelet lists everything every second


def of_sandbox(config: pb.PodSandboxConfig, handler: str) -> dict[str, str]:
    """Return the annotations of a pod. Errors: InvalidInput when the client uses our names."""
    _check(config.annotations)
    own = pb.PodSandboxConfig()
    own.CopyFrom(config)
    for name in ("labels", "annotations", "dns_config"):
        own.ClearField(name)
    return {**config.annotations, CONFIG: _text(own.SerializeToString()), HANDLER: handler}


def of_container(config: pb.ContainerConfig) -> dict[str, str]:
    """Return the annotations of a container. Errors: InvalidInput when the client uses our names."""
    _check(config.annotations)
    own = pb.ContainerConfig(metadata=config.metadata, image=config.image, log_path=config.log_path)
    own.mounts.extend(config.mounts)
    return {**config.annotations, CONFIG: _text(own.SerializeToString())}


def sandbox(annotations: Mapping[str, str]) -> pb.PodSandboxConfig:
    """Return what is kept of a sandbox, to be read only: all who ask get the same."""
    return _sandbox(annotations.get(CONFIG, ""))


def container(annotations: Mapping[str, str]) -> pb.ContainerConfig:
    """Return what is kept of a container, to be read only: all who ask get the same."""
    return _container(annotations.get(CONFIG, ""))


@lru_cache(_KEPT)
def _sandbox(text: str) -> pb.PodSandboxConfig:
    return pb.PodSandboxConfig.FromString(base64.b64decode(text))


@lru_cache(_KEPT)
def _container(text: str) -> pb.ContainerConfig:
    return pb.ContainerConfig.FromString(base64.b64decode(text))


def of_client(annotations: Mapping[str, str]) -> dict[str, str]:
    """Return the client's annotations."""
    return {key: value for key, value in annotations.items() if key not in _OURS}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _check(annotations: Mapping[str, str]) -> None:
    for key in _OURS:
        if key in annotations:
            raise InvalidInput(f"the annotation {key} is the runtime's own")
