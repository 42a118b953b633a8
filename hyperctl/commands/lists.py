"""`hyperctl list`."""

from __future__ import annotations

from hyperctl import output
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command
from hyperctl.listing import FORMAT, Column, refuse_both, show

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


@command(
    "list",
    Argument("item", "[pod|container|vm]", default="pod", complete="item"),
    Option("-p", "--pod", metavar="POD", text="Only what belongs to this pod.", complete="pod"),
    Option("-m", "--vm", metavar="VM", text="Only what belongs to this VM.", complete="vm"),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    FORMAT,
    examples=(
        "hyperctl list                     # pods",
        "hyperctl list container -p web1   # containers of the pod web1",
        "hyperctl list vm",
        "hyperctl list --format json       # or '{{.Name}} is {{.Status}}'",
        "hyperctl rm $(hyperctl list -q)   # remove every pod",
    ),
)
def list_command(app: App, *, item: str, pod: str, vm: str, quiet: bool, form: str) -> None:
    """List pods, containers or VMs."""
    if item not in _COLUMNS:
        raise UsageProblem(f"Can not support {item} list!")
    refuse_both(quiet, form)
    columns = _COLUMNS[item]
    rows = []
    for fields in app.client.list_items(item, pod=pod, vm=vm):
        row = {column.field: fields[at] if at < len(fields) else "" for at, column in enumerate(columns)}
        if item == "container":
            row["Name"] = row["Name"].removeprefix("/")
        rows.append(row)
    if quiet:
        for row in rows:
            output.say(row["ID"])
    else:
        show(columns, rows, form)
