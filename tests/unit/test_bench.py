"""The benchmark's own arithmetic: what it reads from logs and what it writes of figures."""

from __future__ import annotations

from benchlib.target import boot_times

LOG = """\
timestamp=2026-01-02T03:04:05.000001Z level=info event=vm.created vm=vm-one vcpu=1 memory=128 paused=false
timestamp=2026-01-02T03:04:05.000002Z level=info event=vm.booted vm=vm-one create_ms=120 ready_ms=700
timestamp=2026-01-02T03:04:05.000003Z level=info event=vm.booted vm=vm-two create_ms=500 ready_ms=3000
timestamp=2026-01-02T03:04:05.000004Z level=info event=vm.pooled vm=vm-three
"""


def test_boot_times_are_those_of_one_vm() -> None:
    assert boot_times(LOG) == {"vm-one": (0.12, 0.58), "vm-two": (0.5, 2.5)}
    assert boot_times("") == {}
