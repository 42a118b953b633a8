"""The event bus, its filters, and the feed that sends lines to a client."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace

import pytest

from hyperd.api.docker.events import event_object as docker_event
from hyperd.api.hyper.events import event_object as hyper_event
from hyperd.errors import InvalidInput
from hyperd.event.bus import Event, EventBus
from hyperd.event.filters import matches, parse_filters
from hyperd.stream import follower
from hyperd.stream.follower import FeedSession
from hyperd.stream.relay import Relay
from tests.support.until import until


def test_listeners_hear_everything_in_order_from_all_threads():
    bus = EventBus()
    heard: list[Event] = []
    _, cancel = bus.subscribe(heard.append)

    def publish(name: str) -> None:
        for number in range(200):
            bus.publish("pod", "start", name, number=number)

    threads = [threading.Thread(target=publish, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    times = [event.time_ns for event in heard]
    assert times == sorted(set(times))
    for name in "abcd":
        assert [event.attributes["number"] for event in heard if event.id == name] == [str(n) for n in range(200)]
    cancel()
    cancel()
    bus.publish("pod", "stop", "a")
    assert len(heard) == 800
    assert bus.listeners == 0


def test_the_past_is_bounded_and_given_once():
    bus = EventBus(backlog=3)
    for number in range(5):
        bus.publish("vm", "boot", f"vm-{number}")
    assert bus.subscribe(lambda _event: None)[0] == []
    past, _ = bus.subscribe(lambda _event: None, since_ns=0)
    assert [event.id for event in past] == ["vm-2", "vm-3", "vm-4"]
    later, _ = bus.subscribe(lambda _event: None, since_ns=past[-1].time_ns)
    assert [event.id for event in later] == ["vm-4"]


def test_a_listener_that_fails_harms_nobody(caplog):
    bus, heard = EventBus(), []

    def broken(_event: Event) -> None:
        raise RuntimeError("broken")

    bus.subscribe(broken)
    bus.subscribe(heard.append)
    bus.publish("pod", "start", "p")
    assert [event.id for event in heard] == ["p"]


def test_attributes_are_short_texts():
    bus = EventBus()
    bus.publish("pod", "die", "p", **{"exitCode": 3, "none": None, "long": "x" * 10_000, "odd key": "v"})
    ((event,), _) = bus.subscribe(lambda _event: None, since_ns=0)
    assert event.attributes == {"exitCode": "3", "long": "x" * 256, "odd key": "v"}


CONTAINER = Event(
    type="container",
    action="die",
    id="abcdef0123",
    pod_id="p1",
    attributes={"name": "web", "image": "busybox", "team": "red"},
)
POD = Event(type="pod", action="start", id="p1", attributes={"name": "p1", "vm": "vm-x"})


@pytest.mark.parametrize(
    ("filters", "container", "pod"),
    [
        ({}, True, True),
        ({"type": ["container"]}, True, False),
        ({"type": ["container", "pod"]}, True, True),
        ({"type": []}, True, True),
        ({"event": ["die"]}, True, False),
        ({"pod": ["p1"]}, True, True),
        ({"pod": ["p"]}, False, False),
        ({"container": ["web"]}, True, False),
        ({"container": ["abcd"]}, True, False),
        ({"container": ["abc"]}, False, False),
        ({"image": ["busybox", "x"]}, True, False),
        ({"vm": ["vm-x"]}, False, True),
        ({"label": ["team"]}, True, False),
        ({"label": ["team=red"]}, True, False),
        ({"label": ["team=red", "other"]}, False, False),
        ({"type": ["pod"], "event": ["die"]}, False, False),
    ],
)
def test_filters(filters, container, pod):
    parsed = parse_filters(filters)
    assert (matches(CONTAINER, parsed), matches(POD, parsed)) == (container, pod)


def test_both_forms_of_filters_and_bad_ones():
    assert parse_filters({"type": {"pod": True, "vm": False}}) == {"type": ("pod",)}
    for wrong in ([], {"colour": ["red"]}, {"type": "pod"}, {"type": [1]}, {"type": ["x"] * 300}):
        with pytest.raises(InvalidInput):
            parse_filters(wrong)


# -- the feed


class Source:
    """What a feed subscribes to."""

    def __init__(self, past: list[bytes]) -> None:
        self.past = past
        self.taken = threading.Event()
        self.ended = threading.Event()
        self.send = lambda _line: None

    def __call__(self, take):
        self.send = take
        self.taken.set()
        return self.past, self.ended.set


def start(relay: Relay, source: Source, **more) -> socket.socket:
    mine, theirs = socket.socketpair()
    mine.settimeout(60)
    FeedSession(relay, source, last=b"too slow\n", **more).run(theirs, b"")
    assert source.taken.wait(60)
    return mine


def read_all(sock: socket.socket) -> bytes:
    data = b""
    while piece := sock.recv(1 << 20):
        data += piece
    return data


def test_past_then_present_until_the_client_leaves(relay):
    source = Source([b"1\n", b"2\n"])
    with start(relay, source) as client:
        source.send(b"3\n")
        data = b""
        while len(data) < 6:
            data += client.recv(100)
        assert data == b"1\n2\n3\n"
        assert not source.ended.is_set()
    assert source.ended.wait(60)


def test_the_stream_ends_when_the_time_is_up(relay):
    source = Source([b"1\n"])
    started = time.monotonic()
    with start(relay, source, until=0.3) as client:
        assert read_all(client) == b"1\n"
    assert time.monotonic() - started > 0.2
    assert source.ended.is_set()
    with start(relay, Source([b"1\n"]), until=0) as client:
        assert read_all(client) == b"1\n"


def test_a_slow_client_is_told_and_dropped(relay, monkeypatch):
    monkeypatch.setattr(follower, "LINGER", 60.0)
    source = Source([])
    with start(relay, source) as client:
        line = b"x" * 4095 + b"\n"
        for _ in range(1000):  # four megabytes that nobody reads
            source.send(line)
        data = read_all(client)
        assert data.endswith(line + b"too slow\n")
        assert len(data) < 3 << 20
    assert source.ended.wait(60)


def test_a_slow_client_that_never_reads_is_cut_off(relay, monkeypatch):
    monkeypatch.setattr(follower, "LINGER", 0.1)
    source = Source([])
    with start(relay, source):
        for _ in range(1000):
            source.send(b"x" * 4096)
        assert source.ended.wait(60)


def test_a_long_past_comes_before_what_happens_meanwhile(relay):
    past = [b"%07d\n" % number for number in range(400_000)]
    source = Source(past)
    with start(relay, source) as client:
        source.send(b"now\n")
        expected = b"".join(past) + b"now\n"
        data = b""
        while len(data) < len(expected):
            data += client.recv(1 << 20)
        assert data == expected
    until(source.ended.is_set)


def test_each_api_has_its_own_words_for_pods_and_images():
    commit = replace(CONTAINER, action="commit", attributes={"name": "web", "made": "sha256:1"})
    hyper, docker = hyper_event(commit)["Actor"]["Attributes"], docker_event(commit)["Actor"]["Attributes"]
    assert hyper == {"name": "web", "podID": "p1", "imageID": "sha256:1"}
    assert docker == {"name": "web", "imageID": "sha256:1"}
    joined = Event(type="network", action="connect", id="net0", pod_id="p1")
    assert hyper_event(joined)["Actor"]["Attributes"] == {"podID": "p1"}
    assert docker_event(joined)["Actor"]["Attributes"] == {"container": "p1"}
