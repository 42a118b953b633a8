"""libvirt's cache of what it knows of QEMU: filled before it is needed, and without what would cost memory.

libvirt copies all that it knows of QEMU for each VM it starts, 0.25 MiB. Most of it are CPU models that cannot be used
on this host, with all the features that each of them lacks, once for KVM and once for TCG; no VM of ours names a model.
Format of the files: ``virQEMUCapsFormatCache`` in libvirt's ``qemu_capabilities.c``; a file that looks otherwise stays
as it is, and libvirt writes a new one whenever QEMU, libvirt or the host is another than before.

What was found out of a QEMU is kept below /run for other roots, and for other scripts that start the same QEMU: asking
it takes 4 s. There a file belongs to a program with its date; libvirt compares the rest (itself, the host's kernel and
CPU) with what it finds, as it does with its own files.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from xml.sax.saxutils import escape

import structlog

log = structlog.get_logger(__name__)

RUN = Path("/run")

PROBE_TIMEOUT = 60  # seconds; 4 on an idle machine
_UNUSABLE = re.compile(
    rb"[ \t]*<cpu type='\w+' name='[^'<>]*'(?: typename='[^'<>]*')? usable='no'"
    rb"(?:/>|>\s*(?:<blocker name='[^'<>]*'/>\s*)*</cpu>)\n"
)
_NAME, _CHANGED = re.compile(rb"<emulator>[^<]*</emulator>"), re.compile(rb"<qemuctime>\d+</qemuctime>")
# In a process of its own: it is two QEMUs and a megabyte that would stay in the daemon.
_PROBE = """
import sys, libvirt
libvirt.registerErrorHandler(lambda context, error: None, None)
libvirt.virEventRegisterDefaultImpl()
connection = libvirt.open(sys.argv[1])
for kind in sys.argv[3:]:
    try:
        connection.getDomainCapabilities(sys.argv[2] or None, "x86_64", "q35", kind, 0)
    except libvirt.libvirtError:
        pass
connection.close()
"""


def prepare(directory: Path, *, uri: str, emulator: str, kinds: tuple[str, ...], qemu: Path | None = None) -> None:
    """Fill the cache if it is empty, and make it smaller. Never fails: without it libvirt does everything itself.

    Args:
        directory: root of the embedded driver, which nobody has open.
        uri: of the embedded driver.
        emulator: path of QEMU; empty = libvirt's choice.
        kinds: libvirt's names of the accelerators.
        qemu: the program that the emulator becomes; None = nothing is shared with other roots.

    """
    cache = directory / "cache" / "qemu" / "capabilities"
    known = f"{hashlib.sha256(os.fsencode(emulator)).hexdigest()}.xml" if emulator else "*.xml"
    shared = _shared(qemu) if emulator and qemu is not None and os.geteuid() == 0 else None
    if not any(cache.glob(known)) and not (shared is not None and _borrowed(shared, cache / known, emulator)):
        try:
            subprocess.run(
                [sys.executable, "-P", "-c", _PROBE, uri, emulator, *kinds],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_TIMEOUT,
                check=True,
            )
        except (OSError, subprocess.SubprocessError) as error:
            log.info("hypervisor.not_probed_apart", error=str(error))
    for path in cache.glob("*.xml"):
        with contextlib.suppress(OSError):
            _shrink(path)
    if shared is not None:
        with contextlib.suppress(OSError):
            _lend(cache / known, shared)


def _shared(qemu: Path) -> Path | None:
    """Return where what is known of a QEMU is kept for all roots of this host; None when it cannot be looked at."""
    try:
        info = qemu.stat()
    except OSError:
        return None
    mark = f"{qemu.resolve()} {info.st_dev} {info.st_ino} {info.st_size} {info.st_mtime_ns}"
    return RUN / f"hyperd-qemu-{hashlib.sha256(mark.encode()).hexdigest()[:16]}.xml"


def _borrowed(shared: Path, target: Path, emulator: str) -> bool:
    """Give libvirt what another root has found out, as if it had asked this emulator; return whether there was any."""
    try:
        text = shared.read_bytes()
        changed = int(Path(emulator).stat().st_ctime)
        named = f"<emulator>{escape(emulator)}</emulator>".encode("utf-8", "surrogateescape")
        for pattern, element in ((_NAME, named), (_CHANGED, f"<qemuctime>{changed}</qemuctime>".encode())):
            before, *after = pattern.split(text)
            if len(after) != 1:
                return False
            text = before + element + after[0]
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(target, text)
    except OSError:
        return False
    return True


def _lend(path: Path, shared: Path) -> None:
    """Keep what libvirt knows for other roots. Errors: OSError."""
    text = path.read_bytes()
    if not shared.exists() or _plain(shared.read_bytes()) != _plain(text):
        _write(shared, text)


def _plain(text: bytes) -> bytes:
    """Return what does not depend on who asked."""
    return _CHANGED.sub(b"", _NAME.sub(b"", text))


def _write(path: Path, text: bytes) -> None:
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:  # noqa: PTH123
            file.write(text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _shrink(path: Path) -> None:
    old = path.read_bytes()
    new = _UNUSABLE.sub(b"", old)
    if new != old:
        _write(path, new)
