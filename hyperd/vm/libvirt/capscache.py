"""libvirt's cache of what it knows of QEMU: filled before it is needed, and without what would cost memory.

libvirt copies all that it knows of QEMU for each VM it starts, 0.25 MiB. Most of it are CPU models that cannot be used
on this host, with all the features that each of them lacks, once for KVM and once for TCG; no VM of ours names a model.
Format of the files: ``virQEMUCapsFormatCache`` in libvirt's ``qemu_capabilities.c``; a file that looks otherwise stays
as it is, and libvirt writes a new one whenever QEMU, libvirt or the host is another than before.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import structlog

log = structlog.get_logger(__name__)

PROBE_TIMEOUT = 60  # seconds; 4 on an idle machine
_UNUSABLE = re.compile(
    rb"[ \t]*<cpu type='\w+' name='[^'<>]*'(?: typename='[^'<>]*')? usable='no'"
    rb"(?:/>|>\s*(?:<blocker name='[^'<>]*'/>\s*)*</cpu>)\n"
)
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


def prepare(directory: Path, *, uri: str, emulator: str, kinds: tuple[str, ...]) -> None:
    """Fill the cache if it is empty, and make it smaller. Never fails: without it libvirt does everything itself.

    Args:
        directory: root of the embedded driver, which nobody has open.
        uri: of the embedded driver.
        emulator: path of QEMU; empty = libvirt's choice.
        kinds: libvirt's names of the accelerators.

    """
    cache = directory / "cache" / "qemu" / "capabilities"
    known = f"{hashlib.sha256(os.fsencode(emulator)).hexdigest()}.xml" if emulator else "*.xml"
    if not any(cache.glob(known)):
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


def _shrink(path: Path) -> None:
    old = path.read_bytes()
    new = _UNUSABLE.sub(b"", old)
    if new != old:
        part = path.with_suffix(".part")
        part.write_bytes(new)
        part.replace(path)
