"""Container logs in the form that Kubernetes reads: ``TIME STREAM F|P TEXT``, in a file that the reader rotates.

F is a whole line, P a piece of one that goes on in the stream's next line: very long ones, and a last one without a
newline. Such a line has no room for the offset in the run's stream, so a small file beside, the mark, says which file
is written to, up to which size it has been counted, and the offsets there. After a crash the lines behind are counted:
then the guest sends again from there, nothing is missing, nothing there twice. The file is known by its inode: its
reader may have moved it away and not have asked for another one yet.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import structlog

from hyperd.stream.jsonlines import Entry, whole_blocks
from hyperd.stream.logresume import STREAMS, torn
from hyperd.stream.logs import FileLog, open_file

log = structlog.get_logger(__name__)

MARK_EVERY = 1 << 20  # bytes of the file: what is counted again after a crash
MARK_SIZE = 160  # one write of a length that never changes: it is whole, or as before
_LINE = re.compile(rb"(\S+) (stdout|stderr) ([FP])\S* (.*)\n", re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Where a log stands.

    Args:
        run: number of the container's run. device, inode: of the file that is written to.
        size: of the file, as far as it is counted. stdout, stderr: the run's offsets there.

    """

    run: int
    device: int
    inode: int
    size: int
    stdout: int
    stderr: int

    @classmethod
    def read(cls, path: Path) -> Mark | None:
        """Read a mark; None when there is none, or something else."""
        try:
            run, device, inode, size, stdout, stderr = map(int, path.read_bytes().split())
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("log.bad_mark", path=str(path), error=str(error))
            return None
        return cls(run=run, device=device, inode=inode, size=size, stdout=stdout, stderr=stderr)

    def write(self, path: Path) -> None:
        """Put the mark in the place of an older one. Errors: OSError."""
        text = f"{self.run} {self.device} {self.inode} {self.size} {self.stdout} {self.stderr}"
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o640)
        try:
            os.pwrite(fd, f"{text:<{MARK_SIZE - 1}}\n".encode(), 0)
        finally:
            os.close(fd)

    def find(self, path: Path) -> Path | None:
        """Return where the file is now: at ``path``, or under another name beside it."""
        with contextlib.suppress(OSError):
            if self._is(path):
                return path
        with contextlib.suppress(OSError), os.scandir(path.parent) as entries:
            for entry in entries:
                if entry.inode() == self.inode and self._is(Path(entry.path)):
                    return Path(entry.path)
        return None

    def _is(self, path: Path) -> bool:
        found = path.lstat()
        return (found.st_dev, found.st_ino) == (self.device, self.inode)


class LineLog(FileLog):
    """Writes the log of one container.

    Args:
        path: of the file. mark: of the mark, which is ours.
        run: number of the container's current run.

    Errors: OSError.

    """

    def __init__(self, path: Path, *, mark: Path, run: int) -> None:
        super().__init__(path, run=run)
        self._mark = mark
        self._marked = 0
        found = Mark.read(mark)
        if found is not None and found.run == run:
            self._resume(found)
        else:
            self._fd = self._begin()

    def reopen(self) -> None:
        """Go on in the file that is at the path now, or in a new one. Errors: OSError; then nothing changes."""
        if self.finished:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        before, self._fd = self._fd, self._begin()
        os.close(before)
        self.notify()

    def _begin(self) -> int:
        """Open the file at the path and note it. Errors: OSError."""
        fd = open_file(self.path)
        try:
            self._note(fd, _ended(fd))
        except BaseException:
            os.close(fd)
            raise
        return fd

    def _resume(self, mark: Mark) -> None:
        """Cut a torn last line, and find the offsets of this run that are on disk."""
        self.persisted.update(stdout=mark.stdout, stderr=mark.stderr)
        path = mark.find(self.path)
        if path is None:
            log.warning("log.file_gone", path=str(self.path))
            self._fd = self._begin()
            return
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
        try:
            with path.open("rb") as file:
                size = torn(file)
                if size is not None and size >= mark.size:
                    os.ftruncate(fd, size)
                file.seek(mark.size)
                for block in whole_blocks(file):
                    for stream, text in outputs(block):
                        self.persisted[stream] += len(text)
            self._note(fd, _ended(fd))
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _note(self, fd: int, size: int) -> None:
        stat = os.fstat(fd)
        offsets = {name: self.persisted.get(name, 0) for name in STREAMS}
        Mark(run=self.run, device=stat.st_dev, inode=stat.st_ino, size=size, **offsets).write(self._mark)
        self._marked = size

    def _room(self) -> int:
        size = super()._room()
        if size - self._marked >= MARK_EVERY:
            try:
                self._note(self._fd, size)
            except OSError as error:  # the older one is as good, only slower
                log.warning("log.mark_failed", path=str(self._mark), error=str(error))
                self._marked = size
        return size

    def _block(self, stream: str, whole: bytes, time: str) -> Iterable[bytes | memoryview]:
        head = f"{time} {stream} F ".encode()
        lines = head + whole.replace(b"\n", b"\n" + head)
        return [memoryview(lines)[: -len(head)]]

    def _lines(self, stream: str, pieces: list[bytes], time: str) -> bytes:
        head = f"{time} {stream} ".encode()
        return b"".join(head + (b"F " + one if one.endswith(b"\n") else b"P " + one + b"\n") for one in pieces)


def _ended(fd: int) -> int:
    """Return the size of a file, whose last line is ended where somebody else has left it open. Errors: OSError."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        size += os.write(fd, b"\n")
    return size


def parse(line: bytes) -> Entry | None:
    """Return the entry of one line, None if the line is not one."""
    found = _LINE.fullmatch(line)
    if found is None:
        return None
    time, stream, tag, text = found.groups()
    return Entry(stream.decode(), time.decode("ascii", "replace"), text + b"\n" if tag == b"F" else text)


def outputs(block: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield what stands in a block of whole lines, as (stream, text), neighbours of one stream in one piece."""
    lines = block.split(b"\n")
    lines.pop()
    entries = (entry for entry in (parse(line + b"\n") for line in lines) if entry is not None)
    for stream, group in groupby(entries, lambda entry: entry.stream):
        yield stream, b"".join(entry.text for entry in group)
