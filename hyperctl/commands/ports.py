"""`ports ls`, `ports add` and `ports delete`."""

from __future__ import annotations

from hyperctl.api.errors import HyperctlError, NotFound, UsageProblem
from hyperctl.command import App, Argument, Group, Option, command
from hyperctl.listing import FORMAT, Column, show
from hyperctl.spec import port_rule

_RULES = Option("-p", "--publish", many=True, metavar="[IP:][HOST:]PORT[/udp]", text="A rule (repeat).")


_COLUMNS = (
    Column("Protocol", "Protocol"),
    Column("Host Ports", "HostPort"),
    Column("Container Ports", "ContainerPort"),
    Column("Host Address", "HostIP", hidden=True),
)


@command(
    "ls",
    Argument("pod", "POD", complete="pod"),
    FORMAT,
    examples=("hyperctl ports ls web1", "hyperctl ports ls --format '{{.HostPort}}' web1"),
)
def _ls(app: App, *, pod: str, form: str) -> None:
    """List the published ports of a pod."""
    try:
        rules = app.client.portmappings(pod)
    except NotFound:
        raise HyperctlError(f"pod {pod} not found") from None
    keys = ("protocol", "hostPort", "containerPort", "hostIP")
    rows = [
        {column.field: str(rule.get(key, "")) for column, key in zip(_COLUMNS, keys, strict=True)} for rule in rules
    ]
    show(_COLUMNS, rows, form)


@command(
    "add",
    _RULES,
    Argument("pod", "POD", complete="pod"),
    examples=("hyperctl ports add -p 8080:80 -p udp:5353:53 web1",),
)
def _add(app: App, *, publish: tuple[str, ...], pod: str) -> None:
    """Publish more ports of a running pod."""
    _change(app, pod, "add", publish)


@command("delete", _RULES, Argument("pod", "POD", complete="pod"), examples=("hyperctl ports delete -p 8080:80 web1",))
def _delete(app: App, *, publish: tuple[str, ...], pod: str) -> None:
    """Take published ports of a running pod back."""
    _change(app, pod, "delete", publish)


ports_command = Group("ports", "List, add or delete published ports of a pod.", (_ls, _add, _delete))


def _change(app: App, pod: str, action: str, rules: tuple[str, ...]) -> None:
    if not rules:
        raise UsageProblem("a rule is needed: -p [IP:][hostPort:]containerPort[/udp]")
    try:
        app.client.change_portmappings(pod, action, [port_rule(text) for text in rules])
    except NotFound:
        raise HyperctlError(f"pod {pod} not found") from None
