"""Values of the VM service: a VM that runs, what it boots from, how the API shows it."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from pathlib import Path

from hyperd.agent.client import AgentClient
from hyperd.errors import NotAlive

SCRATCH_LUN = 0
MAX_LUN = 254
RECONNECT_TIMEOUT = 20.0
BOOTING, IDLE, ASSOCIATED, PAUSED, POOLED = "booting", "idle", "associated", "paused", "pooled"
HEALTH_TIMEOUT = 5.0


@dataclass(frozen=True, kw_only=True)
class BootFiles:
    """What a VM boots from."""

    kernel: Path
    initrd: Path


@dataclass(frozen=True, kw_only=True)
class VmView:
    """A VM as ``GET /list?item=vm`` shows it."""

    id: str
    pod_id: str
    status: str


@dataclass(kw_only=True)
class Vm:
    """A VM that runs. ``disks`` maps image files to LUNs; ``layers`` maps layer files to LUNs mounted in the guest."""

    id: str
    vcpu: int
    memory: int
    rundir: Path
    agent: AgentClient
    pod_id: str = ""
    state: str = BOOTING
    created_at: float = 0.0
    disks: dict[str, int] = field(default_factory=dict)
    layers: dict[str, int] = field(default_factory=dict)
    nics: list[str] = field(default_factory=list)
    ending: bool = False
    hidden: bool = False
    connected: bool = True
    lock: threading.RLock = field(default_factory=threading.RLock)


def require_running(vm: Vm | None, pod_id: str) -> Vm:
    """Give the pod's VM if its agent can be asked. Errors: NotAlive."""
    if vm is None:
        raise NotAlive(f"cannot complete the operation, because the pod {pod_id} is not running")
    if vm.state == PAUSED:
        raise NotAlive(f"cannot complete the operation, because the pod {pod_id} is paused")
    return vm


def last_words(path: Path) -> str:
    """Give the end of a console log, for messages."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 600))
            return file.read().decode("utf-8", "replace").strip() or "none"
    except OSError:
        return "none"
