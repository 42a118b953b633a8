"""Disk images that a caller brings: what is looked at on the host before QEMU opens them.

Only headers of fixed size are read (QEMU's docs/interop/qcow2.txt; the header of VirtualBox's VDI 1.1). File systems
in an image are the guest's business: the host never mounts one, and makes one only in an image that holds nothing.
"""

from __future__ import annotations

import errno
import os
import struct
import subprocess
from collections.abc import Collection
from pathlib import Path

from hyperd.errors import Conflict, HostFault, InvalidInput
from hyperd.volume.hostpath import HostObject, is_below

_QCOW2_MAGIC, _VDI_MAGIC = b"QFI\xfb", 0xBEDA107F
_EXTERNAL_DATA = 1 << 2  # incompatible feature: the data lies in another file
_VDI_KINDS = (1, 2)  # dynamic and fixed; others are differences to another image
MAKEABLE = ("", "ext4", "ext3", "ext2")
_DIRECT = ("none", "directsync")


def check_image(source: HostObject, fmt: str, *, what: str, cache: str, forbidden: Collection[Path]) -> None:
    """Check that an image is what it should be and stands alone.

    Args:
        source: the opened image.
        fmt: raw, qcow2 or vdi.
        what: whose it is, for messages.
        cache: libvirt's cache mode.
        forbidden: directories that an image must not be in: hyperd's own, and those that guests may write to (a guest
            could exchange it).

    Errors: Conflict, InvalidInput.

    """
    if not (source.is_file or source.is_block):
        raise Conflict(f"{what}: {source.path} is neither a file nor a block device")
    if is_below(source.path, forbidden):
        raise Conflict(
            f"{what}: the image {source.path} lies where guests or hyperd itself can change it",
            resolution="move it to another directory",
        )
    try:
        fd = source.reopen(os.O_RDONLY)
        try:
            head = os.pread(fd, 512, 0)
            size = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)
    except OSError as error:
        raise Conflict(f"{what}: cannot read {source.path}", details=error.strerror or str(error)) from error
    _check_head(head, size, fmt, what)
    check_direct(source, what, cache)


def _check_head(head: bytes, size: int, fmt: str, what: str) -> None:
    if fmt == "raw":
        if size < 512:
            raise InvalidInput(f"{what}: the image is smaller than a sector of 512 bytes")
        return
    if fmt == "qcow2":
        if len(head) < 72 or head[:4] != _QCOW2_MAGIC:
            raise InvalidInput(f"{what}: the image is not in the format qcow2")
        version, backing = struct.unpack_from(">IQ", head, 4)
        features = struct.unpack_from(">Q", head, 72)[0] if version >= 3 and len(head) >= 80 else 0
        alone = backing == 0 and not features & _EXTERNAL_DATA
    else:
        if len(head) < 84 or struct.unpack_from("<I", head, 64)[0] != _VDI_MAGIC:
            raise InvalidInput(f"{what}: the image is not in the format vdi")
        alone = struct.unpack_from("<I", head, 76)[0] in _VDI_KINDS
    if not alone:
        raise Conflict(
            f"{what}: the image refers to another file",
            details="its header could name any file of this host",
            resolution="make an image that stands alone, for instance with qemu-img convert",
        )


def check_direct(source: HostObject, what: str, cache: str) -> None:
    """Check that a file can be opened past the page cache, as some cache modes do. Errors: Conflict."""
    if cache not in _DIRECT:
        return
    try:
        os.close(source.reopen(os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise Conflict(f"{what}: cannot open {source.path}", details=error.strerror or str(error)) from error
        raise Conflict(
            f"{what}: the file system of {source.path} cannot do the cache mode {cache}",
            resolution="use writeback or writethrough",
        ) from error


def is_blank(source: HostObject) -> bool:
    """Whether a raw image was never written to: one hole from its beginning to its end."""
    if not source.is_file:
        return False
    fd = source.reopen(os.O_RDONLY)
    try:
        os.lseek(fd, 0, os.SEEK_DATA)
    except OSError as error:
        return error.errno == errno.ENXIO
    finally:
        os.close(fd)
    return False


def make_file_system(source: HostObject, fstype: str, *, what: str) -> None:
    """Make a file system in a blank image. Errors: Conflict (too small), HostFault."""
    name = fstype or "ext4"
    fd = source.reopen(os.O_RDWR)
    try:
        words = [f"mkfs.{name}", "-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,nodiscard,root_owner=0:0"]
        done = subprocess.run(
            [*words, f"/proc/self/fd/{fd}"], pass_fds=[fd], capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        raise HostFault(f"mkfs.{name} is missing", resolution="install e2fsprogs") from error
    finally:
        os.close(fd)
    if done.returncode:
        raise Conflict(f"{what}: no file system can be made in the empty image", details=done.stderr.strip()[-300:])
