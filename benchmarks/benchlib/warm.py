"""Starts on a VM that waits in the pool, from a daemon of its own; each waits until the pool is full again."""

from __future__ import annotations

from benchlib.procs import qemus
from benchlib.rest import at_rest
from benchlib.scenarios import SLEEP, Scenario
from benchlib.target import Target, wall


class WarmScenario(Scenario):
    """``run -d``, ``run --rm`` and a start at the API, none of which waits for a kernel."""

    def prepare(self) -> None:
        self._taken: set[str] = set()
        self._warm = Target(self.target.image, self.target.guest, pool=1)

    def round(self) -> None:
        name = self.context.name()
        self._wait()
        self.samples.add("warm.ctl", wall(self._warm.command("run", "-d", "--name", name, self.target.image, *SLEEP)))
        self._warm.remove(name)
        self._wait()
        with self.samples.timed("warm.api"):
            self._warm.create(name, SLEEP)
            self._warm.start(name)
        self._warm.remove(name)
        self._wait()
        self.samples.add("warm.run", wall(self._warm.command("run", "--rm", self.target.image, "true")))

    def finish(self) -> None:
        if hasattr(self, "_warm"):
            self._warm.close()

    def _wait(self) -> None:
        """Wait until a VM is ready for the next start, and the machine is quiet again."""
        self._taken.add(self._warm.wait_pooled(self._taken))
        at_rest([self._warm.daemon.pid, *qemus(self._warm.daemon.directory)])
