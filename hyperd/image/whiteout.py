"""From the tar of an OCI layer to the tar of an overlayfs layer.

What is done (OCI image-spec, layer.md; Linux Documentation/filesystems/overlayfs.rst):

- ``.wh.X`` becomes a character device 0:0 named X; when the layer also has a directory X it becomes opaque instead,
  and when it also has a file X there is nothing to hide;
- a whiteout in an opaque directory hides nothing and is dropped;
- ``.wh..wh..opq`` becomes ``trusted.overlay.opaque=y`` on its directory; other ``.wh..wh.*`` names are aufs' own and
  dropped;
- names are normalised, directories come last and once (an opaque mark may be met after its directory);
- what no container may bring is dropped: ``trusted.overlay.*`` attributes (they steer overlayfs), attributes that
  squashfs cannot hold.

A layer where a name occurs twice, or where something lies below a symbolic link, is rare and cannot be done in one
pass: ``filter_layer`` raises ``Untidy``, then ``plan_layer`` plays the whole layer through in memory as Docker would
apply it (the last one wins) and ``filter_planned`` writes what is left in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput, TooLarge
from hyperd.image import tarstream
from hyperd.image.directories import Notes, above
from hyperd.image.tarstream import CHAR, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader

MAX_COMPONENT = 255  # NAME_MAX, Linux
MAX_IDS = 60_000  # squashfs has a table of 65,536 user and group ids
MAX_HOPS = 40  # symbolic links in one path, as Linux
MAX_XATTRS = 128  # of one file
MAX_RECORDS = 2**16  # bytes of all of them; tar2sqfs takes no larger header
_RECORD = 24  # bytes of a record beyond name and value
MAX_HELD = 256 * 2**20  # bytes of memory for the names and attributes of a layer
# Of that beyond its own bytes, measured: a name as a number, a directory with and without an entry, a planned member.
_NAME_COST, _ENTRY_COST, _BARE_COST, _NODE_COST = 100, 450, 250, 450
_OPAQUE = b".wh..wh..opq"
_PREFIX = b".wh."
_META = b".wh..wh."
_OPAQUE_XATTR = b"trusted.overlay.opaque"
_KEPT_XATTRS = (b"user.", b"trusted.", b"security.")  # what squashfs can hold
_STEERING = (b"trusted.overlay.", b"user.overlay.")
_ZEROS = memoryview(bytes(64 * 1024))

Write = Callable[[bytes | memoryview], object]


class Untidy(Exception):
    """The layer cannot be done in one pass."""


@dataclass
class Limits:
    """Bounds of one layer, and what was counted so far.

    Args:
        max_bytes: sum of the files' sizes, holes included.

    """

    max_bytes: int
    total: int = 0
    held: int = 0
    ids: set[int] = field(default_factory=set)

    def count(self, entry: Entry) -> None:
        """Add an entry.

        Raises:
            TooLarge: a bound is passed.

        """
        self.total += entry.real_size
        if self.total > self.max_bytes:
            raise TooLarge(f"the files of a layer have more than {self.max_bytes} bytes")
        self.ids.add(entry.uid)
        self.ids.add(entry.gid)
        if len(self.ids) > MAX_IDS:
            raise TooLarge(f"a layer has more than {MAX_IDS} users and groups")
        for key, value in entry.xattrs.items():
            self.hold(len(key) + len(value) + _NAME_COST)

    def hold(self, size: int) -> None:
        """Count memory that stays taken until the layer is done.

        Raises:
            TooLarge: the bound is passed.

        """
        self.held += size
        if self.held > MAX_HELD:
            raise TooLarge(f"the names and attributes of a layer take more than {MAX_HELD} bytes")


def normalise(name: bytes) -> bytes:
    """Give a member's path from the root, without a slash at either end; empty for the root itself.

    Raises:
        InvalidInput: it leaves the root by ``..`` or is too long for Linux.

    """
    if len(name) > tarstream.MAX_PATH:
        raise InvalidInput("a path in a layer is too long", details=f"{len(name)} bytes")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part in (b"", b"."):
            continue
        if part == b"..":
            if not parts:
                raise InvalidInput("a path in a layer leaves the root", details=repr(name[:200]))
            parts.pop()
        elif len(part) > MAX_COMPONENT:
            raise InvalidInput("a file name in a layer is too long", details=f"{len(part)} bytes")
        else:
            parts.append(part)
    return b"/".join(parts)


def filter_layer(reader: TarReader, write: Write, limits: Limits) -> Notes:
    """Convert a layer in one pass; give what it says of directories.

    Raises:
        Untidy: it has to be planned.
        InvalidInput, TooLarge: it is hostile or damaged.

    """
    return _OnePass(write, limits).run(_checked(reader, limits), reader)


class _OnePass:
    def __init__(self, write: Write, limits: Limits) -> None:
        self._write = write
        self._limits = limits
        self._dirs: dict[bytes, Entry | None] = {b"": None}
        # Hashes take a third of the names' memory. Two names with one hash only make a plan necessary.
        self._files: set[int] = set()
        self._whiteouts: set[bytes] = set()
        self._opaque: set[bytes] = set()

    def run(self, entries: Iterable[Entry], reader: TarReader) -> Notes:
        for entry in entries:
            parent, mark = _whiteout_of(entry)
            self._ensure(parent)
            if mark is not None:
                self._limits.hold(_NAME_COST + len(mark))
                (self._opaque.add if mark == parent else self._whiteouts.add)(mark)
            elif entry.kind == DIRECTORY:
                self._add_directory(entry)
            else:
                self._add_file(entry, reader)
        return self._finish()

    def _ensure(self, path: bytes) -> None:
        while path not in self._dirs:
            if hash(path) in self._files:
                raise Untidy
            self._limits.hold(_BARE_COST + len(path))
            self._dirs[path] = None
            path = path.rpartition(b"/")[0]

    def _add_directory(self, entry: Entry) -> None:
        if hash(entry.name) in self._files:
            raise Untidy
        self._limits.hold(_ENTRY_COST + len(entry.name))
        if (old := self._dirs.get(entry.name)) is not None:
            entry.xattrs = {**old.xattrs, **entry.xattrs}
        self._dirs[entry.name] = entry

    def _add_file(self, entry: Entry, reader: TarReader) -> None:
        number = hash(entry.name)
        if number in self._files or entry.name in self._dirs:
            raise Untidy
        if entry.kind == HARDLINK and hash(entry.link) not in self._files:
            raise Untidy
        self._limits.hold(_NAME_COST)
        self._files.add(number)
        _emit(entry, reader, self._write)

    def _finish(self) -> Notes:
        notes = Notes(hidden={name for name in self._whiteouts if hash(name) not in self._files})
        self._opaque.update(notes.hidden & self._dirs.keys())
        for name in notes.hidden - self._dirs.keys():
            if not _is_covered(name, self._opaque):
                self._write(tarstream.pack(Entry(name, CHAR, mode=0)))
        for name, entry in self._dirs.items():
            if entry is not None:
                notes.describe(entry, name)
            else:
                notes.bare.add(name)
            if entry is not None or name in self._opaque:
                _emit_directory(entry or Entry(name, DIRECTORY, mode=0o755), self._write, opaque=name in self._opaque)
        notes.opaque = self._opaque
        return notes


def _checked(reader: TarReader, limits: Limits) -> Iterator[Entry]:
    """Normalise and check every member."""
    for entry in reader:
        if entry.kind not in (FILE, DIRECTORY):
            _check_special(entry)
        else:
            entry.link = b""
        entry.name = normalise(entry.name)
        if _META in entry.name and _is_aufs(entry.name):
            continue
        if not entry.name and entry.kind != DIRECTORY:
            raise InvalidInput("a layer's root is not a directory")
        entry.mtime = min(max(entry.mtime, 0), 2**32 - 1)  # squashfs has unsigned 32 bits
        if entry.uid >= 2**32 - 1 or entry.gid >= 2**32 - 1:
            raise InvalidInput("a user or group id in a layer is too large", details=repr(entry.name[:200]))
        if entry.xattrs:
            _check_xattrs(entry)
        limits.count(entry)
        yield entry


def _check_special(entry: Entry) -> None:
    if entry.kind == HARDLINK:
        entry.link = normalise(entry.link)
        entry.xattrs = {}
    elif entry.kind == SYMLINK:
        if not 0 < len(entry.link) < tarstream.MAX_PATH:
            raise InvalidInput("a symbolic link in a layer has a bad target", details=repr(entry.name[:200]))
    elif entry.major >= 1 << 12 or entry.minor >= 1 << 20:
        raise InvalidInput("a device in a layer has a bad number", details=repr(entry.name[:200]))
    if entry.kind == CHAR and entry.major == entry.minor == 0 and not _is_whiteout(entry.name):
        # overlayfs would take it for a whiteout; let it be one, cleanly.
        head, slash, base = entry.name.rstrip(b"/").rpartition(b"/")
        entry.name = head + slash + _PREFIX + base
    if entry.kind not in (HARDLINK, SYMLINK):
        entry.link = b""


def _is_aufs(name: bytes) -> bool:
    return any(part.startswith(_META) and part != _OPAQUE for part in name.split(b"/"))


def _is_whiteout(name: bytes) -> bool:
    return name.rpartition(b"/")[2].startswith(_PREFIX)


def _check_xattrs(entry: Entry) -> None:
    if len(entry.xattrs) > MAX_XATTRS or sum(len(k) + len(v) + _RECORD for k, v in entry.xattrs.items()) > MAX_RECORDS:
        raise TooLarge("a file in a layer has too many or too large attributes", details=repr(entry.name[:200]))
    for key in list(entry.xattrs):
        if not key.startswith(_KEPT_XATTRS) or key.startswith(_STEERING):
            del entry.xattrs[key]
        elif b"\0" in key or b"=" in key or len(key) > MAX_COMPONENT or key in _KEPT_XATTRS:
            raise InvalidInput("a file in a layer has a bad attribute", details=repr(entry.name[:200]))


def _whiteout_of(entry: Entry) -> tuple[bytes, bytes | None]:
    """Give the parent and what is marked: None for a plain member, the parent for opaque, else the hidden name."""
    parent, slash, base = entry.name.rpartition(b"/")
    if not base.startswith(_PREFIX):
        return parent, None
    if base == _OPAQUE:
        return parent, parent
    hidden = base[len(_PREFIX) :]
    if hidden in (b"", b".", b".."):
        raise InvalidInput("a layer has a bad whiteout", details=repr(entry.name[:200]))
    return parent, parent + slash + hidden


def _emit(entry: Entry, reader: TarReader, write: Write) -> None:
    size = entry.real_size
    write(tarstream.pack(entry, size=size))
    if not size:
        return
    if entry.holes is None:
        for piece in reader.data():
            write(piece)
    else:
        _emit_sparse(entry, entry.holes, reader, write)
    if padding := -size % tarstream.BLOCK:
        write(_ZEROS[:padding])


def _emit_sparse(entry: Entry, holes: list[tuple[int, int]], reader: TarReader, write: Write) -> None:
    position, pieces = 0, reader.data()
    rest = memoryview(b"")
    for offset, length in holes:
        _emit_zeros(offset - position, write)
        left = length
        while left:
            if not rest:
                rest = next(pieces)
            write(rest[:left])
            taken = min(left, len(rest))
            left, rest = left - taken, rest[taken:]
        position = offset + length
    _emit_zeros(entry.real_size - position, write)


def _emit_zeros(count: int, write: Write) -> None:
    while count:
        write(_ZEROS[:count])
        count -= min(count, len(_ZEROS))


def _emit_directory(entry: Entry, write: Write, *, opaque: bool) -> None:
    if opaque:
        entry.xattrs = {**entry.xattrs, _OPAQUE_XATTR: b"y"}
    entry.name = (entry.name or b".") + b"/"
    entry.link = b""
    write(tarstream.pack(entry))


@dataclass(slots=True)
class _Node:
    """A file (or link, device) or a directory of the planned layer."""

    index: int  # of the member that made it, -1 for a directory that no member names
    link: bytes | None = None  # of a symbolic link
    children: dict[bytes, _Node] | None = None  # of a directory
    hidden: set[bytes] | None = None
    opaque: bool = False


@dataclass
class Plan:
    """What a planned layer is in the end.

    Args:
        names: for each member that is still there, its names (several for hard links).
        opaque: directories with an opaque mark.
        bare: those of them that no member names.
        whiteouts: names that are hidden.
        notes: what the layer says of directories, but for their attributes.

    """

    names: dict[int, list[bytes]] = field(default_factory=dict)
    opaque: set[bytes] = field(default_factory=set)
    bare: list[bytes] = field(default_factory=list)
    whiteouts: list[bytes] = field(default_factory=list)
    notes: Notes = field(default_factory=Notes)


def plan_layer(reader: TarReader, limits: Limits) -> Plan:
    """Play a layer through as Docker applies it, in memory (about 300 bytes a member).

    Raises:
        InvalidInput, TooLarge: it is hostile or damaged; a hard link to nothing.

    """
    root = _Node(-1, children={})
    for index, entry in enumerate(_checked(reader, limits)):
        parent_name, mark = _whiteout_of(entry)
        limits.hold(_NODE_COST + 2 * len(entry.name) + len(entry.link))
        parent = _descend(root, parent_name, limits)
        base = entry.name.rpartition(b"/")[2]
        if mark is not None and mark == parent_name:
            parent.opaque = True
        elif mark is not None:
            if parent.hidden is None:
                parent.hidden = set()
            parent.hidden.add(base[len(_PREFIX) :])
        elif not entry.name:
            root.index = index
        else:
            _place(root, parent, base, index, entry)
    plan = Plan()
    _collect(root, plan)
    return plan


def _place(root: _Node, parent: _Node, base: bytes, index: int, entry: Entry) -> None:
    children = parent.children
    if children is None:  # _descend gives directories only
        raise InvalidInput("a member of a layer lies in a file", details=repr(entry.name[:200]))
    old = children.get(base)
    if entry.kind == DIRECTORY:
        if old is not None and old.children is not None:
            old.index = index
        else:
            children[base] = _Node(index, children={})
    elif entry.kind == HARDLINK:
        children[base] = _link_target(root, entry)
    else:
        children[base] = _Node(index, link=entry.link if entry.kind == SYMLINK else None)


def _link_target(root: _Node, entry: Entry) -> _Node:
    directory, _, base = entry.link.rpartition(b"/")
    try:
        target = (_descend(root, directory).children or {}).get(base)
    except InvalidInput:
        target = None
    if target is None or target.children is not None:
        raise InvalidInput(
            "a hard link in a layer points to nothing or to a directory",
            details=f"{entry.name[:200]!r} to {entry.link[:200]!r}",
        )
    return target


def _descend(root: _Node, path: bytes, limits: Limits | None = None) -> _Node:
    """Find a directory as a chrooted process would: symbolic links are followed inside the layer.

    With ``limits`` missing directories are made.
    """
    todo = [part for part in reversed(path.split(b"/")) if part]
    trail, hops, own = [root], 0, len(todo)
    while todo:
        part = todo.pop()
        mine, own = len(todo) < own, min(own, len(todo))  # of the path itself, not of a link's target
        if part == b".":
            continue
        if part == b"..":
            del trail[1 if len(trail) == 1 else -1 :]
            continue
        children = trail[-1].children
        node = None if children is None else children.get(part)
        if node is None and limits is not None and mine and children is not None:
            limits.hold(_NODE_COST + len(path))
            node = children[part] = _Node(-1, children={})
        if node is not None and node.link is not None and hops < MAX_HOPS:
            hops += 1
            if node.link.startswith(b"/"):
                del trail[1:]
            todo += [piece for piece in reversed(node.link.split(b"/")) if piece]
        elif node is None or node.children is None:
            raise InvalidInput(
                "a member of a layer lies below something that is no directory", details=repr(path[:200])
            )
        else:
            trail.append(node)
    return trail[-1]


def _is_covered(name: bytes, opaque: Container[bytes]) -> bool:
    """Whether a name lies in an opaque directory: a whiteout there hides nothing, and overlayfs would list it."""
    return any(directory in opaque for directory in above(name))


def _collect(root: _Node, plan: Plan) -> None:
    todo = [(b"", root)]
    while todo:
        name, node = todo.pop()
        if node.index >= 0:
            plan.names.setdefault(node.index, []).append(name)
        if node.children is None:
            continue
        if node.index < 0:
            plan.notes.bare.add(name)
        prefix = name + b"/" if name else b""
        for hidden in node.hidden or ():
            child = node.children.get(hidden)
            if child is None or child.children is not None:
                plan.notes.hidden.add(prefix + hidden)
            if child is None:
                plan.whiteouts.append(prefix + hidden)
            elif child.children is not None:
                child.opaque = True
        if node.opaque:
            plan.opaque.add(name)
            if node.index < 0:
                plan.bare.append(name)
        todo += [(prefix + base, child) for base, child in node.children.items()]
    plan.whiteouts = [name for name in plan.whiteouts if not _is_covered(name, plan.opaque)]


def filter_planned(reader: TarReader, plan: Plan, write: Write, limits: Limits) -> Notes:
    """Convert a planned layer; the archive must be the one that was planned. Gives what it says of directories.

    Raises:
        InvalidInput, TooLarge: it is hostile or damaged.

    """
    links: list[Entry] = []
    for index, entry in enumerate(_checked(reader, limits)):
        names = plan.names.get(index)
        if not names:
            continue
        entry.name = names[0]
        if entry.kind == DIRECTORY:
            plan.notes.describe(entry, names[0])
            _emit_directory(entry, write, opaque=names[0] in plan.opaque)
        else:
            _emit(entry, reader, write)
            links += [Entry(name, HARDLINK, link=names[0]) for name in names[1:]]
    for entry in links:
        write(tarstream.pack(entry))
    for name in plan.whiteouts:
        write(tarstream.pack(Entry(name, CHAR, mode=0)))
    for name in plan.bare:
        _emit_directory(Entry(name, DIRECTORY, mode=0o755), write, opaque=True)
    plan.notes.opaque = plan.opaque
    return plan.notes
