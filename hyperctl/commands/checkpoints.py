"""`checkpoint` and `restore`."""

from __future__ import annotations

import json
import os
import sys

from hyperctl import images, output, uploads
from hyperctl.api.errors import UsageProblem
from hyperctl.api.streams import STDOUT, write_all
from hyperctl.command import App, Argument, Option, command

_SIGKILL = 9
_MANIFEST = "checkpoint.json"
_LIMIT = 64 << 20  # bytes of it


@command(
    "checkpoint",
    Argument("pod", "POD", complete="pod"),
    Option("-o", "--output", "--to", field="target", metavar="FILE", complete="file", text="Write to a file."),
    Option("-s", "--stop", flag=True, text="Stop the pod when it is saved."),
    examples=(
        "hyperctl checkpoint web1 --to web1.tar",
        "hyperctl checkpoint --stop web1 | ssh other hyperctl restore -",
    ),
)
def checkpoint_command(app: App, *, pod: str, target: str, stop: bool) -> None:
    """Save a pod while it runs: memory, devices and disk. It goes on, unless it is to be stopped."""
    if not target and os.isatty(STDOUT):
        raise UsageProblem("Cowardly refusing to save to a terminal. Use --to FILE or redirect.")
    answer = app.client.checkpoint(pod, pause=stop)
    try:
        if target:
            uploads.save(answer.pieces(), target)
        else:
            for piece in answer.pieces():
                write_all(STDOUT, piece)
    except BaseException:
        if stop:  # it stands still until all of it has arrived
            app.client.unpause_pod(pod)
        raise
    if stop:
        app.client.kill_pod(pod, _SIGKILL)


@command(
    "restore",
    Argument("source", "FILE|-", complete="file"),
    Option("--pull", metavar="WHEN", complete="pull", text="Pull its images: missing (default), always or never."),
    examples=("hyperctl restore web1.tar", "hyperctl restore - <web1.tar"),
)
def restore_command(app: App, *, source: str, pull: str) -> None:
    """Make a pod of what `checkpoint` has written; it goes on where it was saved. With stdin nothing is pulled."""
    if source == "-":
        output.say(
            images.create(lambda: app.client.restore(uploads.pieces(sys.stdin.buffer)), app.client, [], when="never")
        )
        return

    def restore() -> str:
        with uploads.opened(source) as file:
            return app.client.restore(uploads.pieces(file))

    output.say(images.create(restore, app.client, _images(source), when=pull))


def _images(path: str) -> list[str]:
    """Return the names of the images that an archive's pod needs; the daemon says what else is wrong with it."""
    import tarfile

    try:
        with uploads.opened(path) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            member = archive.next()
            text = archive.extractfile(member) if member and member.name == _MANIFEST else None
            found = json.loads(text.read(_LIMIT)) if text else {}
        names = found.get("images", {}).values()
        return [name for name in names if isinstance(name, str) and name]
    except (tarfile.TarError, ValueError, AttributeError, RecursionError):
        return []
