"""One domain: the only place that calls libvirt's methods of a domain."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import libvirt
import libvirt_qemu

from hyperd.errors import Conflict, DriverError, NotFound
from hyperd.vm.driver import PowerState
from hyperd.vm.libvirt import config
from hyperd.vm.libvirt.calls import call

# Seconds. libvirt's own wait for a busy domain is 30, for an unplugged device 5.
GUEST_TIMEOUT = 45.0

_STATES = {
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.RUNNING,
    # Shutting down: QEMU is still there.
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PAUSED,
}


def power_state(number: int) -> PowerState:
    """Return our word for libvirt's number of a domain's state."""
    return _STATES.get(number, PowerState.SHUTOFF)


class Guest:
    """One domain.

    Every method raises NotFound when it is gone, DriverError when libvirt fails, Timeout when it hangs.
    """

    def __init__(self, domain: libvirt.virDomain, connection: libvirt.virConnect) -> None:
        self._domain = domain
        self._connection = connection
        self.name = domain.name()

    def state(self) -> PowerState:
        """Return the power state; SHUTOFF when the domain has just gone."""
        try:
            state = call(self._domain.state, timeout=GUEST_TIMEOUT, brief=self._brief("No state of"))[0]
        except NotFound:
            return PowerState.SHUTOFF
        return power_state(state)

    def describe(self) -> config.LiveDomain:
        """Return what libvirt knows of the domain's devices."""
        return config.parse_live(
            call(self._domain.XMLDesc, timeout=GUEST_TIMEOUT, brief=self._brief("Cannot describe"))
        )

    def pause(self) -> None:
        """Stop the CPUs."""
        call(self._domain.suspend, timeout=GUEST_TIMEOUT, brief=self._brief("Cannot pause"))

    def resume(self, *, timeout: float) -> None:
        """Let the CPUs run, within ``timeout`` seconds; fine when they do."""
        call(self._domain.resume, timeout=timeout, brief=self._brief("Cannot resume"))

    def destroy(self) -> None:
        """Stop the domain and free what libvirt made for it; fine when it has gone."""
        try:
            call(self._domain.destroy, timeout=GUEST_TIMEOUT, brief=self._brief("Cannot destroy"))
        except (NotFound, Conflict):  # it stopped by itself
            return

    def attach(self, device: config.Disk | config.Interface) -> None:
        """Hot-plug a device."""
        xml = config.render(device.element())
        call(
            lambda: self._domain.attachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE),
            timeout=GUEST_TIMEOUT,
            brief=self._brief("Cannot attach a device to"),
            late=lambda _: self._detach(xml),
        )

    def detach(self, device: config.Disk | config.Interface) -> None:
        """Unplug a device.

        libvirt waits 5 s for the guest to let it go, and returns without an error when it has not.
        """
        xml = config.render(device.element())
        call(lambda: self._detach(xml), timeout=GUEST_TIMEOUT, brief=self._brief("Cannot detach a device from"))

    def _detach(self, xml: str) -> None:
        try:
            self._domain.detachDeviceFlags(xml, libvirt.VIR_DOMAIN_AFFECT_LIVE)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_DEVICE_MISSING:
                raise

    def counters(self) -> dict[str, Any]:
        """Return libvirt's statistics of CPUs, block devices and NICs, flat, with libvirt's names."""
        kinds = libvirt.VIR_DOMAIN_STATS_VCPU | libvirt.VIR_DOMAIN_STATS_BLOCK | libvirt.VIR_DOMAIN_STATS_INTERFACE
        found = call(
            lambda: self._connection.domainListGetStats([self._domain], kinds, 0),
            timeout=GUEST_TIMEOUT,
            brief=self._brief("No counters of"),
        )
        return found[0][1] if found else {}

    def monitor(self, command: str) -> str:
        """Give a command to QEMU's monitor for people (HMP) and return what it says.

        Only for what libvirt has no call for: it marks the domain as tainted in libvirt's log.
        """
        said: str = call(
            lambda: libvirt_qemu.qemuMonitorCommand(
                self._domain, command, libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            ),
            timeout=GUEST_TIMEOUT,
            brief=self._brief("QEMU's monitor refused a command of"),
        )
        return said

    def command(self, execute: str, *, files: Sequence[int] = (), **arguments: object) -> Any:
        """Give a command to QEMU's monitor for programs (QMP) and return what it returns.

        Args:
            execute: the command's name.
            files: descriptors that go with it (``getfd``).
            arguments: the command's, with ``_`` for ``-`` in their names.

        Errors: DriverError also when QEMU refuses it.

        """
        words = {name.replace("_", "-"): value for name, value in arguments.items()}
        text = json.dumps({"execute": execute, "arguments": words})
        brief = self._brief(f"QEMU's monitor refused {execute} of")
        said = call(
            lambda: libvirt_qemu.qemuMonitorCommandWithFiles(self._domain, text, list(files), 0)[0],
            timeout=GUEST_TIMEOUT,
            brief=brief,
        )
        answer = json.loads(said)
        if "error" in answer:
            raise DriverError(brief, details=str(answer["error"].get("desc", "")))
        return answer.get("return")

    def _brief(self, what: str) -> str:
        return f"{what} VM {self.name}"
