"""Building the wheel and installing it into environments outside the source tree, without asking a package index."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.support.daemon import PROJECT

_SOURCES = (
    "hyperd",
    "hyperctl",
    "hypercloud",
    "configs",
    "setup.py",
    "pyproject.toml",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
)


def build_wheel(directory: Path) -> Path:
    """Build the wheel of a copy of the tree, as pip does; return its path."""
    tree = directory / "tree"
    tree.mkdir()
    for name in _SOURCES:
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / name, tree)
    _pip(sys.executable, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(directory), str(tree))
    shutil.rmtree(tree)
    (wheel,) = directory.glob("*.whl")
    return wheel


def environment(directory: Path, wheel: Path, *, libraries: str) -> Path:
    """Make a virtual environment with the wheel and links to the libraries that it requires; return its ``bin``.

    Args:
        directory: of the environment.
        wheel: what is installed.
        libraries: name of an extra whose requirements are linked beside those of the bare installation.

    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(directory)], check=True)
    bin_directory = directory / "bin"
    _pip(str(bin_directory / "python"), "install", "-q", "--no-index", "--no-deps", str(wheel))
    site = Path(sysconfig.get_path("purelib", vars={"base": str(directory), "platbase": str(directory)}))
    for name in _required(wheel, libraries):
        _link(metadata.distribution(name), site)
    return bin_directory


def _pip(python: str, *words: str) -> None:
    argv = [sys.executable, "-m", "pip", "--python", python, "--disable-pip-version-check", *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _required(wheel: Path, extra: str) -> set[str]:
    """Return all distributions that the wheel needs, and what those need."""
    (info,) = metadata.distributions(path=[str(wheel)])
    found: set[str] = set()
    open_ends = [(text, extra) for text in info.requires or ()]
    while open_ends:
        text, wanted = open_ends.pop()
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
            continue
        name = re.sub(r"[-_.]+", "-", requirement.name).lower()
        if name in found or name == "hyperd":
            continue
        found.add(name)
        open_ends += [(more, one) for more in metadata.requires(name) or () for one in requirement.extras or {""}]
    return found


def _link(distribution: metadata.Distribution, site: Path) -> None:
    """Link the top directories and files of an installed distribution into another environment."""
    for file in distribution.files or ():
        top = file.parts[0]
        target = site / top
        if top not in {"..", "__pycache__"} and not target.exists():
            target.symlink_to(Path(str(distribution.locate_file(top))))
