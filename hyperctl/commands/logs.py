"""`logs`."""

from __future__ import annotations

from hyperctl import session, units
from hyperctl.api.errors import NotFound
from hyperctl.api.streams import STDOUT, Demultiplexer, write_all
from hyperctl.command import App, Argument, Option, command


@command(
    "logs",
    Argument("container", "CONTAINER|POD", complete="container"),
    Option("-f", "--follow", flag=True, text="Go on as output comes."),
    Option("--since", metavar="TIME", text="Only what is younger: 10m (ago), a date and time, unix seconds."),
    Option("-t", "--timestamps", flag=True, text="Put the time before every line."),
    Option("-n", "--tail", metavar="LINES", text="Only the last lines."),
    examples=(
        "hyperctl logs web1",
        "hyperctl logs -f --tail 20 web1",
        "hyperctl logs --since 10m web1",
        "hyperctl logs -t --since 2026-01-31T12:00:00Z web1",
    ),
    surplus=True,
)
def logs_command(app: App, *, container: str, follow: bool, since: str, timestamps: bool, tail: str) -> None:
    """Show the output a container has left, stdout and stderr apart; of a pod, its first container's."""
    since = units.moment(since)
    if tail.lower() == "all":
        tail = ""
    try:
        found = app.client.container_info(container).get("container")
    except NotFound as error:
        container = session.first_container(app.client, container, error)
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
