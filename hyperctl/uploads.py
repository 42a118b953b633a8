"""Files that are sent to the daemon."""

from __future__ import annotations

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


def pieces(file: BinaryIO) -> Iterator[bytes]:
    """Give a file's content as the body of a request."""
    while piece := file.read(_PIECE):
        yield piece
