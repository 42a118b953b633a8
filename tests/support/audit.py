"""Whether everything that a daemon left on its host agrees: rows, libvirt's files, disks, bridges, rules, processes.

``problems`` tells what does not, in words; an empty list is what must be there once the daemon has settled.
"""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from hyperd.vm import cgroups
from tests.support.daemon import HyperdLauncher
from tests.support.footprint import qemu_processes

HELPERS = ("mkfs.ext4", "tar2sqfs")  # others stay for as long as a pod or a network is there


def problems(daemon: HyperdLauncher, templates: Path) -> list[str]:
    """Return what does not agree on the host of a running daemon; ``templates``: its directory of them."""
    rows = Rows(daemon.root / "hyper.db")
    parts = {path.name for path in templates.glob(".part-*")}
    real = (daemon.root / "libvirt").is_dir()  # else VMs only pretend, in the daemon's own process
    return [
        *rows.damage(),
        *_states(rows),
        *(_vms(daemon, rows) if real else ()),
        *_files(daemon, rows),
        *_network(daemon, rows, taps=real),
        *_differ("half-made templates", (), parts),
    ]


def busy(daemon: HyperdLauncher) -> bool:
    """Return whether the daemon has copies of rows to write, for which it takes its time; this look costs little."""
    path = daemon.root / "hyper.db"
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute("SELECT 1 FROM copies_due").fetchone() is not None


class Rows:
    """The daemon's tables at one moment, as lists of mappings.

    Args:
        path: of the database, which may be in use.

    """

    def __init__(self, path: Path) -> None:
        self._tables: dict[str, list[dict[str, Any]]] = {}
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as database:
            database.row_factory = sqlite3.Row
            database.execute("BEGIN")
            for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                self._tables[name] = [dict(row) for row in database.execute(f'SELECT * FROM "{name}"')]  # noqa: S608 - its own names
            self._checks = [
                *(str(row[0]) for row in database.execute("PRAGMA quick_check") if row[0] != "ok"),
                *(f"row {row[1]} of {row[0]} names a missing {row[2]}" for row in database.execute(_KEYS)),
            ]

    def __getitem__(self, table: str) -> list[dict[str, Any]]:
        return self._tables[table]

    def column(self, table: str, name: str) -> set[Any]:
        """Return the values of a column."""
        return {row[name] for row in self._tables[table]}

    def damage(self) -> list[str]:
        """Return what SQLite itself finds wrong."""
        return [f"database: {said}" for said in self._checks]


_KEYS = "PRAGMA foreign_key_check"


def _differ(what: str, wanted: Iterable[Any], found: Iterable[Any]) -> Iterator[str]:
    """Tell what two sets have that the other one lacks."""
    wanted, found = set(wanted), set(found)
    if wanted - found:
        yield f"{what}: missing {sorted(wanted - found)}"
    if found - wanted:
        yield f"{what}: left {sorted(found - wanted)}"


def _states(rows: Rows) -> Iterator[str]:
    """Tell of states in which nothing may stay, and of running pods without VMs."""
    for pod in rows["pods"]:
        if pod["state"] in ("starting", "stopping", "removing") or pod["reason"] == "it is being created":
            yield f"pod {pod['id']} is half way: {pod['state']} {pod['reason']}"
    with_vm = {pod["id"] for pod in rows["pods"] if pod["state"] in ("running", "paused")}
    yield from _differ("VMs of pods", with_vm, {vm["pod_id"] for vm in rows["vms"] if vm["pod_id"]})
    for container in rows["containers"]:
        if container["state"] == "starting" or (container["state"] == "running" and container["pod_id"] not in with_vm):
            yield f"container {container['name']} is {container['state']}, its pod has no VM"
    for execution in rows["execs"]:
        owner = next((one for one in rows["containers"] if one["id"] == execution["container_id"]), {})
        if execution["state"] == "running" and owner.get("state") != "running":
            yield f"exec {execution['id']} runs in a container that is {owner.get('state')}"
    if rows["copies_due"]:
        yield f"copies of rows are not written: {[(row['kind'], row['id']) for row in rows['copies_due']]}"


def _vms(daemon: HyperdLauncher, rows: Rows) -> Iterator[str]:
    """Compare the rows of VMs with processes and with libvirt's files."""
    wanted = rows.column("vms", "id")
    yield from _differ("QEMU processes", wanted, _guests(daemon))
    libvirt, run = daemon.root / "libvirt", daemon.root / "run"
    yield from _differ("libvirt's states", wanted, {path.stem for path in (libvirt / "run/qemu").glob("*.xml")})
    pids = {path.stem for path in (libvirt / "run/qemu").glob("*.pid")} - {"driver"}
    yield from _differ("libvirt's pid files", wanted, pids)
    shorts = {name[:20] for name in wanted}
    for place in ("lib/qemu", "lib/qemu/channel/target"):
        found = {path.name.split("-", 2)[2] for path in (libvirt / place).glob("domain-*")}
        if place == "lib/qemu" or found:
            yield from _differ(f"libvirt's {place}", shorts if place == "lib/qemu" else found & shorts, found)
    logs = {path.stem for path in (libvirt / "log/qemu").glob("*.log")}
    yield from _differ("libvirt's logs", logs & wanted, logs)
    yield from _differ("directories of VMs", wanted, {path.name for path in run.iterdir() if path.is_dir()} - {"trees"})
    groups = cgroups.Groups(daemon.root, hierarchies=cgroups.trees())
    yield from _differ("control groups of VMs", groups.names() & wanted, groups.names())
    for vm in rows["vms"]:
        if vm["state"] not in ("associated", "idle", "paused", "pooled"):
            yield f"VM {vm['id']} is {vm['state']}"


