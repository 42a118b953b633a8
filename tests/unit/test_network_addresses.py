"""Addresses: unique, round robin, given back, restored."""

from __future__ import annotations

import tempfile
import threading
from contextlib import closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.db.session import Database
from hyperd.errors import Busy, Conflict, InvalidInput
from hyperd.network.addresses import AddressPool, check_ifname, derived_mac


def take(database: Database, pool: AddressPool, owner: str, **wanted: str) -> str:
    with database.session() as session:
        return pool.take(session, owner, 0, **wanted).address


def release(database: Database, pool: AddressPool, owner: str) -> list[str]:
    with database.session() as session:
        return pool.release(session, owner)


def test_first_address_is_the_gateways_and_pods_follow(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    assert str(pool.gateway) == "10.9.8.1/24"
    assert [take(database, pool, f"p{i}") for i in range(3)] == ["10.9.8.2", "10.9.8.3", "10.9.8.4"]


def test_same_owner_and_slot_get_the_same_row(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    assert take(database, pool, "a") == take(database, pool, "a")
    with database.session() as session:
        assert pool.take(session, "a", 1).address != pool.take(session, "a", 0).address


def test_released_address_comes_last(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/28")
    first = take(database, pool, "p0")
    assert release(database, pool, "p0") == [first]
    following = [take(database, pool, f"q{i}") for i in range(13)]
    assert following[-1] == first
    assert sorted(following, key=lambda text: int(IPv4Address(text))) == [f"10.9.8.{n}" for n in range(2, 15)]


def test_cursor_survives_a_restart(database: Database) -> None:
    first = take(database, AddressPool(bridge="hy0", subnet="10.9.8.0/24"), "a")
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    release(database, pool, "a")
    assert take(database, pool, "b") != first


def test_a_thousand_pods_in_a_row_do_not_exhaust_the_subnet(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    seen = set()
    for number in range(1000):
        seen.add(take(database, pool, f"p{number}"))
        release(database, pool, f"p{number}")
    assert seen == {f"10.9.8.{n}" for n in range(2, 255)}


def test_full_subnet_is_busy_and_recovers(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/29")
    for number in range(5):
        take(database, pool, f"p{number}")
    with pytest.raises(Busy, match="no free address"):
        take(database, pool, "more")
    gone = release(database, pool, "p3")
    assert [take(database, pool, "more")] == gone


def test_smallest_subnet_has_one_pod(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/30")
    assert take(database, pool, "a") == "10.9.8.2"
    with pytest.raises(Busy):
        take(database, pool, "b")


def test_bridges_do_not_share_addresses(database: Database) -> None:
    one, two = (AddressPool(bridge=name, subnet="10.9.8.0/24") for name in ("hy1", "hy2"))
    assert take(database, one, "a") == take(database, two, "a")


def test_certain_address(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    assert take(database, pool, "a", address="10.9.8.50/24", mac="52:54:00:AA:BB:CC", tap="mytap") == "10.9.8.50"
    with pytest.raises(Conflict, match=r"10\.9\.8\.50 is in use by a"):
        take(database, pool, "b", address="10.9.8.50")
    with pytest.raises(Conflict, match="tap mytap"):
        take(database, pool, "b", tap="mytap")
    with database.session() as session:
        row = pool.find(session, "a", 0)
        assert row is not None
        assert (row.mac, row.tap) == ("52:54:00:aa:bb:cc", "mytap")


@pytest.mark.parametrize(
    "wanted",
    [
        {"address": "10.9.8.1"},
        {"address": "10.9.8.0"},
        {"address": "10.9.8.255"},
        {"address": "10.9.9.4"},
        {"address": "nonsense"},
        {"address": "::1"},
        {"mac": "01:00:5e:00:00:01"},
        {"mac": "52:54:00:12:34"},
        {"tap": "a name"},
        {"tap": "sixteencharacter"},
        {"tap": 'x"; drop'},
        {"tap": "hy0-77"},
    ],
)
def test_impossible_wishes_are_refused(database: Database, wanted: dict[str, str]) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    with pytest.raises(InvalidInput):
        take(database, pool, "a", **wanted)
    with database.session() as session:
        assert pool.rows(session) == []


@pytest.mark.parametrize("subnet", ["", "10.0.0.0/7", "10.0.0.0/31", "10.0.0.0/33", "fd00::/64", "x"])
def test_impossible_subnets_are_refused(subnet: str) -> None:
    with pytest.raises(InvalidInput):
        AddressPool(bridge="hy0", subnet=subnet)


@pytest.mark.parametrize("bridge", ["a", "hyper0", "fifteen-letters"])
@pytest.mark.parametrize("subnet", ["10.0.0.0/8", "172.16.0.0/16", "10.9.8.0/24"])
def test_tap_names_are_valid_and_differ_between_bridges(database: Database, bridge: str, subnet: str) -> None:
    pool = AddressPool(bridge=bridge, subnet=subnet)
    last = str(pool.network.broadcast_address - 1)
    with database.session() as session:
        tap = pool.take(session, "a", 0, address=last).tap
    assert check_ifname(tap, what="tap") == tap
    assert tap.startswith(pool.tap_prefix)
    assert AddressPool(bridge="fifteen-letterz", subnet=subnet).tap_prefix != pool.tap_prefix


def test_transfer_moves_the_lease_and_keeps_the_address(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    address = take(database, pool, "vm-1")
    take(database, pool, "other")
    with database.session() as session:
        assert pool.transfer(session, "vm-1", "pod") == 1
        assert pool.find(session, "vm-1", 0) is None
    assert take(database, pool, "pod") == address
    with pytest.raises(Conflict), database.session() as session:
        pool.transfer(session, "other", "pod")


def test_prune_keeps_only_what_exists(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    for owner in "abc":
        take(database, pool, owner)
    with database.session() as session:
        assert [row.owner for row in pool.prune(session, {"b"})] == ["a", "c"]
    with database.session() as session:
        assert [row.owner for row in pool.rows(session)] == ["b"]


def test_rows_outside_a_changed_subnet_are_dropped(database: Database) -> None:
    take(database, AddressPool(bridge="hy0", subnet="10.9.8.0/24"), "a")
    changed = AddressPool(bridge="hy0", subnet="10.9.9.0/24")
    with database.session() as session:
        assert [row.owner for row in changed.drop_outside(session)] == ["a"]
    assert take(database, changed, "a") == "10.9.9.2"


def test_threads_never_get_the_same_address(database: Database) -> None:
    pool = AddressPool(bridge="hy0", subnet="10.9.8.0/24")
    found: list[str] = []

    def work(name: str) -> None:
        found.extend(take(database, pool, f"{name}-{number}") for number in range(10))

    threads = [threading.Thread(target=work, args=(f"t{n}",)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(set(found)) == 60


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 19)), max_size=60))
def test_any_order_of_taking_and_releasing_keeps_addresses_unique(steps: list[tuple[bool, int]]) -> None:
    with tempfile.TemporaryDirectory() as directory, closing(Database(Path(directory, "db"))) as database:
        database.create_all()
        pool = AddressPool(bridge="hy0", subnet="10.9.8.0/27")
        held: dict[str, str] = {}
        for taking, number in steps:
            owner = f"p{number}"
            if taking:
                address = take(database, pool, owner)
                assert held.setdefault(owner, address) == address
            else:
                assert release(database, pool, owner) == [a for a in [held.pop(owner, None)] if a]
            assert len(set(held.values())) == len(held)


def test_mac_belongs_to_the_address_and_is_local_unicast() -> None:
    assert derived_mac(IPv4Address("192.168.123.2")) == "52:54:c0:a8:7b:02"
