"""What a daemon and its pods take of the host: counted exactly, so that two moments can be compared."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from tests.support.daemon import HyperdLauncher

POOLED_THREADS = 4


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Counts of one moment; memory in KiB."""

    rss: int
    pss: int
    descriptors: int  # without those of the database, whose connections are kept for later
    threads: int
    addresses: int  # rows of the database
    ports: int
    pods: int
    containers: int
    execs: int
    vms: int
    nft_elements: int
    taps: int
    qemu: int
    files: int  # below the daemon's root, without those of images
    tmp_files: int

    def __str__(self) -> str:
        return " ".join(f"{field.name}={getattr(self, field.name)}" for field in fields(self))

    def changed(self, before: Footprint) -> bool:
        """Tell whether anything but memory differs."""
        return bool(self.grown(before) or before.grown(self))

    def grown(self, before: Footprint) -> dict[str, int]:
        """Return what is more than before, memory left out; a few threads are those of pools not needed before."""
        now, then = asdict(self), asdict(before)
        more = {key: now[key] - then[key] for key in now if key not in ("rss", "pss") and now[key] > then[key]}
        if more.get("threads", 0) <= POOLED_THREADS:
            more.pop("threads", None)
        return more


def footprint(daemon: HyperdLauncher) -> Footprint:
    """Count what a running daemon and its pods have."""
    process = Path(f"/proc/{daemon.pid}")
    rows = _rows(daemon.root / "hyper.db")
    return Footprint(
        rss=_kib(process / "smaps_rollup", "Rss"),
        pss=_kib(process / "smaps_rollup", "Pss"),
        descriptors=_descriptors(process, daemon.root / "hyper.db"),
        threads=len(list((process / "task").iterdir())),
        addresses=rows["addresses"],
        ports=rows["ports"],
        pods=rows["pods"],
        containers=rows["containers"],
        execs=rows["execs"],
        vms=rows["vms"],
        nft_elements=_nft_elements(daemon.table),
        taps=_taps(daemon.bridge),
        qemu=len(qemu_processes(daemon)),
        files=sum(1 for path in daemon.root.rglob("*") if not path.is_relative_to(daemon.root / "images")),
        tmp_files=sum(1 for _ in daemon.directory.iterdir()),
    )


def settled(daemon: HyperdLauncher, *, seconds: float = 150.0) -> Footprint:
    """Count when the pool is full and nothing has changed for a second, or after so many seconds."""
    deadline = time.monotonic() + seconds
    before: Footprint | None = None
    while True:
        now = footprint(daemon)
        full = now.qemu == daemon.pool and daemon.log().count("vm.pooled") >= daemon.pool
        if time.monotonic() > deadline or (full and before is not None and not now.changed(before)):
            return now
        before = now
        time.sleep(1.0)


def qemu_processes(daemon: HyperdLauncher) -> list[int]:
    """Return the ids of the QEMU processes of a daemon."""
    return list(qemu_commands(daemon))


def qemu_commands(daemon: HyperdLauncher) -> dict[int, bytes]:
    """Return the command lines of the QEMU processes of a daemon; that of a template being made may end any time."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                command = (entry / "cmdline").read_bytes()
                if b"qemu-system" in command.partition(b"\0")[0] and f"{daemon.root}/".encode() in command:
                    found[int(entry.name)] = command
    return found


def _descriptors(process: Path, database: Path) -> int:
    count = 0
    for entry in (process / "fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += not str(entry.readlink()).startswith(str(database))
    return count


def _kib(path: Path, key: str) -> int:
    return int(next(line.split()[1] for line in path.read_text().splitlines() if line.startswith(f"{key}:")))


def _rows(path: Path) -> dict[str, int]:
    names = ("addresses", "ports", "pods", "containers", "execs", "vms")
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return {name: database.execute(f"select count(*) from {name}").fetchone()[0] for name in names}  # noqa: S608


def _nft_elements(table: str) -> int:
    listed = json.loads(subprocess.check_output(["nft", "-j", "list", "ruleset"]))
    return sum(_length(item) for item in listed["nftables"] for item in _own(item, table))


def _own(item: dict[str, dict[str, object]], table: str) -> Iterator[dict[str, object]]:
    for value in item.values():
        if re.fullmatch(rf"{re.escape(table)}\w*", str(value.get("table", ""))):
            yield value


def _length(item: dict[str, object]) -> int:
    """Count a set's elements; a rule counts as one."""
    elements = item.get("elem")
    if isinstance(elements, list):
        return len(elements)
    return int("expr" in item)


def _taps(bridge: str) -> int:
    listed = subprocess.run(["ip", "-j", "link", "show", "master", bridge], capture_output=True, check=True)
    return sum(1 for link in json.loads(listed.stdout or b"[]") if link.get("ifname"))
