"""The services of an engine without an API: a full disk, changes and restarts that fail."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hyperd.agent.frames import Method
from hyperd.build.importer import ImportOrder
from hyperd.container.model import ContainerUpdate
from hyperd.container.states import KILLED, SETUP_FAILED, ContainerState
from hyperd.container.waits import WaitCondition
from hyperd.engine import Engine
from hyperd.errors import OutOfSpace, Timeout
from hyperd.pod.states import PodState
from hyperd.spec.model import (
    ExecSpec,
    NetworkAttachment,
    PodSpec,
    Resource,
)
from hyperd.vm.fake import FakeDriver
from hyperd.vm.model import POOLED
from tests.support.registry import busybox_tar
from tests.support.services import attached, container, crash, everything, full, is_stopped, opened, pod, waits
from tests.support.until import until

# -- a full disk


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
