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


class Task(Generic[T]):
    """Work in a thread of its own, so that who waits for it can leave.

    Args:
        func: calls libvirt.
        brief: what failed, for the error.
        late: undoes the result when ``func`` succeeds after the waiting one has left.

    """

    def __init__(self, func: Callable[[], T], *, brief: str, late: Callable[[T], None] | None = None) -> None:
        self._func = func
        self._brief = brief
        self._late = late
        self._lock = threading.Lock()
        self._done = threading.Event()
        self._abandoned = False
        self._result: T
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin; once."""
        threading.Thread(target=self._run, name="libvirt-call", daemon=True).start()

    def result(self, timeout: float) -> T:
        """Wait at most ``timeout`` seconds and return the result.

        Errors: Timeout when it takes longer (the thread stays until libvirt answers); libvirt's, as ``translate`` maps
        them.
        """
        if not self._done.wait(timeout):
            with self._lock:
                self._abandoned = not self._done.is_set()
            if self._abandoned:
                raise Timeout(
                    self._brief,
                    details=f"libvirt did not answer within {timeout:g} s",
                    resolution="see the hypervisor's log; restart hyperd if it stays so, VMs run on",
                )
        if isinstance(self._error, libvirt.libvirtError):
            raise translate(self._error, self._brief) from self._error
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._func()
        except BaseException as error:  # handed to who waits
            self._error = error
        with self._lock:
            self._done.set()
            abandoned = self._abandoned
        if abandoned and self._error is None and self._late is not None:
            try:
                self._late(self._result)
            except Exception:
                log.exception("libvirt.late_undo_failed")


def call(func: Callable[[], T], *, timeout: float, brief: str, late: Callable[[T], None] | None = None) -> T:
    """Run ``func`` as a ``Task`` and wait for it. Arguments and errors are the task's."""
    task = Task(func, brief=brief, late=late)
    task.start()
    return task.result(timeout)
