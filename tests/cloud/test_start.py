"""The command: help, the first start, a second server on the same root, a broken configuration."""

from __future__ import annotations

import subprocess
import sys

from tests.support.cloud import CloudProcess


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "hypercloud", *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_help_and_version():
    assert "first start makes the account" in run("--help").stdout
    assert run("--version").stdout.startswith("hypercloud ")


def test_the_password_is_printed_once(tmp_path):
    server = CloudProcess(tmp_path / "root").start()
    try:
        assert server.call("POST", "/auth/login", {"username": "admin", "password": server.password}).status == 200
        second = run("--config", str(server.config))
        assert second.returncode == 1
        assert f"process {server.process.pid}" in second.stderr
        server.restart()
        assert server.output.read_text(encoding="utf-8").count("password") == 1
        assert server.call("POST", "/auth/login", {"username": "admin", "password": server.password}).status == 200
        assert (server.root / "hypercloud.db").stat().st_mode & 0o777 == 0o600
    finally:
        server.stop()


def test_mistakes_end_with_a_message(tmp_path):
    done = run("--config", str(tmp_path / "none"))
    assert (done.returncode, "cannot read the configuration" in done.stderr) == (1, True)
    done = run("--root", str(tmp_path), "--database", "mysql://x")
    assert (done.returncode, "SQLite or PostgreSQL" in done.stderr) == (1, True)
    (tmp_path / "hypercloud.db").write_bytes(b"not a database" * 100)
    done = run("--root", str(tmp_path))
    assert (done.returncode, "the database cannot be read" in done.stderr) == (1, True)
