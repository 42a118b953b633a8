"""Bounds of specifications that every API and the services keep to."""

from __future__ import annotations

import re

from hyperd.errors import InvalidInput

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # ids and names of pods, containers, volumes
MAX_HOSTNAME = 63
DEFAULT_VCPU = 1
DEFAULT_MEMORY = 128  # MiB
MIN_MEMORY = 28  # MiB, as documented for the original
GUEST_MEMORY = 48  # MiB that a guest needs; who asks for less gets as much
MAX_MEMORY = 2**20  # MiB
MAX_VCPU = 256


def granted_memory(asked: int) -> int:
    """Return the memory in MiB of a VM of which so much was asked.

    Errors: InvalidInput for less than the original took.
    """
    if asked < MIN_MEMORY:
        raise InvalidInput(f"resource.memory: must be at least {MIN_MEMORY} (MiB)")
    return max(asked, GUEST_MEMORY)
