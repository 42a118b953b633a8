"""`info`, `version` and `system`."""

from __future__ import annotations

from hyperctl import __version__, output, terminal
from hyperctl.api.errors import ApiError, HyperctlError, OperationFailed, ProtocolError, UsageProblem
from hyperctl.command import App, Group, Option, command
from hyperctl.listing import FORMAT, Column, show, show_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from hyperctl.api.client import Client


@command(
    "info",
    FORMAT,
    examples=(
        "hyperctl info",
        "hyperctl info --format json",
        "hyperctl info --format '{{.Pods}} pods'",
        "hyperctl -H tcp://10.0.0.7:2375 info",
    ),
    surplus=True,
)
def info_command(app: App, *, form: str) -> None:
    """Show what the daemon says about itself and its host."""
    info = app.client.info()
    if form != "table":
        show_one(info, form)
        return
    lines = [
        f"Images: {info.get('Images', 0)}",
        f"Containers: {info.get('Containers', 0)}",
        f"PODs: {info.get('Pods', 0)}",
        f"Storage Driver: {info.get('Driver', '')}",
        *_pairs(info.get("DriverStatus")),
        f"Hyper Root Dir: {info.get('DockerRootDir', '')}",
        f"Index Server Address: {info.get('IndexServerAddress', '')}",
        f"Execution Driver: {info.get('ExecutionDriver', '')}",
        f"Total Memory: {_memory(info.get('MemTotal'))}",
        f"Operating System: {info.get('Operating System', '')}",
    ]
    output.write("".join(f"{line}\n" for line in lines))


def _pairs(status: Any) -> list[str]:
    pairs = status if isinstance(status, list) else []
    return [f"  {pair[0]}: {pair[1]}" for pair in pairs if isinstance(pair, list) and len(pair) == 2]


def _memory(kibibytes: Any) -> str:
    """Return the host's memory; the daemon counts in KiB."""
    return output.human_size(kibibytes * 1024) if isinstance(kibibytes, int) else ""


@command("version", FORMAT, examples=("hyperctl version", "hyperctl version --format '{{.Version}}'"), surplus=True)
def version_command(_app: App, *, form: str) -> None:
    """Show the version of hyperctl; the daemon is not asked."""
    if form != "table":
        show_one({"Version": __version__}, form)
        return
    output.say(f"The hyperctl version is {__version__}")


@command("df", FORMAT, examples=("hyperctl system df", "hyperctl system df --format json"))
def _df(app: App, *, form: str) -> None:
    """Show what images take of the daemon's disk, and how many pods there are."""
    found = app.client.value("GET", "/images/df", {})
    if not isinstance(found, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    pods = [row[-1] for row in app.client.list_items("pod")]
    images = found.get("Images") or []
    rows = [
        {
            "Type": "Images",
            "Total": len(images),
            "Active": sum(1 for one in images if one.get("Containers")),
            "Size": (found.get("LayersSize") or 0) + (found.get("BlobsSize") or 0),
            "Reclaimable": found.get("Reclaimable") or 0,
        },
        {
            "Type": "Pods",
            "Total": len(pods),
            "Active": sum(1 for status in pods if status not in _ENDED),
            "Size": None,
            "Reclaimable": None,
        },
    ]
    volumes = app.client.rows("/volume/list")
    used = sum(1 for one in volumes if one.get("containers"))
    rows.append({"Type": "Volumes", "Total": len(volumes), "Active": used, "Size": None, "Reclaimable": None})
    columns = (
        Column("TYPE", "Type"),
        Column("TOTAL", "Total"),
        Column("ACTIVE", "Active"),
        Column("SIZE", "Size", _human),
        Column("RECLAIMABLE", "Reclaimable", _human),
    )
    show(columns, rows, form)


def _human(size: Any) -> str:
    return output.human_size(size) if isinstance(size, int) else "-"


@command(
    "prune",
    Option("-a", "--all", field="everything", flag=True, text="All images that no container uses."),
    Option("--volumes", flag=True, text="Also all volumes that no container uses, with their files."),
    Option("-f", "--force", flag=True, text="Do not ask."),
    examples=("hyperctl system prune", "hyperctl system prune -a -f --volumes"),
)
def _prune(app: App, *, everything: bool, volumes: bool, force: bool) -> int:
    """Remove the pods that have ended, networks that no pod is on, and images that are not used."""
    which = "all images that no pod uses" if everything else "images without a name"
    which += ", and all volumes that no container uses" if volumes else ""
    if not force and not _agreed(f"This removes all pods that have ended, networks without pods, {which}."):
        return 1
    status = 0
    for row in app.client.list_items("pod"):
        if row[-1] in _ENDED:
            try:
                app.client.remove_pod(row[0])
                output.say(f"pod: {row[0]}")
            except (ApiError, OperationFailed) as error:
                output.complain(f"Pod({row[0]}) delete failed: {error}")
                status = HyperctlError.exit_status
    for name in app.client.prune_networks():
        output.say(f"network: {name}")
    freed = _prune_volumes(app.client) if volumes else 0
    done = app.client.value("POST", "/images/prune", {"all": "yes" if everything else "no"})
    if not isinstance(done, dict):
        raise ProtocolError("the daemon's answer is not a JSON object")
    for deleted in done.get("ImagesDeleted") or []:
        for what, name in deleted.items():
            output.say(f"{'untagged' if what == 'untaged' else what}: {name}")
    output.say(f"Total reclaimed space: {_human((done.get('SpaceReclaimed') or 0) + freed)}")
    return status


def _prune_volumes(client: Client) -> int:
    """Remove all volumes that no container uses; return their bytes."""
    done = client.prune_volumes(everything=True)
    for name in done:
        output.say(f"volume: {name}")
    return sum(done.values())


_ENDED = {"succeeded", "failed"}


def _agreed(what: str) -> bool:
    """Ask on the terminal.

    Raises:
        UsageProblem: there is none.

    """
    if not terminal.interactive():
        raise UsageProblem(f"{what} There is no terminal to ask on: say --force")
    import click

    return click.confirm(f"{what} Go on?", err=True)


system_command = Group("system", "Clean up the whole system; see what it takes.", (_df, _prune))
