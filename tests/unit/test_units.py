"""The files for systemd: what they name exists, and systemd itself finds nothing wrong where it is installed."""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner

from hyperd.cli import main
from hyperd.config.model import DEFAULT_HOST

CONFIGS = Path(__file__).parents[2] / "configs"
UNITS = sorted(CONFIGS.glob("*.service")) + sorted(CONFIGS.glob("*.socket"))


def unit(name: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str
    parser.read_string((CONFIGS / name).read_text())
    return parser


def test_all_units_are_here():
    daemons = ["hypercloud.service", "hyperd-user.service", "hyperd.service", "hyperd.socket"]
    assert [path.name for path in UNITS] == daemons


@pytest.mark.parametrize("name", ["hyperd.service", "hyperd-user.service"])
def test_services(name):
    service = unit(name)["Service"]
    assert (service["Type"], service["KillMode"], service["Restart"]) == ("notify", "process", "always")
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    program, *options = shlex.split(service["ExecStart"])
    assert program == "/usr/local/bin/hyperd"
    text = CliRunner().invoke(main, ["--help"]).output
    for option in options:
        assert not option.startswith("--") or re.search(rf"^ +{option}\b", text, re.MULTILINE)
    assert int(service["TimeoutStartSec"]) > 60


def test_socket_is_the_default_one():
    socket = unit("hyperd.socket")["Socket"]
    path = DEFAULT_HOST.removeprefix("unix://")
    assert socket["ListenStream"] == path.replace("/var/run/", "/run/")
    assert (socket["SocketMode"], socket["SocketGroup"]) == ("0660", "hyper")
    assert unit("hyperd.service")["Unit"]["Requires"] == "hyperd.socket"
    assert "--host fd://" in unit("hyperd.service")["Service"]["ExecStart"]


def test_group_is_made():
    lines = [line for line in (CONFIGS / "hyperd.sysusers").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["g hyper -"]


@pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)
def test_systemd_finds_nothing_wrong(path, tmp_path):
    analyze = shutil.which("systemd-analyze")
    assert analyze is not None, "the package systemd, which scripts/test installs"
    for one in UNITS:
        # The program may not be installed: that is not what is asked.
        text = one.read_text().replace("/usr/local/bin/hyperd", "/bin/true")
        (tmp_path / one.name).write_text(text.replace("/usr/local/bin/hypercloud", "/bin/true"))
    scope = "--user" if "user" in path.name else "--system"
    argv = [analyze, scope, "verify", "--man=no", "--recursive-errors=no", str(tmp_path / path.name)]
    env = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, env=env)
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert complaints == []
