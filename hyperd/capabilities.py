"""What programs that a thread starts may do: its capability bounding set (capabilities(7)).

A bounding set belongs to a thread, and programs that the thread executes can never have more. So each VM's QEMU gets
what it needs and no more, although it runs as root; libvirt's own switch is one for all VMs.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Collection

from hyperd.errors import HostFault

PR_CAPBSET_READ, PR_CAPBSET_DROP = 23, 24  # linux/prctl.h
LAST = 63
# chown, dac_override, fowner, fsetid: reading and changing files of all owners, owners and modes included. Not mknod:
# a guest must not make device nodes in a directory of the host.
FOREIGN_FILES = frozenset({0, 1, 3, 4})


def restrict_thread(keep: Collection[int] = ()) -> None:
    """Take all capabilities but some from what this thread (which must end soon) executes.

    Nothing to do for who is not root: there is nothing to take. Errors: HostFault.
    """
    if os.geteuid() != 0:
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for number in range(LAST + 1):
        if number in keep or libc.prctl(PR_CAPBSET_READ, number, 0, 0, 0) != 1:
            continue
        if libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0) != 0:
            reason = os.strerror(ctypes.get_errno())
            raise HostFault("cannot limit what a program may do", details=f"capability {number}: {reason}")
