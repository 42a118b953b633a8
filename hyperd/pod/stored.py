"""Specifications as rows have them: reading one costs a millisecond, so the same text is read once.

The values are shared between all who ask; they are immutable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from hyperd.pod.spec import parse_container, parse_pod
from hyperd.spec.model import ContainerSpec, PodSpec

MAX_TEXT = 32_768  # characters; files inside a specification can make it megabytes
KEPT = 128


def stored_pod(row_spec: Mapping[str, Any]) -> PodSpec:
    """Give the pod of a row's ``spec``. Errors: InvalidInput."""
    text = json.dumps(row_spec)
    return _pod(text) if len(text) <= MAX_TEXT else parse_pod(row_spec)


def stored_container(row_spec: Mapping[str, Any]) -> ContainerSpec:
    """Give the container of a row's ``spec``. Errors: InvalidInput."""
    text = json.dumps(row_spec)
    return _container(text) if len(text) <= MAX_TEXT else parse_container(row_spec)


@lru_cache(KEPT)
def _pod(text: str) -> PodSpec:
    return parse_pod(json.loads(text))


@lru_cache(KEPT)
def _container(text: str) -> ContainerSpec:
    return parse_container(json.loads(text))
