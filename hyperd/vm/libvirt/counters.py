"""Counters of a VM: libvirt's for its devices, the kernel's for its process."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hyperd.vm.driver import VmStats

MAX_CPUS = 256
_NS = 1_000_000_000
# libvirt's names (virConnectGetAllDomainStats) and ours.
_BLOCK = {
    "rd.reqs": "read_ops",
    "rd.bytes": "read_bytes",
    "wr.reqs": "write_ops",
    "wr.bytes": "write_bytes",
    "fl.reqs": "flush_ops",
}
_NETWORK = {
    f"{way}.{what}": f"{way}_{ours}"
    for way in ("rx", "tx")
    for what, ours in (("bytes", "bytes"), ("pkts", "packets"), ("errs", "errors"), ("drop", "dropped"))
}


def vm_stats(*, pid: int | None, flat: Mapping[str, Any], luns: Mapping[str, int]) -> VmStats:
    """Put a VM's counters together.

    Args:
        pid: of QEMU on this host; None leaves CPU and memory at 0.
        flat: libvirt's statistics, such as ``block.0.rd.bytes``; ``vcpu.0.time`` in ns.
        luns: libvirt's target name to LUN. The keys of ``block`` are LUNs as text, those of ``network`` tap devices.

    """
    user, system, rss = process_usage(pid) if pid is not None else (0, 0, 0)
    disks = _group(flat, "block", _BLOCK)
    return VmStats(
        cpu_total=user + system,
        cpu_user=user,
        cpu_system=system,
        memory_rss=rss,
        per_cpu=[int(flat[f"vcpu.{n}.time"]) for n in range(MAX_CPUS) if f"vcpu.{n}.time" in flat],
        block={str(luns[name]): values for name, values in disks.items() if name in luns},
        network=_group(flat, "net", _NETWORK),
    )


def process_usage(pid: int) -> tuple[int, int, int]:
    """Return (user ns, system ns, resident bytes) of a process, zeros when it has gone; see proc(5)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return (0, 0, 0)
    tick = _NS // os.sysconf("SC_CLK_TCK")
    # The numbering of proc(5) counts pid and name, which are cut off here: utime 14, stime 15, rss 24.
    return (int(fields[11]) * tick, int(fields[12]) * tick, int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def _group(flat: Mapping[str, Any], kind: str, names: Mapping[str, str]) -> dict[str, dict[str, int]]:
    groups: dict[str, dict[str, int]] = {}
    for number in range(int(flat.get(f"{kind}.count", 0))):
        name = flat.get(f"{kind}.{number}.name")
        if name is not None:
            groups[str(name)] = {ours: int(flat.get(f"{kind}.{number}.{theirs}", 0)) for theirs, ours in names.items()}
    return groups
