"""Hard links to files that only a lower layer has.

A layer is applied on top of the layers below it (OCI image-spec, layer.md), so such a link is whatever file lies there:
with other layers below, in another image, another file. ``hyperd.image.layer.whiteout`` leaves an empty file in its
place and notes what it points to; the layer that the image gets on top has the file, under all names that are still it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

from hyperd.image.layer.directories import Notes
from hyperd.image.layer.members import Limits
from hyperd.image.layer.tarstream import TarReader
from hyperd.image.layer.whiteout import Plan, Write, filter_planned, no_link_target, plan_layer

Open = Callable[[], TarReader]
Names = dict[bytes, set[bytes]]  # of links, by a file's name in its own layer


def sources(layers: Sequence[Notes], files: Sequence[AbstractSet[bytes]]) -> dict[int, Names]:
    """Find the files that links point to: by the number of the layer that has the file.

    Args:
        layers: of a ``Chain``, bottom first, which knows ``files``.
        files: which of the chain's names each layer has as something else than a directory.

    Raises:
        InvalidInput: a link points to nothing or to a directory.

    """
    found: dict[int, Names] = {}
    for number, notes in enumerate(layers):
        for name, target in notes.links.items():
            source = _source(target, number, layers, files)
            if source is None:
                raise no_link_target(name, target)
            if visible(name, number, layers):
                layer, file = source
                found.setdefault(layer, {}).setdefault(file, set()).add(name)
    return found


def _source(
    file: bytes, number: int, layers: Sequence[Notes], files: Sequence[AbstractSet[bytes]]
) -> tuple[int, bytes] | None:
    """Find the file of that name below layer ``number``: its layer, and its name there if it is such a link itself."""
    for below in range(number - 1, -1, -1):
        notes = layers[below]
        if file in files[below]:
            further = notes.links.get(file)
            return (below, file) if further is None else _source(further, below, layers, files)
        if file in notes.described or file in notes.bare or file in notes.hidden:
            return None
    return None


def visible(name: bytes, number: int, layers: Sequence[Notes]) -> bool:
    """Whether nothing above layer ``number`` hides or replaces a file of it."""
    higher = layers[number + 1 :]
    return not any(name in notes.described or name in notes.bare or name in notes.hidden for notes in higher)


def members(read: Open, wanted: Names, *, max_bytes: int) -> dict[int, tuple[set[bytes], set[bytes]]]:
    """Find files in the layer that has them: for each member its own names there and the names of links to it.

    Args:
        read: opens the layer's tar.
        wanted: the names of links, by the file's name.
        max_bytes: bound of the layer's files.

    Raises:
        InvalidInput, TooLarge: a file is not there; the layer has too many for a plan.

    """
    left, found = dict(wanted), {}
    for index, own in plan_layer(read(), Limits(max_bytes)).names.items():
        if here := [left.pop(name) for name in own if name in left]:
            found[index] = (set(own), set[bytes]().union(*here))
    for file, names in left.items():
        raise no_link_target(min(names), file)
    return found


def copy(read: Open, names: dict[int, list[bytes]], write: Write, *, max_bytes: int) -> None:
    """Write members of a layer to a tar, each under all its names. Args and errors: as ``members``."""
    filter_planned(read(), Plan(names=names), write, Limits(max_bytes))
