"""The wheel, installed outside the source tree: what is in it, and hyperctl without the daemon's libraries."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest

from tests.support.daemon import PROJECT
from tests.support.wheel import build_wheel, environment


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    return build_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where hyperctl is installed, with what it needs and nothing else."""
    return environment(tmp_path_factory.mktemp("bare") / "venv", wheel, libraries="")


def run(programs: Path, *words: str, home: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(programs / words[0]), *words[1:]]
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home), "HYPER_HOST": f"unix://{home}/s"}
    return subprocess.run(argv, capture_output=True, text=True, check=False, cwd=home, env=env, timeout=60)


def test_every_module_every_source_of_the_guest_and_every_file_of_configs_is_in_the_wheel(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    kinds = {".c", ".h", ".mk"}
    agent = PROJECT / "hyperd" / "guest" / "agent"
    wanted = [path for path in agent.rglob("*") if path.suffix in kinds or path.name == "Makefile"]
    wanted += [path for package in ("hyperd", "hyperctl", "hypercloud") for path in (PROJECT / package).rglob("*.py")]
    assert len(wanted) > 300
    missing = [str(path) for path in wanted if str(path.relative_to(PROJECT)) not in names]
    configs = PROJECT / "configs"
    missing += [
        str(path)
        for path in configs.rglob("*")
        if path.is_file() and f"hyperd/configs/{path.relative_to(configs)}" not in names
    ]
    assert missing == []
    assert not [name for name in names if name.startswith("tests/")]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_hyperctl_runs_without_the_daemons_libraries(programs, tmp_path):
    done = run(programs, "hyperctl", "--version", home=tmp_path)
    assert (done.returncode, done.stdout) == (0, "The hyperctl version is 0.1.0\n"), done.stderr
    done = run(programs, "hyperctl", "list", home=tmp_path)
    assert (done.returncode, "Cannot connect" in done.stderr) == (255, True)
    assert "Usage: hyperctl run" in run(programs, "hyperctl", "run", "--help", home=tmp_path).stdout
    done = run(programs, "hyperctl", "help", "--man-pages", str(tmp_path / "man"), home=tmp_path)
    assert done.returncode == 0, done.stderr
    (tmp_path / "p.yaml").write_text("containers: [{image: busybox}]")
    assert "Cannot connect" in run(programs, "hyperctl", "run", "-p", "p.yaml", home=tmp_path).stderr


@pytest.mark.parametrize("words", [["hyperd"], ["hyperd", "build-guest"]])
def test_the_daemon_without_its_libraries_says_what_to_install(programs, tmp_path, words):
    done = run(programs, *words, home=tmp_path)
    assert done.returncode == 1
    assert "pip install 'hyperd[daemon]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_files_that_come_with_it(programs, tmp_path):
    listed = run(programs, "hyperd", "files", home=tmp_path).stdout.split()
    assert {"hyperd.toml", "hyperd.service", "hyperd.socket", "guest-kernel.config", "examples/site.yaml"} < set(listed)
    unit = run(programs, "hyperd", "files", "hyperd.service", home=tmp_path).stdout
    assert f"ExecStart={programs / 'hyperd'} --host fd://\n" in unit
    example = run(programs, "hyperd", "files", "hyperd.toml", home=tmp_path).stdout
    assert example == (PROJECT / "configs" / "hyperd.toml").read_text()
    done = run(programs, "hyperd", "files", "../cli.py", home=tmp_path)
    assert (done.returncode, "no file ../cli.py comes with hyperd" in done.stderr) == (1, True)
