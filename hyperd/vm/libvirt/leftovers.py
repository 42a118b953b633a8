"""Files and processes that a killed daemon has left in the embedded driver's root: removed before libvirt reads them.

libvirt writes the state of a domain before it starts QEMU, and again when it runs. A daemon that is killed in between
leaves a state without a process (``pid='0'``), parts of files (``.new``), a directory with the domain's keys, and maybe
a QEMU that nobody waits for. libvirt itself takes none of them away: it looks for the monitor of such a domain at every
start, and asks for a process that does not exist. A domain whose QEMU runs, and whose state libvirt has written to the
end, is left alone.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import structlog

from hyperd.vm.libvirt.reaper import read_pid

log = structlog.get_logger(__name__)

# <root>/lib/qemu/domain-<number>-<the first 20 characters of the name>, and the same below channel/target
_DOMAIN = re.compile(r"domain-[0-9]+-(.+)")
_SHORT = 20
_WAIT = 5_000  # ms for a killed QEMU to end


def remove(directory: Path) -> None:
    """Remove what no running VM explains.

    Args:
        directory: root of the embedded driver; no daemon has it open.

    """
    state = directory / "run" / "qemu"
    alive = set()
    for path in sorted(state.glob("*.xml")):
        if _is_whole(path):
            alive.add(path.stem)
        else:
            _remove_domain(path)
    for pidfile in sorted(state.glob("*.pid")):
        if pidfile.stem not in alive and pidfile.stem != "driver":
            _kill(pidfile)
            _unlink(pidfile)
    for part in (*state.glob("*.new"), *state.glob("*.xml.*")):
        _unlink(part)
    library = directory / "lib" / "qemu"
    for found in (*library.glob("domain-*"), *library.glob("channel/target/domain-*")):
        match = _DOMAIN.fullmatch(found.name)
        if match and not any(name[:_SHORT] == match[1][:_SHORT] for name in alive):
            log.info("recovery.removed", path=str(found))
            shutil.rmtree(found, ignore_errors=True)


def _is_whole(path: Path) -> bool:
    """Whether the state of a domain names a QEMU that runs it."""
    try:
        status = ET.parse(path).getroot()  # noqa: S314 - libvirt's own file
    except (ET.ParseError, OSError):
        return False
    pid = status.get("pid", "0")
    return pid.isdigit() and int(pid) > 0 and _runs(int(pid), path.stem)


def _runs(pid: int, name: str) -> bool:
    """Whether a process is the QEMU of a domain: libvirt gives it the name as ``-name guest=NAME,...``."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(word.split(b",")[0] == b"guest=" + os.fsencode(name) for word in words)


def _remove_domain(path: Path) -> None:
    pidfile = path.with_suffix(".pid")
    _kill(pidfile)
    _unlink(pidfile)
    _unlink(path)


def _kill(pidfile: Path) -> None:
    """End the QEMU of a pid file, if it is the one of that domain."""
    pid = read_pid(pidfile)
    if pid is None:
        return
    with _process(pid) as descriptor:
        if descriptor is None or not _runs(pid, pidfile.stem):
            return
        log.warning("recovery.qemu_killed", vm=pidfile.stem, pid=pid)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
        _wait(descriptor)


@contextlib.contextmanager
def _process(pid: int) -> Iterator[int | None]:
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _wait(descriptor: int) -> None:
    import select

    poller = select.poll()
    poller.register(descriptor, select.POLLIN)
    poller.poll(_WAIT)


def _unlink(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
        log.info("recovery.removed", path=str(path))
