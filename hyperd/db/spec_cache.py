"""Specifications of rows, read once: pods and containers are looked at far more often than they change.

The values are shared between all who ask; they are immutable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from hyperd.db import spec_codec
from hyperd.spec.model import ContainerSpec, PodSpec

MAX_TEXT = 32_768  # characters; files inside a specification can make it megabytes
KEPT = 128
LISTED = 1024


def stored_pod(row_spec: Mapping[str, Any]) -> PodSpec:
    """Return the pod of a row's ``spec``. Errors: HostFault when it cannot be read."""
    text = json.dumps(row_spec)
    return _pod(text) if len(text) <= MAX_TEXT else spec_codec.load(PodSpec, row_spec)


def stored_container(row_spec: Mapping[str, Any]) -> ContainerSpec:
    """Return the container of a row's ``spec``. Errors: HostFault when it cannot be read."""
    text = json.dumps(row_spec)
    return _container(text) if len(text) <= MAX_TEXT else spec_codec.load(ContainerSpec, row_spec)


def marks(text: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Return labels and annotations of a pod or container; ``text``: its row's ``spec`` as the database has it."""
    return _marks(text) if len(text) <= MAX_TEXT else _marks.__wrapped__(text)


@lru_cache(LISTED)
def _marks(text: str) -> tuple[Mapping[str, str], Mapping[str, str]]:
    spec = json.loads(text)
    return MappingProxyType(spec.get("labels") or {}), MappingProxyType(spec.get("annotations") or {})


@lru_cache(KEPT)
def _pod(text: str) -> PodSpec:
    return spec_codec.load(PodSpec, json.loads(text))


@lru_cache(KEPT)
def _container(text: str) -> ContainerSpec:
    return spec_codec.load(ContainerSpec, json.loads(text))
