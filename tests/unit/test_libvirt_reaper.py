"""The reaper follows exactly the processes it was told of."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.vm.libvirt.reaper import Reaper, read_pid

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)", "-name", "guest=vm-one,debug-threads=on"]
# A daemon as libvirt starts one: its parent ends at once, so it becomes the subreaper's child.
DAEMON = """
import os, sys, time
sys.path.insert(0, {tree!r})
from hyperd.vm.libvirt.reaper import Reaper, set_subreaper
set_subreaper(on=True)
reaper = Reaper()
middle = os.fork()
if middle == 0:
    os.setsid()
    pid = os.fork()
    if pid:
        os._exit(0)
    open({pidfile!r}, "w").write(str(os.getpid()))
    os.execv(sys.executable, [sys.executable, "-c", {code!r}, "guest=vm-one,x"])
with reaper.expecting(__import__("pathlib").Path({pidfile!r}), "vm-one"):
    os.waitpid(middle, 0)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            pid = int(open({pidfile!r}).read())
            break
        except (OSError, ValueError):
            time.sleep(0.01)
    {action}
    while time.monotonic() < deadline and os.path.exists(f"/proc/{{pid}}"):
        time.sleep(0.01)
print("gone" if not os.path.exists(f"/proc/{{pid}}") else "there")
reaper.close()
"""


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    reaper = Reaper()
    yield reaper
    reaper.close()
    reaper.close()


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(SLEEP) as process:
        # The command line is only right once the program runs.
        until = time.monotonic() + 20
        while b"guest=vm-one" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert time.monotonic() < until
            time.sleep(0.01)
        yield process
        process.kill()


def test_kills_and_reaps_what_it_follows(reaper: Reaper, sleeper: subprocess.Popen[bytes]) -> None:
    assert reaper.watch(sleeper.pid, "vm-one")
    assert reaper.watch(sleeper.pid, "vm-one")
    assert not reaper.wait(sleeper.pid, 0.05)
    assert reaper.kill(sleeper.pid)
    assert reaper.wait(sleeper.pid, 20)
    assert not Path(f"/proc/{sleeper.pid}").exists()
    assert not reaper.kill(sleeper.pid)
    assert reaper.wait(sleeper.pid, 0)


def test_another_process_with_the_pid_is_never_hit(reaper: Reaper, sleeper: subprocess.Popen[bytes]) -> None:
    assert not reaper.watch(sleeper.pid, "vm-other")
    assert not reaper.watch(sleeper.pid, "vm-on")
    assert not reaper.kill(sleeper.pid)
    assert not reaper.watch(2**22 + 1, "vm-one")
    assert sleeper.poll() is None


def test_other_children_keep_their_status(reaper: Reaper, sleeper: subprocess.Popen[bytes]) -> None:
    reaper.watch(sleeper.pid, "vm-one")
    assert [subprocess.run(["sh", "-c", f"exit {code}"], check=False).returncode for code in (3, 4)] == [3, 4]


def test_many_at_once(reaper: Reaper) -> None:
    processes = [subprocess.Popen(["sleep", "60"]) for _ in range(8)]
    try:
        until = time.monotonic() + 20
        for process in processes:
            # ``sleep`` has no name of a VM; a child that has ended counts as ours.
            process.kill()
            while not reaper.watch(process.pid, "vm-one"):
                assert time.monotonic() < until
                time.sleep(0.01)
        waits = [threading.Thread(target=reaper.wait, args=(process.pid, 20)) for process in processes]
        for thread in waits:
            thread.start()
        for thread in waits:
            thread.join()
        assert not any(Path(f"/proc/{process.pid}").exists() for process in processes)
    finally:
        for process in processes:
            process.wait()


@pytest.mark.parametrize(
    ("code", "action"),
    [("raise SystemExit(1)", "pass"), ("import time; time.sleep(60)", "os.kill(pid, 9)")],
    ids=["ends while it starts", "is killed"],
)
def test_orphaned_daemon_is_reaped(tmp_path: Path, code: str, action: str) -> None:
    tree = str(Path(__file__).resolve().parents[2])
    script = DAEMON.format(tree=tree, pidfile=str(tmp_path / "pid"), code=code, action=action)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    # The reaper's log line may be mixed into ours.
    assert "gone" in done.stdout, done.stderr
    assert "there" not in done.stdout


def test_pid_files(tmp_path: Path) -> None:
    assert read_pid(tmp_path / "missing") is None
    (tmp_path / "pid").write_text("")
    assert read_pid(tmp_path / "pid") is None
    (tmp_path / "pid").write_text(f"{os.getpid()}\n")
    assert read_pid(tmp_path / "pid") == os.getpid()
