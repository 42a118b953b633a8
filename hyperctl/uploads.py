"""Files that are sent to the daemon, and those that come from it."""

from __future__ import annotations

import os
from collections.abc import Iterator

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_PIECE = 2**18  # bytes


def opened(path: str) -> BinaryIO:
    """Open a file that the user named.

    Raises:
        UsageProblem: it cannot be read.

    """
    try:
        return open(path, "rb")
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from error


def save(data: Iterator[bytes], target: str) -> None:
    """Write a file that is there whole or not at all.

    Raises:
        UsageProblem: it cannot be written.

    """
    partial = f"{target}.part"
    try:
        with open(partial, "wb") as file:
            file.writelines(data)
        os.replace(partial, target)
    except OSError as error:
        raise UsageProblem(f"cannot write {target}: {error.strerror}") from error
    finally:
        if os.path.lexists(partial):
            os.unlink(partial)


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Give a file's content as the body of a request."""
    while piece := file.read(_PIECE):
        yield piece
