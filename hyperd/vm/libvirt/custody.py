"""Which files of the daemon a VM's QEMU that has a user of its own can open: its disks, and what it boots from.

All such VMs have one group. It may pass through the daemon's directories that lead to disks (not list them) and read
layers, kernel and initramfs there. A writable disk belongs to the VM's user alone. Everything else the daemon or
libvirt opens and hands over as descriptors.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from hyperd.errors import HostFault
from hyperd.vm.driver import DiskSpec, VmSpec

_KVM = Path("/dev/kvm")


class Custody:
    """See the module's docstring.

    Args:
        root: the daemon's directory; nothing outside is changed.
        uids: the ids that VMs' users have.
        accelerator: ``kvm`` or ``tcg``.

    """

    def __init__(self, root: Path, uids: range, *, accelerator: str) -> None:
        self._root = root
        self._uids = uids
        self.gid = _group(uids, accelerator) if uids and os.geteuid() == 0 else 0

    def obstacle(self, *files: Path) -> str:
        """Tell why VMs that boot these files cannot have users of their own; empty when they can."""
        if not self.gid:
            return "there are no ids for them, or no group may use /dev/kvm"
        for name, ids in (("uid", self._uids), ("gid", range(self.gid, self.gid + 1))):
            if not _mapped(name, ids):
                return f"the daemon's user namespace has not all of the {name}s"
        for path in (self._root, *files):
            way = [parent for parent in path.parents if not self._is_ours(parent) and not parent.stat().st_mode & 0o001]
            if way:
                return f"others cannot enter {way[0]}"
        closed = [path for path in files if not self._is_ours(path) and not path.stat().st_mode & 0o004]
        return f"others cannot read {closed[0]}" if closed else ""

    def prepare(self, spec: VmSpec, monitors: Path) -> None:
        """Let the QEMU of a VM that is made now open what it needs.

        ``monitors``: the directory in which libvirt makes one for each VM. Errors: HostFault.
        """
        if spec.uid:
            with _told():
                self._let_in(monitors / "any", self.gid)
                for path in (spec.kernel, spec.initrd):
                    self._let_read(path, self.gid)
        for disk in spec.disks:
            self.hand_over(disk, (spec.uid, self.gid))

    def show(self, path: Path) -> None:
        """Let all VMs that have users read a file. Errors: HostFault."""
        with _told():
            self._let_read(path, self.gid)

    def hand_over(self, disk: DiskSpec, user: tuple[int, int]) -> None:
        """Let the QEMU of a VM open a disk, and no other VM's a writable one.

        Args:
            disk: files outside of the daemon's directory stay as they are.
            user: ids of user and group, which an earlier configuration may have chosen; user 0 = the daemon's.

        Errors: HostFault.

        """
        uid, gid = user
        if os.geteuid() != 0 or disk.rbd or not self._is_ours(disk.path):
            return
        with _told():
            if disk.readonly:
                if uid:
                    self._let_read(disk.path, gid)
                return
            info = disk.path.stat()
            if info.st_uid != uid:
                os.chown(disk.path, uid, 0)
            if stat.S_IMODE(info.st_mode) & 0o077:
                disk.path.chmod(0o600)
            if uid:
                self._let_in(disk.path, gid)

    def take_back(self, path: Path, uid: int) -> None:
        """Make a disk that was a VM's the daemon's own again (``VmDriver.take_back``). Errors: HostFault."""
        if not uid or not self._is_ours(path):
            return
        with _told(), contextlib.suppress(FileNotFoundError):
            if path.stat().st_uid == uid:
                os.chown(path, 0, 0)

    def _is_ours(self, path: Path) -> bool:
        return path == self._root or self._root in path.parents

    def _let_read(self, path: Path, gid: int) -> None:
        if not self._is_ours(path):
            return
        self._let_in(path, gid)
        info = path.stat()
        if not info.st_mode & 0o004:
            _allow(path, info, gid, 0o040)

    def _let_in(self, path: Path, gid: int) -> None:
        """Let a group pass through the directories between the root and a file."""
        info = self._root.stat()
        if not info.st_mode & 0o001:
            self._root.chmod(stat.S_IMODE(info.st_mode) | 0o001)  # its group is the administrator's
        for directory in path.parents:
            if directory == self._root:
                return
            info = directory.stat()
            if not info.st_mode & 0o001:
                _allow(directory, info, gid, 0o010)


def _allow(path: Path, info: os.stat_result, gid: int, bit: int) -> None:
    if info.st_gid != gid:
        os.chown(path, -1, gid)
    if not info.st_mode & bit:
        path.chmod(stat.S_IMODE(info.st_mode) | bit)


def _group(uids: range, accelerator: str) -> int:
    """Return the group of VMs that have a user: the one that may use KVM, where that is needed; 0 = there is none."""
    if accelerator != "kvm":
        return uids.start
    info = _KVM.stat()
    if stat.S_IMODE(info.st_mode) & 0o006 == 0o006:
        return uids.start
    return info.st_gid if stat.S_IMODE(info.st_mode) & 0o060 == 0o060 else 0


def _mapped(name: str, ids: range) -> bool:
    """Return whether all ids exist in this process's user namespace (user_namespaces(7))."""
    for line in Path(f"/proc/self/{name}_map").read_text().splitlines():
        first, _, count = (int(word) for word in line.split())
        if first <= ids.start and ids.stop <= first + count:
            return True
    return False


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HostFault("a VM's disk cannot be given to its user", details=str(error)) from error
