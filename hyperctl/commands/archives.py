"""`commit`, `push`, `save` and `load`."""

from __future__ import annotations

import os
import sys

from hyperctl import credentials, images, output, progress, session, uploads
from hyperctl.api.client import compact
from hyperctl.api.client import progress as progress_lines
from hyperctl.api.errors import UsageProblem
from hyperctl.api.streams import STDOUT, write_all
from hyperctl.command import App, Argument, Option, command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO


@command(
    "commit",
    Argument("container", "CONTAINER|POD", complete="container"),
    Argument("repository", "[REPOSITORY[:TAG]]", default=""),
    Option("-a", "--author", metavar="NAME", text="Who made the image."),
    Option("-c", "--change", many=True, metavar="INSTRUCTION", text="Dockerfile instruction (repeat)."),
    Option("-m", "--message", metavar="TEXT", text="What was changed."),
    Option("-p", "--pause", flag=True, text="Pause the container meanwhile."),
    examples=("hyperctl commit -a alice -m 'with tools' -c 'ENV A=1' web1 team/web:2",),
)
def commit_command(
    app: App,
    *,
    container: str,
    repository: str,
    author: str,
    change: tuple[str, ...],
    message: str,
    pause: bool,
) -> None:
    """Make an image of what a container has changed; of a pod, its first one."""
    name, tag = images.split_tag(repository)
    parameters = {
        "author": author,
        "change": compact(list(change or ("",))),
        "message": message,
        "pause": "yes" if pause else "no",
        "repo": name,
        "tag": tag,
    }
    output.say(session.of_first(app.client, container, lambda one: app.client.commit(one, parameters)))


@command(
    "push",
    Argument("image", "NAME[:TAG]", complete="image"),
    Option("-q", "--quiet", flag=True, text="Print the name alone, at the end."),
    examples=("hyperctl push registry.example.com:5000/team/web:2",),
)
def push_command(app: App, *, image: str, quiet: bool) -> None:
    """Push an image to its registry."""
    if "@" in image:
        raise UsageProblem("cannot push a digest reference")
    name, tag = images.split_tag(image)
    server = credentials.registry_of(name)
    if server == credentials.DEFAULT_SERVER and "/" not in name:
        raise UsageProblem(
            f'You cannot push a "root" repository. Please rename your repository to <user>/<repo> (ex: <user>/{name})'
        )
    auth = credentials.header(credentials.find(server) or {"username": "", "password": ""})
    progress.show(app.client.push(image, tag=tag, auth=auth), None if quiet else sys.stdout)
    if quiet:
        output.say(image)


@command(
    "save",
    Argument("names", "IMAGE...", many=True, complete="image"),
    Option("-o", "--output", field="target", metavar="FILE", complete="file", text="Write to a file, not to stdout."),
    Option("-f", "--format", field="layout", metavar="FORMAT", complete="layout", text="docker or oci."),
    Option("-r", "--references", many=True, metavar="IMAGE=REF", text="Name in an OCI layout (repeat)."),
    examples=(
        "hyperctl save -o images.tar busybox:latest nginx:1",
        "hyperctl save busybox | gzip > busybox.tgz",
    ),
)
def save_command(app: App, *, names: tuple[str, ...], target: str, layout: str, references: tuple[str, ...]) -> None:
    """Save images as a tar."""
    if not target and os.isatty(STDOUT):
        raise UsageProblem("Cowardly refusing to save to a terminal. Use the -o flag or redirect.")
    answer = app.client.save(list(names), layout=layout, references=_references(references))
    if not target:
        for piece in answer.pieces():
            write_all(STDOUT, piece)
        return
    uploads.save(answer.pieces(), target)


@command(
    "load",
    Option("-i", "--input", field="source", metavar="FILE", complete="file", text="Read a file, not stdin."),
    Option("-n", "--name", metavar="NAME", text="Name of the image in an OCI layout."),
    Option("-r", "--references", many=True, metavar="IMAGE=REF", text="Name in an OCI layout (repeat)."),
    examples=("hyperctl load -i images.tar", "gunzip -c busybox.tgz | hyperctl load"),
    surplus=True,
)
def load_command(app: App, *, source: str, name: str, references: tuple[str, ...]) -> None:
    """Load images from a tar."""
    if not source:
        _load(app, sys.stdin.buffer, name, references)
        return
    with uploads.opened(source) as file:
        _load(app, file, name, references)


def _load(app: App, file: BinaryIO, name: str, references: tuple[str, ...]) -> None:
    answer = app.client.load(uploads.pieces(file), name=name, references=_references(references))
    if answer.headers.get("content-type", "").partition(";")[0].strip() == "application/json":
        progress.show(progress_lines(answer), sys.stdout)
        return
    for piece in answer.pieces():
        write_all(STDOUT, piece)


def _references(texts: tuple[str, ...]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        image, separator, reference = text.partition("=")
        if not separator or not image or not reference:
            raise UsageProblem(f"'{text}' is not a reference: use image=ref")
        pairs[image] = reference
    return pairs
