"""`hyperctl list`."""

from __future__ import annotations

from hyperctl import output
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command

# item: headings and the fields of the daemon's rows they show
_COLUMNS = {
    "pod": (("POD ID", "POD Name", "VM name", "Status"), (0, 1, 2, 3)),
    "container": (("Container ID", "Name", "POD ID", "Status"), (0, 1, 2, 3)),
    "vm": (("VM name", "Status"), (0, 2)),
}


@command(
    "list",
    Argument("item", "[pod|container|vm]", default="pod"),
    Option("-p", "--pod", metavar="POD", text="Only what belongs to this pod."),
    Option("-m", "--vm", metavar="VM", text="Only what belongs to this VM."),
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    examples=(
        "hyperctl list                     # pods",
        "hyperctl list container -p web1   # containers of the pod web1",
        "hyperctl list vm",
        "hyperctl rm $(hyperctl list -q)   # remove every pod",
    ),
)
def list_command(app: App, *, item: str, pod: str, vm: str, quiet: bool) -> None:
    """List pods, containers or VMs."""
    if item not in _COLUMNS:
        raise UsageProblem(f"Can not support {item} list!")
    headings, fields = _COLUMNS[item]
    rows = []
    for row in app.client.list_items(item, pod=pod, vm=vm):
        cells = [row[field] if field < len(row) else "" for field in fields]
        if item == "container":
            cells[1] = cells[1].removeprefix("/")
        rows.append(cells)
    if quiet:
        for cells in rows:
            output.say(cells[0])
    else:
        output.write(output.table([headings, *rows]))
