"""One asyncio loop in one daemon thread carries every stream; the rest of the daemon is threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, TypeVar

import structlog

from hyperd.errors import Timeout

log = structlog.get_logger(__name__)
T = TypeVar("T")


class Relay:
    """The loop and the ways into it from other threads."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name="relay", daemon=True)
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Cancel what runs, stop the loop and wait for the thread."""
        if not self._thread.is_alive():
            if not self.loop.is_closed():
                self.loop.close()
            return
        self.loop.call_soon_threadsafe(lambda: self.loop.create_task(self._shutdown()))
        self._thread.join(10)

    def call(self, coroutine: Coroutine[Any, Any, T], *, timeout: float | None = None, what: str = "") -> T:
        """Run a coroutine in the loop and wait for its result (never from the loop's own thread).

        Errors: Timeout after ``timeout`` seconds; whatever the coroutine raises.
        """
        future: Future[T] = asyncio.run_coroutine_threadsafe(coroutine, self.loop)
        try:
            return future.result(timeout)
        except FutureTimeout:
            if future.done():
                raise
            future.cancel()
            raise Timeout(f"{what or 'the guest'} did not answer within {timeout:g} s") from None

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Start a coroutine from any thread; its failure is logged."""
        self.loop.call_soon_threadsafe(self.task, coroutine)

    def task(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Start a coroutine from the loop's thread; its failure is logged."""
        task = self.loop.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def soon(self, callback: Callable[..., object], *args: Any) -> None:
        """Call a function in the loop's thread soon."""
        self.loop.call_soon_threadsafe(callback, *args)

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("stream.task_failed", exc_info=task.exception())

    def _main(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        self.loop.close()

    async def _shutdown(self) -> None:
        current = asyncio.current_task()
        others = [task for task in asyncio.all_tasks(self.loop) if task is not current]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0)  # connections that are being closed have what they need: one turn of the loop
        self.loop.stop()
