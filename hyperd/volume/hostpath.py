"""Opening what a caller names on the host, without following links that a guest may have made.

A directory that some pod may write to is a guest's: a link in it leads where the guest wants. Paths are walked part by
part (openat(2) with O_NOFOLLOW), links are followed by hand, and one that lies in such a directory is refused. What
was opened stays open until it is used, so nothing can be exchanged in between.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from hyperd.errors import Conflict

MISSING = "path"  # kind of the object of an error, for one that is not there
MAX_LINKS = 40  # as the kernel's own limit, path_resolution(7)


@dataclass
class HostObject:
    """A file, directory or block device of the host, held open by ``fd`` (O_PATH).

    ``path`` is its real path without links.
    """

    path: Path
    fd: int
    mode: int

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of it; twice is fine."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return stat.S_ISDIR(self.mode)

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return stat.S_ISREG(self.mode)

    @property
    def is_block(self) -> bool:
        """Whether it is a block device."""
        return stat.S_ISBLK(self.mode)

    def reopen(self, flags: int) -> int:
        """Open it for reading or writing; the caller closes the descriptor. Errors: OSError."""
        return os.open(f"/proc/self/fd/{self.fd}", flags | os.O_CLOEXEC | os.O_NONBLOCK)


def open_path(
    path: str, *, what: str, guarded: Collection[Path] = (), inodes: Collection[tuple[int, int]] = ()
) -> HostObject:
    """Open an absolute path.

    Args:
        path: as the caller gave it.
        what: whose it is, for the message: ``volume data``.
        guarded: directories that guests may write to; no link in or below them is followed.
        inodes: the same by device and inode number, wherever they are now.

    Errors: Conflict when it is not there, may not be read, or leads over such a link.

    """
    try:
        return _walk(path, what, guarded, inodes)
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError):
            # Not the words "no such": clients of the original pull images when they read them.
            reason = "it does not exist on this host"
            raise Conflict(f"{what}: cannot use {path}", details=reason, kind=MISSING, name=path) from error
        raise Conflict(f"{what}: cannot use {path}", details=reason) from error


@contextmanager
def made_directory(
    path: str, *, what: str, guarded: Collection[Path] = (), inodes: Collection[tuple[int, int]] = ()
) -> Iterator[Path]:
    """Make a directory and those above it, unless they are there, and give its real path.

    What was made goes again, if it is still empty, when the block fails. Arguments and errors as for ``open_path``;
    Conflict also when something else is in the way.
    """
    parts, missing = [part for part in path.split("/") if part not in ("", ".")], list[str]()
    while True:
        try:
            here = open_path("/" + "/".join(parts), what=what, guarded=guarded, inodes=inodes)
            break
        except Conflict as error:
            if not isinstance(error.__cause__, FileNotFoundError) or parts[-1] == "..":
                raise
            missing.append(parts.pop())
    with ExitStack() as stack:
        stack.callback(here.close)
        whole, fd = here.path, here.fd
        made: list[tuple[int, str]] = []
        try:
            for name in reversed(missing):
                whole = whole / name
                with suppress(FileExistsError):  # somebody else was quicker
                    os.mkdir(name, 0o755, dir_fd=fd)
                    made.append((fd, name))
                fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                stack.callback(os.close, fd)
        except OSError as error:
            _unmake(made)
            raise Conflict(f"{what}: cannot make {whole}", details=error.strerror or str(error)) from error
        try:
            yield whole
        except BaseException:
            _unmake(made)
            raise


def _unmake(made: list[tuple[int, str]]) -> None:
    for fd, name in reversed(made):
        with suppress(OSError):
            os.rmdir(name, dir_fd=fd)


def _walk(path: str, what: str, guarded: Collection[Path], inodes: Collection[tuple[int, int]]) -> HostObject:
    todo = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    fds = [os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)]
    links = 0
    try:
        while todo:
            part = todo.pop()
            if part == "..":
                if done:
                    done.pop()
                    os.close(fds.pop())
                continue
            fd = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fds[-1])
            fds.append(fd)
            done.append(part)
            if not stat.S_ISLNK(os.fstat(fd).st_mode):
                continue
            links += 1
            here = Path("/", *done[:-1])
            if links > MAX_LINKS or is_below(here, guarded) or _any_is(fds[:-1], inodes):
                raise Conflict(
                    f"{what}: {path} leads over the link {here / part}",
                    details="guests can write there, or there are too many links",
                    resolution="give the path that it stands for",
                )
            target = os.readlink("", dir_fd=fd)
            os.close(fds.pop())
            done.pop()
            if target.startswith("/"):
                while len(fds) > 1:
                    os.close(fds.pop())
                done.clear()
            todo += [piece for piece in reversed(target.split("/")) if piece not in ("", ".")]
        fd = fds.pop()
        return HostObject(path=Path("/", *done), fd=fd, mode=os.fstat(fd).st_mode)
    finally:
        for fd in fds:
            os.close(fd)


def _any_is(fds: list[int], inodes: Collection[tuple[int, int]]) -> bool:
    """Return whether one of the open directories is one of these."""
    stats = (os.fstat(fd) for fd in fds) if inodes else ()
    return any((stat.st_dev, stat.st_ino) in inodes for stat in stats)


def is_below(path: Path, directories: Collection[Path]) -> bool:
    """Whether a path without links is one of the directories or in one."""
    return any(path == directory or directory in path.parents for directory in directories)
