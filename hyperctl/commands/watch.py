"""`events` and `stats`."""

from __future__ import annotations

from hyperctl import naming, output, units
from hyperctl.api.errors import ApiError, UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.listing import FORMAT, Column, show, show_one, single

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@command(
    "events",
    Option("-f", "--filter", field="filters", many=True, metavar="KEY=VALUE", text="Only events that fit."),
    Option("--since", metavar="TIME", text="Also what was since then: 10m (ago), a date and time, unix seconds."),
    Option("--until", metavar="TIME", text="End at that time."),
    FORMAT,
    examples=(
        "hyperctl events",
        "hyperctl events --filter type=pod --filter event=start",
        "hyperctl events --filter label=team=red --format json",
        "hyperctl events --format '{{.Type}} {{.Action}} {{.Actor.ID}}'",
        "hyperctl events --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z",
    ),
)
def events_command(app: App, *, filters: tuple[str, ...], since: str, until: str, form: str) -> None:
    """Show what happens, as it happens; keys of filters: type, event, pod, container, image, vm, label."""
    import sys

    from hyperctl.template import compact

    # JSON one on a line: there is no end to wait for. A bad template is told before anything has happened.
    text = _line if form == "table" else compact if form == "json" else single(form)
    since, until = units.moment(since), units.moment(until)
    for event in app.client.events(filters=_filters(filters), since=since, until=until):
        output.say(text(event))
        sys.stdout.flush()


def _filters(words: tuple[str, ...]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not key or not equals:
            raise UsageProblem(f"a filter is KEY=VALUE, not {word}")
        found.setdefault(key, []).append(value)
    return found


def _line(event: dict[str, Any]) -> str:
    """Return an event as Docker's client prints it: time, type, action, id (attributes)."""
    import time

    nano = event.get("timeNano")
    nano = nano if isinstance(nano, int) else 0
    actor = event.get("Actor") or {}
    attributes = ", ".join(f"{key}={value}" for key, value in sorted((actor.get("Attributes") or {}).items()))
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(nano // 1_000_000_000))
    text = f"{stamp}.{nano % 1_000_000_000:09d}Z {event.get('Type')} {event.get('Action')} {actor.get('ID', '')}"
    return output.clean(f"{text} ({attributes})" if attributes else text)


@command(
    "stats",
    Argument("pods", "[POD|CONTAINER...]", default="", many=True, complete="pod/container"),
    Option("-f", "--follow", flag=True, text="Go on, a look every second, until ctrl-C."),
    Option("--no-stream", flag=True, text="One look; it is one anyway without --follow."),
    FORMAT,
    examples=("hyperctl stats web1", "hyperctl stats -f", "hyperctl stats --format json web1"),
)
def stats_command(app: App, *, pods: tuple[str, ...], follow: bool, no_stream: bool, form: str) -> None:
    """Show what pods and their containers use; without names, all that run.

    Two looks, half a second apart, give the share of a CPU.
    """
    import sys
    import time

    follow = follow and not no_stream
    before = _look(app, pods)
    if form == "json" and not follow:
        show_one(next(iter(before.values())), form) if len(pods) == 1 else output.say(_json(before))
        return
    clear = "\033[2J\033[H" if follow and output.colourful(sys.stdout) and form == "table" else ""
    fields = [column.field for column in _COLUMNS]
    while True:
        # The daemon counts totals: how much of a CPU is in use takes two looks with a time between them.
        time.sleep(_INTERVAL if follow else _PAUSE)
        now = _look(app, pods)
        rows = [row for pod, found in now.items() for row in _rows(pod, before.get(pod), found)]
        output.write(clear)
        show(_COLUMNS, [dict(zip(fields, row, strict=True)) for row in rows], form)
        sys.stdout.flush()
        if not follow:
            return
        before = now


def _look(app: App, pods: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Return PodStats by pod; of all that run when none is named."""
    if pods:
        return {pod: naming.of_pod(app.client, pod, app.client.pod_stats) for pod in pods}
    found = {}
    for row in app.client.list_items("pod"):
        if row[-1] == "running":
            try:
                found[row[0]] = app.client.pod_stats(row[0])
            except ApiError:
                continue  # it has ended meanwhile
    return found


def _rows(pod: str, first: dict[str, Any] | None, second: dict[str, Any]) -> list[tuple[str, ...]]:
    before = {one.get("id"): one for one in (first or {}).get("container_stats") or []}
    containers = [
        (str(one.get("name", one.get("id", ""))), *_row(before.get(one.get("id")), one))
        for one in second.get("container_stats") or []
    ]
    return [(pod, *_row(first, second)), *containers]


def _json(found: dict[str, dict[str, Any]]) -> str:
    import json

    return json.dumps([{"pod": pod, **stats} for pod, stats in found.items()], indent=4)


_PAUSE = 0.5
_INTERVAL = 1.0
_COLUMNS = (
    Column("NAME", "Name"),
    Column("CPU", "CPU"),
    Column("MEMORY", "Memory"),
    Column("NET IN", "NetIn"),
    Column("NET OUT", "NetOut"),
    Column("DISK READ", "DiskRead"),
    Column("DISK WRITE", "DiskWrite"),
)


def _row(old: dict[str, Any] | None, new: dict[str, Any]) -> tuple[str, ...]:
    network = (new.get("network") or {}).get("interfaces") or []
    traffic = [_sum(network, key) for key in ("rx_bytes", "tx_bytes")] if new.get("network") else ["-", "-"]
    disks = (new.get("block") or {}).get("io_service_bytes_recursive") or []
    disk = [output.human_size(sum(entry["stat"][way] for entry in disks)) for way in ("Read", "Write")]
    return (_cpu(old, new), output.human_size(new["memory"]["usage"]), *traffic, *disk)


def _sum(interfaces: list[dict[str, Any]], key: str) -> str:
    return output.human_size(sum(one.get(key, 0) for one in interfaces))


def _cpu(old: dict[str, Any] | None, new: dict[str, Any]) -> str:
    if old is None:
        return "-"
    took = _nanoseconds(new["timestamp"]) - _nanoseconds(old["timestamp"])
    used = new["cpu"]["usage"]["total"] - old["cpu"]["usage"]["total"]
    return f"{100 * used / took:.1f}%" if took > 0 else "-"


def _nanoseconds(stamp: str) -> int:
    """Read RFC 3339 with nine digits, in UTC."""
    import calendar
    import time

    seconds, _, fraction = stamp.rstrip("Z").partition(".")
    return calendar.timegm(time.strptime(seconds, "%Y-%m-%dT%H:%M:%S")) * 1_000_000_000 + int(fraction.ljust(9, "0"))
