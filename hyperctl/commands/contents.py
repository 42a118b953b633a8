"""`cp`, `diff`, `export` and `top`: looking into containers."""

from __future__ import annotations

import os
import stat
import sys

from hyperctl import output, session, tars, uploads
from hyperctl.api.errors import HyperctlError, NotFound, UsageProblem
from hyperctl.api.streams import STDOUT, write_all
from hyperctl.command import App, Argument, Option, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperctl.api.client import Client


@command(
    "cp",
    Argument("source", "CONTAINER:PATH|PATH|-", complete="file"),
    Argument("target", "CONTAINER:PATH|PATH|-", complete="file"),
    Option("-a", "--archive", flag=True, text="Keep users and groups, by number."),
    Option("-L", "--follow-link", flag=True, text="Copy what the source leads to, when it is a link."),
    Option("-q", "--quiet", flag=True, text="Say nothing."),
    examples=(
        "hyperctl cp web1:/etc/hosts .",
        "hyperctl cp page.html web1:/srv/",
        "hyperctl cp web1:/var/log - | tar -t",
        "tar -c site | hyperctl cp - web1:/srv",
    ),
)
def cp_command(app: App, *, source: str, target: str, archive: bool, follow_link: bool, quiet: bool) -> None:
    """Copy files between a container and this machine; - is a tar.

    A directory goes into a target that is a directory; with /. at its end, only what is in it.
    """
    from_container, to_container = _split(source), _split(target)
    if bool(from_container) == bool(to_container):
        raise UsageProblem("one of the two must be CONTAINER:PATH, the other one a path of this machine")
    if from_container:
        _download(app.client, *from_container, target, archive=archive, follow=follow_link)
    elif to_container:
        _upload(app.client, source, *to_container, archive=archive, follow=follow_link)
    if not quiet and "-" not in {source, target}:
        output.complain(f"copied {source} to {target}")


def _split(text: str) -> tuple[str, str] | None:
    """Return container and path; None for a path of this machine, which a slash or a dot before the colon tells."""
    container, colon, path = text.partition(":")
    if not colon or not container or "/" in container or container.startswith("."):
        return None
    return container, path if path.startswith("/") else f"/{path}"


def _real(client: Client, name: str, path: str) -> tuple[str, dict[str, object] | None]:
    """Return the container's name, or its pod's first container's, and what is at the path; None for nothing."""
    try:
        return name, client.stat_path(name, path)
    except NotFound as error:
        try:
            client.container_info(name)
        except NotFound:
            name = session.first_container(client, name, error)
        else:
            return name, None
    try:
        return name, client.stat_path(name, path)
    except NotFound:
        return name, None


def _kind(found: dict[str, object] | None) -> int:
    mode = found.get("mode") if found else 0
    return stat.S_IFMT(mode) if isinstance(mode, int) else 0


def _followed(client: Client, name: str, path: str, found: dict[str, object] | None) -> tuple[str, int]:
    """Return path and kind of a file of a container, where a link leads to."""
    kind = _kind(found)
    if found and kind == stat.S_IFLNK and found.get("target"):
        path = str(found["target"])
        kind = _kind(_real(client, name, path)[1])
    return path, kind


def _download(client: Client, container: str, path: str, target: str, *, archive: bool, follow: bool) -> None:
    name, found = _real(client, container, path)
    if found is None:
        raise HyperctlError(f"there is no {path} in {container}")
    inner, kind = _followed(client, name, path, found) if follow or path.endswith("/") else (path, _kind(found))
    contents = path.endswith("/.")
    if target == "-":
        for piece in client.get_archive(name, inner).pieces():
            write_all(STDOUT, piece)
        return
    base: str | None = os.path.basename(os.path.normpath(path)) or "root"
    if os.path.isdir(target):
        place = target
        if contents and kind == stat.S_IFDIR:
            base = None
    else:
        if target.endswith("/") and kind != stat.S_IFDIR:
            raise UsageProblem(f"{target} is not a directory of this machine")
        if kind == stat.S_IFDIR and os.path.lexists(target):
            raise UsageProblem(f"{target} is a file, {path} is a directory")
        place, base = os.path.split(os.path.abspath(target))
    if not os.path.isdir(place):
        raise UsageProblem(f"there is no directory {place} on this machine")
    pieces = client.get_archive(name, inner).pieces()
    rooted = not _is_bare(inner)
    if not rooted and base is not None:
        _make_directory(os.path.join(place, base))
    for one in tars.unpack(pieces, tars.Paths(place, name=base, rooted=rooted), owner=archive):
        output.complain(f"hyperctl WARNING: {one} was left away: it is a device, a socket or a link to elsewhere")


