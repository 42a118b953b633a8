"""The program that libvirt starts as QEMU: a script that enters the VM's user namespace first, if it is told of one.

It goes into the VM's control groups by itself, where it is told of files for that: moving another process takes 10 ms
for each hierarchy, since the kernel waits for all CPUs, while one with a single thread moves itself at once. Who has
started it looks whether it did.

Each program of the script replaces the one before it, so that the process that libvirt has started is QEMU in the end.
Without a namespace (libvirt asks QEMU what it can do, a VM has none) QEMU is started as it would be by itself.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

from hyperd.errors import HostFault
from hyperd.vm.namespaces import keeper, tool

VARIABLE = "HYPERD_NAMESPACE"  # in QEMU's environment: the way to the namespace
GROUPS = "HYPERD_GROUPS"  # the same: files that 0 is written to
SEPARATOR = "|"  # between these files
# Of root of the namespace, over its ids only: what 9p needs. Not mknod, which nobody has in a namespace anyway.
_CAPABILITIES = "-all,+chown,+dac_override,+fowner,+fsetid"
_PLACES = ("qemu-system-x86_64", "/usr/libexec/qemu-kvm", "/usr/bin/qemu-kvm")
_TIMEOUT = 60  # seconds
_SCRIPT = """\
#!/bin/sh
# Written by hyperd for {qemu} ({stamp}).
if [ -z "${variable}" ]; then
    exec {qemu} "$@"
fi
IFS='{separator}'
set -f
for file in ${groups}; do echo 0 >"$file"; done 2>/dev/null
exec {nsenter} --user="${variable}" --preserve-credentials -- \\
    {setpriv} --regid=0 --keep-groups --inh-caps=-all --bounding-set={capabilities} -- \\
    {qemu} "$@"
"""


def find(emulator: str) -> Path | None:
    """Return QEMU's program: the one that is set, or libvirt's choice."""
    found = next(filter(None, map(shutil.which, [emulator] if emulator else _PLACES)), None)
    return Path(found) if found else None


class Wrapper:
    """The script for one QEMU.

    Args:
        directory: where it lies.
        qemu: the program.

    """

    def __init__(self, directory: Path, qemu: Path) -> None:
        self.path = directory / "qemu-in-namespace"
        self.qemu = qemu

    def write(self) -> None:
        """Write it; a QEMU that was replaced makes it another one. Errors: OSError, HostFault."""
        info = self.qemu.stat()
        text = _SCRIPT.format(
            qemu=shlex.quote(str(self.qemu)),
            stamp=f"{info.st_ino} {info.st_size} {info.st_mtime_ns}",
            variable=VARIABLE,
            groups=GROUPS,
            separator=SEPARATOR,
            nsenter=tool("nsenter"),
            setpriv=tool("setpriv"),
            capabilities=_CAPABILITIES,
        )
        if self.path.is_file() and self.path.read_text(encoding="utf-8") == text:
            return
        part = self.path.with_suffix(".part")
        part.write_text(text, encoding="utf-8")
        part.chmod(0o755)
        part.replace(self.path)

    def usable(self) -> bool:
        """Write it, and return whether it can be started (not where programs must not lie)."""
        try:
            self.write()
        except (OSError, HostFault):
            return False
        return os.access(self.path, os.X_OK)

    def try_out(self, uid: int, gid: int) -> str:
        """Start QEMU in a namespace, to see its version only; return why that failed, empty when it did not."""
        try:
            with keeper([], uid=uid) as holder:
                subprocess.run(
                    [self.path, "--version"],
                    env={VARIABLE: str(holder.namespace)},
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    timeout=_TIMEOUT,
                    check=True,
                    user=uid,
                    group=gid,
                    extra_groups=[gid],
                )
        except subprocess.CalledProcessError as error:
            return str(error.stderr.decode("utf-8", "replace")).strip()[:300] or str(error)
        except (OSError, subprocess.SubprocessError, HostFault) as error:
            return str(error)
        return ""
