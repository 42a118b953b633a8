"""Kills a daemon at its named steps, starts it again, and looks whether everything agrees and nothing is lost.

A ``World`` has a daemon with real VMs and a pod that counts, which must run on through everything. For each group of
steps (``GROUPS``) it knows operations that pass them. ``scripts/kills`` and two modules of tests use it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import random
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.support import audit
from tests.support.cni import NAMESPACES, CniSite
from tests.support.cri import CriClient
from tests.support.daemon import HyperdLauncher
from tests.support.failpoints import Switch
from tests.support.forked import CRI, Forks
from tests.support.kill_operations import COUNT, GROUPS, IN_GUESTS, SLEEP, Lost, Operation, before_guests, group_of
from tests.support.processes import end_programs
from tests.support.registry import Layer, RegistryServer, layer_tar, member
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

WITNESS = "witness"
DIES_WITHIN = 12.0  # seconds after the operation's answer; what happens behind it takes its time
CALM = 4  # looks of which all agree: nothing happens behind the answer any more (VMs that pretend take no time)
CALM_PAUSE = 0.1  # seconds between them
SETTLES_WITHIN = 60.0
VARIANTS = 3  # of an operation, at most
TRIES = 3  # of an operation that may be any
MANY = 8  # operations of a step, of which one is chosen by chance
AGAIN = 0.4  # of the starts after a kill are killed, too, where VMs pretend
# Steps that an operation passes several times: the daemon dies at one of the first so many.
OFTEN = {
    "database.session.committed": 6,
    "network.tables.written": 6,
    "image.pull.part_written": 6,
    "cni.add.plugin_done": 2,
    "cni.delete.plugin_done": 2,
}


@dataclass(frozen=True)
class Outcome:
    """What came of one try.

    Args:
        step: the step. operation: by which it was tried.
        died: whether the daemon died there (else the operation does not pass it, this time).
        faults: what did not agree afterwards.
        restart: seconds from the start until it answered.

    """

    step: str
    operation: str
    died: bool
    faults: list[str] = field(default_factory=list)
    restart: float = 0.0


class World:
    """See the module's docstring.

    Args:
        daemon: not started; with ``switch.env`` in its environment.
        switch: of its steps.
        registry: has ``busybox`` and gets more.
        rng: chooses.
        templates: the daemon's directory of templates, which it has for itself.
        real: whether its VMs are; those that pretend end with the daemon.
        site: a network of plugins, which the daemon is configured for.

    """

    def __init__(
        self,
        daemon: HyperdLauncher,
        switch: Switch,
        registry: RegistryServer,
        *,
        rng: random.Random,
        templates: Path,
        real: bool = True,
        site: CniSite | None = None,
    ) -> None:
        self.site = site
        self.sandboxes: set[str] = set()
        self.daemon = daemon
        self.switch = switch
        self.registry = registry
        self.rng = rng
        self.templates = templates
        self.real = real
        self.program = COUNT if real else SLEEP
        self.host = Host(daemon, f"{registry.host}/busybox")
        self.other = f"{registry.host}/other"
        self.variant = 0
        self.passed: dict[str, tuple[int, Operation]] = {}  # by step: the variant and the operation that last passed it
        self.serial = 0
        self.again: list[Outcome] = []  # kills of starts that followed others
        self.clean_every = 1  # so many tries
        self._tries = 0
        self._starts: Counter[str] = Counter()  # how often the last start passed which step
        self.archive = b""
        self._vm = ""

    def open(self) -> None:
        """Start the daemon, the image and the pod that counts; everything agrees then."""
        extra = layer_tar([member("data/file", b"x" * 200_000), member("etc/other", b"other\n")])
        self.registry.push("other", "latest", [Layer(extra)])
        self.daemon.start()
        self.host.ok("pull", self.host.image)
        self.host.ok("pull", self.other)
        code, _, self.archive = self.daemon.request("GET", "/images/save", names=self.other)
        assert code == 200, self.archive
        self.make(WITNESS)
        self.ready("POST", "/pod/start", podId=WITNESS)
        self._vm = self.daemon.json("GET", "/pod/info", podName=WITNESS)["vm"]
        assert self.settle() == []

    # -- asking

    def ask(self, method: str, path: str, *, timeout: float = 90.0, **fields: Any) -> tuple[int, bytes]:
        """Ask the daemon. Errors: Lost when it dies meanwhile."""
        try:
            code, _, data = self.daemon.request(method, path, timeout=timeout, **fields)
        except TimeoutError as error:
            raise AssertionError(f"{method} {path} hangs") from error
        except (OSError, http.client.HTTPException) as error:
            raise Lost from error
        return code, data

    def ready(self, method: str, path: str, *, status: tuple[int, ...] = (), **fields: Any) -> bytes:
        """Ask for something that must succeed."""
        code, data = self.ask(method, path, **fields)
        assert code < 400 or code in status, (method, path, fields, code, data)
        return data

    def cri(self, method: str, **fields: Any) -> tuple[int, Any]:
        """Call a method of the CRI; give what would be the status, and the answer. Errors: Lost."""
        with CriClient(self.daemon.directory / "cri.sock") as client:
            try:
                return 200, getattr(client, method)(**fields)
            except grpc.RpcError as error:
                if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
                    raise Lost from error
                return 500, str(error.details()).encode()

    def name(self, kind: str = "victim") -> str:
        """Return a name that was not used before."""
        self.serial += 1
        return f"{kind}-{self.serial}"

    def make(
        self,
        pod: str,
        *,
        memory: int = 128,
        command: str = "",
        networks: Sequence[dict[str, str]] = (),
        **more: Any,
    ) -> str:
        """Make a pod that counts, where its VM is real; ``more``: of its container."""
        words = ["sh", "-c", command or self.program]
        container = {"name": f"{pod}-c", "image": self.host.image, "command": words, **more}
        body = {"id": pod, "resource": {"vcpu": 1, "memory": memory}, "containers": [container]}
        if networks:
            body["networks"] = list(networks)
        if pod != WITNESS:
            body["portmappings"] = [{"containerPort": "80", "protocol": "tcp"}]
        self.ready("POST", "/pod/create", body=body)
        return pod

    def running(self, **more: Any) -> str:
        """Make and start a pod."""
        pod = self.make(self.name(), **more)
        self.ready("POST", "/pod/start", podId=pod)
        return pod

    # -- one try

    def kill_at(self, step: str, operation: Operation, *, after: int = 0) -> Outcome:
        """Let the daemon die at a step of an operation, start it again, and look."""
        begin = operation(self)
        self.switch.arm(step, after=after)
        faults: list[str] = []
        lost = True
        with contextlib.suppress(Lost):
            code, data = begin()
            lost = False
            if code >= 400 and self.alive():
                faults.append(f"the answer is {code}: {data[:300]!r}")
        self._dies(lost=lost)
        self.switch.disarm()
        died = not self.alive()
        seconds = self._restart() if died else 0.0
        faults += self.settle()
        faults += self.lost()
        self._tries += 1
        if faults or self._tries % self.clean_every == 0:
            faults += self.clean()
        self._bring_other()
        return Outcome(step, operation.__name__, died, faults, seconds)

    def alive(self) -> bool:
        """Tell whether the daemon runs."""
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def _dies(self, *, lost: bool) -> None:
        """Wait until the daemon ends, or nothing happens any more behind the answer; ``lost``: there was none."""
        until_, calm = time.monotonic() + DIES_WITHIN, 0
        while self.alive() and calm < CALM and time.monotonic() < until_:
            if self.real or lost:
                time.sleep(0.02 if self.real else 0.001)  # nothing tells when a step is passed
            else:
                time.sleep(CALM_PAUSE if calm else 0.01)  # "nothing happens" is seen by looking again
                calm = 0 if audit.busy(self.daemon) or self._problems() else calm + 1

    def _restart(self) -> float:
        """Start a daemon again that has died; give the seconds until it answered.

        Where VMs pretend it may die once more, at any step of its start.
        """
        again = not self.real and bool(self._starts) and self.rng.random() < AGAIN
        self._buried()
        self.switch.forget()
        if again:
            step, count = self.rng.choice(sorted(self._starts.items()))
            self.switch.arm(step, after=self.rng.randrange(count))
        started = time.monotonic()
        self.daemon.start(wait=False)
        try:
            self.daemon.wait_ready()
        except AssertionError:
            if not again or self.alive():
                raise
        self.switch.disarm()
        seconds = time.monotonic() - started
        if not self.alive():
            self.again.append(Outcome(step, "restart", died=True))
            return self._restart()
        self._starts = self.switch.passed()
        return seconds

    def die_first(self, step: str, pod: str) -> None:
        """Let the daemon die at a step of a pod's start, or behind it; it is not started again."""
        self.switch.arm(step)
        try:
            self.ask("POST", "/pod/start", podId=pod)
        except Lost:
            self._dies(lost=True)
        self.switch.disarm()
        if self.alive():
            self.daemon.kill()
        else:
            self.daemon.wait_exit()
            self.again.append(Outcome(step, "start", died=True))
        self._after_end()

    def _buried(self) -> None:
        """Wait for the end of a daemon; see ``_after_end``."""
        self.daemon.wait_exit()
        self._after_end()

    def _after_end(self) -> None:
        """Note what the daemon has left, and end what would have ended with its VMs."""
        if not self.real:
            end_programs(self.daemon.root, "4321")
        self.sandboxes |= {path.stem for path in (self.daemon.root / "cni").glob("*.json")}

    # -- looking

    def _problems(self) -> list[str]:
        try:
            found = audit.problems(self.daemon, self.templates)
            if self.site is not None:
                found += self.site.problems(self.daemon.root)
                gone = self.sandboxes - audit.Rows(self.database).column("pods", "id")
                spaces = [f"hyperd-{pod[:32]}" for pod in gone]
                found += [f"left: network namespace {name}" for name in spaces if (NAMESPACES / name).exists()]
            return found
        except FileNotFoundError as error:
            return [f"went while it was looked at: {error.filename}"]

    def settle(self) -> list[str]:
        """Wait until everything agrees; return what does not in the end."""
        deadline = time.monotonic() + SETTLES_WITHIN
        while audit.busy(self.daemon) and time.monotonic() < deadline:
            time.sleep(0.03)  # a look costs the daemon time that it needs to settle
        while True:
            found = [*self._problems(), *(f"still works: {one}" for one in audit.strays(self.daemon))]
            full = self.daemon.pool <= sum(vm["state"] == "pooled" for vm in audit.Rows(self.database)["vms"])
            if (not found and full) or time.monotonic() > deadline:
                return found or ([] if full else ["the pool is not filled again"])
            time.sleep(0.1 if self.real else 0.03)  # the same

    @property
    def database(self) -> Path:
        """The daemon's database."""
        return self.daemon.root / "hyper.db"

    def lost(self) -> list[str]:
        """Return what is wrong with pods that were there: each runs on, and no line of output is missing or doubled."""
        if not self.real:
            return []
        found = []
        info = self.daemon.json("GET", "/pod/info", podName=WITNESS)
        if (info["vm"], info["status"]["phase"]) != (self._vm, "Running"):
            found.append(f"the witness is {info['status']} in {info['vm']}")
        before = self._lines(f"{WITNESS}-c")
        for row in audit.Rows(self.database)["containers"]:
            if row["run_count"] == 1:
                lines = self._lines(row["name"])
                if lines and lines != list(range(lines[0], lines[0] + len(lines))):
                    found.append(f"output of {row['name']}: {_gaps(lines)}")
        try:
            until(lambda: self._lines(f"{WITNESS}-c")[-1:] > before[-1:], 20)
        except AssertionError:
            found.append("the witness does not count on")
        return found

    def _lines(self, container: str) -> list[int]:
        """Return the whole lines of a container's log; the last one may be on its way."""
        text = self.host.ok("logs", container)
        return [int(line) for line in text.splitlines(keepends=True) if line.endswith("\n") and line.strip().isdigit()]

    def clean(self) -> list[str]:
        """Remove by the API whatever the try has left, which must work, and look again."""
        found = []
        calls: list[tuple[str, str, dict[str, Any]]] = []
        rows = audit.Rows(self.database)
        calls += [("DELETE", "/pod", {"podId": pod}) for pod in rows.column("pods", "id") - {WITNESS}]
        calls += [("DELETE", "/volume", {"volume": name}) for name in rows.column("volumes", "name")]
        calls += [("DELETE", "/network", {"network": ident}) for ident in rows.column("networks", "id")]
        keep = {(self.host.image, "latest"), (self.other, "latest")}
        tags = {(row["repository"], row["tag"]) for row in rows["tags"]} - keep
        calls += [("DELETE", "/image", {"imageId": f"{name}:{tag}"}) for name, tag in sorted(tags)]
        for method, path, fields in calls:
            code, data = self.ask(method, path, **fields)
            if code >= 400 and code != 404:
                found.append(f"{method} {path} {fields} afterwards: {code} {data[:200]!r}")
        self._bring_other()
        return [*found, *(f"after removal: {one}" for one in self.settle())]

    def _bring_other(self) -> None:
        """Pull the image that operations need, if it is gone."""
        if (self.other, "latest") not in {(row["repository"], row["tag"]) for row in audit.Rows(self.database)["tags"]}:
            self.ready("POST", "/image/create", imageName=self.other)


