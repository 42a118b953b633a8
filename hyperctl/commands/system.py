"""`info` and `version`."""

from __future__ import annotations

from hyperctl import __version__, output
from hyperctl.command import App, command
from hyperctl.listing import FORMAT, show_one

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


@command(
    "info",
    FORMAT,
    examples=(
        "hyperctl info",
        "hyperctl info --format json",
        "hyperctl info --format '{{.Pods}} pods'",
        "hyperctl -H tcp://10.0.0.7:2375 info",
    ),
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
    """Give the host's memory; the daemon counts in KiB."""
    return output.human_size(kibibytes * 1024) if isinstance(kibibytes, int) else ""


@command("version", FORMAT, examples=("hyperctl version", "hyperctl version --format '{{.Version}}'"))
def version_command(_app: App, *, form: str) -> None:
    """Show the version of hyperctl; the daemon is not asked."""
    if form != "table":
        show_one({"Version": __version__}, form)
        return
    output.say(f"The hyperctl version is {__version__}")
