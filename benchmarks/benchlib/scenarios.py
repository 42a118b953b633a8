"""What is done and timed. A scenario does one round at a time, so that all of them and their peers are interleaved."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchlib import httpload
from benchlib.left import KINDS, free_port, libvirts, seconds_until_gone, traces
from benchlib.podman import LIMITS, Podman
from benchlib.procs import cpu_seconds
from benchlib.rawboot import RawVm
from benchlib.samples import Samples
from benchlib.target import HAS_TEMPLATES, Received, Target, piped, wall

SLEEP = ("sleep", "3600")
# As process 1 a program without a handler does not end at SIGTERM: stopping it takes the grace.
ENDS = ("sh", "-c", "trap 'exit 0' TERM; sleep 3600 & wait")
# Pods in the list; they are defined and do not run, so that the figure is the daemon's alone.
LISTED_PODS = 50
# Text, not zeros: both logs of the peers escape or cut by lines.
LINE = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-"


class NotThere(RuntimeError):
    """Something that a scenario needs is not installed or not built: it is missing, and nothing has failed."""


@dataclass
class Context:
    """What scenarios share. ``podman`` is None when it is not installed."""

    target: Target
    samples: Samples
    podman: Podman | None
    kernel: Path
    initrd: Path
    quick: bool
    accelerator: str = "tcg"
    scratch: dict[str, int] = field(default_factory=dict)

    def raw(self, machine: str) -> RawVm:
        """Return a guest in raw QEMU, with kernel and accelerator of the pods; the caller closes it."""
        return RawVm(self.kernel, self.initrd, machine=machine, accelerator=self.accelerator)

    def name(self) -> str:
        """Return a pod's name that was not used before."""
        self.scratch["names"] = self.scratch.get("names", 0) + 1
        return f"bench-{self.scratch['names']}"


class Scenario:
    """One thing to measure: ``prepare`` once, ``round`` many times, ``finish`` once.

    ``most`` is how often ``round`` is called at most, for what takes long.
    """

    most = 1000

    def __init__(self, context: Context) -> None:
        self.context = context
        self.target = context.target
        self.samples = context.samples

    def prepare(self) -> None:
        """Make what the rounds need; nothing is timed."""

    def round(self) -> None:
        """Measure once."""

    def finish(self) -> None:
        """Measure what is measured once, and remove what was made."""


class BootScenario(Scenario):
    """Raw QEMU on the same kernel and initramfs."""

    def round(self) -> None:
        for machine in ("microvm", "q35"):
            with self.context.raw(machine) as raw:
                took = raw.boot()
            self.samples.add(f"boot.{machine}", took.wall)
            self.samples.add(f"boot.{machine}.cpu", took.cpu)


def cold_start(target: Target, samples: Samples, name: str, key: str) -> None:
    """Make and start a pod at the API.

    Args:
        target: the daemon. samples: get what it took.
        name: of the pod, which runs then.
        key: of the samples: ``KEY.api``, ``KEY.api.create``, ``KEY.cpu.qemu`` and ``KEY.cpu.daemon``; of its VM alone
            ``KEY.phase.libvirt`` and ``KEY.phase.boot``.

    """
    before = cpu_seconds(target.daemon.pid)
    with samples.timed(f"{key}.api"):
        with samples.timed(f"{key}.api.create"):
            target.create(name, SLEEP)
        target.start(name)
    samples.add(f"{key}.cpu.daemon", cpu_seconds(target.daemon.pid) - before)
    vm_id = target.vm_of(name)
    samples.add(f"{key}.cpu.qemu", target.guest_seconds(vm_id))
    phases = target.boot_times(vm_id)
    if phases is not None:
        samples.add(f"{key}.phase.libvirt", phases[0])
        samples.add(f"{key}.phase.boot", phases[1])


