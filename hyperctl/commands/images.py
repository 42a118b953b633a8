"""`images`, `pull` and `rmi`."""

from __future__ import annotations

import sys
import time

from hyperctl import images, output
from hyperctl.api.errors import ProtocolError
from hyperctl.command import App, Argument, Option, command
from hyperctl.commands.lifecycle import for_each

_HEADINGS = ("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "VIRTUAL SIZE")
_SHORT = 12


@command(
    "images",
    Argument("repository", "[REPOSITORY]", default=""),
    Option("-a", "--all", field="all_images", flag=True, text="Also images that are only parts of others."),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    examples=("hyperctl images", "hyperctl images -a", "hyperctl rmi $(hyperctl images -q)"),
)
def images_command(app: App, *, repository: str, all_images: bool, quiet: bool) -> None:
    """List images, all of them or those of one repository."""
    rows = [_cells(row) for row in app.client.images(all_images=all_images, quiet=quiet)]
    rows = [row for row in rows if not repository or row[0] == repository]
    if quiet:
        for row in rows:
            output.say(row[2])
    else:
        output.write(output.table([_HEADINGS, *rows]))


def _cells(row: str) -> list[str]:
    """Split `repository:tag:id:created:size` from the right: the repository may contain colons."""
    fields = row.rsplit(":", 4)
    try:
        repository, tag, image, created, size = fields
        moment = time.localtime(int(created))
        return [
            repository,
            tag,
            image[:_SHORT],
            time.strftime("%Y-%m-%d %H:%M:%S", moment),
            output.human_size(int(size)),
        ]
    except (ValueError, OverflowError, OSError):
        raise ProtocolError("the daemon's answer has a broken row of an image") from None


@command(
    "pull",
    Argument("image", "IMAGE"),
    examples=("hyperctl pull busybox", "hyperctl pull registry.example.com:5000/team/app:1.2"),
)
def pull_command(app: App, *, image: str) -> None:
    """Pull an image from its registry."""
    if images.tagged(image) != image:
        output.say("Using default tag: latest")
        sys.stdout.flush()
    images.pull(app.client, image, file=sys.stdout)


@command(
    "rmi",
    Argument("names", "IMAGE...", many=True),
    Option("-f", "--force", flag=True, text="Remove it also when it has other names."),
    Option("--no-prune", flag=True, text="Keep parents that have no name."),
    examples=("hyperctl rmi busybox:latest", "hyperctl rmi -f 3f57d9401f8d"),
)
def rmi_command(app: App, *, names: tuple[str, ...], force: bool, no_prune: bool) -> int:
    """Remove images, or names of images."""

    def remove(name: str) -> None:
        app.client.remove_image(name, force=force, no_prune=no_prune)
        output.say(f"Image({name}) is successful to be deleted!")

    return for_each(names, remove, lambda name, text: f"Image({name}) delete failed: {text}")
