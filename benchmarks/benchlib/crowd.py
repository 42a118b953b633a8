"""Many at once: attached clients, pods that do nothing, pods that are started together. Each measured once per run."""

from __future__ import annotations

import os
import resource
import socket
import statistics
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from benchlib import host, httpload
from benchlib.procs import cpu_seconds, memory, qemus, spent_children, threads
from benchlib.rest import at_rest
from benchlib.scenarios import SLEEP, Scenario
from benchlib.target import TIMEOUT, RequestFailed, Target


class AttachesScenario(Scenario):
    """Clients that are attached to one container which says nothing, until it says one line to all."""

    def finish(self) -> None:
        wanted = 200 if self.context.quick else 1000
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != -1 else max(soft, 4096), hard))
        pod, daemon = self.context.name(), self.target.daemon
        container = self.target.create(pod, ("sh", "-c", "read line; echo $line; exec sleep 3600"))
        self.target.start(pod)
        at_rest([daemon.pid])
        before, running = memory(daemon.pid)[0], threads(daemon.pid)
        clients: list[socket.socket] = []
        try:
            clients.extend(_attach(daemon.socket, container) for _ in range(wanted))
            at_rest([daemon.pid])
            per = 1000 / wanted
            self.samples.add("attaches.memory", (memory(daemon.pid)[0] - before) * per)
            self.samples.add("attaches.threads", (threads(daemon.pid) - running) * per)
            started = time.monotonic()
            clients[0].sendall(b"word\n")
            for client in clients:
                _wait_for(client, b"word")
            self.samples.add("attaches.word", time.monotonic() - started)
        finally:
            for client in clients:
                client.close()
            self.target.remove(pod)


def _attach(path: Path, container: str) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT)
    client.connect(str(path))
    client.sendall(
        f"POST /attach?container={container} HTTP/1.1\r\nHost: localhost\r\n"
        "Connection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\n".encode()
    )
    if b" 101 " not in _wait_for(client, b"\r\n\r\n"):
        raise RequestFailed("an attach was refused")
    return client


def _wait_for(client: socket.socket, word: bytes) -> bytes:
    data = b""
    while word not in data:
        piece = client.recv(4096)
        if not piece:
            raise RequestFailed("a stream ended early")
        data += piece
    return data


class DensityScenario(Scenario):
    """Forty idle pods (with ``--quick`` four): memory with half of them and with all, CPU of each, the list's speed."""

    def finish(self) -> None:
        full, seconds = (4, 6.0) if self.context.quick else (40, 20.0)
        with Target(self.target.image, self.target.guest) as target:
            target.warm_up()
            pid = target.daemon.pid
            at_rest([pid])
            self.samples.add("density.daemon.none.rss", memory(pid)[0])
            available = host.available()
            names = [self.context.name() for _ in range(full)]
            for number, name in enumerate(names, start=1):
                target.create(name, SLEEP)
                target.start(name)
                if number in (1, full // 2):
                    self._part(target, "one" if number == 1 else "half")
            at_rest([pid, *qemus(target.daemon.directory)])
            self.samples.add("density.host", (available - host.available()) / full)
            self._idle(target, seconds)
            _, times = httpload.run(target.daemon.socket, "/list?item=pod", clients=1, seconds=2.0)
            self.samples.add("density.list", statistics.median(times))
            for name in names:
                target.remove(name)
            at_rest([pid])
            self.samples.add("density.daemon.after.rss", memory(pid)[0])

    def _part(self, target: Target, key: str) -> None:
        """Measure memory while only some of the pods run: what they share is divided among them."""
        guests = qemus(target.daemon.directory)
        at_rest([target.daemon.pid, *guests])
        if key == "half":
            self.samples.add("density.daemon.rss", memory(target.daemon.pid)[0])
        for guest in guests:
            self.samples.add(f"density.{key}.pss", memory(guest)[1])

    def _idle(self, target: Target, seconds: float) -> None:
        guests, pid = qemus(target.daemon.directory), target.daemon.pid
        everyone = [pid, *guests]
        before, started = {one: cpu_seconds(one) for one in everyone}, time.monotonic()
        time.sleep(seconds)  # not a wait: idle CPU is CPU time over a span, which must be long beside a clock tick
        took = time.monotonic() - started
        spent = {one: 100 * (cpu_seconds(one) - before[one]) / took for one in everyone}
        self.samples.add("density.daemon.cpu", spent[pid])
        for guest in guests:
            self.samples.add("density.cpu", spent[guest])
            self.samples.add("density.pss", memory(guest)[1])


class TogetherScenario(Scenario):
    """Eight pods asked for at once (with ``--quick`` four), beside the CPU time that they take over all CPUs."""

    def round(self) -> None:
        names = self._names()
        daemon = self.target.daemon
        before, others = cpu_seconds(daemon.pid) + spent_children(daemon.pid), set(qemus(daemon.directory))
        took = start_together(self.target, names)
        spent = cpu_seconds(daemon.pid) + spent_children(daemon.pid) - before
        spent += sum(map(cpu_seconds, set(qemus(daemon.directory)) - others))
        for name in names:
            self.target.remove(name)
        self.samples.add("together.wall", took)
        self.samples.add("together.cpu", spent / (os.cpu_count() or 1))

    def finish(self) -> None:
        """Do the same where one VM waits in the pool: the others must not wait until it is full again."""
        with Target(self.target.image, self.target.guest, pool=1) as target:
            used: set[str] = set()
            for _ in range(1 if self.context.quick else 3):
                names = self._names()
                target.wait_pooled(used)
                at_rest([target.daemon.pid, *qemus(target.daemon.directory)])
                ready = target.pooled()
                self.samples.add("together.pool.wall", start_together(target, names))
                taken = {target.vm_of(name) for name in names}
                self.samples.add("together.pool.waited", len(taken & target.pooled() - ready))
                used |= taken
                for name in names:
                    target.remove(name)

    def _names(self) -> list[str]:
        return [self.context.name() for _ in range(4 if self.context.quick else 8)]


def start_together(target: Target, names: Sequence[str]) -> float:
    """Create and start pods at the same moment; give the seconds until the last one runs. Errors: the first one's."""
    failures: list[Exception] = []

    def start(name: str) -> None:
        try:
            with target.apart() as link:
                link.create(name, SLEEP)
                link.start(name)
        except Exception as error:
            failures.append(error)

    workers = [threading.Thread(target=start, args=(name,)) for name in names]
    started = time.monotonic()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    took = time.monotonic() - started
    if failures:
        raise failures[0]
    return took
