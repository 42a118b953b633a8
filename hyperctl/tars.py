"""Tars made of local files, and local files made of tars that nobody trusts."""

from __future__ import annotations

import os
import stat
import tarfile

from hyperctl.api.errors import HyperctlError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_PIECE = 1 << 18


def walk(directory: str, inside: str = "") -> Iterator[str]:
    """Yield every file below a directory by its path from there, directories before what is in them."""
    with os.scandir(os.path.join(directory, inside)) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = f"{inside}/{entry.name}" if inside else entry.name
        yield name
        if entry.is_dir(follow_symlinks=False):
            yield from walk(directory, name)


def member(path: str, name: str, *, owner: bool = False) -> Iterator[bytes]:
    """Yield a file as a member of a tar (POSIX pax); of sockets and devices nothing.

    Args:
        path: of the file.
        name: in the tar.
        owner: keep user and group by number; else they are root's.

    """
    status = os.lstat(path)
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
    if owner:
        info.uid, info.gid = status.st_uid, status.st_gid
    if stat.S_ISDIR(status.st_mode):
        info.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(status.st_mode):
        info.type, info.linkname = tarfile.SYMTYPE, os.readlink(path)
    elif not stat.S_ISREG(status.st_mode):
        return
    else:
        info.size = status.st_size
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if info.size:
        with open(path, "rb") as file:
            yield from _content(file, info.size)


def end() -> bytes:
    """Return the end of a tar."""
    return bytes(2 * tarfile.BLOCKSIZE)


def _content(file: BinaryIO, size: int) -> Iterator[bytes]:
    """Yield exactly so many bytes, in whole blocks; what the file lost meanwhile is zeros."""
    left = size
    while left:
        piece = file.read(min(_PIECE, left)) or bytes(min(_PIECE, left))
        left -= len(piece)
        yield piece
    yield bytes(-size % tarfile.BLOCKSIZE)


class Pieces:
    """A file to read of pieces that arrive.

    Args:
        pieces: the bytes.

    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._offset = 0  # what of the piece has been read: large pieces are read in blocks of 512 bytes

    def read(self, size: int = -1) -> bytes:
        """Return as many bytes, fewer at the end."""
        found = []
        while size:
            if self._offset == len(self._piece):
                self._piece, self._offset = next(self._pieces, b""), 0
                if not self._piece:
                    break
            end = len(self._piece) if size < 0 else min(len(self._piece), self._offset + size)
            found.append(self._piece[self._offset : end])
            size -= end - self._offset if size > 0 else 0
            self._offset = end
        return b"".join(found)


class Paths:
    """Where what a tar has goes: below a directory, with the first part of its paths replaced, left away or put before.

    Args:
        place: the directory, which is there.
        name: stands first in each path below it; None for none.
        rooted: the tar's paths begin with a part of their own, which goes: `etc/hosts` of `/etc`, but not `hosts` of
            `/etc/.`.

    """

    def __init__(self, place: str, *, name: str | None, rooted: bool) -> None:
        self.place = place
        self._before = [] if name is None else [name]
        self._dropped = 1 if rooted else 0

    def of(self, name: str) -> str:
        """Return the path of a member, to which no link leads; empty for the directory itself.

        Raises:
            HyperctlError: it leads outside or through a link.

        """
        parts = [part for part in name.split("/") if part not in {"", "."}]
        if ".." in parts:
            raise HyperctlError(f"the daemon sends a path that leads outside: {name!r}")
        parts = self._before + parts[self._dropped :]
        return _safe(self.place, parts, name) if parts else ""


def unpack(pieces: Iterator[bytes], paths: Paths, *, owner: bool) -> list[str]:
    """Unpack a tar below a directory; nothing is written outside it, whatever the tar says.

    Args:
        pieces: the tar, as it arrives.
        paths: where its members go.
        owner: give files to the users and groups of the tar, which takes root.

    Returns:
        The paths of what was left away: devices, sockets, and links to what the tar does not have.

    Raises:
        HyperctlError: it is no tar, a path leads outside or through a link, or a file cannot be written.

    """
    left: list[str] = []
    modes: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=Pieces(pieces), mode="r|") as tar:  # type: ignore[call-overload]  # "r|" calls read alone
            for one in tar:
                path = paths.of(one.name)
                if not path:
                    continue
                if not _write(tar, one, path, paths):
                    left.append(one.name)
                    continue
                if owner and not one.issym():
                    os.chown(path, one.uid, one.gid, follow_symlinks=False)
                if one.isdir():
                    modes[path] = one.mode & 0o7777
        for path, mode in reversed(modes.items()):  # at the end: one that may not be written to gets its files first
            os.chmod(path, mode)
    # Numbers that no file system has and paths with a NUL are found where they are used.
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise HyperctlError(f"what the daemon sends is no tar: {error}") from error
    except OSError as error:
        raise HyperctlError(f"cannot write {error.filename or paths.place}: {error.strerror}") from error
    return left


def _safe(place: str, parts: list[str], name: str) -> str:
    """Return the path of a member when no link is on the way to it."""
    path = place
    for part in parts[:-1]:
        path = os.path.join(path, part)
        if os.path.islink(path):
            raise HyperctlError(f"the daemon sends a path that leads through a link: {name!r}")
        os.makedirs(path, exist_ok=True)
    return os.path.join(path, parts[-1])


def _write(tar: tarfile.TarFile, one: tarfile.TarInfo, path: str, paths: Paths) -> bool:
    """Write one member; False when it is of a kind that is not written."""
    if one.isdir():
        if not os.path.isdir(path) or os.path.islink(path):
            os.mkdir(path, 0o700)
        return True
    if os.path.isdir(path) and not os.path.islink(path):
        raise HyperctlError(f"cannot overwrite the directory {path} with a file")
    if os.path.lexists(path) and (one.isreg() or one.issym() or one.islnk()):
        os.unlink(path)
    if one.issym():
        os.symlink(one.linkname, path)
    elif one.islnk():
        source = paths.of(one.linkname)
        if not os.path.isfile(source) or os.path.islink(source):
            return False
        os.link(source, path, follow_symlinks=False)
    elif one.isreg():
        _write_file(tar, one, path)
    else:
        return False
    return True


def _write_file(tar: tarfile.TarFile, one: tarfile.TarInfo, path: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    content = tar.extractfile(one)
    with open(os.open(path, flags, 0o600), "wb") as file:
        while content is not None and (piece := content.read(_PIECE)):
            file.write(piece)
        # No set-user-id for the host: the file comes from a guest.
        os.fchmod(file.fileno(), one.mode & 0o777)
    os.utime(path, (one.mtime, one.mtime))
