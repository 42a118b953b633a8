"""The contract between the warm pool and the services that know what the next pod will probably need."""

from __future__ import annotations

from typing import Protocol

from hyperd.vm.model import Outfit, Vm


class Outfitter(Protocol):
    """Prepares VMs for the pool with what only the services above know of."""

    def make(self, vm_id: str) -> Outfit:
        """Return what a VM shall be booted with. Errors: HyperError; ``drop`` is called then."""

    def dress(self, vm: Vm) -> None:
        """Prepare the guest, as far as that can be done without knowing its pod. Errors: AgentError, Timeout."""

    def drop(self, vm_id: str) -> None:
        """Take back what ``make`` has given, for a VM that is gone and never was a pod's; nothing is fine."""


class PlainOutfitter:
    """Prepares nothing: a VM gets everything when it is taken."""

    def make(self, vm_id: str) -> Outfit:  # noqa: ARG002
        """Return nothing."""
        return Outfit()

    def dress(self, vm: Vm) -> None:
        """Do nothing."""

    def drop(self, vm_id: str) -> None:
        """Do nothing."""
