"""The services of an engine without an API: what several threads do to a pod at once, and what goes wrong midway."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperd.agent.frames import Method
from hyperd.agent.plan import Op
from hyperd.build.importer import ImportOrder
from hyperd.config.model import Config, HypervisorConfig, NetworkConfig
from hyperd.container import contents, locks
from hyperd.container.model import ContainerUpdate, ExecState, HealthState
from hyperd.container.process import AttachOptions
from hyperd.container.states import KILLED, SETUP_FAILED, ContainerState
from hyperd.container.waits import WaitCondition
from hyperd.engine import Engine
from hyperd.errors import AgentError, DriverError, HyperError, NotAlive, OutOfSpace, Timeout
from hyperd.pod.recovery import Recovery
from hyperd.pod.states import PodState
from hyperd.spec.model import (
    ContainerSpec,
    ExecSpec,
    Healthcheck,
    NetworkAttachment,
    PodSpec,
    Resource,
    VolumeRef,
    VolumeSpec,
)
from hyperd.stream.logread import LogQuery
from hyperd.vm.driver import PowerState
from hyperd.vm.fake import FakeDriver
from hyperd.vm.model import POOLED, Vm
from hyperd.volume.model import NamedVolumeSpec
from tests.support.registry import busybox_tar
from tests.support.until import until

DEAF = "SIGCONT"  # a stop signal that ends nothing


@contextmanager
def opened(root: Path, pool: int = 0) -> Iterator[Engine]:
    """Yield an engine with VMs that are threads, on user-mode networks."""
    network = NetworkConfig(bridge="")
    running = Engine(Config(root=root, network=network, hypervisor=HypervisorConfig(driver="fake", pool=pool)))
    running.open()
    try:
        yield running
    finally:
        running.close()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    with opened(tmp_path_factory.mktemp("services")) as running:
        running.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        yield running


@pytest.fixture
def engine(shared: Engine) -> Iterator[Engine]:
    yield shared
    for pod in shared.pods.summaries():
        shared.pods.remove(pod.id)


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


def container(name: str, *argv: str, **more: Any) -> ContainerSpec:
    return ContainerSpec(name=name, image="busybox", command=argv or ("sleep", "99"), **more)


def pod(engine: Engine, *containers: ContainerSpec, **more: Any) -> str:
    """Start a pod of these containers; give its id."""
    ident = engine.pods.create(PodSpec(containers=containers, restart_policy="never", **more))
    engine.pods.start(ident)
    return ident


def crash(engine: Engine, pod_id: str) -> None:
    """Do to the pod's VM what kill -9 of its QEMU does."""
    driver, vm = engine.vms._driver, engine.vms.of_pod(pod_id)
    assert isinstance(driver, FakeDriver)
    assert vm is not None
    driver.crash(vm.id)


def is_stopped(engine: Engine, pod_id: str) -> Callable[[], bool]:
    return lambda: engine.pods.inspect(pod_id).state == PodState.STOPPED


def waits(future: Future[Any]) -> bool:
    """Tell whether a call goes on for a while."""
    time.sleep(0.3)
    return not future.done()


# -- stops


def test_a_stop_without_end_lets_others_use_the_pod(engine: Engine, threads: ThreadPoolExecutor) -> None:
    ident = pod(engine, container("deaf", stop_signal=DEAF), container("other"))
    stop = threads.submit(engine.containers.stop, "deaf", grace=-1)
    assert waits(stop)
    begun = time.monotonic()
    engine.containers.stop("other", grace=0)
    engine.pods.set_labels(ident, {"a": "b"}, override=True)
    assert time.monotonic() - begun < 30
    assert not stop.done()
    engine.containers.kill("deaf", 9)
    stop.result(60)
    assert engine.containers.wait("deaf") == KILLED


@pytest.mark.parametrize("whole", [True, False])
def test_a_vm_that_ends_during_a_stop_without_end(engine: Engine, threads: ThreadPoolExecutor, *, whole: bool) -> None:
    ident = pod(engine, container("deaf", stop_signal=DEAF, stop_timeout=-1.0))
    wait = threads.submit(engine.containers.wait, "deaf")
    stop = threads.submit(engine.pods.stop, ident) if whole else threads.submit(engine.containers.stop, "deaf")
    assert waits(stop)
    crash(engine, ident)
    stop.result(60)
    assert wait.result(60) == KILLED
    until(is_stopped(engine, ident))
    assert engine.pods.start(ident)


