"""The nftables text."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperd.errors import InvalidInput
from hyperd.network.ruleset import Forward, Resolver, Ruleset, Segment, Station, check_table

OWN = Segment(bridge="hy0", subnet="10.9.8.0/24")
EMPTY = Ruleset(table="hyt", segments=(OWN,), tap_prefix="hy0-", stations=(), forwards=())
STATION = Station(tap="hy0-2", mac="52:54:0a:09:08:02", address="10.9.8.2")
FORWARD = Forward(protocol="tcp", host_port=8080, address="10.9.8.2", container_port=80)


def test_text_replaces_both_tables_at_once() -> None:
    text = replace(EMPTY, stations=(STATION,), forwards=(FORWARD,)).render()
    for family in ("ip", "bridge"):
        assert text.index(f"table {family} hyt\ndelete table {family} hyt") < text.index(f"table {family} hyt {{")
    assert 'elements = { "hy0-2" . 52:54:0a:09:08:02 . 10.9.8.2 }' in text
    assert "elements = { 8080 : 10.9.8.2 . 80 }" in text


def test_without_nat_nothing_is_masqueraded_or_dropped_on_the_way() -> None:
    text = replace(EMPTY, segments=(replace(OWN, masquerade=False, filtered=False),)).render()
    assert 'oifname != "hy0" masquerade' not in text
    assert "ct state" not in text
    assert 'oifname != "hy0" masquerade' in EMPTY.render()


def test_change_names_only_what_changed() -> None:
    other = replace(STATION, tap="hy0-3", mac="52:54:0a:09:08:03", address="10.9.8.3")
    before = replace(EMPTY, stations=(STATION, other), forwards=(FORWARD,))
    after = replace(EMPTY, stations=(other,), forwards=(FORWARD, replace(FORWARD, protocol="udp")))
    assert after.change_from(before) == (
        'delete element bridge hyt stations { "hy0-2" . 52:54:0a:09:08:02 . 10.9.8.2 }\n'
        'delete element bridge hyt taps { "hy0-2" }\n'
        "add element ip hyt udp_ports { 8080 : 10.9.8.2 . 80 }\n"
    )
    assert after.change_from(after) == ""
    asking = replace(after, resolvers=(Resolver(source="10.9.8.2", asked="10.9.8.1", port=5300),))
    assert asking.change_from(after) == "add element ip hyt resolvers { 10.9.8.2 . 10.9.8.1 : 127.0.0.1 . 5300 }\n"
    assert after.change_from(replace(after, segments=(replace(OWN, filtered=False),))) is None


def test_what_comes_into_a_network_from_others_is_dropped() -> None:
    inner = Segment(bridge="hy1", subnet="10.9.9.0/24", internal=True)
    lines = replace(EMPTY, segments=(replace(OWN, filtered=False), inner)).render().splitlines()
    forward = [line.strip() for line in lines[lines.index("  chain forward {") :]]
    assert forward.index('iifname "hy1" drop') < forward.index("ct state established,related accept")
    assert 'iifname "hy1" oifname "hy0" drop' in forward
    assert 'oifname "hy1" drop' in forward
    assert 'oifname "hy0" drop' not in forward


@pytest.mark.parametrize("name", ["", "a b", "x;y", "1x", "a-b", "x" * 65, "ü"])
def test_table_names_that_nft_would_misread_are_refused(name: str) -> None:
    with pytest.raises(InvalidInput):
        check_table(name)


def test_port_on_one_address_of_the_host() -> None:
    after = replace(EMPTY, forwards=(replace(FORWARD, host_ip="127.0.0.1"),))
    assert after.change_from(EMPTY) == "add element ip hyt tcp_bound { 127.0.0.1 . 8080 : 10.9.8.2 . 80 }\n"


def test_a_range_is_one_rule() -> None:
    ports = [replace(FORWARD, host_port=port, container_port=port) for port in (*range(5000, 15000), 16000)]
    other = replace(ports[-1], host_port=15000, container_port=15000, address="10.9.8.3")
    after = replace(EMPTY, forwards=(*ports, other))
    assert after.change_from(EMPTY) == (
        "add element ip hyt tcp_ranges { 15000 : 10.9.8.3, 16000 : 10.9.8.2, 5000-14999 : 10.9.8.2 }\n"
    )
