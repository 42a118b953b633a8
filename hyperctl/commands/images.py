"""`images`, `pull` and `rmi`."""

from __future__ import annotations

import sys

from hyperctl import images, output
from hyperctl.api.errors import ProtocolError
from hyperctl.command import App, Argument, Option, command
from hyperctl.commands.lifecycle import for_each
from hyperctl.listing import FORMAT, NO_TRUNC, Column, identity, refuse_both, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@command(
    "images",
    Argument("repository", "[REPOSITORY]", default="", complete="repository"),
    Option("-a", "--all", field="all_images", flag=True, text="Also images that are only parts of others."),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    NO_TRUNC,
    FORMAT,
    examples=(
        "hyperctl images",
        "hyperctl images -a",
        "hyperctl images --format '{{.Repository}}:{{.Tag}} {{.Size}}'",
        "hyperctl rmi $(hyperctl images -q)",
    ),
)
def images_command(app: App, *, repository: str, all_images: bool, quiet: bool, no_trunc: bool, form: str) -> None:
    """List images, all of them or those of one repository."""
    refuse_both(quiet, form)
    rows = [_fields(row) for row in app.client.images(all_images=all_images, quiet=quiet)]
    rows = [row for row in rows if not repository or row["Repository"] == repository]

    shown = identity(no_trunc=no_trunc)
    if quiet:
        for row in rows:
            output.say(shown(row["ID"]))
        return
    columns = (
        Column("REPOSITORY", "Repository"),
        Column("TAG", "Tag"),
        Column("IMAGE ID", "ID", shown),
        Column("CREATED", "Created", output.moment),
        Column("VIRTUAL SIZE", "Size", output.human_size),
    )
    show(columns, rows, form)


def _fields(row: str) -> dict[str, Any]:
    """Split `repository:tag:id:created:size` from the right: the repository may contain colons."""
    try:
        repository, tag, image, created, size = row.rsplit(":", 4)
        return {"Repository": repository, "Tag": tag, "ID": image, "Created": int(created), "Size": int(size)}
    except ValueError:
        raise ProtocolError("the daemon's answer has a broken row of an image") from None


@command(
    "pull",
    Argument("image", "IMAGE", complete="image"),
    Option("-q", "--quiet", flag=True, text="Print the name alone, at the end."),
    examples=("hyperctl pull busybox", "hyperctl pull registry.example.com:5000/team/app:1.2"),
)
def pull_command(app: App, *, image: str, quiet: bool) -> None:
    """Pull an image from its registry."""
    if quiet:
        images.pull(app.client, image, file=None)
        output.say(images.tagged(image))
        return
    if images.tagged(image) != image:
        output.say("Using default tag: latest")
        sys.stdout.flush()
    images.pull(app.client, image, file=sys.stdout)


@command(
    "rmi",
    Argument("names", "IMAGE...", many=True, complete="image"),
    Option("-f", "--force", flag=True, text="Remove it also when it has other names."),
    Option("--no-prune", flag=True, text="Keep parents that have no name."),
    examples=("hyperctl rmi busybox:latest", "hyperctl rmi -f 3f57d9401f8d"),
)
def rmi_command(app: App, *, names: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images, or names of images."""

    def remove(name: str) -> None:
        done = app.client.remove_image(name, force=force, no_prune=no_prune)
        output.say(f"Image({name}) is successful to be deleted!")
        for row in done:
            for what, which in row.items():
                output.say(output.clean(f"{what.capitalize()}: {which}"))

    return for_each(names, remove, lambda name, text: f"Image({name}) delete failed: {text}")
