"""`vm create` and `vm rm`."""

from __future__ import annotations

import click

from hyperctl import output
from hyperctl.command import App, command
from hyperctl.commands.lifecycle import for_each


@click.group("vm")
def vm_command() -> None:
    """Create or remove idle VMs; `list vm` shows them."""


@command("create", "hyperctl vm create --cpu 2 --memory 512")
@click.option("--cpu", type=click.IntRange(min=1), default=1, show_default=True, help="CPUs.")
@click.option("--memory", type=click.IntRange(min=1), default=128, show_default=True, help="Memory in MiB.")
@click.pass_obj
def _create(app: App, cpu: int, memory: int) -> None:
    """Boot a VM that waits for a pod."""
    output.say(f"New VM id is {app.client.create_vm(cpu=cpu, memory=memory)}")


@command("rm", "hyperctl vm rm vm-QhKzRtPwXa")
@click.argument("names", nargs=-1, required=True, metavar="VM...")
@click.pass_obj
def _rm(app: App, names: tuple[str, ...]) -> int:
    """Destroy VMs; a pod on one of them becomes failed."""

    def remove(name: str) -> None:
        app.client.remove_vm(name)
        output.say(f"VM({name}) is successfully deleted!")

    return for_each(names, remove, lambda name, text: f"VM({name}) delete failed: {text}")


vm_command.add_command(_create)
vm_command.add_command(_rm)
