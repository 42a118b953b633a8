"""The contract between VMs and the services above: what is told of a guest that runs, ends or falls silent."""

from __future__ import annotations

from hyperd.vm.model import Vm


class VmObserver:
    """Is told what happens to VMs. Each method does nothing unless it is overridden."""

    def process_ended(self, vm_id: str, process: str, code: int) -> None:
        """Take the news that a process of a guest has ended. Called in the relay's loop: return at once."""

    def out_of_memory(self, vm_id: str, process: str) -> None:
        """Take the news that a control group of a guest ran out of memory. Called in the relay's loop."""

    def gone(self, vm: Vm, *, by_itself: bool) -> None:
        """Take the news that a VM is no more; ``by_itself`` is False when somebody removed it (``DELETE /vm``).

        Called in a thread of the VM service, or in that of who removed it; called again later when it fails.
        """

    def silent(self, vm: Vm, *, silent: bool) -> None:
        """Take the news that a guest does not answer, or answers again. Called in the heartbeat's thread."""
