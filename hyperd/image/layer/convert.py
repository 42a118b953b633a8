"""One layer: a possibly compressed tar becomes a squashfs image, in one pass, with nothing unpacked or mounted.

``tar2sqfs`` (squashfs-tools-ng) writes the image; it reads only the clean headers that
``hyperd.image.layer.whiteout`` wrote.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

import structlog

from hyperd.errors import HostFault, InvalidInput, OutOfSpace
from hyperd.image.layer.compression import decompressed
from hyperd.image.layer.directories import Notes
from hyperd.image.layer.members import Limits
from hyperd.image.layer.tarstream import BLOCK, TarReader
from hyperd.image.layer.whiteout import Untidy, Write, filter_layer, filter_planned, plan_layer

log = structlog.get_logger(__name__)

MAX_ENTRIES = 1_000_000
_PIPE_SIZE = 2**20
_BUFFER = 2**18
_LITTLE_ROOM = 4 * 2**20  # bytes free below which a failed write is taken for a full disk
_STDERR_LIMIT = 4096
_MEMORY = 2 * 2**30  # bytes of address space; a million files take tar2sqfs 600 MB
# The guest's kernel holds about ten blocks of every mounted layer in memory: with the default of 128 KiB 127 layers
# took 130 MB of it, now 45. Layers are 3 % larger.
_BLOCK_SIZE = "32768"

_T = TypeVar("_T")
OpenChunks = Callable[[], Iterator[bytes]]
Convert = Callable[[TarReader, Write], Notes]


@dataclass(frozen=True)
class BuiltLayer:
    """What became of a layer.

    Args:
        diff_id: ``sha256:`` of the uncompressed tar.
        size: of the uncompressed tar, bytes.
        image_size: of the squashfs file, bytes.
        opaque_root: whether it hides all layers below it.
        directories: what ``hyperd.image.layer.directories`` wants to know, None when the layer was only measured.

    """

    diff_id: str
    size: int
    image_size: int
    opaque_root: bool = False
    directories: bytes | None = None


class _Hashed:
    """Counts and hashes the uncompressed tar on its way."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._hash = hashlib.sha256()
        self.size = 0

    def __call__(self) -> bytes:
        piece = next(self._pieces, b"")
        self._hash.update(piece)
        self.size += len(piece)
        return piece

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


def build_layer(open_chunks: OpenChunks, output: BinaryIO, *, max_bytes: int) -> BuiltLayer:
    """Convert a layer.

    Args:
        open_chunks: starts the stream of the layer's bytes; called twice more for a layer that cannot be done in one
            pass. A stream is always read to its end unless its reading itself fails or a bound is passed.
        output: an empty file, open for writing; holds the squashfs image afterwards, already synced to disk.
        max_bytes: of the uncompressed tar and of the files in it.

    Raises:
        InvalidInput, TooLarge: the layer is hostile or damaged.
        OutOfSpace: the disk is full.
        HostFault: tar2sqfs is missing or failed.

    """
    chunks = open_chunks()
    try:
        return _run(chunks, output, max_bytes, lambda r, w: filter_layer(r, w, Limits(max_bytes)))
    except Untidy:
        log.info("layer-needs-plan")
        _drain(chunks)
    except InvalidInput:
        _drain(chunks)  # whoever gives the chunks checks them at the end: damage on the way is the better message
        raise
    plan, _ = _read(open_chunks(), max_bytes, lambda r: plan_layer(r, Limits(max_bytes)))
    os.ftruncate(output.fileno(), 0)
    return _run(open_chunks(), output, max_bytes, lambda r, w: filter_planned(r, plan, w, Limits(max_bytes)))


def measure_layer(chunks: Iterator[bytes], *, max_bytes: int) -> tuple[str, int]:
    """Return diff_id and size of a layer without converting it.

    Raises:
        InvalidInput, TooLarge: its compression is damaged or it is too large.

    """
    source = _Hashed(decompressed(chunks, max_bytes=max_bytes))
    while source():
        pass
    return source.diff_id, source.size


def _read(chunks: Iterator[bytes], max_bytes: int, work: Callable[[TarReader], _T]) -> tuple[_T, _Hashed]:
    source = _Hashed(decompressed(chunks, max_bytes=max_bytes))
    return work(TarReader(source, max_entries=MAX_ENTRIES)), source


def _run(chunks: Iterator[bytes], output: BinaryIO, max_bytes: int, convert: Convert) -> BuiltLayer:
    with _tar2sqfs(output) as write:
        notes, source = _read(chunks, max_bytes, lambda reader: convert(reader, write))
        write(bytes(2 * BLOCK))
    sync_file(output)
    with disk_errors():
        size = os.fstat(output.fileno()).st_size
    return BuiltLayer(source.diff_id, source.size, size, opaque_root=b"" in notes.opaque, directories=notes.pack())


@contextmanager
def _tar2sqfs(output: BinaryIO) -> Iterator[Write]:
    """Run tar2sqfs; give the function that writes to it. It is gone when the block ends, however it ends."""
    # By descriptor: tar2sqfs removes its output when it fails, a full disk could then not be told from other faults.
    target = f"/proc/self/fd/{output.fileno()}"
    command = ["tar2sqfs", "--force", "--quiet", "--no-skip", "--block-size", _BLOCK_SIZE]
    command += ["--compressor", "lz4", "--num-jobs", "1", target]
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(output.fileno(),),
            bufsize=_BUFFER,
            cwd="/",
        )
        resource.prlimit(process.pid, resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except FileNotFoundError as exc:
        raise HostFault("tar2sqfs is missing", resolution="install squashfs-tools-ng") from exc
    with process:
        stdin, stderr = process.stdin, process.stderr
        if stdin is None or stderr is None:  # cannot be: both are pipes
            raise HostFault("tar2sqfs has no pipes")
        try:
            fcntl.fcntl(stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)
            yield stdin.write
            stdin.close()
            failed = False
        except BrokenPipeError:
            failed = True
        except BaseException:
            process.kill()
            _close_quietly(stdin)
            raise
        _close_quietly(stdin)
        message = stderr.read(_STDERR_LIMIT).decode(errors="replace").strip()
        if process.wait() != 0 or failed:
            raise _failure(output, message)


def _failure(output: BinaryIO, message: str) -> HostFault:
    room = os.fstatvfs(output.fileno())
    if room.f_bavail * room.f_frsize < _LITTLE_ROOM or room.f_favail == 0:
        return OutOfSpace("no room on the disk for a layer", details=message)
    return HostFault("tar2sqfs failed on a layer", details=message)


def _close_quietly(stream: IO[bytes]) -> None:
    with suppress(BrokenPipeError):
        stream.close()


def _drain(chunks: Iterator[bytes]) -> None:
    for _ in chunks:
        pass


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn errors of the store's file system into ours.

    Raises:
        OutOfSpace: the disk or a quota is full.
        HostFault: anything else the system says.

    """
    try:
        yield
    except OSError as exc:
        if exc.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise OutOfSpace("no room on the disk for images", details=str(exc)) from exc
        raise HostFault("the image store cannot be written", details=str(exc)) from exc


def sync_file(file: BinaryIO) -> None:
    """Make a file's content last through a crash of the host.

    Raises:
        OutOfSpace, HostFault: the file system says so.

    """
    with disk_errors():
        file.flush()
        os.fdatasync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make renames in a directory last through a crash of the host."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
