"""The services of an engine without an API: what several threads do to a pod at once, and what goes wrong midway."""

from __future__ import annotations

import errno
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hyperd.agent.plan import Op
from hyperd.build.importer import ImportOrder
from hyperd.container import contents, locks
from hyperd.container.model import ExecState, HealthState
from hyperd.container.states import KILLED, SETUP_FAILED, ContainerState
from hyperd.container.waits import WaitCondition
from hyperd.engine import Engine
from hyperd.errors import AgentError, DriverError, HyperError, NotAlive, OutOfSpace
from hyperd.pod.recovery import Recovery
from hyperd.pod.states import PodState
from hyperd.spec.model import (
    ContainerSpec,
    ExecSpec,
    Healthcheck,
    PodSpec,
    VolumeRef,
    VolumeSpec,
)
from hyperd.stream.logread import LogQuery
from hyperd.vm.driver import PowerState
from hyperd.vm.fake import FakeDriver
from hyperd.vm.model import Vm
from hyperd.volume.model import NamedVolumeSpec
from tests.support.registry import busybox_tar
from tests.support.services import DEAF, attached, container, crash, everything, full, is_stopped, opened, pod, waits
from tests.support.until import until

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
