"""The members of a layer's tar, checked: names within the root, numbers that squashfs can hold, bounds of all of it.

What no container may bring is dropped: aufs' own names, ``trusted.overlay.*`` attributes (they steer overlayfs),
attributes that squashfs cannot hold. A device 0:0 becomes the whiteout that overlayfs would take it for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer import tarstream
from hyperd.image.layer.tarstream import CHAR, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader

MAX_COMPONENT = 255  # NAME_MAX, Linux
MAX_IDS = 60_000  # squashfs has a table of 65,536 user and group ids
MAX_XATTRS = 128  # of one file
MAX_RECORDS = 2**16  # bytes of all of them; tar2sqfs takes no larger header
_RECORD = 24  # bytes of a record beyond name and value
MAX_HELD = 256 * 2**20  # bytes of memory for the names and attributes of a layer
NAME_COST = 100  # of that for a name or an attribute beyond its own bytes, measured
OPAQUE = b".wh..wh..opq"
PREFIX = b".wh."
_META = b".wh..wh."
_KEPT_XATTRS = (b"user.", b"trusted.", b"security.")  # what squashfs can hold
_STEERING = (b"trusted.overlay.", b"user.overlay.")


@dataclass
class Limits:
    """Bounds of one layer, and what was counted so far.

    Args:
        max_bytes: sum of the files' sizes, holes included.

    """

    max_bytes: int
    total: int = 0
    held: int = 0
    ids: set[int] = field(default_factory=set)

    def count(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            TooLarge: a bound is passed.

        """
        self.total += entry.real_size
        if self.total > self.max_bytes:
            raise TooLarge(f"the files of a layer have more than {self.max_bytes} bytes")
        self.ids.add(entry.uid)
        self.ids.add(entry.gid)
        if len(self.ids) > MAX_IDS:
            raise TooLarge(f"a layer has more than {MAX_IDS} users and groups")
        for key, value in entry.xattrs.items():
            self.hold(len(key) + len(value) + NAME_COST)

    def hold(self, size: int) -> None:
        """Count memory that stays taken until the layer is done.

        Raises:
            TooLarge: the bound is passed.

        """
        self.held += size
        if self.held > MAX_HELD:
            raise TooLarge(f"the names and attributes of a layer take more than {MAX_HELD} bytes")


def normalise(name: bytes) -> bytes:
    """Return a member's path from the root, without a slash at either end; empty for the root itself.

    Raises:
        InvalidInput: it leaves the root by ``..`` or is too long for Linux.

    """
    if len(name) > tarstream.MAX_PATH:
        raise InvalidInput("a path in a layer is too long", details=f"{len(name)} bytes")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise InvalidInput("a path in a layer leaves the root", details=repr(name[:200]))
            parts.pop()
        elif len(part) > MAX_COMPONENT:
            raise InvalidInput("a file name in a layer is too long", details=f"{len(part)} bytes")
        else:
            parts.append(part)
    return b"/".join(parts)


def checked(reader: TarReader, limits: Limits) -> Iterator[Entry]:
    """Normalise and check every member.

    Raises:
        InvalidInput, TooLarge: it is hostile or damaged, or passes a bound.

    """
    for entry in reader:
        if entry.kind not in (FILE, DIRECTORY):
            _check_special(entry)
        else:
            entry.link = b""
        entry.name = normalise(entry.name)
        if _META in entry.name and _is_aufs(entry.name):
            continue
        if not entry.name and entry.kind != DIRECTORY:
            raise InvalidInput("a layer's root is not a directory")
        entry.mtime = min(max(entry.mtime, 0), 2**32 - 1)  # squashfs has unsigned 32 bits
        if entry.uid >= 2**32 - 1 or entry.gid >= 2**32 - 1:
            raise InvalidInput("a user or group id in a layer is too large", details=repr(entry.name[:200]))
        if entry.xattrs:
            _check_xattrs(entry)
        limits.count(entry)
        yield entry


def _check_special(entry: Entry) -> None:
    if entry.kind == HARDLINK:
        entry.link = normalise(entry.link)
        entry.xattrs = {}
    elif entry.kind == SYMLINK:
        if not 0 < len(entry.link) < tarstream.MAX_PATH:
            raise InvalidInput("a symbolic link in a layer has a bad target", details=repr(entry.name[:200]))
    elif entry.major >= 1 << 12 or entry.minor >= 1 << 20:
        raise InvalidInput("a device in a layer has a bad number", details=repr(entry.name[:200]))
    if entry.kind == CHAR and entry.major == entry.minor == 0 and not _is_whiteout(entry.name):
        # overlayfs would take it for a whiteout; let it be one, cleanly.
        head, slash, base = entry.name.rstrip(b"/").rpartition(b"/")
        entry.name = head + slash + PREFIX + base
    if entry.kind not in (HARDLINK, SYMLINK):
        entry.link = b""


def _is_aufs(name: bytes) -> bool:
    return any(part.startswith(_META) and part != OPAQUE for part in name.split(b"/"))


def _is_whiteout(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(PREFIX)


def _check_xattrs(entry: Entry) -> None:
    if len(entry.xattrs) > MAX_XATTRS or sum(len(k) + len(v) + _RECORD for k, v in entry.xattrs.items()) > MAX_RECORDS:
        raise TooLarge("a file in a layer has too many or too large attributes", details=repr(entry.name[:200]))
    for key in list(entry.xattrs):
        if not key.startswith(_KEPT_XATTRS) or key.startswith(_STEERING):
            del entry.xattrs[key]
        elif b"\0" in key or b"=" in key or len(key) > MAX_COMPONENT or key in _KEPT_XATTRS:
            raise InvalidInput("a file in a layer has a bad attribute", details=repr(entry.name[:200]))
