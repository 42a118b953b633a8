"""What a specification means for a pod's network."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperd.api.hyper.pod_spec import parse_pod
from hyperd.errors import Conflict, InvalidInput
from hyperd.network.guards import Guard
from hyperd.network.model import Lease
from hyperd.pod import netplan
from hyperd.spec.model import PortSpec

OWN = Lease("52:54:00:00:00:01", "t1", "hyper0", "10.0.0.2/24", "10.0.0.1", 1500, ("192.0.2.1",))
MORE = replace(OWN, mac="52:54:00:00:00:02", tap="t2", cidr="10.0.0.3/24")
LAN = Lease("52:54:00:00:00:03", "t3", "br-lan", "10.5.0.2/16", "", 1400, ("192.0.2.1",), ("10.6.0.2/16",))


def spec(*interfaces, **more):
    return parse_pod({"id": "p", "hostname": "p", "interfaces": list(interfaces), **more})


def test_no_interface_means_an_automatic_one():
    assert len(netplan.wishes(spec())) == 1
    setup = netplan.guest_setup(spec(), [OWN])
    assert [(nic.cidrs, nic.gateway, nic.mtu) for nic in setup.nics] == [(("10.0.0.2/24",), "10.0.0.1", 1500)]
    assert setup.dns == ("192.0.2.1",)


def test_addresses_are_split():
    (wish,) = netplan.wishes(
        spec({"bridge": "br-lan", "ip": "10.5.0.2/16, 10.6.0.2/16", "ifname": "x", "mac": LAN.mac})
    )
    assert (wish.bridge, wish.addresses, wish.tap, wish.mac) == (
        "br-lan",
        ("10.5.0.2/16", "10.6.0.2/16"),
        "x",
        LAN.mac,
    )


@pytest.mark.parametrize(
    ("interfaces", "leases", "route"),
    [
        ([{}, {}], [OWN, MORE], (0, "10.0.0.1")),
        ([{"ip": "10.0.0.2/24"}, {}], [OWN, MORE], (1, "10.0.0.1")),
        ([{"ip": "10.0.0.2/24"}], [OWN], (0, "10.0.0.1")),
        ([{}, {"bridge": "br-lan", "ip": "10.5.0.2/16", "gateway": "10.5.0.1"}], [OWN, LAN], (1, "10.5.0.1")),
        ([{"bridge": "br-lan", "ip": "10.5.0.2/16,10.6.0.2/16", "gateway": "10.6.0.9"}], [LAN], (0, "10.6.0.9")),
        ([{"bridge": "br-lan", "ip": "10.5.0.2/16"}], [LAN], (-1, "")),
    ],
)
def test_default_route(interfaces, leases, route):
    assert netplan.default_route(spec(*interfaces), leases) == route


@pytest.mark.parametrize("leases", [[], [OWN, MORE]])
def test_a_change_by_somebody_else_is_no_internal_error(leases):
    """The specification and the leases of another pod are read one after the other."""
    with pytest.raises(Conflict, match="just being changed"):
        netplan.guest_setup(spec(), leases)


@pytest.mark.parametrize(
    ("interface", "message"),
    [
        ({"bridge": "br-lan", "ip": "10.5.0.2/16", "gateway": "10.7.0.1"}, "interfaces[0].gateway: 10.7.0.1"),
        ({"bridge": "br-lan", "ip": "10.5.0.2/16", "mtu": 1500}, "interfaces[0].mtu: 1500 is above that of the bridge"),
    ],
)
def test_what_cannot_work_is_refused(interface, message):
    with pytest.raises(InvalidInput) as caught:
        netplan.guest_setup(spec(interface), [LAN])
    assert message in str(caught.value)


def test_published_ports_lead_to_the_daemons_bridge():
    assert netplan.target_address([LAN, OWN]) == "10.0.0.2"
    assert netplan.target_address([LAN]) == "10.5.0.2"


def test_the_source_of_a_service_is_in_its_hosts_network():
    def source(host):
        hosts = [{"hostIP": host, "hostPort": 1}] if host else []
        services = [{"serviceIP": "10.254.0.1", "servicePort": 80, "hosts": hosts}]
        return netplan.balanced(spec({}, {"bridge": "br-lan", "ip": "10.5.0.2/16"}, services=services), [OWN, LAN])[0]

    assert [source(host).source for host in ("10.5.9.9", "10.0.0.77", "8.8.8.8", "")] == [
        "10.5.0.2",
        "10.0.0.2",
        "10.0.0.2",
        "10.0.0.2",
    ]


def test_white_lists():
    assert netplan.guard(spec()) is None
    lists = {"portmappingWhiteLists": {"internalNetworks": ["10.0.0.0/8"]}}
    assert netplan.guard(spec(**lists)) == Guard(internal=("10.0.0.0/8",))


@pytest.mark.parametrize(
    ("host", "inner", "automatic"),
    [
        ("", "80", True),
        ("", "80-82", True),
        ("8000-8100", "80", True),
        ("1-65535", "80", True),
        ("8000", "80", False),
        ("8000-8001", "80-81", False),
    ],
)
def test_automatic_host_ports(host, inner, automatic):
    port = PortSpec(container_port=inner, host_port=host)
    assert port.automatic is automatic
    assert bool(port.expand()) is not automatic


@pytest.mark.parametrize(("host", "inner"), [("8000", "80-81"), ("8000-8002", "80-81")])
def test_ranges_that_do_not_match(host, inner):
    with pytest.raises(InvalidInput, match="port range mismatch"):
        PortSpec(container_port=inner, host_port=host).expand()
