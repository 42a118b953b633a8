"""The steps that make a guest a pod's are sent once, by whoever comes first."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from hyperd.agent.plan import Plan
from hyperd.vm.entry import Entry
from hyperd.vm.model import Vm


class Agent:
    def __init__(self) -> None:
        self.plans: list[Plan] = []

    def run(self, plan: Plan) -> None:
        self.plans.append(plan)


def make() -> tuple[Entry, Agent, Plan]:
    agent, plan = Agent(), Plan().mkdir("/first")
    vm = Vm(id="vm-a", vcpu=1, memory=64, rundir=Path("/"), agent=cast("Any", agent))
    return Entry(vm, plan), agent, plan


def test_steps_are_run_once() -> None:
    entry, agent, plan = make()
    assert entry.waiting is plan
    entry.run()
    entry.run()
    assert agent.plans == [plan]
    assert (entry.waiting, entry.take()) == (None, None)


def test_who_takes_the_steps_sends_them() -> None:
    entry, agent, plan = make()
    assert entry.take() is plan
    entry.run()
    assert agent.plans == []
