"""Deadlines and error mapping, against libvirt's own test driver where libvirt has to fail."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import libvirt
import pytest

from hyperd.errors import Conflict, DriverError, NotFound, Timeout
from hyperd.vm.driver import PowerState
from hyperd.vm.libvirt import calls
from hyperd.vm.libvirt.guest import Guest, power_state
from hyperd.vm.libvirt.host import Host, start_event_loop

DOMAIN = """<domain type='test'><name>{name}</name><memory unit='MiB'>64</memory><os><type>hvm</type></os></domain>"""


@pytest.fixture
def connection() -> Iterator[libvirt.virConnect]:
    start_event_loop()
    connection = libvirt.open("test:///default")
    yield connection
    connection.close()


def fail(code: int) -> calls.HyperError:
    error = libvirt.libvirtError("call failed")
    error.err = (code, 10, "it broke", 2, "", "", "", -1, -1)
    return calls.translate(error, "Cannot do it")


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (libvirt.VIR_ERR_NO_DOMAIN, NotFound),
        (libvirt.VIR_ERR_DOM_EXIST, Conflict),
        (libvirt.VIR_ERR_OPERATION_INVALID, Conflict),
        (libvirt.VIR_ERR_OPERATION_TIMEOUT, Timeout),
        (libvirt.VIR_ERR_INTERNAL_ERROR, DriverError),
        (libvirt.VIR_ERR_OPERATION_FAILED, DriverError),
        (libvirt.VIR_ERR_XML_ERROR, DriverError),
        (999_999, DriverError),
    ],
)
def test_class_is_chosen_by_code(code: int, kind: type[Exception]) -> None:
    error = fail(code)
    assert type(error) is kind
    assert error.brief == "Cannot do it"
    assert "it broke" in error.details
    assert str(code) in error.details


def test_error_without_a_code() -> None:
    error = calls.translate(libvirt.libvirtError("lost"), "Cannot do it")
    assert type(error) is DriverError
    assert "lost" in error.details


def test_real_error_of_libvirt(connection: libvirt.virConnect, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(NotFound) as caught:
        calls.call(lambda: connection.lookupByName("nobody"), timeout=5, brief="No such VM: nobody")
    assert caught.value.brief == "No such VM: nobody"
    assert isinstance(caught.value.__cause__, libvirt.libvirtError)
    with pytest.raises(DriverError):
        calls.call(lambda: connection.createXML("<domain/>"), timeout=5, brief="Cannot start the VM")
    assert capfd.readouterr().err == ""


def test_result_and_foreign_errors_pass_through() -> None:
    assert calls.call(lambda: 7, timeout=5, brief="x") == 7
    with pytest.raises(ZeroDivisionError):
        calls.call(lambda: 1 // 0, timeout=5, brief="x")


def test_call_that_hangs_is_left_and_its_result_undone() -> None:
    release, undone = threading.Event(), threading.Event()
    late: list[str] = []

    def slow() -> str:
        release.wait(60)
        return "made"

    def undo(result: str) -> None:
        late.append(result)
        undone.set()

    with pytest.raises(Timeout) as caught:
        calls.call(slow, timeout=0.05, brief="Cannot start the VM", late=undo)
    assert caught.value.brief == "Cannot start the VM"
    assert not late
    release.set()
    assert undone.wait(60)
    assert late == ["made"]


def test_late_failure_has_nothing_to_undo() -> None:
    release = threading.Event()
    late: list[object] = []

    def slow() -> None:
        release.wait(60)
        raise ValueError

    task = calls.Task(slow, brief="x", late=late.append)
    task.start()
    with pytest.raises(Timeout):
        task.result(0.05)
    release.set()
    with pytest.raises(ValueError):  # noqa: PT011 - raised above
        task.result(60)
    assert not late


def test_life_of_a_guest(connection: libvirt.virConnect) -> None:
    guest = Guest(connection.createXML(DOMAIN.format(name="vm-one")), connection)
    assert guest.name == "vm-one"
    assert guest.state() is PowerState.RUNNING
    guest.pause()
    assert guest.state() is PowerState.PAUSED
    with pytest.raises(DriverError):  # QEMU's driver calls it an invalid operation, the test driver an internal error
        guest.pause()
    guest.resume(timeout=5)
    assert guest.state() is PowerState.RUNNING
    assert guest.describe().root == ""
    guest.destroy()
    guest.destroy()
    assert guest.state() is PowerState.SHUTOFF
    for method in (guest.pause, guest.describe):
        with pytest.raises(NotFound):
            method()


def test_host_finds_guests(connection: libvirt.virConnect, tmp_path: Path) -> None:
    host = Host(uri="test:///default", emulator="", directory=tmp_path, on_event=lambda _event: None)
    with pytest.raises(DriverError):
        host.guests()
    host._connection = connection
    made = host.create(DOMAIN.format(name="vm-two"), paused=False, foreign_files=False, timeout=10, late=lambda: None)
    made.pause()
    assert host.states()["vm-two"] is PowerState.PAUSED
    assert "vm-two" in {guest.name for guest in host.guests()}
    assert host.find("vm-two") is not None
    assert host.find("vm-three") is None
    with pytest.raises(DriverError):
        host.create("<domain>", paused=False, foreign_files=False, timeout=10, late=lambda: None)
    made.destroy()
    assert host.find("vm-two") is None
    assert host.pidfile("vm-two") is None


def test_unknown_state_is_off() -> None:
    assert power_state(libvirt.VIR_DOMAIN_BLOCKED) is PowerState.RUNNING
    assert power_state(libvirt.VIR_DOMAIN_CRASHED) is PowerState.SHUTOFF
    assert power_state(12345) is PowerState.SHUTOFF
