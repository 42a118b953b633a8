"""`vm create` and `vm rm`."""

from __future__ import annotations

from hyperctl import output, units
from hyperctl.command import App, Argument, Group, Option, command
from hyperctl.commands.lifecycle import for_each


@command(
    "create",
    Option("--cpu", metavar="N", default=1, minimum=0, text="CPUs."),
    Option("--memory", metavar="SIZE", shown="128", text="Memory in MiB, or with a unit."),
    examples=("hyperctl vm create --cpu 2 --memory 512",),
)
def _create(app: App, *, cpu: int, memory: str) -> None:
    """Boot a VM that waits for a pod."""
    size = units.mebibytes(memory or "0") or 128
    output.say(f"New VM id is {app.client.create_vm(cpu=cpu or 1, memory=size)}")


@command("rm", Argument("names", "VM...", many=True, complete="vm"), examples=("hyperctl vm rm vm-QhKzRtPwXa",))
def _rm(app: App, *, names: tuple[str, ...]) -> int:
    """Destroy VMs; a pod on one of them becomes failed."""

    def remove(name: str) -> None:
        app.client.remove_vm(name)
        output.say(f"VM({name}) is successfully deleted!")

    return for_each(names, remove, lambda name, text: f"VM({name}) delete failed: {text}")


vm_command = Group("vm", "Create or remove idle VMs; `list vm` shows them.", (_create, _rm))
