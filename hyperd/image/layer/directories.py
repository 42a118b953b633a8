"""Directories that a layer has files in but no entry of: they keep the attributes that lower layers gave them.

In a tar, ``usr/bin/x`` alone is enough to make ``usr/bin``. Who unpacks layer over layer (Docker, containerd, umoci)
finds the directory there and leaves it as it is. overlayfs shows the topmost layer's directory, which was made without
anybody saying how. So every layer's notes are kept, and an image that needs it gets one more layer on top that holds
nothing but those directories, as they should be. It is made here, belongs to this host and is never pushed or saved.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain

from hyperd.errors import TooLarge
from hyperd.image.layer import tarstream
from hyperd.image.layer.tarstream import DIRECTORY, Entry

MAX_NOTED = 100_000  # directories of one layer; beyond that nothing is noted of it
MAX_NOTED_BYTES = 16 * 2**20  # the same for their names and attributes
MAX_HELD = 256 * 2**20  # bytes of memory for what the layers of one image say
# Of that beyond their own bytes, measured: a name, a note of it, one with attributes.
_NAME_COST, _NOTE_COST, _ENTRY_COST = 150, 100, 350
_LEVEL = 3
_LATIN = "latin-1"  # bytes as text and back, whatever they are


@dataclass(frozen=True)
class Attributes:
    """What a directory is like: permissions, owner, time (seconds), extended attributes."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    xattrs: tuple[tuple[bytes, bytes], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is as a directory that nobody described (but for its time)."""
        return (self.mode, self.uid, self.gid, self.xattrs) == (0o755, 0, 0, ())


@dataclass
class Notes:
    """What one layer says of directories; paths have no slash at either end, the root is empty.

    Args:
        described: directories with an entry of their own.
        bare: directories without one.
        hidden: names whose lower layers are hidden altogether.
        opaque: directories whose lower content is hidden.
        links: names that are hard links to files of lower layers, and those files' names.

    """

    described: dict[bytes, Attributes] = field(default_factory=dict)
    bare: set[bytes] = field(default_factory=set)
    hidden: set[bytes] = field(default_factory=set)
    opaque: set[bytes] = field(default_factory=set)
    links: dict[bytes, bytes] = field(default_factory=dict)

    def describe(self, entry: Entry, name: bytes) -> None:
        """Note a directory's entry, unless there are too many already."""
        if len(self.described) > MAX_NOTED:
            return
        xattrs = tuple(sorted(entry.xattrs.items()))
        self.described[name] = Attributes(entry.mode, entry.uid, entry.gid, entry.mtime, xattrs)

    def pack(self) -> bytes:
        """Return the notes as bytes, or of a layer with too many directories empty ones.

        Raises:
            TooLarge: links cannot be left out.

        """
        groups = (self.described, self.bare, self.hidden, self.links)
        size = sum(len(name) for names in groups for name in names) + self._xattrs
        if sum(map(len, groups)) > MAX_NOTED or size > MAX_NOTED_BYTES:
            if self.links:
                raise TooLarge("a layer with hard links to lower layers has too many directories and links")
            return b""
        described = [
            [_text(name), a.mode, a.uid, a.gid, a.mtime, [[_text(key), _text(value)] for key, value in a.xattrs]]
            for name, a in self.described.items()
        ]
        names = [sorted(map(_text, names)) for names in (self.bare, self.hidden, self.opaque)]
        links = [{_text(name): _text(target) for name, target in self.links.items()}] if self.links else []
        return zlib.compress(json.dumps([described, *names, *links], separators=(",", ":")).encode(), _LEVEL)

    @classmethod
    def unpack(cls, data: bytes) -> Notes:
        """Read what ``pack`` wrote."""
        if not data:
            return cls()
        described, bare, hidden, opaque, *links = json.loads(zlib.decompress(data))
        return cls(
            {
                _bytes(name): Attributes(
                    mode, uid, gid, mtime, tuple((_bytes(key), _bytes(value)) for key, value in xattrs)
                )
                for name, mode, uid, gid, mtime, xattrs in described
            },
            set(map(_bytes, bare)),
            set(map(_bytes, hidden)),
            set(map(_bytes, opaque)),
            {_bytes(name): _bytes(target) for one in links for name, target in one.items()},
        )

    def of(self, names: Mapping[bytes, bytes]) -> Notes:
        """Return what concerns some names, which are shared."""
        bare, hidden, opaque = (
            {names[name] for name in found if name in names} for found in (self.bare, self.hidden, self.opaque)
        )
        described = {names[name]: attributes for name, attributes in self.described.items() if name in names}
        return Notes(described, bare, hidden, opaque, self.links)

    @property
    def cost(self) -> int:
        """The bytes of memory it takes, without the names."""
        notes = len(self.bare) + len(self.hidden) + len(self.opaque) + len(self.links)
        return notes * _NOTE_COST + len(self.described) * _ENTRY_COST + self._xattrs

    @property
    def _xattrs(self) -> int:
        return sum(len(key) + len(value) for one in self.described.values() for key, value in one.xattrs)


