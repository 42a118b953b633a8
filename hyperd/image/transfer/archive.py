"""Reading an archive of images in one pass: layers go into the store as they come by, the rest is small and kept.

The archive may be compressed; nothing is unpacked to the host's file system, names are keys of a dictionary only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

import structlog

from hyperd.errors import InvalidInput, TooLarge
from hyperd.image.layer.compression import MAGIC, decompressed, kind_of
from hyperd.image.layer.tarstream import (
    BLOCK,
    DIRECTORY,
    FILE,
    HARDLINK,
    MAX_PATH,
    SYMLINK,
    Entry,
    TarReader,
    is_header,
)
from hyperd.image.manifest import MAX_CONFIG
from hyperd.image.transfer.ingest import AddedLayer, Intake
from hyperd.registry.reference import is_digest

log = structlog.get_logger(__name__)

MAX_MEMBERS = 100_000
MAX_SMALL = 64 * 2**20  # bytes of everything that is no layer
MAX_NAMES = 16 * 2**20  # bytes of all names and links
MAX_ARCHIVE = 2**42  # bytes, uncompressed; what fits is decided by the disk
_MAX_REFUSED = 16
_MAX_LINKS = 8  # links that lead to links
_BLOBS = "blobs/sha256/"

Known = Callable[[str, dict[str, bytes]], bool]


@dataclass
class Contents:
    """What was found.

    Args:
        small: members that are no layers, by name.
        layers: layers that are in the store now, by the name of their member.
        refused: what was wrong with members that looked like layers; it matters only when an image needs them.
        skipped: layers that were in the store before.

    """

    small: dict[str, bytes] = field(default_factory=dict)
    layers: dict[str, AddedLayer] = field(default_factory=dict)
    refused: dict[str, InvalidInput | TooLarge] = field(default_factory=dict)
    skipped: set[str] = field(default_factory=set)
    _links: dict[str, str] = field(default_factory=dict)

    def find(self, name: str) -> str:
        """Return the member that a name means, links followed inside the archive; the name itself when there is none.

        Raises:
            InvalidInput: it leaves the archive.

        """
        found = clean(name)
        for _ in range(_MAX_LINKS):
            if found not in self._links:
                return found
            found = self._links[found]
        raise InvalidInput("an archive of images has too many links to links", details=repr(name[:200]))

    def document(self, name: str, what: str) -> bytes:
        """Return a member that is no layer.

        Raises:
            InvalidInput: it is missing.

        """
        found = self.small.get(self.find(name))
        if found is None:
            raise InvalidInput(f"an archive of images lacks {what}", details=repr(name[:200]))
        return found

    def layer(self, name: str) -> AddedLayer | None:
        """Return the layer of a member, None when the archive does not have it.

        Raises:
            InvalidInput, TooLarge: what was wrong with it.

        """
        found = self.find(name)
        if found in self.refused:
            raise self.refused[found]
        return self.layers.get(found)

    def link(self, entry: Entry, name: str) -> None:
        """Note a link."""
        target = entry.link.decode("utf-8", "surrogateescape")
        if entry.kind == SYMLINK:
            base = name.rpartition("/")[0]
            target = f"{base}/{target}" if base and not target.startswith("/") else target
        self._links[name] = clean(target)


def clean(name: str) -> str:
    """Return a member's name without ``.`` and ``..``.

    Raises:
        InvalidInput: it is absolute or leaves the archive.

    """
    parts: list[str] = []
    for part in name.split("/"):
        if part == "..":
            if not parts:
                raise InvalidInput("a name in an archive of images leaves the archive", details=repr(name[:200]))
            parts.pop()
        elif part not in {"", "."}:
            parts.append(part)
    if name.startswith("/") or len(name) > MAX_PATH:
        raise InvalidInput("a name in an archive of images is absolute or too long", details=repr(name[:200]))
    return "/".join(parts)


def read_archive(chunks: Iterator[bytes], intake: Intake, *, known: Known, max_layer: int) -> Contents:
    """Read an archive.

    Args:
        chunks: the archive, compressed or not.
        intake: where layers go.
        known: tells, by a member's name and the small members so far, whether its layer is in the store already.
        max_layer: bytes of a layer's member.

    Raises:
        InvalidInput, TooLarge: it is no archive, hostile or damaged.
        OutOfSpace, HostFault: this host's part.
        Whatever the chunks raise.

    """
    pieces = decompressed(chunks, max_bytes=MAX_ARCHIVE)
    reader = TarReader(lambda: next(pieces, b""), max_entries=MAX_MEMBERS)
    contents, seen, names, small = Contents(), set[str](), 0, 0
    for entry in reader:
        name = _name(entry)
        names += len(entry.name) + len(entry.link)
        if names > MAX_NAMES:
            raise TooLarge(f"the names in an archive of images have more than {MAX_NAMES} bytes")
        if entry.kind == DIRECTORY:
            continue
        if not name or name in seen:
            raise InvalidInput("an archive of images has a member twice", details=repr(name[:200]))
        seen.add(name)
        if entry.kind in {SYMLINK, HARDLINK}:
            contents.link(entry, name)
        elif entry.kind != FILE or entry.holes is not None:
            raise InvalidInput("an archive of images has a member that is no file", details=repr(name[:200]))
        elif known(name, contents.small):
            contents.skipped.add(name)
        else:
            small += _take(entry, name, reader, intake, contents, max_layer)
            if small > MAX_SMALL:
                raise TooLarge(f"an archive of images has more than {MAX_SMALL} bytes that are no layers")
    return contents


def _take(  # noqa: PLR0917 - one step of read_archive
    entry: Entry, name: str, reader: TarReader, intake: Intake, contents: Contents, max_layer: int
) -> int:
    """Keep a member; give the number of its bytes that stay in memory."""
    data, head = (bytes(piece) for piece in reader.data()), b""
    for piece in data:
        head += piece
        if len(head) >= BLOCK:
            break
    if _is_layer(name, head):
        if entry.size > max_layer:
            raise TooLarge(f"a layer has more than {max_layer} bytes", details=repr(name[:200]))
        digest = f"sha256:{name.removeprefix(_BLOBS)}" if name.startswith(_BLOBS) else ""
        try:
            contents.layers[name] = intake.add_layer(
                lambda: chain([head] if head else [], data), digest=digest if is_digest(digest) else ""
            )
        except (InvalidInput, TooLarge) as exc:
            contents.refused[name] = exc
            if len(contents.refused) > _MAX_REFUSED:
                raise
        return 0
    if entry.size > MAX_CONFIG:
        log.info("archive-member-ignored", name=name[:200], size=entry.size)
        return 0
    contents.small[name] = head + b"".join(data)
    return entry.size


def _name(entry: Entry) -> str:
    return clean(entry.name.decode("utf-8", "surrogateescape"))


def _is_layer(name: str, head: bytes) -> bool:
    if kind_of(head[:MAGIC]) or is_header(head[:BLOCK]):
        return True
    return name.endswith(".tar") or (len(head) >= BLOCK and not head[:BLOCK].strip(b"\0"))
