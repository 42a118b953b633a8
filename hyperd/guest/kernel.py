"""Builds the guest's minimal kernel from the distribution's source package.

The result is one file, ``kernel-minimal``, and beside it ``kernel-minimal.inputs``, the hash of everything it was made
from: the configuration, the version of the source package, the compiler and the recipe below. The same inputs are never
built twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from hyperd.config import shipped
from hyperd.errors import HostFault, InvalidInput, NotFound

log = structlog.get_logger(__name__)

KERNEL_NAME = "kernel-minimal"
PACKAGE = "linux-source-6.1"
# Part of the hash: raise it when the steps below change the result.
RECIPE = "1"
# An ELF file with the PVH entry point: the emulator loads it where it runs, nothing is unpacked in the guest.
_TARGET = "vmlinux"
# Fixed, so that the same inputs give the same bytes.
_STAMP = {
    "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
    "KBUILD_BUILD_USER": "hyperd",
    "KBUILD_BUILD_HOST": "hyperd",
    "KBUILD_BUILD_VERSION": "1",
}
_OPTION = re.compile(r"^(CONFIG_\w+)=(.*)$")
_OPTION_OFF = re.compile(r"^# (CONFIG_\w+) is not set$")


def default_config() -> Path:
    """Return the configuration fragment that comes with hyperd. Errors: NotFound."""
    return shipped.directory() / "guest-kernel.config"


def parse_options(text: str) -> dict[str, str]:
    """Read a kernel configuration; an option that is off has the value ``n``."""
    options: dict[str, str] = {}
    for line in text.splitlines():
        if match := _OPTION.match(line):
            options[match[1]] = match[2]
        elif match := _OPTION_OFF.match(line):
            options[match[1]] = "n"
    return options


def lost_options(*, wanted: Mapping[str, str], got: Mapping[str, str]) -> list[str]:
    """Return the wanted options that the final configuration does not have, as ``NAME=wanted``."""
    return sorted(f"{name}={value}" for name, value in wanted.items() if got.get(name, "n") != value)


def inputs_hash(*, config: bytes, source: str, compiler: str) -> str:
    """Hash everything that decides the kernel's content."""
    digest = hashlib.sha256()
    for part in (RECIPE.encode(), _TARGET.encode(), config, source.encode(), compiler.encode()):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def build_kernel(output: Path, *, config: Path | None = None, jobs: int = 2, force: bool = False) -> Path:
    """Build ``output/kernel-minimal`` unless it is there and made from the same inputs.

    Args:
        output: directory, made when missing.
        config: fragment merged over ``tinyconfig``; None = ``configs/guest-kernel.config``.
        jobs: parallel compilers.
        force: build even when nothing changed.

    Errors: NotFound when the source package or the configuration cannot be had, HostFault when a step fails. On failure
    an older kernel stays, and nothing else is left behind. A second build of the same output waits for the first.

    """
    config = config or default_config()
    try:
        fragment = config.read_bytes()
    except OSError as error:
        raise NotFound("No kernel configuration", details=str(error)) from error
    if jobs < 1:
        raise InvalidInput("The number of jobs must be positive", details=str(jobs))
    version, tarball = _source_version()
    wanted = inputs_hash(config=fragment, source=version, compiler=_compiler())
    output.mkdir(parents=True, exist_ok=True)
    with (output / f".{KERNEL_NAME}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build_locked(
            output, config=config, version=version, tarball=tarball, wanted=wanted, jobs=jobs, force=force
        )


