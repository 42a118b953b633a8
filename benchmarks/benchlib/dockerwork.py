"""What ``scripts/bench-docker`` does with each daemon, and how it is compared."""

from __future__ import annotations

import io
import os
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol, cast

from benchlib.images import layers
from benchlib.podman import LIMITS
from benchlib.rows import Row
from benchlib.samples import Samples
from benchlib.target import RequestFailed
from tests.support.registry import Layer, RegistryServer, busybox_tar

IMAGE = "bench/bb:1"
SLEEP = ("sleep", "3600")
LISTED = 50
COPIED = 100 * 10**6  # bytes of the file that is copied
BUILT = 48 * 10**6  # bytes of the build's context, which are random
LOADED, QUICK_LOADED = 500_000_000, 120_000_000
OUTPUT = 32 << 20
TIMEOUT = 300.0
_DOCKERFILE = f"FROM {IMAGE}\nCOPY data /data\nRUN touch /one\nRUN touch /two\n"
_SERVICE = """  {name}:
    image: {image}
    command: sleep 3600
    stop_grace_period: 0s
    ulimits: {{nofile: 1024, nproc: 1024}}
"""


class Side(Protocol):
    """A daemon behind the docker CLI (``benchlib.dockersides``)."""

    name: str
    build_words: Sequence[str]

    def command(self, *words: str) -> list[str]: ...
    @property
    def environment(self) -> Mapping[str, str]: ...
    def must(self, *words: str) -> str: ...
    def rest(self) -> None: ...


def _row(key: str, title: str, unit: str, peer: str, limit: float, *, more: bool = False) -> Row:
    sign = "≥" if more else "≤"
    factor = "" if limit == 1 else f"{limit:g} x "
    peers = tuple((f"{key}.{name}", name) for name in sorted(("podman", "dockerd"), key=lambda name: name != peer))
    return Row(
        key=f"{key}.hyperd", title=title, unit=unit, peers=peers, goal=f"{sign} {factor}{peer}", limit=limit,
        relative=True, more=more, reason=REASONS.get(key),
    )  # fmt: skip


_HEADING = "The Docker API beside others"
_COPY = "the bytes go into or out of an emulated guest, a copy on the host does not", _HEADING
REASONS: Mapping[str, tuple[str, str]] = {
    "cp.in": _COPY,
    "cp.out": _COPY,
    "build": ("a VM starts for the build, and its layers become images of disks", _HEADING),
    "load": ("each layer is checked member by member and written as an image of a disk", _HEADING),
    "cat": ("one emulated processor does it, and had to wait for its turn", _HEADING),
    "compose": ("the NIC of a VM of the pool becomes one of the project's network first", _HEADING),
}
ROWS = (
    _row("run", "`docker run -d` from the pool", "ms", "podman", 1),
    _row("true", "`docker run --rm IMAGE true`", "ms", "podman", 1),
    _row("exec", "`docker exec C true`", "ms", "podman", 1),
    _row("ps", "`docker ps` with 50 containers", "ms", "dockerd", 2),
    _row("cp.in", "`docker cp` of 100 MB into a container", "s", "podman", 2),
    _row("cp.out", "`docker cp` of 100 MB out of it", "s", "podman", 2),
    _row("build", "`docker build`: COPY of 48 MB, two RUNs", "s", "podman", 1),
    _row("load", "`docker load` of 500 MB (120 MB with --quick)", "s", "podman", 1),
    _row("cat", "output of `docker exec C cat`", "MB/s", "podman", 0.6, more=True),
    _row("compose", "`docker-compose up -d` of three services from the pool", "ms", "dockerd", 1.5),
)


