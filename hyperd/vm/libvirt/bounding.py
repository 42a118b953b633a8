"""What a QEMU may do on the host: the capability bounding set of the thread that starts it (capabilities(7)).

libvirt's own switch for this is one for all VMs. A bounding set belongs to a thread, and programs that the thread
executes can never have more: so each VM gets what it needs and no more, although QEMU runs as root.
"""

from __future__ import annotations

import ctypes
import os

from hyperd.errors import HostFault

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
LAST = 63
# chown, dac_override, fowner, fsetid: reading and changing files of all owners, owners and modes included. Not mknod:
# a guest must not make device nodes in a directory of the host.
FOREIGN_FILES = frozenset({0, 1, 3, 4})


def restrict(*, foreign_files: bool) -> None:
    """Take from this thread (which must end soon) what QEMU does not need; nothing to do for who is not root.

    Errors: HostFault.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    kept = FOREIGN_FILES if foreign_files else frozenset()
    for number in range(LAST + 1):
        if number in kept or libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 1:
            continue
        if libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostFault("cannot limit what the hypervisor may do", details=f"capability {number}: {reason}")
