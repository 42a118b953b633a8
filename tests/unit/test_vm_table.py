"""The table of VMs: a row is written when something changed, also when the change failed half-way."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hyperd.agent.client import AgentClient
from hyperd.agent.plan import Op
from hyperd.db.session import Database
from hyperd.errors import AgentError, HyperError, NotFound, OutOfSpace
from hyperd.vm.driver import NicSpec, VmDriver
from hyperd.vm.hotplug import Plugs
from hyperd.vm.model import ASSOCIATED, IDLE, POOLED, Vm
from hyperd.vm.pool.refill import PooledVms
from hyperd.vm.shares import SharedTrees
from hyperd.vm.table import VmTable


def make(name: str = "vm-a", **values: Any) -> Vm:
    return Vm(id=name, vcpu=1, memory=64, rundir=Path("/"), agent=cast("AgentClient", SimpleNamespace()), **values)


def test_a_row_is_written_by_the_first_change_and_follows_each_other(database: Database) -> None:
    table, vm = VmTable(database), make()
    table.add(vm)
    assert table.rows() == {}
    with table.changing(vm):
        vm.state = IDLE
    with table.changing(vm):
        vm.disks["/layer"] = 3
    row = table.rows()["vm-a"]
    assert (row.state, row.pod_id, row.detail["disks"]) == (IDLE, None, {"/layer": 3})
    with table.changing(vm):
        vm.pod_id, vm.state = "p", ASSOCIATED
    assert table.of_pod("p") is vm
    assert table.rows()["vm-a"].pod_id == "p"


def test_a_block_that_fails_leaves_the_row_as_the_vm_is(database: Database) -> None:
    table, vm = VmTable(database), make()
    table.add(vm)

    def change() -> None:
        with table.changing(vm):
            vm.nics.append("02:00:00:00:00:01")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        change()
    assert table.rows()["vm-a"].detail["nics"] == ["02:00:00:00:00:01"]


def test_nothing_is_written_when_nothing_changed(database: Database, mocker: Any) -> None:
    table, vm = VmTable(database), make()
    table.add(vm)
    with table.changing(vm):
        vm.disks["/layer"] = 1
    session = mocker.spy(database, "session")
    with table.changing(vm), table.changing(vm):
        vm.disks["/layer"] = 1
    assert session.call_count == 0
    with table.changing(vm), table.changing(vm):
        vm.disks["/layer"] = 2
    assert session.call_count == 1


def test_a_vm_that_is_gone_gets_no_row_again(database: Database) -> None:
    table, vm = VmTable(database), make()
    table.add(vm)
    with table.changing(vm):
        vm.state = IDLE
    table.erase("vm-a")
    assert table.drop("vm-a")
    assert not table.drop("vm-a")
    with table.changing(vm):
        vm.state = ASSOCIATED
    assert table.rows() == {}
    with pytest.raises(NotFound):
        table.get("vm-a")


def test_changes_of_one_vm_come_one_after_the_other(database: Database) -> None:
    table, vm = VmTable(database), make()
    table.add(vm)

    def add(number: int) -> None:
        with table.changing(vm):
            vm.disks[f"/{number}"] = vm.free_lun()

    threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(table.rows()["vm-a"].detail["disks"].values()) == list(range(1, 9))


class FullDisk:
    """The rows' database, which has no room for them while ``full``."""

    def __init__(self, database: Database) -> None:
        self.full = False
        self.reading = database.reading
        self._session = database.session

    def session(self) -> Any:
        if self.full:
            raise OutOfSpace("the host's disk is full")
        return self._session()


def test_a_vm_that_no_row_can_give_to_a_pod_waits_on(database: Database) -> None:
    disk = FullDisk(database)
    table, vm, driver = VmTable(cast("Database", disk)), make(state=POOLED), cast("VmDriver", None)
    pool = PooledVms(table, driver, boot=cast("Any", None), destroy=lambda _vm: None)
    table.add(vm)
    disk.full = True
    with pytest.raises(OutOfSpace):
        pool.take("p", vcpu=1, memory=64)
    assert table.of_pod("p") is None
    assert (vm.state, vm.waking, pool.count()) == (POOLED, False, 1)
    disk.full = False
    assert pool.take("p", vcpu=1, memory=64) is vm
    assert table.of_pod("p") is vm


def test_what_no_row_can_say_is_not_plugged(database: Database) -> None:
    """A disk that a VM only seems to have would not be plugged by the next try."""
    disk = FullDisk(database)
    table, vm = VmTable(cast("Database", disk)), make()
    table.add(vm)
    plugged: list[object] = []
    driver = SimpleNamespace(
        attach_disk=lambda _vm, spec: plugged.append(spec.path), attach_nic=lambda _vm, spec: plugged.append(spec.mac)
    )
    plugs = Plugs(table, cast("VmDriver", driver), cast("SharedTrees", None))
    layer, nic = Path("/layer"), NicSpec(mac="02:00:00:00:00:01", tap="", bridge="")
    for wanted in ({"layers": [layer]}, {"nics": [nic]}, {"scratch": Path("/scratch")}):
        disk.full = True
        with pytest.raises(HyperError):
            plugs.plug(vm, **cast("Any", wanted))
        assert (vm.disks, vm.nics, plugged) == ({}, [], [])
    disk.full = False
    plugs.plug(vm, scratch=Path("/scratch"), layers=[layer], nics=[nic])
    assert plugged == [Path("/scratch"), layer, nic.mac]


