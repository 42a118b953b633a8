"""Files that are sent to the daemon, and those that come from it."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_PIECE = 2**18  # bytes
_SMALL = 16 << 20  # bytes of a file that is read whole


def opened(path: str) -> BinaryIO:
    """Open a file that the user named.

    Raises:
        UsageProblem: it cannot be read.

    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from error


def small_file(name: str) -> bytes:
    """Read a whole file that the user named; `-` is stdin.

    Raises:
        UsageProblem: it cannot be read, or it is larger than a file for people is.

    """
    try:
        if name == "-":
            data = sys.stdin.buffer.read(_SMALL + 1)
        else:
            with open(name, "rb") as file:
                data = file.read(_SMALL + 1)
    except OSError as error:
        raise UsageProblem(f"cannot read {name}: {error.strerror}") from error
    if len(data) > _SMALL:
        raise UsageProblem(f"{name} is larger than {_SMALL >> 20} MiB")
    return data


def save(data: Iterator[bytes], target: str) -> None:
    """Write a file that is there whole or not at all; a device, a pipe or the like is written as the data comes.

    Raises:
        UsageProblem: it cannot be written.

    """
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            with open(target, "wb") as file:
                file.writelines(data)
        else:
            _save_whole(data, os.path.realpath(target))
    except OSError as error:
        raise UsageProblem(f"cannot write {target}: {error.strerror}") from error


def _save_whole(data: Iterator[bytes], target: str) -> None:
    partial = os.path.join(os.path.dirname(target), f".{os.urandom(8).hex()}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with open(descriptor, "wb") as file:
            file.writelines(data)
        os.replace(partial, target)
    except BaseException:
        os.unlink(partial)
        raise


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Yield a file's content as the body of a request."""
    while piece := file.read(_PIECE):
        yield piece
