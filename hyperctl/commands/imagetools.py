"""`tag`, `history`, `search`, `import` and `image`."""

from __future__ import annotations

import sys

from hyperctl import credentials, images, output, progress, uploads
from hyperctl.api.client import compact
from hyperctl.api.client import progress as progress_lines
from hyperctl.api.errors import ProtocolError
from hyperctl.command import App, Argument, Group, Option, command
from hyperctl.listing import FORMAT, NO_TRUNC, UNASKED, Column, identity, refuse_both, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO


@command(
    "tag",
    Argument("image", "IMAGE", complete="image"),
    Argument("target", "NAME[:TAG]", complete="image"),
    examples=("hyperctl tag busybox registry.example.com:5000/team/busybox:1",),
)
def tag_command(app: App, *, image: str, target: str) -> None:
    """Give an image a further name; another image that had the name loses it."""
    name, tag = images.split_tag(target)
    app.client.call("POST", "/image/tag", {"imageId": image, "repo": name, "tag": tag}).read()


@command(
    "history",
    Argument("image", "IMAGE", complete="image"),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    NO_TRUNC,
    FORMAT,
    examples=("hyperctl history busybox", "hyperctl history --format '{{.Size}} {{.CreatedBy}}' busybox"),
)
def history_command(app: App, *, image: str, quiet: bool, no_trunc: bool, form: str) -> None:
    """Show how an image was made, the newest step first."""
    refuse_both(quiet, form)
    found = _rows(app.client.value("GET", "/image/history", {"imageId": image}))
    keys = ("Created", "CreatedBy", "Size", "Comment")
    rows = [{"ID": _id(row), **{key: row.get(key, "") for key in keys}} for row in found]
    shown = identity(no_trunc=no_trunc)
    if quiet:
        for row in rows:
            output.say(shown(row["ID"]))
        return
    columns = (
        Column("IMAGE", "ID", shown),
        Column("CREATED", "Created", output.moment),
        Column("CREATED BY", "CreatedBy"),
        Column("SIZE", "Size", _human),
        Column("COMMENT", "Comment"),
    )
    show(columns, rows, form)


@command(
    "search",
    Argument("term", "TERM"),
    Option("--limit", metavar="N", default=25, text="Most results."),
    FORMAT,
    examples=("hyperctl search busybox", "hyperctl search registry.example.com:5000/team"),
)
def search_command(app: App, *, term: str, limit: int, form: str) -> None:
    """Find images in a registry."""
    auth = credentials.header(credentials.find(credentials.registry_of(term)))
    headers = {"X-Registry-Auth": auth} if auth else {}
    found = _rows(app.client.value("GET", "/images/search", {"term": term, "limit": str(limit)}, headers=headers))
    rows = [
        {
            "Name": row.get("name", ""),
            "Description": row.get("description", ""),
            "Stars": row.get("star_count", 0),
            "Official": bool(row.get("is_official")),
        }
        for row in found
    ]
    columns = (
        Column("NAME", "Name"),
        Column("DESCRIPTION", "Description"),
        Column("STARS", "Stars"),
        Column("OFFICIAL", "Official", lambda official: "yes" if official else ""),
    )
    show(columns, rows, form)


@command(
    "import",
    Argument("source", "FILE|URL|-", complete="file"),
    Argument("repository", "[REPOSITORY[:TAG]]", default=""),
    Option("-c", "--change", many=True, metavar="INSTRUCTION", text="Dockerfile instruction (repeat)."),
    Option("-m", "--message", metavar="TEXT", text="Comment of the image."),
    examples=(
        "hyperctl import rootfs.tar.xz team/base:1",
        "tar -C rootfs -c . | hyperctl import -c 'CMD /bin/sh' - team/base",
    ),
)
def import_command(app: App, *, source: str, repository: str, change: tuple[str, ...], message: str) -> None:
    """Make an image of a tar of a root file system."""
    name, tag = images.split_tag(repository)
    remote = source.startswith(("http://", "https://"))
    parameters = {
        "fromSrc": source if remote else "-",
        "repo": name,
        "tag": tag,
        "message": message,
        "changes": compact(list(change)),
    }
    if remote:
        progress.show(progress_lines(app.client.call("POST", "/image/create", parameters)), sys.stdout)
        return
    if source == "-":
        _send(app, parameters, sys.stdin.buffer)
        return
    with uploads.opened(source) as file:
        _send(app, parameters, file)


def _send(app: App, parameters: dict[str, str], file: BinaryIO) -> None:
    headers = {"Content-Type": "application/x-tar"}
    answer = app.client.call("POST", "/image/create", parameters, body=uploads.pieces(file), headers=headers)
    progress.show(progress_lines(answer), sys.stdout)


@command(
    "prune",
    Option("-a", "--all", field="everything", flag=True, text="All that no container uses, not only nameless ones."),
    Option("--label", field="labels", many=True, metavar="KEY[=VALUE]", text="Only images with a label (repeat)."),
    Option("--until", metavar="TIME", text="Only images created before: seconds since 1970 or RFC 3339."),
    UNASKED,
    examples=("hyperctl image prune", "hyperctl image prune -a --until 2024-01-31T00:00:00Z"),
)
def _prune(app: App, *, everything: bool, labels: tuple[str, ...], until: str, **_force: bool) -> None:
    """Remove images that are not used."""
    parameters = {"all": "yes" if everything else "no", "label": list(labels), "until": until}
    done = app.client.value("POST", "/images/prune", parameters)
    if not isinstance(done, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    for row in _rows(done.get("ImagesDeleted")):
        for what, name in row.items():
            output.say(f"{'untagged' if what == 'untaged' else what}: {name}")
    output.say(f"Total reclaimed space: {_size(done, 'SpaceReclaimed')}")


@command("df", NO_TRUNC, FORMAT, examples=("hyperctl image df", "hyperctl image df --format json"))
def _df(app: App, *, no_trunc: bool, form: str) -> None:
    """Show what images take of the daemon's disk."""
    found = app.client.value("GET", "/images/df", {})
    if not isinstance(found, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    keys = ("DiskSize", "SharedSize", "UniqueSize", "Containers")
    rows = [
        {"Names": row.get("RepoTags") or [], "ID": _id(row), **{key: row.get(key, 0) for key in keys}}
        for row in _rows(found.get("Images"))
    ]
    columns = (
        Column("IMAGE", "Names", lambda names: ", ".join(map(str, names)) or "<none>"),
        Column("IMAGE ID", "ID", identity(no_trunc=no_trunc)),
        Column("ON DISK", "DiskSize", _human),
        Column("SHARED", "SharedSize", _human),
        Column("UNIQUE", "UniqueSize", _human),
        Column("CONTAINERS", "Containers"),
    )
    show(columns, rows, form)
    if form != "table":
        return
    output.say(f"Layers: {_size(found, 'LayersSize')}, kept data: {_size(found, 'BlobsSize')}")
    output.say(f"Reclaimable: {_size(found, 'Reclaimable')}")


image_command = Group("image", "Clean up images; see what they take of the disk.", (_prune, _df))


def _rows(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ProtocolError("the daemon's answer is not a list of objects")
    return value


def _id(row: dict[str, Any]) -> str:
    return str(row.get("Id", "")).removeprefix("sha256:")


def _size(row: dict[str, Any], key: str) -> str:
    return _human(row.get(key))


def _human(value: object) -> str:
    return output.human_size(value) if isinstance(value, int) else "?"
