"""A LibvirtDriver in a process of its own: libvirt has one embedded root per process for ever, and some get killed."""

from __future__ import annotations

import pickle
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from hyperd.config.model import HypervisorConfig
from hyperd.vm.driver import HypervisorInfo, VmEvent, VmEventKind


class DriverProcess:
    """Calls of the driver's methods run in the child, several at once; its events arrive in ``events``."""

    def __init__(self, root: Path, settings: HypervisorConfig, *, wait: bool = True) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.driver_process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._link = Connection(ours.detach())
        self._calls = count(1)
        self._pending: dict[int, Future[Any]] = {}
        self._changed = threading.Condition()
        self.events: list[VmEvent] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._link.send((root, settings))
        self._reader.start()
        started = time.monotonic()
        self.opening = self.submit("open")
        if not wait:
            return
        try:
            self.info: HypervisorInfo = self.opening.result(180)
        except BaseException:
            self.kill()
            raise
        self.open_time = time.monotonic() - started

    def submit(self, method: str, *args: Any) -> Future[Any]:
        """Begin a call."""
        future: Future[Any] = Future()
        with self._changed:
            number = next(self._calls)
            self._pending[number] = future
            self._link.send((number, method, args))
        return future

    def call(self, method: str, *args: Any) -> Any:
        """Call a method of the driver; its errors are raised here."""
        return self.submit(method, *args).result(180)

    def wait_event(self, vm_id: str, *, timeout: float = 90.0) -> VmEventKind:
        """Wait for the first event of a VM."""

        def found() -> list[VmEventKind]:
            return [event.kind for event in self.events if event.vm_id == vm_id]

        with self._changed:
            assert self._changed.wait_for(found, timeout), f"no event of {vm_id} within {timeout} s: {self.events}"
            return found()[0]

    def kill(self) -> None:
        """End the process as a crash does."""
        self.process.kill()
        self._end()

    def close(self) -> None:
        """End the process as a stopped daemon does."""
        if self.process.poll() is None:
            self.call("close")
            self._link.send(None)
        self._end()

    def _end(self) -> None:
        self.process.wait(60)
        self._reader.join(60)
        self._link.close()

    def _read(self) -> None:
        while True:
            try:
                number, value, error = self._link.recv()
            except (EOFError, OSError):
                break
            with self._changed:
                if number == 0:
                    self.events.append(value)
                    self._changed.notify_all()
                    continue
                future = self._pending.pop(number)
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)
        with self._changed:
            left, self._pending = list(self._pending.values()), {}
        for future in left:
            future.set_exception(ConnectionError("the driver's process has ended"))


def _serve(link: Connection) -> None:
    from hyperd.vm.libvirt.driver import LibvirtDriver

    root, settings = link.recv()
    driver = LibvirtDriver(settings, root)
    lock = threading.Lock()

    def answer(*message: object) -> None:
        with lock:
            link.send(message)

    def run(number: int, func: Callable[..., object], args: tuple[object, ...]) -> None:
        try:
            value, error = func(*args), None
        except Exception as caught:
            value, error = None, caught
        try:
            pickle.dumps(error)
        except Exception:
            error = RuntimeError(repr(error))
        answer(number, value, error)

    driver.subscribe(lambda event: answer(0, event, None))
    while (message := link.recv()) is not None:
        number, method, args = message
        threading.Thread(target=run, args=(number, getattr(driver, method), args), daemon=True).start()


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as connection:
        _serve(connection)
