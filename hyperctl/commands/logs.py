"""`logs`."""

from __future__ import annotations

import click

from hyperctl.api.streams import STDOUT, Demultiplexer, write_all
from hyperctl.command import App, command


@command(
    "logs",
    "hyperctl logs web1",
    "hyperctl logs -f --tail 20 web1",
    "hyperctl logs -t --since 2026-01-31T12:00:00Z web1",
)
@click.argument("container", metavar="CONTAINER")
@click.option("-f", "--follow", is_flag=True, help="Go on as output comes.")
@click.option("--since", default="", metavar="TIME", help="Only what is younger: unix seconds or RFC 3339.")
@click.option("-t", "--timestamps", is_flag=True, help="Put the time before every line.")
@click.option("--tail", default="", metavar="LINES", help="Only the last lines.")
@click.pass_obj
def logs_command(app: App, *, container: str, follow: bool, since: str, timestamps: bool, tail: str) -> None:
    """Show the output a container has left, stdout and stderr apart."""
    found = app.client.container_info(container).get("container")
    tty = bool(isinstance(found, dict) and found.get("tty"))
    answer = app.client.logs(container, follow=follow, since=since, tail=tail, timestamps=timestamps)
    frames = Demultiplexer()
    for piece in answer.pieces():
        if tty:
            write_all(STDOUT, piece)
            continue
        for stream, payload in frames.feed(piece):
            write_all(stream, payload)
    frames.finish()