class StartScenario(Scenario):
    """A pod's life, cold: by hyperctl and at the API; the same with podman."""

    def round(self) -> None:
        self._hyperctl()
        self._api()
        self._stop()
        if self.context.podman is not None:
            self._podman(self.context.podman)

    def finish(self) -> None:
        """Look what is there once ``rm`` has answered. Errors: RuntimeError naming it."""
        for _ in range(1 if self.context.quick else 3):
            name = self.context.name()
            before, files = traces(self.target), libvirts(self.target)
            self.target.create(name, SLEEP, ports={free_port(): 80})
            self.target.start(name)
            made = traces(self.target) - before
            if {trace.split()[0] for trace in made} != set(KINDS):
                raise RuntimeError(f"a running pod is not seen: {', '.join(sorted(made))}")
            self.target.remove(name)
            left = traces(self.target) - before
            self.samples.add("rm.left", len(left))
            self.samples.add("rm.made", len(made))
            self.samples.add("rm.libvirt", seconds_until_gone(self.target, files))
            if left:
                raise RuntimeError(f"rm has answered and left {', '.join(sorted(left))}")

    def _hyperctl(self) -> None:
        name, files = self.context.name(), libvirts(self.target)
        self.samples.add("start.ctl", wall(self.target.command("run", "-d", "--name", name, self.target.image, *SLEEP)))
        self.samples.add("rm.ctl", wall(self.target.command("rm", name)))
        seconds_until_gone(self.target, files)  # what libvirt does behind an rm is not the next start's

    def _api(self) -> None:
        name, files = self.context.name(), libvirts(self.target)
        cold_start(self.target, self.samples, name, "start")
        with self.samples.timed("rm.api"):
            self.target.remove(name)
        seconds_until_gone(self.target, files)

    def _stop(self) -> None:
        name, files = self.context.name(), libvirts(self.target)
        self.target.create(name, ENDS)
        self.target.start(name)
        time.sleep(0.5)  # outside of what is timed: the shell has set its trap, which nothing tells
        with self.samples.timed("stop.api"):
            self.target.api("POST", "/pod/stop", podId=name)
        self.target.remove(name)
        seconds_until_gone(self.target, files)

    def _podman(self, podman: Podman) -> None:
        name = self.context.name()
        words = ("run", "-d", "--name", name, *LIMITS, self.target.image, *SLEEP)
        self.samples.add("start.podman", wall(podman.command(*words)))
        self.samples.add("rm.podman", wall(podman.command("rm", "-f", "-t", "0", name)))


