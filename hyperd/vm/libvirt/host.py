"""The connection to libvirt: opening and closing it, its event thread, what the host can do."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import libvirt
import structlog

from hyperd.capabilities import FOREIGN_FILES, restrict_thread
from hyperd.errors import DriverError, HyperError, NotFound
from hyperd.vm.driver import PowerState, VmEvent, VmEventKind
from hyperd.vm.libvirt import capscache, reaper
from hyperd.vm.libvirt.calls import call
from hyperd.vm.libvirt.guest import Guest, power_state

log = structlog.get_logger(__name__)

# Seconds. The first open of a root on a host probes QEMU: 4 s on an idle machine.
OPEN_TIMEOUT = 60.0
CALL_TIMEOUT = 60.0
_VIRT_TYPES = {"kvm": "kvm", "tcg": "qemu"}

_loop_lock = threading.Lock()
_loop_running = False


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What libvirt says of one accelerator."""

    emulator: str
    max_vcpu: int


def qemu_conf(*, privileged: bool) -> str:
    """Return the embedded driver's ``qemu.conf``.

    As root QEMU stays root, but with next to no capabilities (``create`` sees to that for each VM, not libvirt for
    all), and its seccomp sandbox stays on. Nothing is
    chown'ed: images are shared between VMs and belong to the store. Mount namespaces and cgroups of the host are left
    alone: they do not work where hyperd itself runs in a container.
    """
    lines = [
        "# Written by hyperd at every start.",
        # The console log must not go through virtlogd, a daemon that nobody started.
        'stdio_handler = "file"',
        'security_driver = "none"',
        "namespaces = []",
        "cgroup_controllers = []",
        "seccomp_sandbox = 1",
        # Without it libvirt asks QEMU for each of 400 CPU properties at every start: a quarter of a second.
        'capability_filters = ["cpu-unavailable-features"]',
    ]
    if privileged:
        lines += ['user = "+0"', 'group = "+0"', "dynamic_ownership = 0", "remember_owner = 0"]
        lines += ["clear_emulator_capabilities = 0"]
    return "\n".join(lines) + "\n"


def start_event_loop() -> None:
    """Run libvirt's event loop in a daemon thread; once per process, and before any connection is opened."""
    global _loop_running  # noqa: PLW0603 - libvirt itself has one loop per process
    with _loop_lock:
        if _loop_running:
            return
        # libvirt prints every error to stderr unless somebody else takes it; we raise them.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        threading.Thread(target=_run_event_loop, name="libvirt-events", daemon=True).start()
        _loop_running = True


def _run_event_loop() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError:
            log.exception("libvirt.event_loop")


@contextlib.contextmanager
def pinned() -> Iterator[None]:
    """Keep this thread on one CPU.

    libvirt probes QEMU anew (4 s) when its cache seems to be made on another CPU, and on some hosts the CPUs differ.
    Threads that libvirt starts meanwhile inherit the mask, so all that have it are set free at the end.
    """
    allowed = os.sched_getaffinity(0)
    one = {min(allowed)}
    os.sched_setaffinity(0, one)
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)
        for task in Path("/proc/self/task").iterdir():
            with contextlib.suppress(OSError):  # the thread has ended
                if os.sched_getaffinity(int(task.name)) == one:
                    os.sched_setaffinity(int(task.name), allowed)


