"""Progress of pulls, pushes and loads (Docker's jsonmessage): bars on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hyperctl import output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_DONE = {"Pull complete", "Already exists", "Pushed", "Layer already exists"}


def show(lines: Iterable[dict[str, Any]], file: TextIO | None) -> None:
    """Print progress lines as they arrive.

    Args:
        lines: the daemon's lines.
        file: where to print; bars only when it is a terminal that can draw over what it shows. None prints nothing.

    """
    if file is None:
        for _ in lines:
            pass
    elif file.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        _bars(lines, file)
    else:
        _plain(lines, file)


@contextmanager
def alive(what: str) -> Iterator[None]:
    """Show on a terminal, on stderr, that something goes on, and for how long; elsewhere nothing."""
    import sys
    import threading
    import time

    if not sys.stderr.isatty():
        yield
        return
    done, began = threading.Event(), time.monotonic()

    def show_time() -> None:
        while not done.wait(1):
            sys.stderr.write(f"\r{what}, {time.monotonic() - began:.0f} s ")
            sys.stderr.flush()

    thread = threading.Thread(target=show_time, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        sys.stderr.write("\r\033[K")
        sys.stderr.flush()


def _plain(lines: Iterable[dict[str, Any]], file: TextIO) -> None:
    for line in lines:
        if line.get("progressDetail"):
            continue  # how far a layer is: of no use in a file
        text = _text(line)
        if text:
            file.write(text)
            file.flush()


def _text(line: dict[str, Any]) -> str:
    if "stream" in line:
        return str(line["stream"])
    status = str(line.get("status") or "")
    if not status:
        return ""
    return f"{line['id']}: {status}\n" if line.get("id") else f"{status}\n"


def _bars(lines: Iterable[dict[str, Any]], file: TextIO) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskID, TextColumn

    columns = (
        TextColumn("{task.fields[layer]}", markup=False),
        TextColumn("{task.fields[status]}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[size]}", markup=False),
    )
    layers: dict[str, TaskID] = {}
    with Progress(*columns, console=Console(file=file)) as bars:
        for line in lines:
            name, status = str(line.get("id") or ""), str(line.get("status") or "")
            detail = line.get("progressDetail")
            if not name or not isinstance(detail, dict):
                bars.console.print(_text(line), end="", markup=False, highlight=False, soft_wrap=True)
                continue
            if name not in layers:
                layers[name] = bars.add_task(
                    "", total=None, layer=output.clean(name), status=output.clean(status), size=""
                )
            bars.update(layers[name], status=output.clean(status))
            total, current = detail.get("total"), detail.get("current")
            if isinstance(total, int) and total > 0 and isinstance(current, int):
                size = f"{output.human_size(current)}/{output.human_size(total)}"
                bars.update(layers[name], total=total, completed=current, size=size)
            if status in _DONE:
                _full(bars, layers[name])


def _full(bars: Any, layer: Any) -> None:
    """Fill a bar; of a layer that nothing was moved for no size is known."""
    total = bars.tasks[bars.task_ids.index(layer)].total
    size = output.human_size(total) if total else ""
    bars.update(layer, total=total or 1, completed=total or 1, size=size)