class BootsScenario(Scenario):
    """A cold start where the guest's kernel has to boot, on a daemon that makes no templates of VMs."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._own: Target | None = None

    def prepare(self) -> None:
        """Start the daemon. Errors: NotThere when all of them boot."""
        if not HAS_TEMPLATES:
            raise NotThere("a daemon that makes templates: every cold start boots")
        self._own = Target(self.target.image, self.target.guest, templates=False)
        self._own.warm_up()

    def round(self) -> None:
        own = self._own
        if own is None:
            raise RuntimeError("a round without prepare")
        name, files = self.context.name(), libvirts(own)
        cold_start(own, self.samples, name, "boots")
        own.remove(name)
        seconds_until_gone(own, files)

    def finish(self) -> None:
        if self._own is not None:
            self._own.close()


class RunScenario(Scenario):
    """``run --rm IMAGE true``."""

    def round(self) -> None:
        self.samples.add("run.ctl", wall(self.target.command("run", "--rm", self.target.image, "true")))
        if self.context.podman is not None:
            command = self.context.podman.command("run", "--rm", *LIMITS, self.target.image, "true")
            self.samples.add("run.podman", wall(command))


class ExecScenario(Scenario):
    """A command in a running pod."""

    def prepare(self) -> None:
        self._pod = self.context.name()
        self._container = self.target.create(self._pod, SLEEP)
        self.target.start(self._pod)
        for _ in range(3):  # the first ones translate the guest's code
            self.target.execute(self._container, ["echo", "warm"])
        if self.context.podman is not None:
            self.context.podman.run("run", "-d", "--name", self._pod, *LIMITS, self.target.image, *SLEEP)

    def round(self) -> None:
        for _ in range(5):
            with self.samples.timed("exec.api"):
                received = self.target.execute(self._container, ["echo", "word"])
            if received.head != b"word\n":
                raise RuntimeError(f"wrong output {received.head!r}")
        for _ in range(2):
            self.samples.add("exec.ctl", wall(self.target.command("exec", self._container, "true")))
            if self.context.podman is not None:
                self.samples.add("exec.podman", wall(self.context.podman.command("exec", self._pod, "true")))

    def finish(self) -> None:
        self.target.remove(self._pod)
        if self.context.podman is not None:
            self.context.podman.run("rm", "-f", "-t", "0", self._pod)


class ListScenario(Scenario):
    """The list: as a command, and as a request under load. The floor of the request is ``/_ping``."""

    def prepare(self) -> None:
        self._pods = [self.context.name() for _ in range(LISTED_PODS)]
        for name in self._pods:
            self.target.create(name, SLEEP)

    def round(self) -> None:
        for _ in range(2):
            self.samples.add("list.ctl", wall(self.target.command("list")))
            self.samples.add("list.python", wall([sys.executable, "-c", "pass"]))
            self.samples.add("list.python.isolated", wall([sys.executable, "-I", "-S", "-c", "pass"]))
        socket = self.target.daemon.socket
        seconds = 0.5 if self.context.quick else 1.0
        for key, path in (("list", "/list?item=pod"), ("ping", "/_ping")):
            _, times = httpload.run(socket, path, clients=1, seconds=seconds)
            self.samples.add(f"{key}.p50", statistics.median(times))
            rate, _ = httpload.run(socket, path, clients=8, seconds=seconds)
            self.samples.add(f"{key}.rate", rate)

    def finish(self) -> None:
        for name in self._pods:
            self.target.remove(name)


class ThroughputScenario(Scenario):
    """Bytes from a guest to a client: an exec's output, attach to a container, its log. MB/s, 10^6."""

    def prepare(self) -> None:
        self._size = (8 if self.context.quick else 32) << 20
        blocks = f"bs=65536 count={self._size >> 16}"
        # Not busybox's head, which takes a byte at a time.
        self._zeros = ["dd", "if=/dev/zero", *blocks.split()]
        # The file is made before the first byte of output, so only its way out is timed.
        self._script = f"yes {LINE} | dd iflag=fullblock {blocks} of=/text 2>/dev/null; cat /text"
        self._pod = self.context.name()
        self._container = self.target.create(self._pod, SLEEP)
        self.target.start(self._pod)
        if self.context.podman is not None:
            self.context.podman.run("run", "-d", "--name", self._pod, *LIMITS, self.target.image, *SLEEP)

    def round(self) -> None:
        zeros = ["sh", "-c", f"{' '.join(self._zeros)} 2>/dev/null"]
        self._add("exec.api", *_taken(self.target.execute(self._container, zeros)))
        self._add("exec.ctl", *piped(self.target.command("exec", self._container, *zeros)))
        quiet = ["sh", "-c", f"{' '.join(self._zeros)} 2>/dev/null >/dev/null"]
        started = time.monotonic()
        self.target.execute(self._container, quiet)
        self._add("guest", self._size, time.monotonic() - started)
        self._attach_and_logs()
        if self.context.podman is not None:
            self._podman(self.context.podman, zeros)

    def _attach_and_logs(self) -> None:
        pod = self.context.name()
        container = self.target.create(pod, ["sh", "-c", self._script])
        received = self.target.stream("POST", "/attach", wait_for=pod, container=container)
        self._add("attach.api", *_taken(received))
        received = self.target.stream("GET", "/container/logs", container=container, stdout="yes", stderr="yes")
        self._add("logs.api", *_taken(received))
        self.target.remove(pod)

    def _podman(self, podman: Podman, zeros: list[str]) -> None:
        self._add("exec.podman", *piped(podman.command("exec", self._pod, *zeros)))
        name = self.context.name()
        self._add(
            "attach.podman",
            *piped(podman.command("run", "--name", name, *LIMITS, self.target.image, "sh", "-c", self._script)),
        )
        self._add("logs.podman", *piped(podman.command("logs", name)))
        podman.run("rm", "-f", "-t", "0", name)

    def _add(self, key: str, size: int, seconds: float) -> None:
        if size != self._size:
            raise RuntimeError(f"{key}: {size} bytes arrived, {self._size} were sent")
        self.samples.add(f"throughput.{key}", size / seconds / 1e6)

    def finish(self) -> None:
        self.target.remove(self._pod)
        if self.context.podman is not None:
            self.context.podman.run("rm", "-f", "-t", "0", self._pod)


def _taken(received: Received) -> tuple[int, float]:
    return received.size, received.seconds


SCENARIOS: dict[str, Callable[[Context], Scenario]] = {
    "boot": BootScenario,
    "start": StartScenario,
    "boots": BootsScenario,
    "run": RunScenario,
    "exec": ExecScenario,
    "list": ListScenario,
    "throughput": ThroughputScenario,
}