def _guests(daemon: HyperdLauncher) -> set[str]:
    found = set()
    for pid in qemu_processes(daemon):
        with contextlib.suppress(OSError):
            match = re.search(rb"guest=([\w-]+)", Path(f"/proc/{pid}/cmdline").read_bytes())
            found.add(match[1].decode() if match else f"process {pid}")
    return found


def _files(daemon: HyperdLauncher, rows: Rows) -> Iterator[str]:
    """Compare rows with disks, logs, layers and volumes."""
    root = daemon.root
    yield from _differ("directories of pods", rows.column("pods", "id"), _names(root / "pods"))
    spare = {json.loads(vm["detail"]).get("spare_disk") for vm in rows["vms"]} - {"", None}
    yield from _differ("spare disks", {Path(name).name for name in spare}, _names(root / "pool"))
    for pod in rows["pods"]:
        known = {row["id"] for row in rows["containers"] if row["pod_id"] == pod["id"]}
        for path in (root / "pods" / pod["id"]).iterdir():
            owner = re.match(r"[0-9a-f]{64}", path.name)
            if (owner and owner[0] not in known) or path.suffix == ".new":
                yield f"left in the directory of pod {pod['id']}: {path.name}"
        if pod["state"] in ("running", "paused") and not (root / "pods" / pod["id"] / "scratch.img").exists():
            yield f"the running pod {pod['id']} has no disk"
    images = root / "images"
    yield from _differ("layers", _hexes(rows.column("layers", "diff_id"), ".sqfs"), _names(images / "layers"))
    missing = _hexes(rows.column("blobs", "digest")) - _names(images / "blobs/sha256")
    if missing:  # those without a row are kept for the next try of a pull, for a day
        yield f"blobs: missing {sorted(missing)}"
    half = {name for name in _names(images / "tmp") if not name.endswith(".partial")}
    yield from _differ("half-made files of images", (), half)
    yield from _differ("directories of volumes", rows.column("volumes", "name"), _names(root / "volumes"))
    yield from _differ("directories of builds", (), _names(root / "builds") - {"cache"})
    yield from _differ("put aside", (), {n for n in _names(root / "aside") if "-layers-" not in n})


def _names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()} if directory.is_dir() else set()


def _hexes(digests: Iterable[str], suffix: str = "") -> set[str]:
    return {digest.removeprefix("sha256:") + suffix for digest in digests}


def _network(daemon: HyperdLauncher, rows: Rows, *, taps: bool) -> Iterator[str]:
    """Compare addresses and ports with pods, bridges, taps and rules."""
    pods, pooled = rows.column("pods", "id"), {vm["id"] for vm in rows["vms"] if vm["state"] == "pooled"}
    with_vm = {vm["pod_id"] for vm in rows["vms"] if vm["pod_id"]}
    yield from _differ("owners of addresses", with_vm | pooled, rows.column("addresses", "owner"))
    yield from _differ("owners of ports", rows.column("ports", "owner") & pods, rows.column("ports", "owner"))
    made = {json.loads(row["options"])["bridge"] for row in rows["networks"]}
    bridges = {daemon.bridge} | made
    links = _links()
    yield from _differ("bridges", bridges, bridges & {link["ifname"] for link in links})
    # Bridges that the daemon names itself are told by their networks' addresses: those of others are not looked at.
    found = {link["ifname"] for link in links if link.get("master") in bridges}
    yield from _differ("taps", {row["tap"] for row in rows["addresses"]} if taps else (), found)
    rules = subprocess.run(["nft", "list", "ruleset"], capture_output=True, check=True, text=True).stdout
    own = "\n".join(re.findall(rf"^table \S+ {daemon.table}\S* \{{.*?^\}}", rules, re.MULTILINE | re.DOTALL))
    prefix = daemon.subnet.rsplit(".", 1)[0]
    outside = {f"{prefix}.0", f"{prefix}.1", f"{prefix}.255"}
    filtered = set(re.findall(rf"{re.escape(prefix)}\.\d+", own)) - outside
    local = {row["address"] for row in rows["addresses"] if row["bridge"] == daemon.bridge}
    yield from _differ("addresses in the rules", local, filtered)
    for port in rows["ports"]:
        if port["address"] and str(port["host_port"]) not in own:
            yield f"port {port['host_port']} of {port['owner']} is in no rule"


def _links() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(subprocess.check_output(["ip", "-j", "link"]) or "[]")
    return [link for link in found if link.get("ifname")]


def strays(daemon: HyperdLauncher) -> list[str]:
    """Return the helper programs that still work on a daemon's files; none may when nothing is asked of it."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if Path(words[0]).name in HELPERS and str(daemon.root) in " ".join(words):
                    found.append(" ".join(words))
    return found
