"""What the daemon does to stay small: what it imports, memory given back."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from hyperd.server import memory

ROOT = Path(__file__).resolve().parents[2]
# What a daemon imports late or never; each with all that it brings.
LATE = (
    "alembic",  # migrations, in a process of their own
    "apispec",  # GET /openapi.json
    "cryptography",  # signatures
    "dockerfile",  # builds
    "hyperd.api.exposition",  # GET /metrics
    "hyperd.api.openapi",
    "hyperd.build.build",
    "hyperd.build.config",
    "hyperd.build.context",
    "hyperd.build.dockerfile",
    "hyperd.vm.fake",
    "prometheus_client",
    "yaml",
)
# As ``hyperd.cli`` does it; the driver is chosen by the engine.
START = """
import sys
import hyperd.cli
from hyperd.server import memory
memory.prepare()
from hyperd.config import load
from hyperd.server import logging, serve
from hyperd.engine import Engine
import hyperd.vm.libvirt.driver
logging.setup("info")
memory.settle()
"""


def run(code: str) -> str:
    """Run code in an interpreter of its own, as a daemon begins it."""
    done = subprocess.run(
        [sys.executable, "-c", START + code], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_what_is_needed_late_is_not_imported_at_the_start() -> None:
    loaded = set(run("print(*sys.modules)").split())
    assert "hyperd.server.serve" in loaded
    assert "sqlalchemy.orm" in loaded
    assert not loaded.intersection(LATE)


def test_one_trim_for_a_burst(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    done = threading.Event()
    monkeypatch.setattr(memory, "BURST", 0.4)
    monkeypatch.setattr(memory, "trim", lambda: (trims.append(1), done.set()))
    trimmer = memory.Trimmer()
    for _ in range(20):
        trimmer.ask()
    assert done.wait(60)
    done.clear()
    trimmer.ask()  # the next burst
    assert done.wait(60)
    assert len(trims) == 2


def test_no_trim_after_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    trims: list[int] = []
    monkeypatch.setattr(memory, "BURST", 60.0)
    monkeypatch.setattr(memory, "trim", lambda: trims.append(1))
    trimmer = memory.Trimmer()
    trimmer.ask()
    waiting = [thread for thread in threading.enumerate() if thread.name == "trim"]
    assert len(waiting) == 1
    trimmer.close()
    waiting[0].join(60)
    assert not waiting[0].is_alive()
    assert not trims
