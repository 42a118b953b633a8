"""Programming the guest's load balancer: commands and structs of linux/ip_vs.h."""

from __future__ import annotations

from dataclasses import replace

from hyperd.agent.plan import Op, Plan
from hyperd.network import ipvs
from hyperd.network.ipvs import Balanced

WEB = Balanced(
    ip="10.254.0.9", port=80, protocol="tcp", hosts=(("10.0.0.2", 8080), ("10.0.0.3", 8080)), source="10.0.0.5"
)
# protocol 6, padding, address, port and padding, firewall mark, scheduler, flags, timeout, netmask
WEB_BYTES = bytes.fromhex("0600 0000 0afe0009 0050 0000 00000000") + b"rr".ljust(16, b"\0") + bytes(8) + b"\xff" * 4


def commands(plan: Plan) -> list[tuple[object, ...]]:
    return [args for op, args in plan.steps if op == Op.IPVS]


def locals_of(plan: Plan) -> list[tuple[object, ...]]:
    return [args for op, args in plan.steps if op == Op.LOCAL]


def test_structs_are_the_kernels() -> None:
    plan = ipvs.change((), (WEB,))
    host = bytes.fromhex("0a000002 1f90 0000 00000000 01000000 00000000 00000000")
    assert len(WEB_BYTES) == 44
    assert len(host) == 24
    assert commands(plan)[:2] == [(ipvs.ADD, WEB_BYTES), (ipvs.ADD_HOST, WEB_BYTES + host)]
    assert len(commands(plan)) == 3
    assert locals_of(plan) == [("10.254.0.9", "10.0.0.5")]
    assert plan.steps[0] == (Op.MODULES, ("services",))
    assert ipvs.change((), (replace(WEB, protocol="udp"),)).steps[3][1][1][:2] == b"\x11\0"


def test_only_what_differs_is_changed() -> None:
    fewer = replace(WEB, hosts=WEB.hosts[1:])
    assert ipvs.change((WEB,), (WEB,)).steps == []
    assert [number for number, _ in commands(ipvs.change((WEB,), (fewer,)))] == [ipvs.DELETE_HOST]
    assert [number for number, _ in commands(ipvs.change((fewer,), (WEB,)))] == [ipvs.ADD_HOST]
    assert ipvs.change((), ()).steps == []


def test_an_address_stays_while_a_service_has_it() -> None:
    other = replace(WEB, port=81)
    assert locals_of(ipvs.change((WEB, other), (other,))) == []
    assert locals_of(ipvs.change((WEB, other), ())) == [("10.254.0.9", ""), ("10.254.0.9", "")]
    assert locals_of(ipvs.change((WEB,), (replace(WEB, source="10.0.0.6"),))) == [("10.254.0.9", "10.0.0.6")]


def test_what_is_not_known_is_made_anew() -> None:
    plan = ipvs.renew((replace(WEB, ip="10.254.0.8"), WEB), (WEB,))
    assert [number for number, _ in commands(plan)] == [ipvs.FLUSH, ipvs.ADD, ipvs.ADD_HOST, ipvs.ADD_HOST]
    assert locals_of(plan) == [("10.254.0.8", ""), ("10.254.0.9", ""), ("10.254.0.9", "10.0.0.5")]


def test_rows_give_back_what_was_written() -> None:
    assert ipvs.load(WEB.dump()) == WEB
