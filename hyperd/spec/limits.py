"""Bounds of specifications that every API and the services keep to."""

from __future__ import annotations

import re
from collections.abc import Iterator

from hyperd.errors import InvalidInput
from hyperd.spec.model import Limits, Resource

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")  # ids and names of pods, containers, volumes
MAX_HOSTNAME = 63
DEFAULT_VCPU = 1
DEFAULT_MEMORY = 128  # MiB
MIN_MEMORY = 28  # MiB, as documented for the original
GUEST_MEMORY = 48  # MiB that a guest needs; who asks for less gets as much
MAX_MEMORY = 2**20  # MiB
MAX_VCPU = 256
NANO = 1_000_000_000  # parts of a CPU
_MIB = 2**20
_CFS_PERIOD = 100_000  # microseconds


def granted_memory(asked: int) -> int:
    """Return the memory in MiB of a VM of which so much was asked.

    Errors: InvalidInput for less than the original took.
    """
    if asked < MIN_MEMORY:
        raise InvalidInput(f"resource.memory: must be at least {MIN_MEMORY} (MiB)")
    return max(asked, GUEST_MEMORY)


def beyond(limits: Limits, size: Resource) -> Iterator[str]:
    """Yield a warning for each limit of a container that is more than a VM of this size has."""
    if limits.memory > size.memory * _MIB:
        yield f"The virtual machine has {size.memory} MiB of memory: a limit of more has no effect."
    if cpu_time(limits) > size.vcpu * NANO:
        yield f"The virtual machine has {size.vcpu} CPU(s): a limit of more has no effect."


def cpu_time(limits: Limits) -> int:
    """Return the limit of CPU time in billionths of a CPU, 0 = none."""
    if limits.cpu_quota > 0:
        return limits.cpu_quota * NANO // (limits.cpu_period or _CFS_PERIOD)
    return limits.cpus
