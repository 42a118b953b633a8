"""The steps that make a guest a pod's: kept back until something is done in it, so that they cost no message."""

from __future__ import annotations

from hyperd.agent.plan import Plan
from hyperd.vm.model import Vm


class Entry:
    """Steps that must come before anything else is done in a guest; the pod's lock is held as long as it lives.

    Whoever starts the pod passes it on. Its steps go at the head of the first container's own plan (``take``), or by
    themselves when something else comes first (``run``).

    Args:
        vm: the VM. plan: its steps.

    """

    def __init__(self, vm: Vm, plan: Plan) -> None:
        self._vm = vm
        self._plan: Plan | None = plan

    @property
    def waiting(self) -> Plan | None:
        """The steps, which may be added to; None when they were sent."""
        return self._plan

    def take(self) -> Plan | None:
        """Hand the steps to who sends them before its own; None when they were sent."""
        plan, self._plan = self._plan, None
        return plan

    def run(self) -> None:
        """Carry the steps out now, unless they were sent. Errors: AgentError."""
        plan = self.take()
        if plan is not None:
            self._vm.agent.run(plan)
