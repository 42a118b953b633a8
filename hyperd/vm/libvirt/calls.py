"""How libvirt is called: with a deadline, and with its errors turned into ours by their codes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import libvirt
import structlog

from hyperd.errors import Conflict, DriverError, HyperError, NotFound, Timeout

log = structlog.get_logger(__name__)

T = TypeVar("T")

_CLASSES: dict[int, type[HyperError]] = {
    libvirt.VIR_ERR_NO_DOMAIN: NotFound,
    libvirt.VIR_ERR_DOM_EXIST: Conflict,
    libvirt.VIR_ERR_OPERATION_INVALID: Conflict,
    libvirt.VIR_ERR_OPERATION_TIMEOUT: Timeout,
}


def translate(error: libvirt.libvirtError, brief: str) -> HyperError:
    """Return our error for libvirt's: the class by the code, libvirt's own text and numbers in the details."""
    code = error.get_error_code()
    kind = DriverError if code is None else _CLASSES.get(code, DriverError)
    text = error.get_error_message() or str(error)
    return kind(brief, details=f"{text} [libvirt error {code}, domain {error.get_error_domain()}]")


class _Call(Generic[T]):
    """One call in a thread of its own, so that the caller can leave."""

    def __init__(self, func: Callable[[], T], late: Callable[[T], None] | None) -> None:
        self._func = func
        self._late = late
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = False
        self._result: T
        self._error: BaseException | None = None

    def run(self) -> None:
        try:
            self._result = self._func()
        except BaseException as error:  # handed to the caller
            self._error = error
        with self._lock:
            self._done.set()
            abandoned = self._abandoned
        if abandoned and self._error is None and self._late is not None:
            try:
                self._late(self._result)
            except Exception:
                log.exception("libvirt.late_undo_failed")

    def result(self, timeout: float, brief: str) -> T:
        if not self._done.wait(timeout):
            with self._lock:
                self._abandoned = not self._done.is_set()
            if self._abandoned:
                raise Timeout(
                    brief,
                    details=f"libvirt did not answer within {timeout:g} s",
                    resolution="see the hypervisor's log; restart hyperd if it stays so, VMs run on",
                )
        if isinstance(self._error, libvirt.libvirtError):
            raise translate(self._error, brief) from self._error
        if self._error is not None:
            raise self._error
        return self._result


def call(func: Callable[[], T], *, timeout: float, brief: str, late: Callable[[T], None] | None = None) -> T:
    """Run ``func`` in its own thread and return its result.

    Args:
        func: calls libvirt.
        timeout: seconds.
        brief: what failed, for the error.
        late: undoes the result when ``func`` succeeds after the caller has left.

    Errors: Timeout when it takes longer (the thread stays until libvirt answers), and libvirt's errors as ``translate`` maps them.

    """
    task = _Call(func, late)
    threading.Thread(target=task.run, name="libvirt-call", daemon=True).start()
    return task.result(timeout, brief)