def _build_locked(
    output: Path, *, config: Path, version: str, tarball: Path | None, wanted: str, jobs: int, force: bool
) -> Path:
    kernel, stamp = output / KERNEL_NAME, output / f"{KERNEL_NAME}.inputs"
    if not force and kernel.is_file() and stamp.is_file() and stamp.read_text().strip() == wanted:
        log.info("kernel.cached", path=str(kernel))
        return kernel
    log.info("kernel.build", source=f"{PACKAGE} {version}", jobs=jobs)
    with tempfile.TemporaryDirectory(prefix="hyperd-kernel-") as name:
        work = Path(name)
        tree = _unpack(tarball or _download(work), work)
        _configure(tree, config)
        _make(tree, _TARGET, jobs=jobs)
        built = output / f".{KERNEL_NAME}.{os.getpid()}"
        try:
            _run(["strip", "--strip-all", "-o", str(built), str(tree / _TARGET)])
            built.chmod(0o644)
            stamp.unlink(missing_ok=True)
            built.replace(kernel)
        finally:
            built.unlink(missing_ok=True)
    stamp.write_text(wanted + "\n")
    log.info("kernel.built", path=str(kernel), size=kernel.stat().st_size)
    return kernel


def _source_version() -> tuple[str, Path | None]:
    """Return version and tar of the installed source package, or the candidate's version and None."""
    tarball = Path("/usr/src") / f"{PACKAGE}.tar.xz"
    if tarball.is_file():
        found = _run(["dpkg-query", "-W", "-f", "${Version}", PACKAGE], check=False)
        if found:
            return found, tarball
    shown = _run(["apt-cache", "show", "--no-all-versions", PACKAGE], check=False)
    for line in shown.splitlines():
        if line.startswith("Version:"):
            return line.split(":", 1)[1].strip(), None
    raise NotFound(
        f"No source package {PACKAGE}",
        details="apt knows no such package",
        resolution="run apt-get update, or use the distribution's kernel",
    )


def _download(work: Path) -> Path:
    """Fetch the source package into ``work`` and return the kernel's tar."""
    _run(["apt-get", "-q", "download", PACKAGE], cwd=work)
    packages = list(work.glob(f"{PACKAGE}_*.deb"))
    if len(packages) != 1:
        raise NotFound(f"No source package {PACKAGE}", details=f"apt-get download left {len(packages)} files")
    _run(["dpkg-deb", "-x", str(packages[0]), str(work / "package")])
    packages[0].unlink()
    return work / "package" / "usr" / "src" / f"{PACKAGE}.tar.xz"


def _unpack(tarball: Path, work: Path) -> Path:
    tree = work / "linux"
    tree.mkdir()
    _run(["tar", "-xf", str(tarball), "-C", str(tree), "--strip-components=1"])
    shutil.rmtree(work / "package", ignore_errors=True)
    return tree


def _configure(tree: Path, config: Path) -> None:
    """Merge the fragment over ``tinyconfig``; HostFault when the source drops an option that we want."""
    _make(tree, "tinyconfig", jobs=1)
    _run(["scripts/kconfig/merge_config.sh", "-m", ".config", str(config.resolve())], cwd=tree)
    _make(tree, "olddefconfig", jobs=1)
    lost = lost_options(
        wanted=parse_options(config.read_text(encoding="utf-8")),
        got=parse_options((tree / ".config").read_text(encoding="utf-8")),
    )
    if lost:
        raise HostFault(
            "The kernel source does not take the configuration",
            details=", ".join(lost),
            resolution="an option's dependencies changed: mend the fragment",
        )


def _make(tree: Path, target: str, *, jobs: int) -> None:
    _run(["nice", "-n", "19", "make", f"-j{jobs}", "ARCH=x86_64", target], cwd=tree)


def _compiler() -> str:
    return _run(["gcc", "--version"]).partition("\n")[0]


def _run(command: Sequence[str], *, cwd: Path | None = None, check: bool = True) -> str:
    """Run a build step and return its output; HostFault with the end of its output when it fails."""
    try:
        done = subprocess.run(
            command,
            cwd=cwd,
            env={**os.environ, **_STAMP, "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise HostFault(f"Cannot run {command[0]}", details=str(error), resolution="install it") from error
    if done.returncode:
        if not check:
            return ""
        raise HostFault(
            f"{' '.join(command[:4])} failed",
            details=f"exit code {done.returncode}: {(done.stdout + done.stderr)[-2000:].strip()}",
        )
    return done.stdout.strip()
