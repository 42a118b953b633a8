"""What pods cost that do nothing: memory and CPU time; measured once per run."""

from __future__ import annotations

import time

from benchlib.podman import LIMITS, Podman
from benchlib.procs import cpu_seconds, find, memory, qemus
from benchlib.rest import at_rest
from benchlib.scenarios import SLEEP, Scenario


class MemoryScenario(Scenario):
    """Idle pods, beside an idle guest in raw QEMU and idle containers of podman."""

    def prepare(self) -> None:
        self._count = 3 if self.context.quick else 8
        self._seconds = 6.0 if self.context.quick else 30.0

    def finish(self) -> None:
        daemon = self.target.daemon
        rss, pss = memory(daemon.pid)
        self.samples.add("memory.daemon.idle.rss", rss)
        self.samples.add("memory.daemon.idle.pss", pss)
        pods = [self.context.name() for _ in range(self._count)]
        for pod in pods:
            self.target.create(pod, SLEEP)
            self.target.start(pod)
        with self.context.raw("microvm") as raw:
            raw.boot()
            at_rest([daemon.pid, raw.pid, *qemus(daemon.directory)])
            self._measure(raw.pid)
        for pod in pods:
            self.target.remove(pod)
        if self.context.podman is not None:
            self._podman(self.context.podman)

    def _measure(self, raw: int) -> None:
        daemon = self.target.daemon
        guests = qemus(daemon.directory)
        everyone = [daemon.pid, raw, *guests]
        before = {pid: cpu_seconds(pid) for pid in everyone}
        started = time.monotonic()
        time.sleep(self._seconds)  # not a wait: idle CPU is CPU time over a span, long beside a clock tick
        took = time.monotonic() - started
        percent = {pid: 100 * (cpu_seconds(pid) - before[pid]) / took for pid in everyone}
        for key, pids in (("daemon", [daemon.pid]), ("raw", [raw]), ("qemu", guests)):
            for pid in pids:
                rss, pss = memory(pid)
                self.samples.add(f"memory.{key}.rss", rss)
                self.samples.add(f"memory.{key}.pss", pss)
                self.samples.add(f"idle.{key}.cpu", percent[pid])

    def _podman(self, podman: Podman) -> None:
        names = [self.context.name() for _ in range(self._count)]
        idents = [
            podman.run("run", "-d", "--name", name, *LIMITS, self.target.image, *SLEEP).decode().strip()
            for name in names
        ]
        pids = {
            name: [int(podman.run("inspect", "-f", "{{.State.Pid}}", name)), *find("conmon", ident)]
            for name, ident in zip(names, idents, strict=True)
        }
        at_rest([pid for each in pids.values() for pid in each])
        for name, each in pids.items():
            self.samples.add("memory.podman.pss", sum(memory(pid)[1] for pid in each))
            podman.run("rm", "-f", "-t", "0", name)
