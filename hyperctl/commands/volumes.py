"""`volume`: named volumes."""

from __future__ import annotations

from hyperctl import output
from hyperctl.command import App, Argument, Group, Option, command
from hyperctl.commands.lifecycle import for_each
from hyperctl.listing import FORMAT, UNASKED, Column, refuse_both, show, show_objects
from hyperctl.spec import pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@command(
    "ls",
    Option("-q", "--quiet", flag=True, text="Print names only."),
    FORMAT,
    examples=("hyperctl volume ls", "hyperctl volume ls --format '{{.Name}} {{.Containers}}'"),
)
def _ls(app: App, *, quiet: bool, form: str) -> None:
    """List named volumes."""
    refuse_both(quiet, form)
    rows = [
        {
            "Name": one.get("name", ""),
            "Driver": one.get("driver", ""),
            "Kind": one.get("kind", ""),
            "Created": one.get("created", ""),
            "Containers": len(one.get("containers") or []),
        }
        for one in app.client.rows("/volume/list")
    ]
    if quiet:
        for row in rows:
            output.say(row["Name"])
        return
    columns = (
        Column("VOLUME NAME", "Name"),
        Column("DRIVER", "Driver"),
        Column("KIND", "Kind"),
        Column("CREATED", "Created"),
        Column("CONTAINERS", "Containers"),
    )
    show(columns, rows, form)


@command(
    "create",
    Argument("name", "[NAME]", default=""),
    Option("-d", "--driver", metavar="NAME", text="Driver; the daemon's own by default."),
    Option("-l", "--label", many=True, metavar="KEY=VALUE", text="Set a label (repeat)."),
    Option("-o", "--opt", many=True, metavar="KEY=VALUE", text="Option of the driver (repeat)."),
    examples=("hyperctl volume create data",),
)
def _create(app: App, *, name: str, driver: str, label: tuple[str, ...], opt: tuple[str, ...]) -> None:
    """Make a volume; -v NAME:/path makes it, too, when it is first used."""
    asked: dict[str, Any] = {
        "name": name,
        "driver": driver,
        "labels": pairs(label, "--label"),
        "options": pairs(opt, "--opt"),
    }
    made = app.client.create_volume({key: value for key, value in asked.items() if value})
    output.say(str(made.get("name", "")))


@command(
    "rm",
    Argument("names", "VOLUME...", many=True, complete="volume"),
    examples=("hyperctl volume rm data",),
)
def _rm(app: App, *, names: tuple[str, ...]) -> int:
    """Remove volumes that no container uses, with their files."""

    def remove(name: str) -> None:
        app.client.remove_volume(name)
        output.say(name)

    return for_each(names, remove, lambda name, text: f"volume {name} delete failed: {text}")


@command(
    "inspect",
    Argument("names", "VOLUME...", many=True, complete="volume"),
    Option("-f", "--format", field="form", metavar="json|TEMPLATE", default="json", text="How to print it."),
    examples=("hyperctl volume inspect data", "hyperctl volume inspect --format '{{.mountpoint}}' data"),
)
def _inspect(app: App, *, names: tuple[str, ...], form: str) -> None:
    """Print volumes and the containers that use them."""
    show_objects([app.client.one("/volume/info", volume=name) for name in names], form)


@command(
    "prune",
    Option("-a", "--all", field="everything", flag=True, text="Also those that have a name of their own."),
    UNASKED,
    examples=("hyperctl volume prune", "hyperctl volume prune -a"),
)
def _prune(app: App, *, everything: bool, **_force: bool) -> None:
    """Remove the volumes that no container uses: those without a name of their own."""
    done = app.client.prune_volumes(everything=everything)
    for name in done:
        output.say(name)
    output.say(f"Total reclaimed space: {output.human_size(sum(done.values()))}")


volume_command = Group("volume", "Named volumes.", (_ls, _create, _rm, _inspect, _prune))
