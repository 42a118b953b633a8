"""A driver whose VMs are threads of the daemon: quick tests of everything above it, with the real agent protocol.

The VMs die with the daemon. Programs run on the host without any isolation: never for anything but tests.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import structlog

from hyperd.errors import Conflict, DriverError, NotFound, NotSupported
from hyperd.vm.driver import (
    RESUME_TIMEOUT,
    DiskSpec,
    HypervisorInfo,
    Machine,
    NicSpec,
    PowerState,
    Template,
    VmDriver,
    VmEvent,
    VmEventKind,
    VmSpec,
    VmStats,
    own_shares,
)
from hyperd.vm.fake_agent import FakeAgent

log = structlog.get_logger(__name__)

T = TypeVar("T")
MAX_VCPU = 8
ASKED_FOR = "asked for by a test"  # in the error of what was told to fail


@dataclass
class FakeVm:
    """What the driver knows of one VM; tests look into it."""

    spec: VmSpec
    agent: FakeAgent
    state: PowerState
    disks: dict[int, DiskSpec] = field(default_factory=dict)
    nics: dict[str, NicSpec] = field(default_factory=dict)
    ports: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)


class FakeDriver(VmDriver):
    """VMs that are served by ``FakeAgent`` in one event loop.

    ``fail_next`` names a method (``create``, ``attach_disk``, ...) whose next call raises DriverError.
    """

    makes_taps = False

    def __init__(self) -> None:
        self.vms: dict[str, FakeVm] = {}
        self.fail_next = ""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._listeners: list[Callable[[VmEvent], None]] = []

    def open(self) -> HypervisorInfo:
        """Start the event loop."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._run, args=(self._loop,), name="fake-vms", daemon=True)
            self._thread.start()
        return HypervisorInfo(
            driver="fake", accelerator="fake", reason="set in the config", version="fake 1", max_vcpu=MAX_VCPU
        )

    def close(self) -> None:
        """End every VM: they cannot outlive the process that they are part of."""
        if self._loop is None or self._thread is None:
            return
        for vm_id in list(self.vms):
            self._call(self._remove(vm_id, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def subscribe(self, listener: Callable[[VmEvent], None]) -> None:
        """Add a listener."""
        self._listeners.append(listener)

    def create(self, spec: VmSpec) -> None:
        """Start a fake VM."""
        self._maybe_fail("create")
        if spec.vm_id in self.vms:
            raise Conflict(f"the VM {spec.vm_id} exists already")
        for disk in spec.disks:
            self._check_disk(disk)
        self._call(self._create(spec))

    def template_key(self, spec: VmSpec) -> str:
        """Tell VMs by their size and number of NICs."""
        return "" if own_shares(spec) else f"{spec.vcpu:04x}{spec.memory:08x}{len(spec.nics):02x}"

    def make_template(self, spec: VmSpec, template: Template, *, dress: Callable[[], None]) -> None:  # noqa: ARG002 - no VM
        """Write files that say what they are; the VM that goes on from them is one like any other."""
        self._maybe_fail("make_template")
        for file in (template.memory, template.state):
            file.write_text("of a fake VM\n")

    def save(self, vm_id: str, file: int, nics: Sequence[str], *, cancelled: Callable[[], bool]) -> Machine:  # noqa: ARG002 - VmDriver's
        """Refuse: what runs in a fake VM are processes of the host."""
        self._vm("save", vm_id)
        raise NotSupported("a VM that only pretends cannot be saved")

    def destroy(self, vm_id: str) -> None:
        """Drop the VM and everything it runs."""
        self._maybe_fail("destroy")
        self._call(self._remove(vm_id, VmEventKind.STOPPED))

    def crash(self, vm_id: str) -> None:
        """Do to the VM what kill -9 of its QEMU does (tests)."""
        self._call(self._remove(vm_id, VmEventKind.CRASHED))

    def pause(self, vm_id: str) -> None:
        """Stop agent and programs."""
        vm = self._vm("pause", vm_id)
        self._call(self._switch(vm, PowerState.PAUSED))

    def resume(self, vm_id: str, *, timeout: float = RESUME_TIMEOUT) -> None:  # noqa: ARG002
        """Let agent and programs go on."""
        vm = self._vm("resume", vm_id)
        self._call(self._switch(vm, PowerState.RUNNING))

    def attach_disk(self, vm_id: str, disk: DiskSpec) -> None:
        """Note the disk."""
        vm = self._vm("attach_disk", vm_id)
        self._check_disk(disk)
        if disk.lun in vm.disks:
            raise DriverError(f"LUN {disk.lun} of {vm_id} is taken")
        vm.disks[disk.lun] = disk

    def detach_disk(self, vm_id: str, lun: int) -> None:
        """Forget the disk."""
        self._vm("detach_disk", vm_id).disks.pop(lun, None)

    def attach_nic(self, vm_id: str, nic: NicSpec) -> None:
        """Note the NIC."""
        self._vm("attach_nic", vm_id).nics[nic.mac] = nic

    def detach_nic(self, vm_id: str, mac: str) -> None:
        """Forget the NIC."""
        self._vm("detach_nic", vm_id).nics.pop(mac, None)

    def forward_port(self, vm_id: str, *, protocol: str, host_port: int, address: str, port: int) -> None:
        """Note the port."""
        self._vm("forward_port", vm_id).ports[protocol, host_port] = (address, port)

    def close_port(self, vm_id: str, *, protocol: str, host_port: int) -> None:
        """Forget the port."""
        self._vm("close_port", vm_id).ports.pop((protocol, host_port), None)

    def states(self) -> dict[str, PowerState]:
        """Every VM."""
        return {vm_id: vm.state for vm_id, vm in list(self.vms.items())}

    def stats(self, vm_id: str) -> VmStats:
        """Return fixed counters."""
        self._vm("stats", vm_id)
        return VmStats(cpu_total=3_000_000, cpu_user=2_000_000, cpu_system=1_000_000, memory_rss=64 * 2**20)

    def agent(self, vm_id: str) -> FakeAgent:
        """Return the VM's agent (tests look at its plans). Errors: NotFound."""
        return self._vm("agent", vm_id).agent

    def _vm(self, method: str, vm_id: str) -> FakeVm:
        self._maybe_fail(method)
        try:
            return self.vms[vm_id]
        except KeyError:
            raise NotFound(f"no VM {vm_id}") from None

    def _maybe_fail(self, method: str) -> None:
        if self.fail_next == method:
            self.fail_next = ""
            raise DriverError(f"{method} failed", details=ASKED_FOR)

    def _check_disk(self, disk: DiskSpec) -> None:
        if not disk.path.exists():
            raise DriverError(f"the disk {disk.path} does not exist")

    @staticmethod
    def _run(loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        if self._loop is None:
            coroutine.close()
            raise DriverError("the fake driver is not open")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _create(self, spec: VmSpec) -> None:
        def power_off() -> None:
            self._discard(spec.vm_id, VmEventKind.STOPPED)

        agent = FakeAgent(
            control=spec.control_socket, stream=spec.stream_socket, directory=spec.rundir, on_poweroff=power_off
        )
        try:
            await agent.open()
        except OSError as error:
            agent.close()
            raise DriverError(f"cannot create {spec.vm_id}", details=str(error)) from error
        state = PowerState.PAUSED if spec.paused else PowerState.RUNNING
        vm = FakeVm(spec, agent, state, {d.lun: d for d in spec.disks}, {n.mac: n for n in spec.nics})
        if spec.paused:
            agent.pause()
        spec.console_log.write_text("fake VM\n")
        self.vms[spec.vm_id] = vm

    async def _switch(self, vm: FakeVm, state: PowerState) -> None:
        if vm.state != state:
            vm.state = state
            if state == PowerState.PAUSED:
                vm.agent.pause()
            else:
                vm.agent.resume()

    async def _remove(self, vm_id: str, kind: VmEventKind | None) -> None:
        self._discard(vm_id, kind)

    def _discard(self, vm_id: str, kind: VmEventKind | None) -> None:
        vm = self.vms.pop(vm_id, None)
        if vm is None:
            return
        vm.agent.close()
        if kind is not None:
            for listener in self._listeners:
                listener(VmEvent(vm_id, kind))
