"""The build context: the files that a client sent as a tar.

They lie in one data file with an index in memory; nothing is unpacked on the host. What a step needs is written as a
clean tar, which the guest unpacks.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from hyperd.build.ignore import Ignore, has_wildcards, matching
from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer import tarstream
from hyperd.image.layer.compression import decompressed
from hyperd.image.layer.convert import disk_errors
from hyperd.image.layer.members import normalise
from hyperd.image.layer.tarstream import BLOCK, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader

MAX_FILES = 500_000
MAX_HELD = 256 * 2**20  # bytes of memory for names, links and what is known of each file
_NODE_COST = 400  # of that for each file beyond its name
MAX_LINKS = 40  # symbolic links on the way to one file
_PIECE = 1 << 18


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """One file of the context. ``offset`` and ``size``: where its bytes lie. ``digest``: of them."""

    kind: bytes
    mode: int
    mtime: int = 0
    link: bytes = b""
    offset: int = 0
    size: int = 0
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A file on its way into the guest, under its new name."""

    name: str
    node: Node

    @property
    def identity(self) -> list[object]:
        """What makes two members the same for the cache; times do not count."""
        node = self.node
        return [self.name, node.kind.decode("latin-1"), node.mode, node.link.decode("latin-1"), node.digest]


@dataclass(frozen=True, kw_only=True)
class Match:
    """What one source of COPY names.

    Args:
        members: a directory's content, or one file.
        single: it is one file, not a directory's content, which may be one file as well.

    """

    members: Sequence[Member]
    single: bool