class Host:
    """One connection.

    Args:
        uri: libvirt's; empty = the embedded driver.
        emulator: path of QEMU, or of a script that becomes it; empty = libvirt's choice.
        qemu: QEMU itself, where it is known.
        directory: root directory of the embedded driver.
        on_event: called from libvirt's event thread with every stop of a domain; must only enqueue.
        renew: called before a VM is made; may replace the emulator's file.

    """

    def __init__(
        self,
        *,
        uri: str,
        emulator: str,
        directory: Path,
        qemu: Path | None = None,
        on_event: Callable[[VmEvent], None],
        renew: Callable[[], None] = lambda: None,
    ) -> None:
        self._emulator = emulator
        self._qemu = qemu
        self._renew = renew
        self.embedded = not uri
        self.uri = uri or f"qemu:///embed?root={directory}"
        self._directory = directory
        self._on_event = on_event
        self._connection: libvirt.virConnect | None = None
        self._callback: int | None = None
        self._emulators: dict[str, tuple[int, int]] = {}
        self._refresh_lock = threading.Lock()

    def open(self, accelerators: tuple[str, ...]) -> dict[str, Capabilities]:
        """Connect; return the capabilities by accelerator, of those asked for that libvirt knows.

        Errors: DriverError; nothing is open then.
        """
        if self.embedded:
            self._write_config()
        start_event_loop()
        try:
            found = call(
                lambda: self._open(accelerators),
                timeout=OPEN_TIMEOUT,
                brief="Cannot open the hypervisor",
                late=lambda _: self.close(),
            )
        except BaseException:
            self.close()
            raise
        if not found:
            self.close()
            raise DriverError(
                "The hypervisor cannot run VMs", details=f"{self.uri} supports none of {', '.join(accelerators)}"
            )
        return found

    def _open(self, accelerators: tuple[str, ...]) -> dict[str, Capabilities]:
        with pinned():
            if self.embedded:
                kinds = tuple(_VIRT_TYPES[name] for name in accelerators)
                capscache.prepare(self._directory, uri=self.uri, emulator=self._emulator, kinds=kinds, qemu=self._qemu)
            try:
                connection = libvirt.open(self.uri)
            except libvirt.libvirtError as error:
                raise self._open_failed(error) from error
            self._connection = connection
            found: dict[str, Capabilities] = {}
            for name in accelerators:
                with contextlib.suppress(libvirt.libvirtError):
                    text = connection.getDomainCapabilities(
                        self._emulator or None, "x86_64", "q35", _VIRT_TYPES[name], 0
                    )
                    found[name] = _parse_capabilities(text)
        self._emulators = {each.emulator: _stamp(each.emulator) for each in found.values()}
        self._set_subreaper(on=True)
        self._callback = connection.domainEventRegisterAny(
            None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle, None
        )
        return found

    def _refresh(self, connection: libvirt.virConnect) -> None:
        """Let libvirt probe a QEMU that was replaced (a package's update) before it is needed."""
        with self._refresh_lock:
            self._renew()
            for emulator, stamp in self._emulators.items():
                now = _stamp(emulator)
                if now == stamp:
                    continue
                log.info("hypervisor.emulator_changed", emulator=emulator)
                self._set_subreaper(on=False)
                try:
                    with pinned(), contextlib.suppress(libvirt.libvirtError):
                        connection.getDomainCapabilities(emulator, "x86_64", "q35", None, 0)
                finally:
                    self._set_subreaper(on=True)
                self._emulators[emulator] = now

    def _set_subreaper(self, *, on: bool) -> None:
        # Off while libvirt probes: its short-lived QEMUs would stay as zombies of ours that libvirt waits 15 s for.
        if self.embedded:
            reaper.set_subreaper(on=on)

    def _open_failed(self, error: libvirt.libvirtError) -> HyperError:
        resolution = "another hyperd with the same root may be running"
        if self.embedded and os.geteuid() == 0:
            resolution += "; libvirt's system user must exist (Debian: libvirt-qemu, group kvm)"
        return DriverError(
            "Cannot open the hypervisor",
            details=f"{self.uri}: {error.get_error_message() or error} [libvirt error {error.get_error_code()}]",
            resolution=resolution,
        )

    def _write_config(self) -> None:
        path = self._directory / "etc" / "qemu.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part")
        part.write_text(qemu_conf(privileged=os.geteuid() == 0), encoding="utf-8")
        part.replace(path)

    def close(self) -> None:
        """Disconnect. Domains run on. Calling it twice is fine."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        callback, self._callback = self._callback, None

        def close() -> None:
            if callback is not None:
                connection.domainEventDeregisterAny(callback)
            connection.close()

        try:
            call(close, timeout=CALL_TIMEOUT, brief="Cannot close the hypervisor")
        except HyperError:
            log.warning("libvirt.close_failed", exc_info=True)

    @property
    def connection(self) -> libvirt.virConnect:
        """The open connection. Errors: DriverError when there is none."""
        connection = self._connection
        if connection is None:
            raise DriverError("The hypervisor is not open")
        return connection

    def version(self, emulator: str) -> str:
        """Return the versions of QEMU and libvirt, for people.

        Not by libvirt's ``getVersion``: it would probe every QEMU of the host, those for other machines too.
        """
        text = "QEMU"
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            shown = subprocess.run([emulator, "--version"], capture_output=True, text=True, timeout=10, check=True)
            text = f"QEMU {_first_word(shown.stdout.partition('version ')[2])}"
        return f"{text}, libvirt {_dotted(self.connection.getLibVersion())}"

    def create(self, xml: str, *, paused: bool, foreign_files: bool, timeout: float, late: Callable[[], None]) -> Guest:
        """Start a transient domain; ``late`` undoes one that came up after the deadline.

        ``foreign_files``: its QEMU may open and change files whoever owns them.

        Errors: as ``calls.translate`` maps them.
        """
        connection = self.connection
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0

        def create() -> libvirt.virDomain:
            self._refresh(connection)
            restrict_thread(FOREIGN_FILES if foreign_files else ())  # this call has a thread of its own
            return connection.createXML(xml, flags)

        made = call(
            create,
            timeout=timeout,
            brief="Cannot start the VM",
            late=lambda _: late(),
        )
        return Guest(made, connection)

    def find(self, name: str) -> Guest | None:
        """Return the domain of this name, None when there is none."""
        try:
            return self.get(name)
        except NotFound:
            return None

    def get(self, name: str) -> Guest:
        """Return the domain of this name. Errors: NotFound, DriverError, Timeout."""
        connection = self.connection
        domain = call(lambda: connection.lookupByName(name), timeout=CALL_TIMEOUT, brief=f"No such VM: {name}")
        return Guest(domain, connection)

    def guests(self) -> list[Guest]:
        """Return every active domain of the connection, whoever made it."""
        connection = self.connection
        flags = libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        domains = call(lambda: connection.listAllDomains(flags), timeout=CALL_TIMEOUT, brief="Cannot list VMs")
        return [Guest(domain, connection) for domain in domains]

    def states(self) -> dict[str, PowerState]:
        """Return the state of every active domain of the connection, by name."""
        connection = self.connection

        def look() -> dict[str, PowerState]:
            found: dict[str, PowerState] = {}
            for domain in connection.listAllDomains(libvirt.VIR_CONNECT_LIST_DOMAINS_ACTIVE):
                with contextlib.suppress(libvirt.libvirtError):  # it has just stopped
                    found[domain.name()] = power_state(domain.state()[0])
            return found

        return call(look, timeout=CALL_TIMEOUT, brief="Cannot list VMs")

    def pidfile(self, name: str) -> Path | None:
        """Return where libvirt writes the pid of a domain's QEMU, None when it is another host's."""
        if self.embedded:
            return self._directory / "run" / "qemu" / f"{name}.pid"
        if self.uri == "qemu:///system":
            return Path("/run/libvirt/qemu") / f"{name}.pid"
        return None

    def log_files(self) -> list[Path]:
        """Return what libvirt has written about domains, those that are gone included; nothing of another host's."""
        return list((self._directory / "log" / "qemu").glob("*.log")) if self.embedded else []

    def forget_log(self, name: str) -> None:
        """Remove what libvirt has written about a domain; it never does itself."""
        if self.embedded:
            (self._directory / "log" / "qemu" / f"{name}.log").unlink(missing_ok=True)

    def _lifecycle(
        self, _connection: object, domain: libvirt.virDomain, event: int, detail: int, _data: object
    ) -> None:
        if event == libvirt.VIR_DOMAIN_EVENT_STOPPED:
            crashed = detail in (libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED, libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED)
            self._on_event(VmEvent(domain.name(), VmEventKind.CRASHED if crashed else VmEventKind.STOPPED))


def _parse_capabilities(text: str) -> Capabilities:
    node = ET.fromstring(text)  # noqa: S314 - libvirt's own output
    vcpu = node.find("vcpu")
    return Capabilities(
        emulator=node.findtext("path", ""), max_vcpu=int(vcpu.get("max", "1")) if vcpu is not None else 1
    )


def _stamp(emulator: str) -> tuple[int, int]:
    try:
        info = Path(emulator).stat()
    except OSError:
        return (0, 0)
    return (info.st_ino, info.st_ctime_ns)


def _first_word(text: str) -> str:
    words = text.split()
    return words[0] if words else "of an unknown version"


def _dotted(version: int) -> str:
    return f"{version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}"
