"""From the tar of an OCI layer to the tar of an overlayfs layer.

What is done (OCI image-spec, layer.md; Linux Documentation/filesystems/overlayfs.rst):

- ``.wh.X`` becomes a character device 0:0 named X; when the layer also has a directory X it becomes opaque instead,
  and when it also has a file X there is nothing to hide;
- a whiteout in an opaque directory hides nothing and is dropped;
- ``.wh..wh..opq`` becomes ``trusted.overlay.opaque=y`` on its directory; other ``.wh..wh.*`` names are aufs' own and
  dropped;
- directories come last and once (an opaque mark may be met after its directory).

A layer where a name occurs twice, or where something lies below a symbolic link, is rare and cannot be done in one
pass: ``filter_layer`` raises ``Untidy``, then ``plan_layer`` plays the whole layer through in memory as Docker would
apply it (the last one wins) and ``filter_planned`` writes what is left in the end. A hard link to a file that only a
lower layer can have becomes an empty file and a note (``hyperd.image.layer.hardlinks``).
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field

from hyperd.errors import InvalidInput
from hyperd.image.layer import tarstream
from hyperd.image.layer.directories import Notes, above
from hyperd.image.layer.members import NAME_COST, OPAQUE, PREFIX, Limits, checked
from hyperd.image.layer.tarstream import CHAR, DIRECTORY, FILE, HARDLINK, SYMLINK, Entry, TarReader

MAX_HOPS = 40  # symbolic links in one path, as Linux
# Of memory beyond its own bytes, measured: a directory with and without an entry, a planned member.
_ENTRY_COST, _BARE_COST, _NODE_COST = 450, 250, 450
_OPAQUE_XATTR = b"trusted.overlay.opaque"
_ZEROS = memoryview(bytes(64 * 1024))

Write = Callable[[bytes | memoryview], object]


class Untidy(Exception):
    """The layer cannot be done in one pass."""


def filter_layer(reader: TarReader, write: Write, limits: Limits) -> Notes:
    """Convert a layer in one pass; give what it says of directories.

    Raises:
        Untidy: it has to be planned.
        InvalidInput, TooLarge: it is hostile or damaged.

    """
    return _OnePass(write, limits).run(checked(reader, limits), reader)


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
                self._limits.hold(NAME_COST + len(mark))
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
        self._limits.hold(NAME_COST)
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


def _whiteout_of(entry: Entry) -> tuple[bytes, bytes | None]:
    """Return the parent and what is marked: None for a plain member, the parent for opaque, else the hidden name."""
    parent, slash, base = entry.name.rpartition(b"/")
    if not base.startswith(PREFIX):
        return parent, None
    if base == OPAQUE:
        return parent, parent
    hidden = base[len(PREFIX) :]
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
    below: bytes | None = None  # of a hard link to a file of a lower layer: that file's name
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
    for index, entry in enumerate(checked(reader, limits)):
        parent_name, mark = _whiteout_of(entry)
        limits.hold(_NODE_COST + 2 * len(entry.name) + len(entry.link))
        parent = _descend(root, parent_name, limits)
        base = entry.name.rpartition(b"/")[2]
        if mark is not None and mark == parent_name:
            parent.opaque = True
        elif mark is not None:
            if parent.hidden is None:
                parent.hidden = set()
            parent.hidden.add(base[len(PREFIX) :])
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
        children[base] = _link_target(root, entry, index)
    else:
        children[base] = _Node(index, link=entry.link if entry.kind == SYMLINK else None)


def _link_target(root: _Node, entry: Entry, index: int) -> _Node:
    directory, _, base = entry.link.rpartition(b"/")
    try:
        target = (_descend(root, directory).children or {}).get(base)
    except InvalidInput:
        target = None
    if target is None and entry.link != entry.name and _may_be_below(root, entry.link):
        return _Node(index, below=entry.link)
    if target is None or target.children is not None:
        raise no_link_target(entry.name, entry.link)
    return target


def no_link_target(name: bytes, target: bytes) -> InvalidInput:
    """Make the error for a hard link that cannot be."""
    return InvalidInput(
        "a hard link in a layer points to nothing or to a directory", details=f"{name[:200]!r} to {target[:200]!r}"
    )


def _may_be_below(root: _Node, path: bytes) -> bool:
    """Whether a file that this layer does not have can be one of a lower layer: nothing here hides or replaces it."""
    node: _Node | None = root
    for part in path.split(b"/"):
        if node is None:
            break
        if node.children is None or node.opaque or part in (node.hidden or ()):
            return False
        node = node.children.get(part)
    return True


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
        if node.below is not None:
            plan.notes.links[name] = node.below
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
    for index, entry in enumerate(checked(reader, limits)):
        names = plan.names.get(index)
        if not names:
            continue
        entry.name = names[0]
        if entry.kind == DIRECTORY:
            plan.notes.describe(entry, names[0])
            _emit_directory(entry, write, opaque=names[0] in plan.opaque)
        elif entry.kind == HARDLINK:  # to a file of a lower layer: hyperd.image.layer.hardlinks
            write(tarstream.pack(Entry(names[0], FILE, mode=0)))
            links += [Entry(name, HARDLINK, link=names[0]) for name in names[1:]]
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
