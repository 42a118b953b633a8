"""The table of VMs: a row is written when something changed, also when the change failed half-way."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hyperd.agent.client import AgentClient
from hyperd.db.session import Database
from hyperd.errors import NotFound
from hyperd.vm.model import ASSOCIATED, IDLE, Vm
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