class Chain:
    """What the layers of one image say of the directories and links that matter.

    Args:
        packed: the layers' notes, bottom first.
        more: names that matter besides.

    ``hidden`` of its ``layers`` has everything that a layer hides, not only the topmost names of it.

    Raises:
        TooLarge: it would take too much memory.

    """

    def __init__(self, packed: Sequence[bytes], more: Iterable[bytes] = ()) -> None:
        self._held = 0
        names: dict[bytes, bytes] = {}
        self._add(names, more)
        for number, data in enumerate(packed):
            notes = Notes.unpack(data)
            self._add(names, chain(notes.bare if number else (), notes.links, notes.links.values()))
        self.names = sorted(names)  # with all directories above them, which come first
        self.layers: list[Notes] = []
        for data in packed:
            self.layers.append(Notes.unpack(data).of(names))
            self.hide(len(self.layers) - 1)

    def hide(self, number: int, files: Iterable[bytes] = ()) -> None:
        """Note what layer ``number`` has as something else than a directory: that hides all below it."""
        notes = self.layers[number]
        notes.hidden.update(files)
        for name in self.names:
            parent = name.rpartition(b"/")[0]
            if name and (parent in notes.hidden or parent in notes.opaque):
                notes.hidden.add(name)
        self._hold(notes.cost)

    def _add(self, names: dict[bytes, bytes], more: Iterable[bytes]) -> None:
        for name in more:
            for one in chain([name], above(name)):
                if one in names:
                    break
                self._hold(len(one) + _NAME_COST)
                names[one] = one

    def _hold(self, size: int) -> None:
        self._held += size
        if self._held > MAX_HELD:
            raise TooLarge(f"the directories of an image's layers take more than {MAX_HELD} bytes")


def inherited(layers: Sequence[Notes]) -> dict[bytes, Attributes]:
    """Return the directories that overlayfs would show otherwise than they should be.

    Args:
        layers: of a ``Chain``, bottom first.

    """
    found: dict[bytes, Attributes] = {}
    seen: set[bytes] = set()
    for number in range(len(layers) - 1, 0, -1):
        higher = layers[number + 1 :]
        for path in layers[number].bare - seen:
            seen.add(path)
            if not _is_top(path, higher):
                continue
            attributes = _lower(path, layers, number)
            if attributes is not None and not attributes.plain:
                found[path] = attributes
    return found


def directories_tar(directories: dict[bytes, Attributes]) -> Iterator[bytes]:
    """Write directories to a tar, without its end; those above them are in it, too, as somebody else wants them."""
    for path in sorted(directories):
        a = directories[path]
        name = (path or b".") + b"/"
        entry = Entry(name, DIRECTORY, mode=a.mode, uid=a.uid, gid=a.gid, mtime=a.mtime, xattrs=dict(a.xattrs))
        yield tarstream.pack(entry)


def with_parents(paths: Iterable[bytes]) -> set[bytes]:
    """Return paths and all directories above them."""
    found: set[bytes] = {b""}
    for path in paths:
        for name in chain([path], above(path)):
            if name in found:
                break
            found.add(name)
    return found


def above(path: bytes) -> Iterator[bytes]:
    """Yield the directories above a path, the nearest first, the root last; of the root none."""
    while path:
        path = path.rpartition(b"/")[0]
        yield path


def shown(path: bytes, layers: Sequence[Notes]) -> Attributes:
    """Return what a directory that is there should be like in the end."""
    return _lower(path, layers, len(layers)) or Attributes()


def _is_top(path: bytes, higher: Sequence[Notes]) -> bool:
    """Whether no layer above describes or hides a directory."""
    return not any(path in notes.described or path in notes.hidden for notes in higher)


def _lower(path: bytes, layers: Sequence[Notes], number: int) -> Attributes | None:
    """Return what the layers below ``number`` say of a directory; None when they do not have it."""
    if number < len(layers) and path in layers[number].hidden:
        return None
    for notes in reversed(layers[:number]):
        if path in notes.described:
            return notes.described[path]
        if path in notes.hidden:
            return None
    return None


def _text(data: bytes) -> str:
    return data.decode(_LATIN)


def _bytes(text: str) -> bytes:
    return text.encode(_LATIN)