def test_a_vm_that_ends_before_a_stop_can_send_its_signal(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = pod(engine, container("one"), container("two"))

    def lost(*_: Any) -> None:
        raise AgentError("the guest went away")

    def dies(*_: Any) -> None:
        crash(engine, ident)
        lost()

    monkeypatch.setattr(engine.containers, "_signal", lost)
    with pytest.raises(AgentError):
        engine.containers.stop("one")
    monkeypatch.setattr(engine.containers, "_signal", dies)
    engine.containers.stop("one")
    until(is_stopped(engine, ident))


def test_a_paused_pod_whose_vm_cannot_go_on_is_stopped(engine: Engine) -> None:
    ident, driver = pod(engine, container("one")), engine.vms._driver
    assert isinstance(driver, FakeDriver)
    engine.pods.pause(ident)
    driver.fail_next = "resume"
    engine.pods.stop(ident)
    assert is_stopped(engine, ident)()
    assert engine.pods.start(ident)


def test_a_vm_that_cannot_be_ended_and_ends_later(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ident, driver = pod(engine, container("one")), engine.vms._driver
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    with monkeypatch.context() as broken:
        broken.setattr(driver, "destroy", stuck)
        with pytest.raises(DriverError):
            engine.vms.remove(vm.id)
    assert engine.vms.of_pod(ident) is vm
    crash(engine, ident)
    until(is_stopped(engine, ident))


def stuck(*_: Any) -> None:
    raise DriverError("QEMU does not end after SIGKILL")


def test_a_vm_that_ends_while_its_pod_is_in_use(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT", 0.1)
    ident = pod(engine, container("one"))
    with engine.pods._locks.locked(ident, "look at it for long"):
        crash(engine, ident)
        until(lambda: engine.vms.of_pod(ident) is None)
        time.sleep(0.5)  # the first attempts to clean up are too early
        assert engine.pods.inspect(ident).state == PodState.RUNNING
    until(is_stopped(engine, ident))
    assert engine.containers.wait("one") == KILLED


def test_a_vm_that_is_removed_while_its_pod_is_in_use(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT", 0.1)
    ident = pod(engine, container("one"))
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with engine.pods._locks.locked(ident, "look at it for long"):
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    engine.vms.remove(vm.id)
    done.set()
    holder.join()
    until(is_stopped(engine, ident))


# -- files of containers


def guest_paths(engine: Engine, pod_id: str) -> list[str]:
    """Return what programs of hyperd's own have been asked to look at in a pod's guest."""
    driver, vm = engine.vms._driver, engine.vms.of_pod(pod_id)
    assert isinstance(driver, FakeDriver)
    assert vm is not None
    plans = driver.agent(vm.id).plans
    argvs = [[arg.decode() for arg in record.args] for plan in plans for record in plan if record.op == Op.ARGV]
    return [argv[2] for argv in argvs if argv[1:2] == ["--stat"]]


def test_files_of_a_container_that_is_started_meanwhile(engine: Engine, threads: ThreadPoolExecutor) -> None:
    """Its overlay is mounted then: a second mount with the same writable directories would damage both."""
    ident = pod(engine, container("one"), container("two"))
    engine.containers.stop("two", grace=0)
    with engine.pods._locks.locked(ident, "start it again"):
        look = threads.submit(engine.containers.contents.stat, "two", "/etc")
        assert waits(look)
        engine.containers.start("two")
    with pytest.raises(HyperError):  # there is no guest that could tell
        look.result(60)
    process = engine.containers.processes.get(engine.containers.records.find("two").id)
    assert process is not None
    assert guest_paths(engine, ident) == [f"/proc/{process.pid}/root"]


def test_files_of_a_container_whose_end_is_not_noted_yet(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "SETTLE_WAIT", 0.1)
    ident = pod(engine, container("one"))
    process = engine.containers.processes.get(engine.containers.records.find("one").id)
    assert process is not None
    pid, process.pid = process.pid, 0
    with pytest.raises(NotAlive, match="just ending"):
        engine.containers.contents.stat("one", "/etc")
    process.pid = pid
    assert guest_paths(engine, ident) == []


# -- clients


def attached(engine: Engine, name: str, *, next_run: bool) -> socket.socket:
    """Return a client's end of an attachment without input."""
    session = engine.containers.streams.attach(name, AttachOptions(stdin=False), next_run=next_run)
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    session.run(theirs, b"")
    return ours


def everything(sock: socket.socket) -> bytes:
    """Return what comes until the end, without the heads of the frames."""
    with sock, sock.makefile("rb") as file:
        found = b""
        while head := file.read(8):
            found += file.read(int.from_bytes(head[4:]))
        return found


@pytest.mark.parametrize("restarted", [True, False])
def test_a_client_gets_the_next_run_of_a_container_that_has_ended(tmp_path: Path, *, restarted: bool) -> None:
    with opened(tmp_path) as first:
        first.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        ident = pod(first, container("short", "sh", "-c", "echo run; exit 3"), implicit=True)
        assert first.containers.wait("short") == 3
        if not restarted:
            check_next_run(first, ident)
    if restarted:  # the table of processes is empty then
        with opened(tmp_path) as second:
            check_next_run(second, ident)


def check_next_run(engine: Engine, pod_id: str) -> None:
    client = attached(engine, "short", next_run=True)
    until(is_stopped(engine, pod_id))  # with its last container, which takes a moment: the client stays
    client.settimeout(0.2)
    with pytest.raises(TimeoutError):
        client.recv(1)
    client.settimeout(60)
    engine.pods.start_container("short")
    assert everything(client) == b"run\n"
    assert engine.containers.wait("short") == 3
    until(is_stopped(engine, pod_id))
    engine.pods.remove(pod_id)


def test_a_client_of_a_run_that_is_over_is_let_go(engine: Engine) -> None:
    ident = pod(engine, container("short", "sh", "-c", "echo run"), implicit=True)
    engine.containers.wait("short")
    until(is_stopped(engine, ident))
    table = engine.containers.processes
    before = dict(table.by_container)
    with attached(engine, "short", next_run=False) as client:
        assert client.recv(1) == b""
    assert table.by_container == before
    waiting = attached(engine, "short", next_run=True)
    with attached(engine, "short", next_run=False) as client:  # also beside one that waits for the next
        assert client.recv(1) == b""
    ours, theirs = socket.socketpair()
    ours.settimeout(60)
    engine.containers.streams.logs("short", LogQuery(follow=True)).run(theirs, b"")
    assert everything(ours) == b"run\n"
    engine.pods.start_container("short")
    assert everything(waiting) == b"run\n"


# -- removals


def with_volume(name: str, volume: str, *argv: str, **more: Any) -> ContainerSpec:
    ref = VolumeRef(path="/data", volume=volume, detail=VolumeSpec(name=volume, source=volume, format="volume"))
    return container(name, *argv, volumes=(ref,), **more)


@contextmanager
def in_use(engine: Engine, pod_id: str) -> Iterator[None]:
    """Hold a pod's lock longer than others wait for it."""
    with engine.pods._locks.locked(pod_id, "look at it for long"):
        yield
        time.sleep(0.5)


@pytest.mark.parametrize("alone", [True, False])
def test_volumes_without_a_name_go_with_a_container_that_is_removed_at_its_end(engine: Engine, *, alone: bool) -> None:
    for name, anonymous in (("unnamed", True), ("named", False), ("shared", True)):
        engine.volumes.create(NamedVolumeSpec(name=name, anonymous=anonymous))
    kept = pod(engine, with_volume("user", "shared"))
    for volume in ("unnamed", "named", "shared"):
        brief = with_volume(f"brief-{volume}", volume, "true", auto_remove=True)
        ident = engine.pods.create(PodSpec(containers=(brief,) if alone else (container(f"by-{volume}"), brief)))
        wait = engine.containers.waits.register(brief.name, WaitCondition.REMOVED)
        engine.pods.start(ident)
        assert wait.result().removed
    until(lambda: {one.name for one in engine.volumes.all()} == {"named", "shared"})
    engine.pods.remove(kept, volumes=True)
    assert {one.name for one in engine.volumes.all()} == {"named"}
    engine.volumes.remove("named")


def test_what_ends_while_its_pod_is_in_use_goes_later(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "WAIT", 0.1)
    ident = pod(engine, container("one"), implicit=True)
    with in_use(engine, ident):
        engine.containers.kill("one", 9)
    until(is_stopped(engine, ident))
    ident = pod(engine, container("two", auto_remove=True))
    with in_use(engine, ident):
        engine.containers.kill("two", 9)
    until(lambda: not [one for one in engine.pods.summaries() if one.id == ident])


def test_what_the_host_refuses_at_an_end_is_done_later(engine: Engine) -> None:
    driver = engine.vms._driver
    assert isinstance(driver, FakeDriver)
    ident = pod(engine, container("one", auto_remove=True))
    driver.fail_next = "destroy"
    engine.containers.kill("one", 9)
    until(lambda: not [one for one in engine.pods.summaries() if one.id == ident])
    assert not driver.fail_next


def test_a_paused_container_is_removed_with_its_pod(engine: Engine) -> None:
    ident = pod(engine, container("one"), implicit=True)
    engine.pods.pause(ident)
    engine.pods.remove_container("one")
    assert not [one for one in engine.pods.summaries() if one.id == ident]


def test_a_paused_container_that_shares_its_pod_is_not_removed(engine: Engine) -> None:
    ident = pod(engine, container("one"), container("two"))
    engine.pods.pause(ident)
    with pytest.raises(NotAlive, match="paused"):
        engine.pods.remove_container("one")
    engine.pods.unpause(ident)
    engine.pods.remove_container("one", signal=9)
    assert [one.name for one in engine.containers.queries.of_pod(ident)] == ["two"]


# -- health checks


def check(*argv: str, **more: float) -> Healthcheck:
    return Healthcheck(argv=argv, interval=0.1, **more)


def health(engine: Engine, name: str) -> HealthState | None:
    found = engine.containers.queries.inspect(name).health
    return found.state if found is not None else None


def test_checks_go_on_after_one_that_could_not_be_noted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperd.container.health.AGAIN", 0.1)
    failures = [OutOfSpace("the disk is full"), RuntimeError("something else")]
    ask = engine.health._ask

    def broken(*args: Any) -> Any:
        if failures:
            raise failures.pop()
        return ask(*args)

    monkeypatch.setattr(engine.health, "_ask", broken)
    pod(engine, container("one", healthcheck=check("true")))
    until(lambda: health(engine, "one") == HealthState.HEALTHY)
    assert not failures


def test_checks_begin_that_the_last_daemon_did_not_come_to(engine: Engine) -> None:
    pod(engine, container("one", healthcheck=check("true")))
    row = engine.containers.records.find("one")
    engine.containers.records.update(row.id, run_count=row.run_count + 1)  # its checks are those of an earlier run
    until(lambda: engine.containers.records.get(row.id).health["run"] == row.run_count)
    engine.health.open()
    until(lambda: engine.containers.records.get(row.id).health["run"] == row.run_count + 1)
    engine.containers.records.update(row.id, run_count=row.run_count)


def test_a_check_that_hangs_holds_up_no_end_of_the_daemon(tmp_path: Path) -> None:
    with opened(tmp_path) as running:
        running.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        pod(running, container("one", healthcheck=check("sleep", "60", timeout=60)))
        vm = running.vms.all()[0]
        until(lambda: len(vm.agent.processes()) > 1)
        begun = time.monotonic()
    assert time.monotonic() - begun < 50
    until(lambda: not any(thread.is_alive() for thread in running.health._workers._threads))


# -- after a pause, and after a restart of the daemon


def test_a_probe_that_falls_into_a_pause_makes_no_guest_silent(engine: Engine) -> None:
    ident = pod(engine, container("one"))
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    engine.pods.pause(ident)
    assert not engine.relay.call(vm.agent.probe(0.05), timeout=10)
    assert vm.agent.silent
    engine.pods.unpause(ident)
    assert engine.execs.run("one", ExecSpec(argv=("echo", "well"))).stdout == b"well\n"


def test_what_the_last_daemon_noted_of_a_silent_guest_is_forgotten(engine: Engine) -> None:
    ident = pod(engine, container("one"))
    engine.pods.pause(ident)
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    engine.pods.vm_silent(vm, True)
    assert engine.pods.inspect(ident).reason
    recovery(engine).run()
    assert engine.pods.inspect(ident).reason == ""
    engine.pods.unpause(ident)


def recovery(engine: Engine) -> Recovery:
    return Recovery(
        root=engine.config.root,
        pods=engine.pods,
        records=engine.pods.records,
        containers=engine.containers,
        execs=engine.execs,
        network=engine.network,
        vms=engine.vms,
    )


def test_execs_of_a_paused_pod_run_on_for_the_next_daemon(engine: Engine) -> None:
    ident = pod(engine, container("one"))
    sleep = engine.execs.create("one", ExecSpec(argv=("sleep", "60")))
    engine.execs.start_detached(sleep)
    engine.pods.pause(ident)
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    engine.execs._processes.clear()  # what the next daemon knows: the rows, and a VM that it has not met
    vm.connected = False
    engine.execs.settle_lost()
    assert engine.execs.inspect(sleep).running
    engine.pods.kill(ident, signal=9)
    found = engine.execs.inspect(sleep)
    assert (found.state, found.exit_code) == (ExecState.EXITED, KILLED)


def test_an_exec_whose_client_was_never_served_has_ended(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection was gone, or could not be taken over: nobody else would start it, or note its end."""
    pod(engine, container("one"))
    given_up, broken = (engine.execs.create("one", ExecSpec(argv=("true",))) for _ in range(2))
    engine.execs.start("one", given_up).close()

    async def fail(*_: Any) -> None:
        raise OSError(errno.EBADF, "gone")

    monkeypatch.setattr("hyperd.stream.connection.ClientConnection.open", fail)
    ours, theirs = socket.socketpair()
    engine.execs.start("one", broken).run(ours, b"")
    for ident in (given_up, broken):
        until(lambda ident=ident: engine.execs.inspect(ident).state == ExecState.EXITED)
        assert engine.execs.inspect(ident).exit_code == SETUP_FAILED
    until(lambda: not engine.execs._processes)
    ours.close()
    theirs.close()


def test_an_end_that_nobody_has_seen_is_told(engine: Engine) -> None:
    """Of a container whose process the guest does not know when it is met again."""
    ident = pod(engine, container("one"), container("two", auto_remove=True))
    told: list[str] = []
    _, cancel = engine.events.subscribe(lambda event: told.append(event.action))
    wait = engine.containers.waits.register("one")
    removed = engine.containers.waits.register("two", WaitCondition.REMOVED)
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    engine.containers.adopt(vm, {})
    assert wait.result().exit_code == SETUP_FAILED
    assert removed.result().removed
    assert told.count("die") == 2
    cancel()


def meet_again(engine: Engine, vm: Vm, power: PowerState) -> None:
    """Let the engine know of a VM what the next daemon does: its row, and whether it runs."""
    row = engine.vms._table.rows()[vm.id]
    vm.ending = True
    vm.agent.close()
    engine.vms._table.drop(vm.id)
    engine.containers.processes.by_container.clear()
    engine.containers.processes._by_ident.clear()
    assert engine.vms._adopt(row, power)


@pytest.mark.parametrize("fault", [False, True])
def test_a_paused_pod_of_the_last_daemon_is_stopped_softly(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, fault: bool
) -> None:
    """Its program gets the stop signal, also where the first try has got half-way."""
    ident = pod(engine, container("one"))
    engine.pods.pause(ident)
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    meet_again(engine, vm, PowerState.PAUSED)
    if fault:
        with monkeypatch.context() as broken:
            broken.setattr(engine.pods.records, "change", full)
            with pytest.raises(OutOfSpace):
                engine.pods.unpause(ident)
    engine.pods.stop(ident)
    assert engine.containers.queries.inspect("one").exit_code == 128 + signal.SIGTERM


def test_a_pod_that_was_let_go_on_when_the_daemon_died_is_joined(engine: Engine) -> None:
    """The guest runs, the rows still say that it is paused."""
    ident = pod(engine, container("one"))
    engine.pods.pause(ident)
    vm = engine.vms.of_pod(ident)
    assert vm is not None
    engine.vms._driver.resume(vm.id)
    meet_again(engine, vm, PowerState.RUNNING)
    recovery(engine).run()
    assert engine.pods.inspect(ident).state == PodState.RUNNING
    engine.containers.kill("one", 9)
    until(lambda: engine.containers.queries.inspect("one").state == ContainerState.EXITED)


# -- a full disk


def full(*_: Any, **_more: Any) -> None:
    raise OutOfSpace("the host's disk is full")


def test_a_pause_that_cannot_be_noted_is_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = pod(engine, container("one"))
    for place, name in ((engine.vms._table, "_write"), (engine.pods.records, "change")):
        with monkeypatch.context() as broken:
            broken.setattr(place, name, full)
            with pytest.raises(OutOfSpace):
                engine.pods.pause(ident)
        assert engine.execs.run("one", ExecSpec(argv=("echo", "well"))).stdout == b"well\n"
    engine.pods.pause(ident)
    engine.pods.unpause(ident)


def test_a_vm_whose_row_cannot_be_deleted_is_gone(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = pod(engine, container("one"))
    with monkeypatch.context() as broken:
        broken.setattr(engine.vms._table, "_db", SimpleNamespace(session=full))
        engine.pods.stop(ident)
    assert engine.vms.of_pod(ident) is None
    engine.pods.start(ident)
    assert engine.execs.run("one", ExecSpec(argv=("echo", "well"))).stdout == b"well\n"


def test_an_end_that_cannot_be_noted_is_noted_when_there_is_room(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container and of an exec; who waits for it waits on."""
    pod(engine, container("one"))
    running = engine.execs.create("one", ExecSpec(argv=("sleep", "60")))
    engine.execs.start_detached(running)
    wait = engine.containers.waits.register("one")
    tried: list[str] = []

    def refused(ident: str, *_: Any, **_more: Any) -> None:
        tried.append(ident)
        raise OutOfSpace("the host's disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.records, "finish", refused)
        broken.setattr(engine.execs._records, "finish", refused)
        engine.execs.signal(running, 9)
        until(lambda: running in tried)
        engine.containers.kill("one", 9)
        until(lambda: wait.container_id in tried)
        assert engine.containers.queries.inspect("one").live
        assert engine.execs.inspect(running).running
    until(lambda: not engine.containers.queries.inspect("one").live)
    assert wait.result().exit_code == KILLED
    assert engine.execs.wait(running, seconds=60) == KILLED


def test_an_end_that_is_put_off_keeps_its_code_when_the_vm_goes(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperd.container.service.KILL_WAIT", 0.1)
    ident = pod(engine, container("one", "sh", "-c", "read line; exit 3", open_stdin=True))
    put_off = threading.Event()
    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.records, "finish", full)
        broken.setattr(engine.containers, "_put_off", lambda *_: put_off.set())  # later than the VM's end
        ours, theirs = socket.socketpair()
        engine.containers.streams.attach("one").run(ours, b"")
        theirs.sendall(b"x\n")
        assert put_off.wait(60)
    crash(engine, ident)
    until(is_stopped(engine, ident))
    assert engine.containers.queries.inspect("one").exit_code == 3
    theirs.close()


def test_a_beginning_that_cannot_be_noted_is_noted_when_there_is_room(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ident = pod(engine, container("one"))
    engine.containers.create(ident, container("two"))
    engine.containers.create(ident, container("three", "/no/such/program"))
    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.records, "started", full)
        engine.containers.start("two")
        engine.containers.start("three")
        assert engine.containers.queries.inspect("two").state == ContainerState.STARTING
    until(lambda: engine.containers.queries.inspect("two").state == ContainerState.RUNNING)
    until(lambda: "no/such/program" in engine.containers.queries.inspect("three").error)


def test_a_start_that_fails_while_nothing_can_be_noted(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither set-up nor answer: its end is noted later, and it can be started again."""
    monkeypatch.setattr("hyperd.container.service.KILL_WAIT", 0.1)
    ident = pod(engine, container("one"))
    engine.containers.create(ident, container("two", "echo", "well"))

    def deaf(*_: Any, **_more: Any) -> None:
        raise Timeout("the agent did not answer")

    vm = engine.vms.of_pod(ident)
    assert vm is not None
    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.records, "finish", full)
        broken.setattr(vm.agent, "start", deaf)
        with pytest.raises(Timeout):
            engine.containers.start("two")
        assert engine.containers.queries.inspect("two").state == ContainerState.STARTING
    until(lambda: not engine.containers.queries.inspect("two").live)
    assert engine.containers.queries.inspect("two").exit_code == SETUP_FAILED
    wait = engine.containers.waits.register("two", WaitCondition.NEXT_EXIT)
    engine.containers.start("two")
    assert wait.result().exit_code == 0


def test_a_restart_that_cannot_be_put_off_is_made_later(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperd.container.restart.FAULT_DELAY", 0.1)
    pod(engine, container("one", restart_policy="always"))
    tried = threading.Semaphore(0)

    def refused(*_: Any, **_more: Any) -> None:
        tried.release()
        raise OutOfSpace("the host's disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.restarts, "_start", refused)
        broken.setattr(engine.containers.records, "postpone", refused)
        engine.containers._signal(engine.containers.records.find("one").id, 9)  # nobody has asked for it
        assert all(tried.acquire(timeout=90) for _ in range(4))
    until(lambda: engine.containers.queries.inspect("one").live)


def test_a_start_that_cannot_be_noted_lets_its_clients_go(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ident = pod(engine, container("one"))
    second = engine.containers.create(ident, container("two", "echo", "well"))
    ours, theirs = socket.socketpair()
    theirs.settimeout(60)
    engine.containers.streams.attach("two").run(ours, b"")
    with monkeypatch.context() as broken:
        broken.setattr(engine.containers.records, "starting", full)
        with pytest.raises(OutOfSpace):
            engine.containers.start("two")
    assert theirs.recv(100) == b""
    theirs.close()
    assert engine.containers.processes.get(second) is None
    wait = engine.containers.waits.register("two", WaitCondition.NEXT_EXIT)
    engine.containers.start("two")
    assert wait.result().exit_code == 0


def test_a_vm_that_cannot_be_noted_is_none(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    for wait in (True, False):
        with monkeypatch.context() as broken:
            broken.setattr(engine.vms._table, "_write", full)
            with pytest.raises(OutOfSpace):
                engine.vms.create(wait=wait)
        assert engine.vms.views() == []
    ident = engine.vms.create()
    with monkeypatch.context() as broken:
        broken.setattr(engine.vms._table, "_write", full)
        with pytest.raises(OutOfSpace):
            engine.vms.claim(ident, "p", vcpu=1, memory=128)
    assert engine.vms.of_pod("p") is None
    assert [one.status for one in engine.vms.views()] == ["idle"]
    engine.vms.remove(ident)


# -- changes, and restarts that fail


def test_a_new_name_takes_no_change_back(engine: Engine, threads: ThreadPoolExecutor) -> None:
    ident = pod(engine, container("one"))
    with engine.pods._locks.locked(ident, "change it"):
        rename = threads.submit(engine.containers.rename, "one", "other")
        assert waits(rename)
        engine.containers.update("one", ContainerUpdate(labels={"kept": "yes"}))
    rename.result(60)
    found = engine.containers.queries.inspect("other")
    assert (found.name, found.spec.name, found.labels) == ("other", "other", {"kept": "yes"})


def test_a_restart_whose_set_up_fails_is_no_end(engine: Engine) -> None:
    ident = pod(engine, container("one", restart_policy="always"))
    driver, vm = engine.vms._driver, engine.vms.of_pod(ident)
    assert isinstance(driver, FakeDriver)
    assert vm is not None
    wait = engine.containers.waits.register("one")
    driver.agent(vm.id).faults[Method.START] = errno.EIO
    os.kill(engine.containers.queries.inspect("one").pid, signal.SIGKILL)  # of a program on this host
    until(lambda: engine.containers.queries.inspect("one").run_count == 3)
    until(lambda: engine.containers.queries.inspect("one").running)
    assert wait.poll() is None
    found = engine.containers.queries.inspect("one")
    assert (found.restart_count, found.error) == (2, "")
    engine.containers.stop("one", signal=signal.SIGKILL)
    assert wait.result().exit_code == KILLED


def test_a_restart_whose_set_up_fails_counts(engine: Engine) -> None:
    """``restart_max`` bounds them: then it is an end."""
    ident = pod(engine, container("one", restart_policy="onFailure", restart_max=1))
    driver, vm = engine.vms._driver, engine.vms.of_pod(ident)
    assert isinstance(driver, FakeDriver)
    assert vm is not None
    wait = engine.containers.waits.register("one")
    driver.agent(vm.id).faults[Method.START] = errno.EIO
    os.kill(engine.containers.queries.inspect("one").pid, signal.SIGKILL)
    assert wait.result().exit_code == SETUP_FAILED
    assert engine.containers.queries.inspect("one").run_count == 2


def test_a_start_does_not_suffer_from_a_change_of_a_pod_that_links_to_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its networks are changed between the look at its specification and the one at its leases."""
    link = NetworkAttachment(network="bridge", links=(("target", "db"),))
    linking = pod(engine, container("linking"), networks=(link,))
    ident = engine.pods.create(PodSpec(containers=(container("target"),)))
    leases = engine.network.leases
    monkeypatch.setattr(engine.network, "leases", lambda owner: () if owner == linking else leases(owner))
    engine.pods.start(ident)
    assert engine.containers.queries.inspect("target").running


def test_what_the_last_daemon_had_to_end_is_ended(engine: Engine) -> None:
    """Containers that were to be removed and implicit pods, and nothing else."""
    ident = pod(
        engine, container("live"), container("over", "true"), container("again", "true"), container("kept", "true")
    )
    implicit = pod(engine, container("alone", "true"), implicit=True)
    for name in ("over", "again", "kept", "alone"):
        engine.containers.wait(name)
    until(is_stopped(engine, implicit))
    records = engine.containers.records
    for name in ("live", "over", "again"):
        records.update(records.find(name).id, auto_remove=True)
    records.update(records.find("again").id, restart_at=time.time() + 1000)
    assert [row.name for row in records.live()] == ["live"]
    engine.auto_remove.open()
    until(lambda: {one.name for one in engine.containers.queries.of_pod(ident)} == {"live", "again", "kept"})
    engine.pods.records.update(implicit, state=PodState.RUNNING)
    engine.lifetime.open()
    until(is_stopped(engine, implicit))
    assert engine.pods.inspect(ident).state == PodState.RUNNING


def test_the_list_of_execs_has_their_numbers(engine: Engine) -> None:
    pod(engine, container("one"))
    sleep, unused = (engine.execs.create("one", ExecSpec(argv=("sleep", "60"))) for _ in range(2))
    engine.execs.start_detached(sleep)
    found = {one.id: one.pid for one in engine.execs.list("one")}
    assert found == {sleep: engine.execs.inspect(sleep).pid, unused: 0}
    assert found[sleep]


def test_a_client_that_came_before_the_first_start_sees_every_run(engine: Engine) -> None:
    again = container("again", "sh", "-c", "echo run; exit 3", restart_policy="onFailure", restart_max=2)
    ident = engine.pods.create(PodSpec(containers=(again,), restart_policy="never"))
    client = attached(engine, "again", next_run=False)
    engine.pods.start(ident)
    assert everything(client) == b"run\n" * 3
    assert engine.containers.records.find("again").restart_count == 2
    engine.pods.remove(ident)


def test_vms_that_pretend_fill_the_pool_too(tmp_path: Path) -> None:
    with opened(tmp_path, pool=1) as engine:
        until(lambda: [vm.state for vm in engine.vms.all()] == [POOLED])
        engine.imports.from_body(ImportOrder(source="-", name="busybox:latest"), iter([busybox_tar()]))
        (waiting,) = engine.vms.all()
        ident = pod(engine, container("one"), resource=Resource(vcpu=waiting.vcpu, memory=waiting.memory))
        assert engine.vms.of_pod(ident) is waiting
        engine.pods.remove(ident)
