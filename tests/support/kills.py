"""Kills a daemon at its named steps, starts it again, and looks whether everything agrees and nothing is lost.

A ``World`` has a daemon with real VMs and a pod that counts, which must run on through everything. For each group of
steps (``GROUPS``) it knows operations that pass them. ``scripts/kills`` and two modules of tests use it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import random
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tests.support import audit
from tests.support.builds import context
from tests.support.cni import NAMESPACES, CniSite
from tests.support.cri import CriClient
from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.failpoints import Switch
from tests.support.processes import end_programs
from tests.support.registry import Layer, RegistryServer, layer_tar, member
from tests.support.until import until
from tests.support.warm import Warm
from tests.vm.conftest import GUEST, Host

COUNT = "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done"
WITNESS = "witness"
DIES_WITHIN = 12.0  # seconds after the operation's answer; what happens behind it takes its time
CALM = 5  # looks of which all agree: nothing happens behind the answer any more (VMs that pretend take no time)
SETTLES_WITHIN = 60.0
VARIANTS = 3  # of an operation, at most
TRIES = 3  # of an operation that may be any
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


class Lost(Exception):
    """The daemon did not answer: it died."""


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
        self.host = Host(daemon, f"{registry.host}/busybox")
        self.other = f"{registry.host}/other"
        self.variant = 0
        self.passed: dict[str, tuple[int, Operation]] = {}  # by step: the variant and the operation that last passed it
        self._serial = 0
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
        self.ask("POST", "/pod/start", podId=WITNESS)
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
        self._serial += 1
        return f"{kind}-{self._serial}"

    def make(
        self,
        pod: str,
        *,
        memory: int = 128,
        command: str = COUNT,
        networks: Sequence[dict[str, str]] = (),
        **more: Any,
    ) -> str:
        """Make a pod that counts; ``more``: of its container."""
        container = {"name": f"{pod}-c", "image": self.host.image, "command": ["sh", "-c", command], **more}
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
        with contextlib.suppress(Lost):
            code, data = begin()
            if code >= 500 and self.alive():
                faults.append(f"the answer is {code}: {data[:300]!r}")
        died = self._dies()
        self.switch.disarm()
        seconds = 0.0
        if died:
            self.daemon.wait_exit()
            if not self.real:
                end_programs(self.daemon.root, COUNT)
            self.sandboxes |= {path.stem for path in (self.daemon.root / "cni").glob("*.json")}
            started = time.monotonic()
            self.daemon.start()
            seconds = time.monotonic() - started
        faults += self.settle()
        faults += self.lost()
        faults += self.clean()
        return Outcome(step, operation.__name__, died, faults, seconds)

    def alive(self) -> bool:
        """Tell whether the daemon runs."""
        return self.daemon.process is not None and self.daemon.process.poll() is None

    def _dies(self) -> bool:
        until_, calm = time.monotonic() + DIES_WITHIN, 0
        while self.alive() and calm < CALM and time.monotonic() < until_:
            time.sleep(0.02 if self.real or calm == 0 else 0.2)
            calm = 0 if self.real or self._problems() else calm + 1
        return not self.alive()

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
        while True:
            found = [*self._problems(), *(f"still works: {one}" for one in audit.strays(self.daemon))]
            full = self.daemon.pool <= sum(vm["state"] == "pooled" for vm in audit.Rows(self.database)["vms"])
            if (not found and full) or time.monotonic() > deadline:
                return found or ([] if full else ["the pool is not filled again"])
            time.sleep(0.1)

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
        if (self.other, "latest") not in {(row["repository"], row["tag"]) for row in rows["tags"]}:
            done = self.host.ctl("pull", self.other)
            if done.returncode:
                found.append(f"pull afterwards: {done.stderr!r}")
        return [*found, *(f"after removal: {one}" for one in self.settle())]


def _gaps(lines: list[int]) -> str:
    wrong = [(a, b) for a, b in itertools.pairwise(lines) if b != a + 1]
    return f"{len(lines)} lines, not one after the other: {wrong[:5]}"


# -- operations: each prepares, and returns what is to be asked for once the step is armed

Begin = Callable[[], tuple[int, bytes]]
Operation = Callable[[World], Begin]


def create(world: World) -> Begin:
    pod = world.name()
    volume = {"volume": "v", "path": "/v", "detail": {"name": "v", "source": world.name("volume"), "format": "volume"}}
    file = {"path": "/etc", "filename": "motd"}
    container = {
        "name": f"{pod}-c", "image": world.host.image, "command": ["sh", "-c", COUNT],
        "volumes": [volume], "files": [file],
    }  # fmt: skip
    body = {
        "id": pod,
        "containers": [container],
        "files": [{"name": "motd", "content": "hello"}],
        "portmappings": [{"containerPort": "80", "protocol": "tcp"}],
    }
    return lambda: world.ask("POST", "/pod/create", body=body)


def start(world: World) -> Begin:
    """Start from the pool, without it, and with a volume that is filled."""
    variant = world.variant % 3
    if variant == 2:
        detail = {"name": "v", "source": world.name("volume"), "format": "volume"}
        pod = world.make(world.name(), memory=112, volumes=[{"volume": "v", "path": "/etc", "detail": detail}])
    else:
        pod = world.make(world.name(), memory=128 if variant == 0 else 112)
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def join(world: World) -> Begin:
    """Start from the pool on two networks."""
    names = [world.name("network") for _ in range(2)]
    for name in names:
        world.ready("POST", "/network/create", body={"name": name})
    pod = world.make(world.name(), networks=[{"network": name} for name in names])
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def cold(world: World) -> Begin:
    """Start by a boot of the kernel, after which a template is made."""
    shutil.rmtree(world.templates, ignore_errors=True)
    pod = world.make(world.name(), memory=112)
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def stop(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/pod/stop", podId=pod, t=0)


def delete(world: World) -> Begin:
    pod = world.running() if world.variant % 2 == 0 else world.make(world.name())
    return lambda: world.ask("DELETE", "/pod", podId=pod)


def sandbox(world: World) -> Begin:
    """Put a pod on the network of plugins."""
    config = _sandbox(world)
    return lambda: world.cri("RunPodSandbox", config=config)


def sandbox_stop(world: World) -> Begin:
    code, made = world.cri("RunPodSandbox", config=_sandbox(world))
    assert code == 200, made
    return lambda: world.cri("StopPodSandbox", pod_sandbox_id=made.pod_sandbox_id)


def _sandbox(world: World) -> dict[str, Any]:
    name = world.name("sandbox")
    ports = [{"container_port": 80, "host_port": 22_000 + world.daemon.number}]
    return {"metadata": {"name": name, "uid": name, "namespace": "default"}, "port_mappings": ports}


def pause(world: World) -> Begin:
    pod = world.running()
    if world.variant % 2 == 1:
        world.ready("POST", "/pod/pause", podId=pod)
    return lambda: world.ask("POST", f"/pod/{'un' * (world.variant % 2)}pause", podId=pod)


def container_create(world: World) -> Begin:
    pod = world.make(world.name())
    detail = {"name": "v", "source": world.name("volume"), "format": "volume"}
    body = {
        "name": f"{pod}-d", "image": world.host.image, "command": ["sh", "-c", COUNT],
        "volumes": [{"volume": "v", "path": "/v", "detail": detail}],
    }  # fmt: skip
    return lambda: world.ask("POST", "/container/create", podId=pod, body=body)


def container_remove(world: World) -> Begin:
    pod = world.running()
    body = {"name": f"{pod}-d", "image": world.host.image, "command": ["sh", "-c", COUNT]}
    world.ready("POST", "/container/create", podId=pod, body=body)
    world.ready("POST", "/container/start", container=f"{pod}-d")
    return lambda: world.ask("POST", "/container/remove", container=f"{pod}-d")


def container_stop(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/container/stop", container=f"{pod}-c", t=0)


def ends(world: World) -> Begin:
    pod = world.make(world.name(), command="i=0; while [ $i -lt 9 ]; do i=$((i+1)); echo $i; done")
    return lambda: world.ask("POST", "/pod/start", podId=pod)


def run_exec(world: World) -> Begin:
    pod = world.running()

    def begin() -> tuple[int, bytes]:
        command = json.dumps(["sh", "-c", "echo hi; sleep 0.2"])
        code, data = world.ask("POST", "/exec/create", container=f"{pod}-c", command=command)
        if code >= 400:
            return code, data
        ident = json.loads(data)
        return world.ask("POST", "/exec/start", container=f"{pod}-c", exec=ident, detach="yes")

    return begin


def pull(world: World) -> Begin:
    world.ready("DELETE", "/image", imageId=world.other, status=(404,))
    return lambda: world.ask("POST", "/image/create", imageName=world.other)


def load(world: World) -> Begin:
    world.ready("DELETE", "/image", imageId=world.other, status=(404,))
    headers = {"Content-Type": "application/x-tar"}
    return lambda: world.ask("POST", "/image/load", body=world.archive, headers=headers)


def tag(world: World) -> Begin:
    return lambda: world.ask("POST", "/image/tag", imageId=world.other, repo="kill/tag", tag=world.name())


def image_remove(world: World) -> Begin:
    return lambda: world.ask("DELETE", "/image", imageId=world.other)


def commit(world: World) -> Begin:
    pod = world.running(command=f"echo {world.name()} > /made; {COUNT}")
    time.sleep(0.2)
    if world.variant % 2 == 1:
        world.ready("POST", "/pod/stop", podId=pod, t=0)
    return lambda: world.ask("POST", "/container/commit", container=f"{pod}-c", repo="kill/commit", pause="yes")


def build(world: World) -> Begin:
    text = f"FROM {world.host.image}\nCOPY file /file\nRUN echo {world.name()} > /made\n"
    data, headers = context({"Dockerfile": text, "file": "content"}), {"Content-Type": "application/tar"}
    return lambda: world.ask("POST", "/image/build?t=kill/build", body=data, headers=headers)


def push(world: World) -> Begin:
    tagged = f"{world.registry.host}/pushed"
    data = layer_tar([member(world.name(), b"y" * 1000)])
    headers = {"Content-Type": "application/tar"}
    files = context({"Dockerfile": f"FROM {world.other}\nADD made.tar /\n", "made.tar": data})
    world.ready("POST", f"/image/build?t={tagged}", body=files, headers=headers)
    return lambda: world.ask("POST", "/image/push", remote=tagged)


def volume_create(world: World) -> Begin:
    return lambda: world.ask("POST", "/volume/create", body={"name": world.name("volume")})


def volume_remove(world: World) -> Begin:
    name = world.name("volume")
    world.ready("POST", "/volume/create", body={"name": name})
    return lambda: world.ask("DELETE", "/volume", volume=name)


def network_create(world: World) -> Begin:
    return lambda: world.ask("POST", "/network/create", body={"name": world.name("network")})


def network_remove(world: World) -> Begin:
    name = world.name("network")
    world.ready("POST", "/network/create", body={"name": name})
    return lambda: world.ask("DELETE", "/network", network=name)


def save(world: World) -> Begin:
    pod = world.running()
    return lambda: world.ask("POST", "/pod/checkpoint", podId=pod)


def bring_back(world: World) -> Begin:
    """Restore a pod that was saved."""
    pod = world.running()
    code, saved = world.ask("POST", "/pod/checkpoint", podId=pod, pause="yes")
    assert code == 200, saved
    world.ready("DELETE", "/pod", podId=pod)
    return lambda: world.ask("POST", "/pod/restore", body=saved)


def restore(world: World) -> Begin:
    """Start a daemon that finds all kinds of things half done by an earlier one."""
    pods = [world.running(), world.make(world.name(), memory=112), world.running(memory=112)]
    world.switch.arm(world.rng.choice(("vm.start.agent_met", "vm.domain.started", "pod.start.row_running")))
    with contextlib.suppress(Lost):
        world.ask("POST", "/pod/start", podId=pods[1])
    world.switch.disarm()
    if world.alive():
        world.daemon.kill()
    else:
        world.daemon.wait_exit()
    if world.variant % 2 == 1:  # as after a crash of the host: a VM that no row knows, a row whose VM is gone
        with contextlib.closing(sqlite3.connect(world.database)) as database, database:
            database.execute("DELETE FROM vms WHERE pod_id = ?", (pods[2],))

    def begin() -> tuple[int, bytes]:
        world.daemon.start(wait=False)
        try:
            world.daemon.wait_ready()
        except AssertionError:
            if world.alive():
                raise
            raise Lost from None
        return 200, b""

    return begin


ANYTHING: tuple[Operation, ...] = (
    create, start, stop, delete, run_exec, pull, load, tag, image_remove, commit, build, volume_create, volume_remove,
    network_create, network_remove, container_create, container_remove, container_stop, ends, pause,
)  # fmt: skip
MANY = 8  # operations of a step, of which one is chosen by chance
IN_GUESTS: tuple[Operation, ...] = (commit, build, push, cold, save, bring_back)  # they need real VMs
# The steps of each are passed by these operations.
GROUPS: dict[str, tuple[Operation, ...]] = {
    "api.request": ANYTHING,
    "build.run": (build,),
    "cni.add": (sandbox,),
    "cni.delete": (sandbox_stop,),
    "cni.plug": (sandbox,),
    "checkpoint.make": (save,),
    "checkpoint.restore": (bring_back,),
    "commit.run": (commit,),
    "container.create": (create, container_create),
    "container.delete": (container_remove,),
    "container.exit": (ends, container_stop),
    "container.start": (start,),
    "container.stop": (container_stop,),
    "database.session": ANYTHING,
    "exec.create": (run_exec,),
    "exec.end": (run_exec,),
    "exec.start": (run_exec,),
    "image.add": (load, build, pull),
    "image.delete": (image_remove,),
    "image.load": (load,),
    "image.pull": (pull,),
    "image.push": (push,),
    "image.store": (pull, load, build),
    "image.tag": (tag,),
    "network.create": (network_create,),
    "network.delete": (network_remove,),
    "network.publish": (start,),
    "network.release": (stop, delete),
    "network.tables": (start, stop, network_create),
    "pod.create": (create,),
    "pod.delete": (delete,),
    "pod.pause": (pause,),
    "pod.start": (start,),
    "pod.stop": (stop,),
    "pod.unpause": (pause,),
    "pool.refill": (start,),
    "pool.take": (join, start),
    "restore.pod": (restore,),
    "restore.run": (restore,),
    "restore.vm": (restore,),
    "template.make": (cold,),
    "vm.disk": (cold,),
    "vm.domain": (start, stop, cold),
    "vm.end": (stop, delete),
    "vm.restore": (bring_back,),
    "vm.save": (save,),
    "vm.start": (start, cold),
    "volume.create": (volume_create, create),
    "volume.delete": (volume_remove,),
    "volume.fill": (start,),
    "volume.use": (create,),
}


def group_of(step: str) -> str:
    """Return the group of a step. Errors: KeyError when no operation is known that passes it."""
    group = step.rpartition(".")[0]
    if group not in GROUPS:
        raise KeyError(f"{step}: name the operations that pass it in GROUPS")
    return group


@contextmanager
def opened(
    registry: RegistryServer,
    *,
    rng: random.Random,
    pool: int = 0,
    templates: Path | None = None,
    real: bool = True,
) -> Iterator[World]:
    """Yield a world; its daemon is closed at the end, when nothing of it may be left.

    ``templates``: a directory that others use, too (None = one of its own); steps of theirs cannot be tried then.
    ``real``: False = VMs only pretend, which is quick, and nothing runs on through a kill.
    """
    with tempfile.TemporaryDirectory(prefix="kills") as place:
        directory = Path(place)
        directory.chmod(0o711)  # VMs have users of their own
        switch = Switch(directory / "steps")
        templates = templates or directory / "templates"
        driver, guest = ("libvirt", GUEST) if real else ("fake", None)
        with (
            Warm(switch.env, cwd=PROJECT) as warm,
            contextlib.ExitStack() as stack,
            HyperdLauncher(driver=driver, guest=guest, pool=pool, templates=templates, spawn=warm.spawn) as daemon,
        ):
            site = stack.enter_context(CniSite(directory / "cni", daemon.number))
            daemon.configure(f'{site.toml()}address = "unix://{daemon.directory}/cri.sock"\n')
            world = World(daemon, switch, registry, rng=rng, templates=templates, real=real, site=site)
            world.open()
            yield world
            world.ready("DELETE", "/pod", podId=WITNESS)
            assert world.settle() == []


def attempt(world: World, step: str) -> Outcome:
    """Kill at a step, trying the operations that pass it one after the other until the daemon dies there."""
    operations = GROUPS[group_of(step)]
    if not world.real:
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


def needs_pool(step: str) -> bool:
    """Tell whether only a daemon with a pool passes a step."""
    return step.startswith("pool.") or step == "pod.start.vm_taken"


def needs_guest(step: str) -> bool:
    """Tell whether only a daemon with real VMs passes a step: those that pretend have no files, no QEMU and no pool."""
    later = ("restore.pod.adopted", "restore.vm.unknown_removed")  # what pretends has ended with the daemon
    own = (
        "checkpoint.",
        "vm.save",
        "vm.restore",
        "cni.plug.",
        "build.",
        "commit.",
        "template.",
        "vm.domain",
        "vm.start.disk",
        "vm.disk",
        "image.push",
    )
    return needs_pool(step) or step in later or step.startswith(own)