class Work:
    """The measurements, each a method that does it once on one side.

    Args:
        samples: get what it took, under ``KEY.SIDE``.
        quick: load a smaller image.

    """

    def __init__(self, stack: ExitStack, samples: Samples, *, quick: bool) -> None:
        self._samples = samples
        self._quick = quick
        self._directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hydwork", dir="/tmp")))
        self._number = 0
        self.all: dict[str, Callable[[Side], None]] = {
            "run": self.run, "true": self.true, "exec": self.execute, "ps": self.ps, "cp": self.copy,
            "build": self.build, "load": self.load, "cat": self.cat, "compose": self.compose,
        }  # fmt: skip
        self._prepare()

    def prepare(self, side: Side) -> None:
        """Make the container that commands and copies are for, and the file that is printed. Errors: RequestFailed."""
        side.must("run", "-d", "--name", "work", *LIMITS, IMAGE, *SLEEP)
        side.must("exec", "work", "dd", "if=/dev/zero", "of=/text", "bs=65536", f"count={OUTPUT >> 16}")

    def run(self, side: Side) -> None:
        """A container in the background."""
        name = self._name()
        side.rest()
        self._timed("run", side, "run", "-d", "--name", name, *LIMITS, IMAGE, *SLEEP)
        side.must("rm", "-f", name)

    def true(self, side: Side) -> None:
        """A container that ends at once."""
        side.rest()
        self._timed("true", side, "run", "--rm", *LIMITS, IMAGE, "true")

    def execute(self, side: Side) -> None:
        """A command in a container."""
        side.rest()
        for _ in range(3):
            self._timed("exec", side, "exec", "work", "true")

    def ps(self, side: Side) -> None:
        """A list of containers; they were made and do not run, so that the figure is the daemon's alone."""
        missing = LISTED - len(side.must("ps", "-aq").split())
        for _ in range(missing):
            side.must("create", *LIMITS, IMAGE, *SLEEP)
        side.rest()
        for _ in range(3):
            self._timed("ps", side, "ps", "-a")

    def copy(self, side: Side) -> None:
        """A file into a container and out of it."""
        back = self._directory / "back"
        side.rest()
        self._timed("cp.in", side, "cp", str(self._directory / "file"), "work:/file")
        side.rest()
        self._timed("cp.out", side, "cp", "work:/file", str(back))
        if back.stat().st_size != COPIED:
            raise RequestFailed(f"{side.name}: cp gave {back.stat().st_size} bytes")
        back.unlink()
        side.must("exec", "work", "rm", "/file")

    def build(self, side: Side) -> None:
        """An image from a Dockerfile."""
        side.rest()
        words = ("-q", "--no-cache", *side.build_words, "-t", "made:t", str(self._directory / "context"))
        self._timed("build", side, "build", *words)
        side.must("rmi", "made:t")

    def load(self, side: Side) -> None:
        """An image from Docker's archive."""
        side.rest()
        self._timed("load", side, "load", "-q", "-i", str(self._directory / "load.tar"))
        side.must("rmi", "bench/large:t")

    def cat(self, side: Side) -> None:
        """The output of a command, from its first byte to its last."""
        side.rest()
        buffer, size, first = bytearray(1 << 20), 0, 0.0
        command = side.command("exec", "work", "cat", "/text")
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, bufsize=0, env=dict(side.environment)
        ) as run:
            pipe = cast("io.FileIO", run.stdout)
            while taken := pipe.readinto(buffer):
                first = first or time.monotonic()
                size += taken
            took = time.monotonic() - first
        if size != OUTPUT:
            raise RequestFailed(f"{side.name}: {size} bytes of {OUTPUT} arrived")
        self._samples.add(f"cat.{side.name}", size / took / 1e6)

    def compose(self, side: Side) -> None:
        """A project of three services with its network."""
        project = ["docker-compose", "-p", "bench", "-f", str(self._directory / "compose.yaml")]
        side.rest()
        try:
            self._wall("compose", side, [*project, "up", "-d"])
        finally:
            subprocess.run(
                [*project, "down", "-t", "0"], capture_output=True, check=False, env=dict(side.environment),
                timeout=TIMEOUT,
            )  # fmt: skip

    def _prepare(self) -> None:
        (self._directory / "file").write_bytes(os.urandom(COPIED))
        context = self._directory / "context"
        context.mkdir()
        (context / "Dockerfile").write_text(_DOCKERFILE, encoding="utf-8")
        (context / "data").write_bytes(os.urandom(BUILT))
        services = "".join(_SERVICE.format(name=name, image=IMAGE) for name in ("web", "app", "db"))
        (self._directory / "compose.yaml").write_text(f'version: "3"\nservices:\n{services}', encoding="utf-8")

    def prepare_load(self, maker: Side) -> None:
        """Let a side save the archive that all load. Errors: RequestFailed."""
        size = QUICK_LOADED if self._quick else LOADED
        with RegistryServer() as registry:
            registry.push("bench/large", "t", [*layers(size), Layer(busybox_tar())], oci=True)
            name = f"{registry.host}/bench/large:t"
            maker.must("pull", "-q", name)
        maker.must("tag", name, "bench/large:t")
        maker.must("save", "-o", str(self._directory / "load.tar"), "bench/large:t")
        with tarfile.open(self._directory / "load.tar") as archive:
            if "manifest.json" not in archive.getnames():
                raise RequestFailed(f"{maker.name}: save made no Docker archive")
        maker.must("rmi", "bench/large:t", name)

    def _name(self) -> str:
        self._number += 1
        return f"bench-{self._number}"

    def _timed(self, key: str, side: Side, *words: str) -> None:
        self._wall(key, side, side.command(*words))

    def _wall(self, key: str, side: Side, command: Sequence[str]) -> None:
        started = time.monotonic()
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=TIMEOUT, check=False,
            env=dict(side.environment),
        )  # fmt: skip
        took = time.monotonic() - started
        if done.returncode:
            raise RequestFailed(f"{side.name}: {' '.join(command[:3])}: {done.stderr.decode()[-300:]}")
        self._samples.add(f"{key}.{side.name}", took)
