"""What a program started by a restricted thread may do."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable

import pytest

from hyperd import capabilities

pytestmark = pytest.mark.root


def sets_of_a_child(before: Callable[[], None]) -> dict[str, int]:
    """Run ``before`` in a thread, then a program from it; give the program's capability sets."""
    out: list[str] = []

    def work() -> None:
        before()
        out.append(subprocess.check_output(["/bin/cat", "/proc/self/status"], text=True))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    lines = [line.split() for line in out[0].splitlines() if line.startswith("Cap")]
    return {name.rstrip(":"): int(value, 16) for name, value in lines}


def test_a_vm_without_files_of_others_gets_nothing() -> None:
    sets = sets_of_a_child(capabilities.restrict_thread)
    assert set(sets.values()) == {0}


def test_a_vm_with_files_of_others_gets_what_files_need_and_no_device_nodes() -> None:
    sets = sets_of_a_child(lambda: capabilities.restrict_thread(capabilities.FOREIGN_FILES))
    wanted = sum(1 << number for number in capabilities.FOREIGN_FILES)
    assert (sets["CapEff"], sets["CapBnd"]) == (wanted, wanted)
    assert not sets["CapEff"] & 1 << 27  # mknod


def test_other_threads_keep_what_they_have() -> None:
    before = sets_of_a_child(lambda: None)
    sets_of_a_child(capabilities.restrict_thread)
    assert sets_of_a_child(lambda: None) == before
    assert before["CapEff"]
