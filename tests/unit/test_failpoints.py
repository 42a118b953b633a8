"""The daemon's named steps: every one is known, and nothing happens there unless a test wants it."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from hyperd import failpoint as module
from hyperd.errors import HostFault
from tests.support.failpoints import Switch, calls, names
from tests.support.kill_operations import FIRST, GROUPS, group_of
from tests.support.until import until

# What must be killed at its steps (issue: reliability).
OPERATIONS = {
    "pod.create", "pod.start", "pod.stop", "pod.delete",
    "container.create", "container.start", "container.exit", "container.delete",
    "exec.create", "exec.start", "exec.end",
    "image.pull", "image.load", "image.add", "image.delete", "image.push", "image.store",
    "commit.run", "build.run",
    "pool.refill", "pool.take", "template.make",
    "volume.create", "volume.use", "volume.fill", "volume.delete",
    "network.create", "network.delete", "network.release", "network.publish", "network.tables",
    "cni.add", "cni.delete", "cni.plug",
    "vm.start", "vm.end", "vm.domain",
    "checkpoint.make", "checkpoint.restore", "vm.save", "vm.restore",
    "restore.run", "restore.vm", "restore.pod",
    "database.session", "api.request",
}  # fmt: skip


def test_every_step_has_a_name_of_its_own() -> None:
    found = calls()
    assert [place for name, place in found if not re.fullmatch(r"[a-z]+\.[a-z]+\.[a-z_]+", name)] == []
    assert [name for name, count in Counter(name for name, _ in found).items() if count > 1] == []


def test_every_operation_has_steps_and_is_killed() -> None:
    assert {name.rpartition(".")[0] for name in names()} >= OPERATIONS
    assert {group_of(name) for name in names()} == set(GROUPS)  # an unknown one raises
    assert set(FIRST) <= set(names())


def test_nothing_happens_without_the_setting() -> None:
    assert module._active is None
    module.failpoint("pod.start.sent")


@pytest.fixture
def switch(tmp_path: Path, monkeypatch) -> Switch:
    switch = Switch(tmp_path / "steps")
    monkeypatch.setattr(module, "_active", module._Switches(switch.path))
    return switch


def test_what_a_test_wants_happens(switch: Switch) -> None:
    module.failpoint("a.b.c")
    switch.arm("a.b.c", "error", after=1)
    module.failpoint("a.b.c")
    with pytest.raises(HostFault, match=r"a\.b\.c"):
        module.failpoint("a.b.c")
    module.failpoint("a.b.d")
    switch.arm("a.b.d", "full")
    with pytest.raises(OSError, match=r"a\.b\.d") as raised:
        module.failpoint("a.b.d")
    assert raised.value.errno == errno.ENOSPC
    switch.disarm()
    module.failpoint("a.b.d")
    assert switch.passed() == Counter({"a.b.c": 3, "a.b.d": 3})


def test_a_step_waits_until_it_may_go_on(switch: Switch) -> None:
    switch.arm("a.b.c", "pause")
    thread = threading.Thread(target=module.failpoint, args=("a.b.c",))
    thread.start()
    until(lambda: switch.passed()["a.b.c"] == 1)
    assert thread.is_alive()
    switch.disarm()
    thread.join(10)
    assert not thread.is_alive()


def test_a_step_kills_the_process(tmp_path: Path) -> None:
    switch = Switch(tmp_path / "steps")
    switch.arm("a.b.c", after=1)
    code = "from hyperd.failpoint import failpoint as f\nfor n in range(9): f('a.b.c'); print(n, flush=True)"
    done = subprocess.run([sys.executable, "-c", code], env=switch.env, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-9, b"0\n")
