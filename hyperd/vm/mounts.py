"""Mounts by descriptor: copies of mount trees that are nowhere, put where they shall be seen (open_tree(2)).

Errors of all functions: OSError.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from pathlib import Path

# The same numbers on every architecture.
_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _MOUNT_SETATTR = 428, 429, 430, 431, 432, 442
_CLONE, _CLOEXEC, _RECURSIVE, _EMPTY_PATH, _AT_FDCWD = 1, os.O_CLOEXEC, 0x8000, 0x1000, -100
_FROM_EMPTY_PATH = 4
_CMD_CREATE = 6
_RDONLY, _IDMAP = 1, 0x100000
_MS_SLAVE = 0x80000


def clone(directory: int, path: str, *, recursive: bool, readonly: bool, namespace: int = -1) -> int:
    """Return a copy of a mount tree that is nowhere yet.

    Args:
        directory: descriptor that ``path`` begins at.
        path: empty = what the descriptor names.
        recursive: with what is mounted below.
        readonly: nothing can be changed by way of the copy.
        namespace: descriptor of a user namespace. In the copy, ids that are in files are those of the namespace: its
            user 0 is the owner of the files of user 0. -1 = ids are what they are.

    """
    deep = _RECURSIVE if recursive else 0
    empty = 0 if path else _EMPTY_PATH
    tree = int(libc().syscall(_OPEN_TREE, directory, path.encode(), _CLONE | _CLOEXEC | deep | empty))
    if tree < 0:
        raise error()
    try:
        flags = (_RDONLY if readonly else 0) | (_IDMAP if namespace >= 0 else 0)
        # Slave: what the host unmounts there goes here, too.
        _set(tree, flags, propagation=_MS_SLAVE, namespace=namespace, deep=deep)
    except OSError:
        os.close(tree)
        raise
    return tree


def new(fstype: str) -> int:
    """Return a new file system that needs no device, mounted nowhere."""
    context = int(libc().syscall(_FSOPEN, fstype.encode(), 1))
    if context < 0:
        raise error()
    try:
        check(libc().syscall(_FSCONFIG, context, _CMD_CREATE, None, None, 0))
        mount = int(libc().syscall(_FSMOUNT, context, 1, 0))
    finally:
        os.close(context)
    if mount < 0:
        raise error()
    return mount


def set_namespace(mount: int, namespace: int) -> None:
    """Let the ids of files in a mount that is nowhere yet be those of a user namespace."""
    _set(mount, _IDMAP, propagation=0, namespace=namespace, deep=0)


def move(tree: int, target: str) -> None:
    """Put a tree where it shall be seen."""
    check(libc().syscall(_MOVE_MOUNT, tree, b"", _AT_FDCWD, os.fsencode(target), _FROM_EMPTY_PATH))


def _set(tree: int, flags: int, *, propagation: int, namespace: int, deep: int) -> None:
    attributes = struct.pack("=QQQQ", flags, 0, propagation, max(namespace, 0))
    check(libc().syscall(_MOUNT_SETATTR, tree, b"", deep | _EMPTY_PATH, attributes, len(attributes)))


@dataclass(frozen=True, kw_only=True)
class Mounted:
    """A line of the table of mounts (proc(5), mountinfo): its number, where it is, the type of its file system."""

    number: str
    path: str
    kind: str


def table() -> list[Mounted]:
    """Return what is mounted on the host."""
    rows = [line.split() for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines()]
    return [Mounted(number=row[0], path=_plain(row[4]), kind=row[row.index("-") + 1]) for row in rows]


def _plain(text: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, letter)
    return text


def check(result: int, what: str = "") -> None:
    """Raise what the kernel says, unless a call's result is 0."""
    if result != 0:
        raise error(what)


def error(what: str = "") -> OSError:
    """Return what the kernel said of the last call of this thread."""
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), *([what] if what else []))


def libc() -> ctypes.CDLL:
    """Return the C library, whose calls leave the kernel's error for ``error``."""
    return ctypes.CDLL(None, use_errno=True)