def test_a_nic_with_the_address_that_another_was_made_with_is_told_apart(database: Database) -> None:
    """A NIC of the pool has got another MAC address; its first one belongs to a network that the VM joins later."""
    table, vm, plans, nics = VmTable(database), make(nics=["52:54:0a:00:00:02"]), list[Any](), ["52:54:0a:00:00:02"]
    vm.agent = cast("AgentClient", SimpleNamespace(run=plans.append))
    driver = SimpleNamespace(
        attach_nic=lambda _vm, spec: nics.append(spec.mac), detach_nic=lambda _vm, mac: nics.remove(mac)
    )
    table.add(vm)
    plugs = Plugs(table, cast("VmDriver", driver), cast("SharedTrees", None))
    plugs.readdress_nic(vm, "52:54:0a:00:00:02", "52:54:0a:01:00:09")
    assert table.rows()["vm-a"].detail["renamed"] == {"52:54:0a:01:00:09": "52:54:0a:00:00:02"}
    plugs.plug(vm, nics=[NicSpec(mac="52:54:0a:00:00:02", tap="", bridge="")])
    assert vm.nics == ["52:54:0a:01:00:09", "52:54:0a:00:00:02"]
    (made,) = set(nics) - {"52:54:0a:00:00:02"}
    assert [step[0] for step in plans[0].steps] == [Op.LINK, Op.LINKDOWN, Op.MAC]
    plugs.unplug_nic(vm, "52:54:0a:00:00:02")
    assert nics == ["52:54:0a:00:00:02"]  # the one of the pool is there, under its new name
    plugs.plug(vm, nics=[NicSpec(mac="52:54:0a:00:00:02", tap="", bridge="")])
    plugs.unplug_nic(vm, "52:54:0a:01:00:09")
    assert nics == [made]
    assert table.rows()["vm-a"].detail["renamed"] == {"52:54:0a:00:00:02": made}


def test_a_nic_whose_address_cannot_be_changed_is_unplugged_again(database: Database) -> None:
    table, vm, nics = VmTable(database), make(nics=["52:54:0a:00:00:02"]), ["52:54:0a:00:00:02"]

    def silent(_plan: object) -> None:
        raise AgentError("the guest does not answer")

    vm.agent = cast("AgentClient", SimpleNamespace(run=silent))
    driver = SimpleNamespace(
        attach_nic=lambda _vm, spec: nics.append(spec.mac), detach_nic=lambda _vm, mac: nics.remove(mac)
    )
    table.add(vm)
    plugs = Plugs(table, cast("VmDriver", driver), cast("SharedTrees", None))
    plugs.readdress_nic(vm, "52:54:0a:00:00:02", "52:54:0a:01:00:09")
    with pytest.raises(AgentError):
        plugs.plug(vm, nics=[NicSpec(mac="52:54:0a:00:00:02", tap="", bridge="")])
    assert (nics, vm.nics) == (["52:54:0a:00:00:02"], ["52:54:0a:01:00:09"])
    assert table.rows()["vm-a"].detail["renamed"] == {"52:54:0a:01:00:09": "52:54:0a:00:00:02"}


def test_a_row_that_cannot_be_deleted_goes_with_the_next_change(database: Database) -> None:
    disk = FullDisk(database)
    table, old, new = VmTable(cast("Database", disk)), make(pod_id="p"), make("vm-b", pod_id="p")
    table.add(old)
    with table.changing(old):
        pass
    disk.full = True
    table.erase("vm-a")
    table.drop("vm-a")
    assert table.rows().keys() == {"vm-a"}
    disk.full = False
    table.add(new)
    with table.changing(new):  # the pod's VM now, of which there is one at most
        pass
    assert table.rows().keys() == {"vm-b"}


def test_a_vm_is_idle_when_nothing_of_its_pod_is_left_in_it(database: Database) -> None:
    """Before that nobody may be given it: a directory that could not be taken away is the last pod's."""
    table = VmTable(database)
    agent = SimpleNamespace(run=lambda _plan: None)
    vm = make(pod_id="p", state=ASSOCIATED, shared=True, shares={"v": {"readonly": False, "file": False}})
    vm.agent = cast("AgentClient", agent)
    table.add(vm)

    def unbind(_vm: str, _name: str) -> None:
        raise OutOfSpace("no")

    plugs = Plugs(table, cast("VmDriver", None), cast("SharedTrees", SimpleNamespace(unbind=unbind)))
    with pytest.raises(OutOfSpace):
        plugs.release(vm)
    assert (vm.state, vm.pod_id, table.rows()["vm-a"].pod_id) == (ASSOCIATED, "p", "p")
