"""`ports ls`, `ports add` and `ports delete`."""

from __future__ import annotations

import click

from hyperctl import output
from hyperctl.api.errors import HyperctlError, NotFound
from hyperctl.command import App, Command, command
from hyperctl.spec import port_rule

_RULES = click.option(
    "-p", "--publish", multiple=True, required=True, metavar="[tcp|udp:]HOST:CONTAINER", help="A rule (repeat)."
)


@click.group("ports", cls=click.Group)
def ports_command() -> None:
    """List, add or delete published ports of a pod."""


@command("ls", "hyperctl ports ls web1")
@click.argument("pod", metavar="POD")
@click.pass_obj
def _ls(app: App, pod: str) -> None:
    """List the published ports of a pod."""
    try:
        rules = app.client.portmappings(pod)
    except NotFound:
        raise HyperctlError(f"pod {pod} not found") from None
    keys = ("protocol", "hostPort", "containerPort")
    rows = [[str(rule.get(key, "")) for key in keys] for rule in rules]
    output.write(output.table([("Protocol", "Host Ports", "Container Ports"), *rows]))


@command("add", "hyperctl ports add -p 8080:80 -p udp:5353:53 web1")
@_RULES
@click.argument("pod", metavar="POD")
@click.pass_obj
def _add(app: App, publish: tuple[str, ...], pod: str) -> None:
    """Publish more ports of a running pod."""
    _change(app, pod, "add", publish)


@command("delete", "hyperctl ports delete -p 8080:80 web1")
@_RULES
@click.argument("pod", metavar="POD")
@click.pass_obj
def _delete(app: App, publish: tuple[str, ...], pod: str) -> None:
    """Take published ports of a running pod back."""
    _change(app, pod, "delete", publish)


def _change(app: App, pod: str, action: str, rules: tuple[str, ...]) -> None:
    try:
        app.client.change_portmappings(pod, action, [port_rule(text) for text in rules])
    except NotFound:
        raise HyperctlError(f"pod {pod} not found") from None


def _register(*commands: Command) -> None:
    for one in commands:
        ports_command.add_command(one)


_register(_ls, _add, _delete)
