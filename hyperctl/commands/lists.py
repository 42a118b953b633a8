"""`hyperctl list`, and `ps`, which is the same for people who come from docker."""

from __future__ import annotations

import sys

from hyperctl import details, naming, output
from hyperctl.api.errors import HyperctlError, UsageProblem
from hyperctl.command import App, Argument, Command, Option, command
from hyperctl.listing import FORMAT, NO_TRUNC, Column, identity, refuse_both, show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

_ITEMS = {
    "pod": "pod",
    "pods": "pod",
    "container": "container",
    "containers": "container",
    "vm": "vm",
    "vms": "vm",
}
# By item, the fields of the daemon's rows.
_COLUMNS = {
    "pod": (Column("POD ID", "ID"), Column("POD Name", "Name"), Column("VM name", "VM"), Column("Status", "Status")),
    "container": (
        Column("Container ID", "ID"),
        Column("Name", "Name"),
        Column("POD ID", "Pod"),
        Column("Status", "Status"),
    ),
    "vm": (Column("VM name", "ID"), Column("POD ID", "Pod", hidden=True), Column("Status", "Status")),
}
# What the daemon is asked for pod by pod, only when somebody wants to see it.
_DETAILS = (
    Column("Image", "Image"),
    Column("Created", "Created", details.created),
    Column("Ports", "Ports"),
    Column("IP", "IP"),
    Column("Labels", "Labels", details.label_text),
)
_LONG = {
    "pod": ("Name", "Status", "Image", "Created", "Ports", "IP"),
    "container": ("ID", "Name", "Pod", "Status", "Image", "Created"),
    "vm": ("ID", "Pod", "Status"),
}
_FILTERS = ("id", "name", "status", "image", "label", "pod", "vm")


def _list(
    app: App,
    *,
    item: str,
    pod: str,
    vm: str,
    quiet: bool,
    everything: bool,
    long: bool,
    no_trunc: bool,
    filters: tuple[str, ...],
    form: str,
) -> None:
    """List pods, containers or VMs, running ones and others."""
    del everything
    if item.lower() not in _ITEMS:
        raise UsageProblem(f"Can not support {item} list!")
    refuse_both(quiet, form)
    item = _ITEMS[item.lower()]
    wanted = _filters(filters)
    columns = _COLUMNS[item]
    rows: list[dict[str, Any]] = []
    for fields in app.client.list_items(item, pod=pod, vm=vm):
        row: dict[str, Any] = {
            column.field: fields[at] if at < len(fields) else "" for at, column in enumerate(columns)
        }
        row["Name"] = str(row.get("Name", row["ID"])).removeprefix("/")
        rows.append(row)
    rows = [row for row in rows if _fits(row, wanted)]
    if item != "vm":
        # JSON stays what one request gives; only a template asks for what it names.
        if long or {"image", "label"} & wanted.keys() or ("{{" in form and _named(form)):
            details.add(app.client, item, rows)
            rows = [row for row in rows if details.fits(row, wanted)]
        columns = (*columns, *(_hidden(column) for column in _DETAILS))
    if item == "vm":
        rows = [{column.field: row[column.field] for column in columns} for row in rows]
    if quiet:
        for row in rows:
            output.say(row["ID"])
        return
    if long and form == "table":
        by_field = {column.field: column for column in columns}
        if item == "container":
            by_field["ID"] = Column("Container ID", "ID", identity(no_trunc=no_trunc))
        columns = tuple(_shown(by_field[field]) for field in _LONG[item])
    elif form == "json" and not long:
        columns = _COLUMNS[item]
        rows = [{column.field: row[column.field] for column in columns} for row in rows]
    show(columns, rows, form)


def _hidden(column: Column) -> Column:
    return Column(column.heading, column.field, column.text, hidden=True)


def _shown(column: Column) -> Column:
    return Column(column.heading, column.field, column.text)


def _named(form: str) -> bool:
    return any(f".{column.field}" in form for column in _DETAILS) or "json ." in form


def _filters(words: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or key not in _FILTERS:
            raise UsageProblem(f"a filter is KEY=VALUE, the key being one of {', '.join(_FILTERS)}: not {word}")
        found.setdefault(key, []).append(value)
    return found


def _fits(row: Mapping[str, Any], wanted: Mapping[str, Sequence[str]]) -> bool:
    """Say whether a row is what the filters want, as far as one request tells: one value of each key must fit."""
    for key, values in wanted.items():
        if key == "id" and not any(str(row["ID"]).startswith(value) for value in values):
            return False
        if key == "name" and not any(value in str(row["Name"]) for value in values):
            return False
        if key in {"status", "pod", "vm"} and str(row.get(key.title() if key != "vm" else "VM", "")) not in values:
            return False
    return True


_PARTS = (
    Option("-p", "--pod", metavar="POD", text="Only what belongs to this pod.", complete="pod"),
    Option("-m", "--vm", metavar="VM", text="Only what belongs to this VM.", complete="vm"),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    Option("-a", "--all", field="everything", flag=True, text="Also what does not run; it always is listed."),
    Option("-l", "--long", flag=True, text="Also image, age, ports and addresses."),
    Option("-f", "--filter", field="filters", many=True, metavar="KEY=VALUE", text="Only what fits (repeat)."),
    NO_TRUNC,
    FORMAT,
)
list_command = command(
    "list",
    Argument("item", "[pod|container|vm]", default="pod", complete="item"),
    *_PARTS,
    examples=(
        "hyperctl list                     # pods",
        "hyperctl list -l                  # with image, age, ports and addresses",
        "hyperctl list container -p web1   # containers of the pod web1",
        "hyperctl list --filter status=running --filter label=team=red",
        "hyperctl list vm",
        "hyperctl list --format json       # or '{{.Name}} is {{.Status}}'",
        "hyperctl rm $(hyperctl list -q)   # remove every pod",
    ),
)(_list)
ps_command: Command = command(
    "ps",
    Argument("item", "[pod|container|vm]", default="container", complete="item"),
    *_PARTS,
    examples=("hyperctl ps                       # hyperctl list container",),
)(_list)


@command(
    "port",
    Argument("name", "POD|CONTAINER", complete="pod/container"),
    Argument("port", "[PORT[/udp]]", default=""),
    examples=("hyperctl port web1", "hyperctl port web1 80"),
)
def port_command(app: App, *, name: str, port: str) -> None:
    """Show where ports of a pod are published on the host."""
    number, _, protocol = port.partition("/")
    found = False
    for rule in naming.of_pod(app.client, name, app.client.portmappings):
        inner, kind = str(rule.get("containerPort", "")), str(rule.get("protocol", "tcp"))
        outer = f"{rule.get('hostIP') or '0.0.0.0'}:{rule.get('hostPort', '')}"  # noqa: S104 - shown, not bound
        if port and (inner != number or kind != (protocol or "tcp")):
            continue
        found = True
        output.say(outer if port else f"{inner}/{kind} -> {outer}")
    sys.stdout.flush()
    if port and not found:
        raise HyperctlError(f"port {number}/{protocol or 'tcp'} of the pod {name} is not published")
