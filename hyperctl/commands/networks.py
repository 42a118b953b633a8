"""`network`: networks of pods."""

from __future__ import annotations

from hyperctl import output
from hyperctl.command import App, Argument, Group, Option, command
from hyperctl.commands.lifecycle import for_each
from hyperctl.listing import FORMAT, NO_TRUNC, UNASKED, Column, identity, refuse_both, show, show_objects
from hyperctl.spec import attachment, pairs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = Argument("network", "NETWORK", complete="network")
_POD = Argument("pod", "POD", complete="pod")


@command(
    "ls",
    Option("-q", "--quiet", flag=True, text="Print ids only."),
    NO_TRUNC,
    FORMAT,
    examples=("hyperctl network ls", "hyperctl network ls --format '{{.Name}} {{.Subnet}}'"),
)
def _ls(app: App, *, quiet: bool, no_trunc: bool, form: str) -> None:
    """List networks."""
    refuse_both(quiet, form)
    rows = [
        {
            "ID": one.get("id", ""),
            "Name": one.get("name", ""),
            "Driver": one.get("driver", ""),
            "Subnet": one.get("subnet", ""),
            "Internal": bool(one.get("internal")),
            "Pods": len(one.get("pods") or []),
        }
        for one in app.client.rows("/network/list")
    ]
    shown = identity(no_trunc=no_trunc)
    if quiet:
        for row in rows:
            output.say(shown(row["ID"]))
        return
    columns = (
        Column("NETWORK ID", "ID", shown),
        Column("NAME", "Name"),
        Column("DRIVER", "Driver"),
        Column("SUBNET", "Subnet"),
        Column("INTERNAL", "Internal", lambda internal: "yes" if internal else ""),
        Column("PODS", "Pods"),
    )
    show(columns, rows, form)


@command(
    "create",
    Argument("name", "NAME"),
    Option("-d", "--driver", metavar="NAME", text="Driver; the daemon's own by default."),
    Option("--subnet", metavar="CIDR", text="Addresses; the daemon chooses by default."),
    Option("--gateway", metavar="ADDRESS", text="The host's address in it; the first one by default."),
    Option("--ip-range", metavar="CIDR", text="Part of the subnet that pods get addresses from."),
    Option("--ipv6", flag=True, text="Pods have an IPv6 address, too."),
    Option("--subnet6", metavar="CIDR", text="IPv6 addresses, with --ipv6; the daemon chooses by default."),
    Option("--gateway6", metavar="ADDRESS", text="The host's IPv6 address in it; the first one by default."),
    Option("--internal", flag=True, text="Pods reach each other and nothing else."),
    Option("--isolated", flag=True, text="Pods do not reach each other."),
    Option("-l", "--label", many=True, metavar="KEY=VALUE", text="Set a label (repeat)."),
    Option("-o", "--opt", many=True, metavar="KEY=VALUE", text="Option of the driver (repeat)."),
    examples=(
        "hyperctl network create front",
        "hyperctl network create --internal --subnet 10.9.0.0/24 back",
        "hyperctl network create --ipv6 --subnet6 fd00:5::/64 six",
    ),
)
def _create(
    app: App,
    *,
    name: str,
    driver: str,
    subnet: str,
    gateway: str,
    ip_range: str,
    ipv6: bool,
    subnet6: str,
    gateway6: str,
    internal: bool,
    isolated: bool,
    label: tuple[str, ...],
    opt: tuple[str, ...],
) -> None:
    """Make a network; pods that are started with --network know each other by name in it."""
    asked: dict[str, Any] = {
        "name": name,
        "driver": driver,
        "subnet": subnet,
        "gateway": gateway,
        "ipRange": ip_range,
        "ipv6": ipv6,
        "subnet6": subnet6,
        "gateway6": gateway6,
        "internal": internal,
        "isolated": isolated,
        "labels": pairs(label, "--label"),
        "options": pairs(opt, "--opt"),
    }
    made = app.client.create_network({key: value for key, value in asked.items() if value})
    output.say(str(made.get("id", "")))


@command(
    "rm",
    Argument("names", "NETWORK...", many=True, complete="network"),
    examples=("hyperctl network rm front",),
)
def _rm(app: App, *, names: tuple[str, ...]) -> int:
    """Remove networks that no pod is on."""

    def remove(name: str) -> None:
        app.client.remove_network(name)
        output.say(name)

    return for_each(names, remove, lambda name, text: f"network {name} delete failed: {text}")


@command(
    "inspect",
    Argument("names", "NETWORK...", many=True, complete="network"),
    Option("-f", "--format", field="form", metavar="json|TEMPLATE", default="json", text="How to print it."),
    examples=("hyperctl network inspect front", "hyperctl network inspect --format '{{.subnet}}' front"),
)
def _inspect(app: App, *, names: tuple[str, ...], form: str) -> None:
    """Print networks and the pods that are on them."""
    show_objects([app.client.one("/network/info", network=name) for name in names], form)


@command(
    "connect",
    _NAME,
    _POD,
    Option("--ip", metavar="ADDRESS", text="Address of the pod; the daemon chooses by default."),
    Option("--ip6", metavar="ADDRESS", text="Its IPv6 address, where the network has such."),
    Option("--alias", many=True, metavar="NAME", text="Further name of the pod in the network (repeat)."),
    examples=("hyperctl network connect back web1",),
)
def _connect(app: App, *, network: str, pod: str, ip: str, ip6: str, alias: tuple[str, ...]) -> None:
    """Put a pod on a network, also while it runs."""
    app.client.connect_network({**attachment(network, ip=ip, ip6=ip6, aliases=alias), "pod": pod})


@command("disconnect", _NAME, _POD, examples=("hyperctl network disconnect back web1",))
def _disconnect(app: App, *, network: str, pod: str) -> None:
    """Take a pod off a network."""
    app.client.disconnect_network(network, pod)


@command("prune", UNASKED, examples=("hyperctl network prune",))
def _prune(app: App, **_force: bool) -> None:
    """Remove all networks that no pod is on."""
    for name in app.client.prune_networks():
        output.say(name)


network_command = Group("network", "Networks of pods.", (_ls, _create, _rm, _inspect, _connect, _disconnect, _prune))