def _gaps(lines: list[int]) -> str:
    wrong = [(a, b) for a, b in itertools.pairwise(lines) if b != a + 1]
    return f"{len(lines)} lines, not one after the other: {wrong[:5]}"


@contextmanager
def opened(
    registry: RegistryServer,
    *,
    rng: random.Random,
    pool: int = 0,
    templates: Path | None = None,
    real: bool = True,
    clean_every: int = 1,
) -> Iterator[World]:
    """Yield a world; its daemon is closed at the end, when nothing of it may be left.

    ``templates``: a directory that others use, too (None = one of its own); steps of theirs cannot be tried then.
    ``real``: False = VMs only pretend, which is quick, and nothing runs on through a kill.
    ``clean_every``: so many tries what they have left is removed.
    """
    with tempfile.TemporaryDirectory(prefix="kills") as place:
        directory = Path(place)
        directory.chmod(0o711)  # VMs have users of their own
        switch = Switch(directory / "steps")
        templates = templates or directory / "templates"
        driver, guest = ("libvirt", GUEST) if real else ("fake", None)
        with (
            Forks(switch.env, more=() if real else CRI) as forks,
            contextlib.ExitStack() as stack,
            HyperdLauncher(driver=driver, guest=guest, pool=pool, templates=templates, spawn=forks.spawn) as daemon,
        ):
            site = stack.enter_context(CniSite(directory / "cni", daemon.number))
            daemon.configure(f'{site.toml()}address = "unix://{daemon.directory}/cri.sock"\n')
            world = World(daemon, switch, registry, rng=rng, templates=templates, real=real, site=site)
            world.clean_every = clean_every
            world.open()
            yield world
            assert world.clean() == []
            world.ready("DELETE", "/pod", podId=WITNESS)
            assert world.settle() == []


def attempt(world: World, step: str) -> Outcome:
    """Kill at a step, trying the operations that pass it one after the other until the daemon dies there."""
    operations = GROUPS[group_of(step)]
    if not world.real and not before_guests(step):
        operations = tuple(one for one in operations if one not in IN_GUESTS)
    first = world.rng.randrange(VARIANTS)
    tries = [(first + number // len(operations), operations[number % len(operations)])
             for number in range(VARIANTS * len(operations))]  # fmt: skip
    if len(operations) > MANY:
        tries = world.rng.sample(tries, TRIES)
    known = [world.passed[step]] if step in world.passed else []
    outcome = None
    for number, (variant, operation) in enumerate([*known, *tries]):
        world.variant = variant
        after = world.rng.randrange(OFTEN[step]) if step in OFTEN and not number else 0
        outcome = world.kill_at(step, operation, after=after)
        if outcome.died and len(operations) <= MANY:
            world.passed[step] = variant, operation
        if outcome.died or outcome.faults:
            return outcome
    assert outcome is not None
    return outcome
