"""Writes initramfs archives: cpio, ``newc`` (Linux, Documentation/driver-api/early-userspace/buffer-format.rst).

No privilege is needed: owners and device nodes exist only in the archive. The same entries give the same bytes.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from dataclasses import dataclass

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One file of the archive, owned by root.

    Args:
        path: relative, without a leading slash.
        mode: type and permission bits as of stat(2).
        data: content of a file, target of a symbolic link.
        device: (major, minor) of a device node.

    """

    path: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, mode: int = 0o755) -> Entry:
    """Describe a directory."""
    return Entry(path=path, mode=stat.S_IFDIR | mode)


def file(path: str, data: bytes, mode: int = 0o644) -> Entry:
    """Describe a regular file."""
    return Entry(path=path, mode=stat.S_IFREG | mode, data=data)


def symlink(path: str, target: str) -> Entry:
    """Describe a symbolic link."""
    return Entry(path=path, mode=stat.S_IFLNK | 0o777, data=target.encode())


def character_device(path: str, *, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Describe a character device."""
    return Entry(path=path, mode=stat.S_IFCHR | mode, device=(major, minor))


def _record(entry: Entry, inode: int) -> bytes:
    name = entry.path.encode() + b"\0"
    fields = (
        inode,
        entry.mode,
        0,  # uid
        0,  # gid
        2 if stat.S_ISDIR(entry.mode) else 1,
        0,  # mtime
        len(entry.data),
        0,  # device of the file itself
        0,
        *entry.device,
        len(name),
        0,  # checksum, unused
    )
    head = _MAGIC + b"".join(b"%08X" % field for field in fields) + name
    return _padded(head) + _padded(entry.data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the bytes of an archive. A directory must come before what lies in it; that is the caller's business."""
    parts = [_record(entry, inode) for inode, entry in enumerate(entries, 1)]
    parts.append(_record(Entry(path=_TRAILER, mode=0), 0))
    whole = b"".join(parts)
    return whole + bytes(-len(whole) % 512)
