"""Images beside podman and skopeo in the same rounds: pull, push, save, load of real files; commit and build."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchlib.podman import LIMITS, Podman
from benchlib.scenarios import Context, Scenario
from benchlib.target import wall
from tests.support.registry import Layer, RegistryServer, busybox_tar

# Bytes of the whole image, uncompressed, in LAYERS layers; what a distribution has below here is packed.
QUICK_SIZE, FULL_SIZE, LAYERS = 120_000_000, 500_000_000, 4
SOURCES = ("/usr/lib", "/usr/bin", "/usr/share")
REPOSITORY = "bench/large"
CHANGED = 48  # MB that are new in a container that is committed, and in a context that is built
_FILL = f"dd if=/dev/urandom of=/new bs=1M count={CHANGED} 2>/dev/null"
_DOCKERFILE = "FROM {image}\nCOPY data /data\nRUN touch /one\nRUN touch /two\n"


class ImagesScenario(Scenario):
    """One image on its ways in and out."""

    most = 4  # of more than a minute each

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._stack = ExitStack()
        self._directory = Path(tempfile.mkdtemp(prefix="hyimg", dir="/tmp"))
        self._stack.callback(shutil.rmtree, self._directory, ignore_errors=True)

    def prepare(self) -> None:
        """Fill a registry of our own."""
        self._registry = self._stack.enter_context(RegistryServer())
        size = QUICK_SIZE if self.context.quick else FULL_SIZE
        # busybox, so that there is something to run
        self._registry.push(REPOSITORY, "t", [*layers(size), Layer(busybox_tar())], oci=True)
        self._image = f"{self._registry.host}/{REPOSITORY}:t"
        self._prepare_context()

    def _prepare_context(self) -> None:
        # podman builds on images that have a history only
        history = {"history": [{"created": "2024-05-06T07:08:09Z", "created_by": "busybox"}]}
        self._registry.push("bench/base", "t", [Layer(busybox_tar())], config=history)
        base = f"{self._registry.host}/bench/base:t"
        self.target.ctl("pull", base)
        if self.context.podman is not None:
            self.context.podman.pull(base)
        self._context = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hyctx", dir="/tmp"))
        Path(self._context, "Dockerfile").write_text(_DOCKERFILE.format(image=base), encoding="utf-8")
        Path(self._context, "data").write_bytes(os.urandom(CHANGED * 10**6))

    def round(self) -> None:
        self._ours()
        self._ours_made()
        if self.context.podman is not None:
            self._podman(self.context.podman)
            self._podman_made(self.context.podman)
        if shutil.which("skopeo"):
            self._skopeo()

    def finish(self) -> None:
        """Measure the daemon's largest memory so far, and remove what was made."""
        status = Path(f"/proc/{self.target.daemon.pid}/status").read_text(encoding="ascii")
        peak = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
        self.samples.add("images.daemon.peak", peak / 1024)
        self._stack.close()

    def _ours(self) -> None:
        archive = self._directory / "ours.tar"
        pulled = wall(self.target.command("pull", self._image))
        self.samples.add("images.pull", pulled)
        ran = wall(self.target.command("run", "--rm", self._image, "true"))
        self.samples.add("images.runnable", pulled + ran)
        with RegistryServer() as empty:
            copy = f"{empty.host}/{REPOSITORY}:t"
            self.target.ctl("tag", self._image, copy)
            self.samples.add("images.push", wall(self.target.command("push", copy)))
            self.target.ctl("rmi", copy)
        self.samples.add("images.save", wall(self.target.command("save", "-o", str(archive), self._image)))
        self.samples.add(
            "images.save.oci", wall(self.target.command("save", "-f", "oci", "-o", str(archive) + ".oci", self._image))
        )
        self.target.ctl("rmi", self._image)
        self.samples.add("images.load", wall(self.target.command("load", "-i", str(archive))))
        self.target.ctl("rmi", self._image)
        self.samples.add("images.load.oci", wall(self.target.command("load", "-i", str(archive) + ".oci")))
        self.target.ctl("rmi", self._image)
        self._clear()

    def _podman(self, podman: Podman) -> None:
        archive = str(self._directory / "podman.tar")
        pulled = wall(podman.command("pull", "-q", "--tls-verify=false", self._image))
        self.samples.add("images.pull.podman", pulled)
        ran = wall(podman.command("run", "--rm", *LIMITS, self._image, "true"))
        self.samples.add("images.runnable.podman", pulled + ran)
        with RegistryServer() as empty:
            copy = f"{empty.host}/{REPOSITORY}:t"
            words = ("push", "-q", "--tls-verify=false", self._image, f"docker://{copy}")
            self.samples.add("images.push.podman", wall(podman.command(*words)))
        for key, form in (("", "docker-archive"), (".oci", "oci-archive")):
            words = ("save", "-q", "--format", form, "-o", archive + key, self._image)
            self.samples.add(f"images.save{key}.podman", wall(podman.command(*words)))
        for key in ("", ".oci"):
            podman.run("rmi", "-f", self._image)
            self.samples.add(f"images.load{key}.podman", wall(podman.command("load", "-q", "-i", archive + key)))
        podman.run("rmi", "-f", self._image)
        self._clear()

    def _ours_made(self) -> None:
        with self.target.apart() as target:  # a connection of long ago would be closed by now
            container = target.create("committed", ("sleep", "1000"))
            target.start("committed")
            target.execute(container, ("sh", "-c", _FILL))
            self.samples.add("images.commit", wall(target.command("commit", container, "made/commit:t")))
        words = ("build", "--no-cache", "-t", "made/build:t", self._context)
        self.samples.add("images.build", wall(self.target.command(*words)))
        self.target.ctl("rm", "committed")
        self.target.ctl("rmi", "made/commit:t", "made/build:t")
        with self.target.apart() as target:
            target.api("POST", "/images/prune")

    def _podman_made(self, podman: Podman) -> None:
        podman.run("run", "-d", "--name", "committed", *LIMITS, self.target.image, "sleep", "1000")
        podman.run("exec", "committed", "sh", "-c", _FILL)
        self.samples.add("images.commit.podman", wall(podman.command("commit", "-q", "committed", "made/commit:t")))
        podman.run("rm", "-f", "-t", "0", "committed")
        words = ("build", "-q", "--no-cache", "--layers", "--isolation", "chroot", "-t", "made/build:t", self._context)
        self.samples.add("images.build.podman", wall(podman.command(*words)))
        podman.run("rmi", "-f", "made/commit:t", "made/build:t")

    def _skopeo(self) -> None:
        words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
        words += [f"docker://{self._image}"]
        self.samples.add("images.pull.skopeo", wall([*words, f"dir:{self._directory}/pulled"]))
        shutil.rmtree(self._directory / "pulled")
        with RegistryServer() as empty:
            self.samples.add("images.copy.skopeo", wall([*words, f"docker://{empty.host}/{REPOSITORY}:t"]))

    def _clear(self) -> None:
        for path in self._directory.iterdir():
            path.unlink()


def layers(size: int) -> list[Layer]:
    """Make layers of this host's own files, gzip'ed; ``size`` bytes in all, or what there is."""
    made: list[Layer] = []
    files = _files()
    for _ in range(LAYERS):
        out, left = io.BytesIO(), size // LAYERS
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
            while left > 0 and (path := next(files, None)) is not None:
                archive.add(path, recursive=False)
                left -= path.stat().st_size
        tar = out.getvalue()
        made.append(Layer(tar, blob=gzip.compress(tar, 6, mtime=0)))
    return made


def _files() -> Iterator[Path]:
    for source in SOURCES:
        for path in sorted(Path(source).rglob("*")):
            if path.is_file() and not path.is_symlink() and path.stat().st_nlink == 1:
                yield path
