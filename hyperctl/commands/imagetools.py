"""`tag`, `history`, `inspect`, `search`, `import` and `image`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator

from hyperctl import credentials, images, output, progress
from hyperctl.api.client import compact
from hyperctl.api.client import progress as progress_lines
from hyperctl.api.errors import ProtocolError, UsageProblem
from hyperctl.command import App, Argument, Group, Option, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, BinaryIO

_PIECE = 1 << 18
_SHORT = 12


@command(
    "tag",
    Argument("image", "IMAGE"),
    Argument("target", "NAME[:TAG]"),
    examples=("hyperctl tag busybox registry.example.com:5000/team/busybox:1",),
)
def tag_command(app: App, *, image: str, target: str) -> None:
    """Give an image a further name; another image that had the name loses it."""
    name, tag = images.split_tag(target)
    app.client.call("POST", "/image/tag", {"imageId": image, "repo": name, "tag": tag}).read()


@command("inspect", Argument("names", "IMAGE...", many=True), examples=("hyperctl inspect busybox",))
def inspect_command(app: App, *, names: tuple[str, ...]) -> None:
    """Print everything that is known of images, as JSON."""
    found = [app.client.value("GET", "/image/inspect", {"imageId": name}) for name in names]
    output.say(json.dumps(found, indent=4))


@command(
    "history",
    Argument("image", "IMAGE"),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    examples=("hyperctl history busybox",),
)
def history_command(app: App, *, image: str, quiet: bool) -> None:
    """Show how an image was made, the newest step first."""
    rows = _rows(app.client.value("GET", "/image/history", {"imageId": image}))
    if quiet:
        for row in rows:
            output.say(_short(row))
        return
    cells = [
        (_short(row), _moment(row), str(row.get("CreatedBy", "")), _size(row, "Size"), str(row.get("Comment", "")))
        for row in rows
    ]
    output.write(output.table([("IMAGE", "CREATED", "CREATED BY", "SIZE", "COMMENT"), *cells]))


@command(
    "search",
    Argument("term", "TERM"),
    Option("--limit", metavar="N", default=25, text="Most results."),
    examples=("hyperctl search busybox", "hyperctl search registry.example.com:5000/team"),
)
def search_command(app: App, *, term: str, limit: int) -> None:
    """Find images in a registry."""
    auth = credentials.header(credentials.find(credentials.registry_of(term)))
    headers = {"X-Registry-Auth": auth} if auth else {}
    rows = _rows(app.client.value("GET", "/images/search", {"term": term, "limit": str(limit)}, headers=headers))
    cells = [
        (
            str(row.get("name", "")),
            str(row.get("description", "")),
            str(row.get("star_count", 0)),
            "yes" if row.get("is_official") else "",
        )
        for row in rows
    ]
    output.write(output.table([("NAME", "DESCRIPTION", "STARS", "OFFICIAL"), *cells]))


@command(
    "import",
    Argument("source", "FILE|URL|-"),
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
    try:
        file = open(source, "rb")  # noqa: SIM115 - the error belongs to the opening alone
    except OSError as error:
        raise UsageProblem(f"cannot read {source}: {error.strerror}") from error
    with file:
        _send(app, parameters, file)


def _send(app: App, parameters: dict[str, str], file: BinaryIO) -> None:
    headers = {"Content-Type": "application/x-tar"}
    answer = app.client.call("POST", "/image/create", parameters, body=_pieces(file), headers=headers)
    progress.show(progress_lines(answer), sys.stdout)


@command(
    "prune",
    Option("-a", "--all", field="everything", flag=True, text="All that no container uses, not only nameless ones."),
    Option("--label", field="labels", many=True, metavar="KEY[=VALUE]", text="Only images with a label (repeat)."),
    Option("--until", metavar="TIME", text="Only images created before: seconds since 1970 or RFC 3339."),
    examples=("hyperctl image prune", "hyperctl image prune -a --until 2024-01-31T00:00:00Z"),
)
def _prune(app: App, *, everything: bool, labels: tuple[str, ...], until: str) -> None:
    """Remove images that nobody needs."""
    parameters = {"all": "yes" if everything else "no", "label": list(labels), "until": until}
    done = app.client.value("POST", "/images/prune", parameters)
    if not isinstance(done, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    for row in _rows(done.get("ImagesDeleted")):
        for what, name in row.items():
            output.say(f"{'untagged' if what == 'untaged' else what}: {name}")
    output.say(f"Total reclaimed space: {_size(done, 'SpaceReclaimed')}")


@command("df", examples=("hyperctl image df",))
def _df(app: App) -> None:
    """Show what images take of the daemon's disk."""
    found = app.client.value("GET", "/images/df", {})
    if not isinstance(found, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    cells = [
        (
            ", ".join(map(str, row.get("RepoTags") or ())) or "<none>",
            _short(row),
            _size(row, "DiskSize"),
            _size(row, "SharedSize"),
            _size(row, "UniqueSize"),
            str(row.get("Containers", 0)),
        )
        for row in _rows(found.get("Images"))
    ]
    output.write(output.table([("IMAGE", "IMAGE ID", "ON DISK", "SHARED", "UNIQUE", "CONTAINERS"), *cells]))
    output.say(f"Layers: {_size(found, 'LayersSize')}, kept data: {_size(found, 'BlobsSize')}")
    output.say(f"Reclaimable: {_size(found, 'Reclaimable')}")


image_command = Group("image", "Clean up images; see what they take of the disk.", (_prune, _df))


def _rows(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise ProtocolError("the daemon's answer is not a list of objects")
    return value


def _short(row: dict[str, Any]) -> str:
    return str(row.get("Id", "")).removeprefix("sha256:")[:_SHORT]


def _size(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    return output.human_size(value) if isinstance(value, int) else "?"


def _moment(row: dict[str, Any]) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(row.get("Created", 0))))
    except (ValueError, TypeError, OverflowError, OSError):
        return "?"


def _pieces(file: BinaryIO) -> Iterator[bytes]:
    while piece := file.read(_PIECE):
        yield piece
