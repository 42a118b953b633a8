"""What is carried between a client and an engine: files of containers, contexts of builds. Nothing of it is kept."""

from __future__ import annotations

import contextlib
import io
import json
import posixpath
import re
import tarfile
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

from docker.utils.build import PatternMatcher

from hypercloud.engine.client import EngineClient, translated
from hypercloud.errors import EngineError, InvalidInput

CHUNK = 2**16  # bytes
BUILD_SILENCE = 3600  # seconds between two lines of a build's output: a step may take its time
LINKS = 10  # symbolic links that lead to a file
_DIRECTORY, _LINK = 1 << 31, 1 << 27  # bits of Go's FileMode
_KINDS = (1 << 31) | (1 << 27) | (1 << 26) | (1 << 25) | (1 << 24) | (1 << 21) | (1 << 19)


@dataclass(frozen=True, kw_only=True)
class Download:
    """A file's content, or a directory (or what else is no file) as a tar archive."""

    name: str
    archive: bool
    size: int | None  # bytes, where it is known
    content: Iterator[bytes]


def download(client: EngineClient, container: str, path: str) -> Download:
    """Return what is at a path of a container. Errors: InvalidInput, NotFound, EngineError."""
    name = posixpath.basename(_absolute(path)) or "root"
    for _ in range(LINKS):
        with translated(client.name):
            stream, stat = client.docker().get_archive(container, path, CHUNK)
        facts: Mapping[str, Any] = stat if isinstance(stat, Mapping) else {}
        mode, target = int(facts.get("mode") or 0), str(facts.get("linkTarget") or "")
        if mode & _LINK and target and posixpath.join(posixpath.dirname(path), target) != path:
            stream.close()
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), target))
            continue
        content = _named(client.name, stream)
        if mode & _KINDS:
            return Download(name=name, archive=True, size=None, content=content)
        return _file(client.name, name, content)
    raise InvalidInput("too many symbolic links", details=path[:500])


def _file(engine: str, name: str, stream: Iterator[bytes]) -> Download:
    """Take the one file out of an archive."""
    try:
        archive = tarfile.open(fileobj=_Readable(stream), mode="r|", bufsize=CHUNK)  # noqa: SIM115 - closed with its content
        member = archive.next()
        source = archive.extractfile(member) if member is not None else None
    except tarfile.TarError as error:
        raise EngineError(f"engine {engine} sends an archive that cannot be read", details=str(error)) from error
    if member is None or source is None:
        raise EngineError(f"engine {engine} sends an archive without the file")

    def content(file: IO[bytes]) -> Iterator[bytes]:
        with contextlib.closing(archive):
            while data := file.read(CHUNK):
                yield data

    return Download(name=name, archive=False, size=member.size, content=content(source))


def upload(
    client: EngineClient, container: str, directory: str, *, name: str, size: int, read: Callable[[int], bytes]
) -> None:
    """Put a file into a directory of a container.

    Args:
        client: of its engine.
        container: its id.
        directory: exists there.
        name: of the file; one of this name is replaced.
        size: bytes.
        read: gives its content, at most so many bytes at a time.

    Errors: InvalidInput, NotFound for the directory, EngineError.

    """
    _absolute(directory)
    if not name or name in {".", ".."} or "/" in name or "\0" in name or len(name.encode()) > 255:
        raise InvalidInput("the file's name is not allowed", details=repr(name[:100]))
    with translated(client.name):
        client.docker().put_archive(container, directory, _archive(name, size, read))


def _archive(name: str, size: int, read: Callable[[int], bytes]) -> Iterator[bytes]:
    """Make an archive of one file as it comes. Errors: InvalidInput when it ends too early."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, int(time.time())
    yield info.tobuf(tarfile.PAX_FORMAT)
    left = size
    while left:
        data = read(min(left, CHUNK))
        if not data:
            raise InvalidInput("the upload has ended before the file did")
        left -= len(data)
        yield data
    yield bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE)


def included(ignore: str, names: Sequence[str], dockerfile: str) -> list[str]:
    """Return the files of a context that are sent: all that its .dockerignore does not name, and what a build needs.

    Args:
        ignore: the content of the file.
        names: paths in the context.
        dockerfile: its path.

    Errors: InvalidInput.

    """
    patterns = [line.strip() for line in ignore.splitlines() if line.strip() and not line.startswith("#")]
    try:
        matcher = PatternMatcher([*patterns, f"!{dockerfile}"])
        return [name for name in names if not matcher.matches(name)]
    except (re.error, ValueError, IndexError) as error:
        raise InvalidInput("the .dockerignore cannot be read", details=str(error)) from None


def build(
    client: EngineClient,
    context: Iterator[bytes],
    *,
    tag: str,
    dockerfile: str,
    auths: Mapping[str, Mapping[str, str]],
) -> Generator[Mapping[str, Any], None, None]:
    """Build an image from a context; give the engine's messages as they come.

    Args:
        client: of the engine.
        context: a tar archive, also a compressed one.
        tag: the image's name.
        dockerfile: its path in the context.
        auths: credentials by the host of their registry.

    Errors: EngineError with the reason of the engine, EngineUnreachable.

    """
    with translated(client.name):
        docker = client.docker()
        response = docker._post(
            docker._url("/build"),
            params={"t": tag, "dockerfile": dockerfile, "rm": 1, "forcerm": 1},
            headers={
                "Content-Type": "application/x-tar",
                "X-Registry-Config": urlsafe_b64encode(json.dumps(dict(auths)).encode()).decode(),
            },
            data=context,
            stream=True,
            timeout=BUILD_SILENCE,
        )
        with contextlib.closing(response):
            docker._raise_for_status(response)
            for line in docker._stream_helper(response, decode=True):
                if isinstance(line, Mapping):
                    if "error" in line:
                        raise EngineError(f"engine {client.name} cannot build {tag}", details=str(line["error"])[:1000])
                    yield line


class _Readable(io.RawIOBase):
    """The pieces of a stream as a file."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        while len(self._rest) < size and (piece := next(self._pieces, b"")):
            self._rest += piece
        data, self._rest = self._rest[:size], self._rest[size:]
        return data


def _named(engine: str, stream: Iterator[bytes]) -> Iterator[bytes]:
    """Give the pieces of a stream; errors of the connection name the engine."""
    with translated(engine):
        yield from stream


def _absolute(path: str) -> str:
    """Return a path of a container without a slash at its end. Errors: InvalidInput."""
    if not path.startswith("/") or "\0" in path or len(path) > 4000:
        raise InvalidInput("the path must begin with /", details=repr(path[:200]))
    return path.rstrip("/")