def _is_bare(path: str) -> bool:
    """Say whether the daemon packs a path without its last part: `DIR/.`, and the root, which has no name."""
    return path.endswith("/.") or os.path.normpath(path).strip("/") == ""


def _make_directory(path: str) -> None:
    """Make the directory that a bare tar goes to, which says nothing of it when it is a plain one."""
    try:
        if not os.path.isdir(path):
            os.mkdir(path)
    except OSError as error:
        raise UsageProblem(f"cannot make the directory {path}: {error.strerror}") from error


def _upload(client: Client, source: str, container: str, path: str, *, archive: bool, follow: bool) -> None:
    name, found = _real(client, container, path)
    target, kind = _followed(client, name, path, found)
    if source == "-":
        if kind != stat.S_IFDIR:
            raise HyperctlError(f"{path} is not a directory of {container}: a tar goes into one")
        client.put_archive(name, target, uploads.pieces(sys.stdin.buffer))
        return
    local = os.path.realpath(source) if follow or source.endswith("/") else os.path.abspath(source)
    if not os.path.lexists(local):
        raise UsageProblem(f"there is no {source} on this machine")
    directory = os.path.isdir(local) and not os.path.islink(local)
    base = os.path.basename(os.path.abspath(source))
    if kind == stat.S_IFDIR:
        place = target
        if directory and (source.endswith("/.") or source == "."):
            base = ""
    elif kind and directory:
        raise HyperctlError(f"{path} is a file of {container}, {source} is a directory")
    elif path.endswith("/") and not directory:
        raise HyperctlError(f"{path} is not a directory of {container}")
    else:
        place, base = os.path.split(target.rstrip("/"))
        if _kind(_real(client, name, place or "/")[1]) not in {stat.S_IFDIR, stat.S_IFLNK}:
            raise HyperctlError(f"there is no directory {place} in {container}")
    client.put_archive(name, place or "/", _packed(local, base, owner=archive))


def _packed(path: str, name: str, *, owner: bool) -> Iterator[bytes]:
    """Yield a file, or a directory with what is in it, as a tar; without a name only what is in it."""
    try:
        if name:
            yield from tars.member(path, name, owner=owner)
        if os.path.isdir(path) and not os.path.islink(path):
            for inside in tars.walk(path):
                full = f"{name}/{inside}" if name else inside
                yield from tars.member(os.path.join(path, inside), full, owner=owner)
    except OSError as error:
        raise UsageProblem(f"cannot read {error.filename or path}: {error.strerror}") from error
    yield tars.end()


@command("diff", Argument("container", "CONTAINER|POD", complete="container"), examples=("hyperctl diff web1",))
def diff_command(app: App, *, container: str) -> None:
    """List what a container has changed of its image: A is added, C changed, D deleted."""
    letters = {"added": "A", "modified": "C", "deleted": "D"}
    for change in session.of_first(app.client, container, app.client.changes):
        kind = str(change.get("kind"))
        output.say(f"{letters.get(kind, kind)} {output.clean(str(change.get('path')))}")


@command(
    "export",
    Argument("container", "CONTAINER|POD", complete="container"),
    Option("-o", "--output", field="target", metavar="FILE", complete="file", text="Write to a file, not to stdout."),
    examples=("hyperctl export -o web1.tar web1", "hyperctl export web1 | hyperctl import - team/web:3"),
)
def export_command(app: App, *, container: str, target: str) -> None:
    """Write a container's file system as a tar, without what is mounted in it."""
    if not target and os.isatty(STDOUT):
        raise UsageProblem("a tar is not for a terminal: use -o FILE or redirect it")
    answer = session.of_first(app.client, container, app.client.export)
    if target:
        uploads.save(answer.pieces(), target)
        return
    for piece in answer.pieces():
        write_all(STDOUT, piece)


@command(
    "top",
    Argument("container", "CONTAINER|POD", complete="container"),
    Argument("words", "[PS OPTIONS]", default="", many=True),
    examples=("hyperctl top web1", "hyperctl top web1 aux", "hyperctl top web1 -o pid,comm"),
    own_options_first=True,
)
def top_command(app: App, *, container: str, words: tuple[str, ...]) -> None:
    """List the processes of a container, as ps does."""
    found = session.of_first(app.client, container, lambda name: app.client.top(name, " ".join(words)))
    rows = [found.get("titles") or [], *(found.get("processes") or [])]
    output.write(output.table([[str(cell) for cell in row] for row in rows]))
