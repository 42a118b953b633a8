"""Limits of containers: as Docker's clients write them, against each other, and against the VM they are in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields, replace
from typing import Any

from hyperd.errors import Conflict, InvalidInput
from hyperd.spec.limits import NANO, beyond, cpu_time
from hyperd.spec.model import Limits, Resource

_MIB = 2**20
_OVERHEAD = 64  # MiB of a VM that its container does not get: kernel, agent, page tables
_MINIMUM = 6 * _MIB


def read_limits(given: Mapping[str, Any]) -> Limits:
    """Return the limits of a ``HostConfig``. Errors: InvalidInput."""
    found = _limits(given)
    _check(found)
    return found


def read_changes(given: Mapping[str, Any], now: Limits) -> Limits:
    """Return the limits that a container has after an update; what the update does not name stays.

    Errors: Conflict (with a limit that it has), InvalidInput.
    """
    asked = _limits(given)
    if asked.cpus and (now.cpu_period or now.cpu_quota > 0):
        word = "CPU Period" if now.cpu_period else "CPU Quota"
        raise Conflict(f"Conflicting options: Nano CPUs cannot be updated as {word} has already been set")
    if now.cpus and (asked.cpu_period or asked.cpu_quota > 0):
        word = "CPU Period" if asked.cpu_period else "CPU Quota"
        raise Conflict(f"Conflicting options: {word} cannot be updated as NanoCPUs has already been set")
    if 0 < now.memory_swap < asked.memory and not asked.memory_swap:
        raise Conflict(
            "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
        )
    changes: dict[str, Any] = {one.name: getattr(asked, one.name) for one in fields(Limits)}
    found = replace(now, **{name: value for name, value in changes.items() if value})
    _check(found)
    return found


def _limits(given: Mapping[str, Any]) -> Limits:
    return Limits(
        memory=given["Memory"],
        memory_reservation=given["MemoryReservation"],
        memory_swap=given["MemorySwap"],
        cpus=given["NanoCpus"],
        cpu_shares=given["CpuShares"],
        cpu_period=given["CpuPeriod"],
        cpu_quota=given["CpuQuota"],
        cpuset=given["CpusetCpus"],
        pids=given["PidsLimit"],
    )


def _check(limits: Limits) -> None:
    memory, swap = limits.memory, limits.memory_swap
    if memory and memory < _MINIMUM:
        raise InvalidInput("Minimum memory limit allowed is 6MB")
    if swap > 0 and not memory:
        raise InvalidInput("You should always set the Memory limit when using Memoryswap limit, see usage")
    if 0 < swap < memory:
        raise InvalidInput("Minimum memoryswap limit should be larger than memory limit, see usage")
    if limits.cpus < 0:
        raise InvalidInput("Range of CPUs must not be negative")
    if limits.cpus and (limits.cpu_quota or limits.cpu_period):
        raise InvalidInput("Conflicting options: Nano CPUs and CPU Quota or Period cannot both be set")


def vm_size(limits: Limits, default_memory: int) -> Resource:
    """Return the size of a container's VM: room for its limits and the guest's own needs; ``default_memory``: MiB."""
    memory = max(default_memory, -(-limits.memory // _MIB) + _OVERHEAD) if limits.memory else default_memory
    return Resource(vcpu=max(1, -(-cpu_time(limits) // NANO), _last_cpu(limits) + 1), memory=memory)


def check_cpus(limits: Limits, size: Resource) -> None:
    """Refuse CPUs that a VM does not have. Errors: InvalidInput."""
    if _last_cpu(limits) >= size.vcpu:
        raise InvalidInput(
            f"Requested CPUs are not available - requested {limits.cpuset}, available: 0-{size.vcpu - 1}",
            details="the container's virtual machine has no others",
        )


def warnings(limits: Limits, size: Resource) -> Iterator[str]:
    """Yield a warning for each limit that a VM of this size cannot give."""
    yield from beyond(limits, size)
    if limits.memory_swap > limits.memory or limits.memory_swap < 0:
        yield "The virtual machine has no swap: MemorySwap was discarded, memory is limited without swap."


def _last_cpu(limits: Limits) -> int:
    """Return the highest CPU of ``cpuset``, -1 when it names none."""
    words = limits.cpuset.replace("-", ",").split(",")
    return max((int(word) for word in words if word.isascii() and word.isdigit() and len(word) < 5), default=-1)