class Context:
    """Files by path; paths have no slash at the beginning and undecodable bytes as surrogates.

    Args:
        data: an empty file that holds the content.
        max_bytes: of all of it.

    """

    def __init__(self, data: Path, *, max_bytes: int) -> None:
        self.directory = data.parent
        self.max_bytes = max_bytes
        self._size = 0
        self._held = 0
        self.nodes: dict[str, Node] = {}
        with disk_errors():
            self._file: BinaryIO = data.open("w+b")

    def close(self) -> None:
        """Close the data file."""
        self._file.close()

    def load(self, chunks: Iterator[bytes]) -> None:
        """Take a tar, compressed or not.

        Raises:
            InvalidInput, TooLarge: damaged, hostile or too large. OutOfSpace: no room.

        """
        pieces = decompressed(chunks, max_bytes=self.max_bytes)
        reader = TarReader(lambda: next(pieces, b""), max_entries=MAX_FILES)
        for entry in reader:
            name = normalise(entry.name).decode("utf-8", "surrogateescape")
            if name:
                self._parents(name)
                self._put(name, self._node(entry, reader))

    def add_file(self, name: str, chunks: Iterator[bytes], *, mode: int = 0o644, mtime: int = 0) -> Node:
        """Keep one file, whether under a name or (empty) for the caller alone. Errors: TooLarge, OutOfSpace."""
        offset, digest = self._size, hashlib.sha256()
        for chunk in chunks:
            self._write(chunk, digest)
        node = Node(
            kind=FILE, mode=mode, mtime=mtime, offset=offset, size=self._size - offset, digest=digest.hexdigest()
        )
        if name:
            self._parents(name)
            self._put(name, node)
        return node

    def ignore(self, rules: Ignore) -> None:
        """Forget what ``.dockerignore`` hides; a directory stays when something in it does."""
        kept = {name for name in self.nodes if not rules.hides(name)}
        for name in tuple(kept):
            while name := posixpath.dirname(name):
                kept.add(name)
        self.nodes = {name: node for name, node in self.nodes.items() if name in kept}

    def read(self, name: str, *, limit: int) -> bytes | None:
        """Return a small file's content, None when there is none. Errors: TooLarge."""
        found = self.resolve(name)
        if found is None or self.nodes[found].kind != FILE:
            return None
        node = self.nodes[found]
        if node.size > limit:
            raise TooLarge(f"{name[:200]} has more than {limit} bytes")
        return b"".join(self.content(node))

    def content(self, node: Node) -> Iterator[bytes]:
        """Yield a file's bytes."""
        done = 0
        while done < node.size:
            with disk_errors():
                self._file.seek(node.offset + done)
                piece = self._file.read(min(_PIECE, node.size - done))
            if not piece:
                return
            done += len(piece)
            yield piece

    def resolve(self, path: str, *, links: int = 0) -> str | None:
        """Follow a path with its symbolic links, the context as root; give the file's own path, or None."""
        at = ""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        for index, part in enumerate(parts):
            at = posixpath.dirname(at) if part == ".." else posixpath.join(at, part)
            if not at:
                continue
            node = self.nodes.get(at)
            if node is None:
                return None
            if node.kind == SYMLINK:
                if links >= MAX_LINKS:
                    return None
                target = node.link.decode("utf-8", "surrogateescape")
                base = "" if target.startswith("/") else posixpath.dirname(at)
                return self.resolve("/".join([base, target, *parts[index + 1 :]]), links=links + 1)
        return at

    def select(self, source: str) -> list[Match]:
        """Return what a source of COPY names.

        Raises:
            InvalidInput: nothing is there, or the pattern is bad.

        """
        clean = posixpath.normpath("/" + source).lstrip("/")
        matches = matching(sorted(self.nodes), clean) if has_wildcards(clean) else [clean]
        found = []
        for match in matches:
            path = self.resolve(match)
            if path is None:
                raise InvalidInput(f"COPY failed: file not found in build context: stat {source[:300]}: no such file")
            single = bool(path) and self.nodes[path].kind != DIRECTORY
            found.append(Match(members=self._members(path, posixpath.basename(match)), single=single))
        if not found:
            raise InvalidInput("COPY failed: no source files were specified", details=source[:300])
        return found

    def tar(
        self, members: Sequence[Member], *, instead: Callable[[Node], bytes] = lambda _node: b""
    ) -> Iterator[bytes]:
        """Write members as a tar, owned by root; files have what ``instead`` gives, or their own content."""
        for member in members:
            node = member.node
            data = instead(node)
            entry = Entry(
                name=member.name.encode("utf-8", "surrogateescape") + (b"/" if node.kind == DIRECTORY else b""),
                kind=node.kind,
                mode=node.mode,
                mtime=max(node.mtime, 0),
                link=node.link,
            )
            size = len(data) or node.size
            yield tarstream.pack(entry, size=size)
            yield from (data,) if data else self.content(node)
            if size % BLOCK:
                yield bytes(-size % BLOCK)
        yield bytes(2 * BLOCK)

    def _members(self, path: str, name: str) -> list[Member]:
        node = self.nodes[path] if path else Node(kind=DIRECTORY, mode=0o755)
        if node.kind != DIRECTORY:
            return [Member(name=name, node=node)]
        prefix = f"{path}/" if path else ""
        return [
            Member(name=inner.removeprefix(prefix), node=self.nodes[inner])
            for inner in sorted(self.nodes)
            if inner.startswith(prefix)
        ]

    def _parents(self, name: str) -> None:
        while name := posixpath.dirname(name):
            known = self.nodes.get(name)
            if known is not None and known.kind == DIRECTORY:
                return
            self._put(name, Node(kind=DIRECTORY, mode=0o755))

    def _put(self, name: str, node: Node) -> None:
        self._held += _NODE_COST + len(name) + len(node.link)
        if self._held > MAX_HELD:
            raise TooLarge(f"the names in the build context take more than {MAX_HELD} bytes")
        self.nodes[name] = node

    def _node(self, entry: Entry, reader: TarReader) -> Node:
        plain = Node(kind=entry.kind, mode=entry.mode & 0o7777, mtime=entry.mtime)
        if entry.kind == HARDLINK:
            target = normalise(entry.link).decode("utf-8", "surrogateescape")
            if target not in self.nodes:
                raise InvalidInput("a hard link of the context leads nowhere", details=repr(entry.name[:200]))
            return self.nodes[target]
        if entry.kind == SYMLINK:
            if not 0 < len(entry.link) < tarstream.MAX_PATH:
                raise InvalidInput("a symbolic link of the context has a bad target", details=repr(entry.name[:200]))
            return replace(plain, link=entry.link)
        if entry.kind in (DIRECTORY, tarstream.FIFO):
            return plain
        if entry.kind != FILE:
            raise InvalidInput("the context has a device", details=repr(entry.name[:200]))
        if entry.holes is not None:
            raise InvalidInput("the context has a sparse file", details=repr(entry.name[:200]))
        node = self.add_file("", (bytes(piece) for piece in reader.data()))
        return replace(plain, offset=node.offset, size=node.size, digest=node.digest)

    def _write(self, chunk: bytes, digest: hashlib._Hash) -> None:
        if self._size + len(chunk) > self.max_bytes:
            raise TooLarge(f"the build context has more than {self.max_bytes} bytes")
        with disk_errors():
            self._file.seek(self._size)
            self._file.write(chunk)
        digest.update(chunk)
        self._size += len(chunk)


def digest_of(members: Sequence[Member]) -> str:
    """Return what identifies a set of files for the cache."""
    listed = json.dumps([member.identity for member in members], ensure_ascii=True)
    return hashlib.sha256(listed.encode()).hexdigest()
