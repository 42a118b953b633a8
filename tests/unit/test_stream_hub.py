"""The hub: what is acknowledged when, resuming, slow clients, the end."""

from __future__ import annotations

import asyncio
import errno
import socket
from functools import partial

from hyperd.stream.connection import ClientConnection
from hyperd.stream.frames import stdcopy
from hyperd.stream.hub import OutputHub
from hyperd.stream.logs import JsonFileLog
from tests.support.until import until


class Guest:
    """Records acknowledgements."""

    def __init__(self):
        self.acks: list[tuple[int, int]] = []

    def __call__(self, stream: int, offset: int) -> None:
        self.acks.append((stream, offset))


def in_loop(relay, function):
    async def run():
        return function()

    return relay.call(run(), timeout=60)


def make(relay, path=None, *, tty=False, run=1):
    def build():
        hub = OutputHub(relay, tty=tty, log_file=JsonFileLog(path, run=run) if path else None)
        guest = Guest()
        hub.connect(guest)
        return hub, guest

    return in_loop(relay, build)


def join(relay, hub):
    mine, theirs = socket.socketpair()
    client = ClientConnection(relay)

    async def attach():
        await client.open(theirs, b"")
        hub.attach(client)

    relay.call(attach(), timeout=60)
    mine.settimeout(60)
    return mine, client


def read_all(sock):
    data = b""
    while chunk := sock.recv(1 << 20):
        data += chunk
    sock.close()
    return data


def test_only_bytes_on_disk_are_acknowledged(relay, tmp_path):
    hub, guest = make(relay, tmp_path / "a.log")
    in_loop(relay, lambda: hub.data(1, 0, b"whole\npart"))
    assert guest.acks == [(1, 6)]
    in_loop(relay, lambda: hub.data(1, 10, b"ial\n"))
    assert guest.acks[-1] == (1, 14)
    in_loop(relay, hub.end)


def test_bytes_sent_twice_are_taken_once(relay, tmp_path):
    hub, guest = make(relay, tmp_path / "a.log")
    in_loop(relay, lambda: (hub.data(1, 0, b"abc\n"), hub.data(1, 0, b"abc\ndef\n"), hub.data(1, 4, b"def\n")))
    in_loop(relay, lambda: (hub.eof(1, 8), hub.eof(2, 0)))
    assert hub.ended
    assert guest.acks[-2:] == [(1, 9), (2, 1)]
    assert (tmp_path / "a.log").read_text().count("def") == 1


def test_every_client_gets_frames_and_the_end(relay):
    hub, _ = make(relay)
    one, _ = join(relay, hub)
    two, _ = join(relay, hub)
    in_loop(relay, lambda: (hub.data(1, 0, b"out"), hub.data(2, 0, b"err"), hub.eof(1, 3), hub.eof(2, 3)))
    wanted = stdcopy(1, b"out") + stdcopy(2, b"err")
    assert read_all(one) == wanted
    assert read_all(two) == wanted


def test_a_terminal_is_raw_and_has_one_output(relay):
    hub, _ = make(relay, tty=True)
    one, _ = join(relay, hub)
    in_loop(relay, lambda: (hub.data(1, 0, b"\x1b[1mhi"), hub.eof(1, 6)))
    assert read_all(one) == b"\x1b[1mhi"


def test_a_slow_client_stops_the_acknowledgements_until_it_reads_or_leaves(relay):
    hub, guest = make(relay)
    slow, client = join(relay, hub)
    size = 1 << 16
    at = 0
    while not in_loop(relay, lambda: client.congested):
        in_loop(relay, partial(hub.data, 1, at, bytes(size)))
        at += size
        assert at < 64 << 20
    before = list(guest.acks)
    in_loop(relay, lambda: hub.data(1, at, b"more"))
    assert guest.acks == before
    slow.close()

    async def settled():
        gone = asyncio.Event()
        client.on_closed, before = (lambda: (before(), gone.set())), client.on_closed
        if not client.closed:
            await gone.wait()

    relay.call(settled(), timeout=60)
    assert in_loop(relay, lambda: guest.acks[-1]) == (1, at + 4)


def test_after_a_restart_the_stream_resumes_behind_what_is_on_disk(relay, tmp_path):
    hub, _ = make(relay, tmp_path / "a.log")
    in_loop(relay, lambda: hub.data(1, 0, b"kept\nlost with the daemon"))
    again, guest = make(relay, tmp_path / "a.log")
    offsets = in_loop(relay, again.resume_offsets)
    assert offsets == {1: 5, 2: 0}
    in_loop(relay, lambda: again.connect(guest, offsets))
    in_loop(relay, lambda: (again.data(1, 5, b"lost with the daemon\n"), again.eof(1, 26), again.eof(2, 0)))
    text = (tmp_path / "a.log").read_text()
    assert text.count("kept") == 1
    assert text.count("lost with the daemon") == 1
    assert again.ended
    in_loop(relay, hub.end)


def test_a_guest_that_sends_more_than_its_window_fills_no_memory(relay):
    hub, _ = make(relay)
    slow, client = join(relay, hub)
    at = 0
    while not in_loop(relay, lambda: client.congested):
        in_loop(relay, partial(hub.data, 1, at, bytes(1 << 16)))
        at += 1 << 16
    pending = in_loop(relay, client._transport.get_write_buffer_size)
    for number in range(100):
        in_loop(relay, lambda n=number: hub.data(1, at + (n << 16), bytes(1 << 16)))
        in_loop(relay, lambda n=number: hub.data(1, at + (n << 40), b"a jump"))
    grown = in_loop(relay, client._transport.get_write_buffer_size) - pending
    assert grown <= 262_144 + 8 * 8
    slow.close()


def test_what_rotation_has_lost_is_skipped_once(relay):
    hub, _ = make(relay)
    guest = Guest()
    in_loop(relay, lambda: hub.connect(guest, {1: 5, 2: 0}))
    in_loop(relay, lambda: hub.data(1, 100, b"new"))
    assert guest.acks == [(1, 103)]
    in_loop(relay, lambda: hub.data(1, 500, b"a second jump"))
    assert guest.acks == [(1, 103)]


def test_a_failed_start_can_say_why_although_the_guest_has_ended_its_outputs(relay, tmp_path):
    hub, _ = make(relay, tmp_path / "a.log")
    one, _ = join(relay, hub)
    in_loop(relay, hub.hold)
    in_loop(relay, lambda: (hub.eof(1, 0), hub.eof(2, 0)))
    assert not hub.ended
    in_loop(relay, lambda: (hub.emit(2, b"not found\n"), hub.end()))
    assert read_all(one) == stdcopy(2, b"not found\n")
    assert "not found" in (tmp_path / "a.log").read_text()


def test_bulk_output_is_acknowledged_in_few_words_and_to_its_end_though_nothing_follows(relay, tmp_path):
    hub, guest = make(relay, tmp_path / "a.log")
    block = b"x" * 63 + b"\n"

    async def burst():
        for at in range(0, 1 << 18, 1 << 16):
            hub.data(1, at, block * 1024)

    relay.call(burst(), timeout=60)
    assert len(guest.acks) <= 2

    until(lambda: bool(guest.acks) and guest.acks[-1] == (1, 1 << 18))
    assert len(guest.acks) <= 3
    in_loop(relay, hub.end)


def test_clients_have_what_the_log_cannot_take(relay, tmp_path, mocker):
    hub, guest = make(relay, tmp_path / "a.log")
    one, _ = join(relay, hub)
    mocker.patch("hyperd.stream.logs.os.write", side_effect=OSError(errno.ENOSPC, "No space left on device"))
    in_loop(relay, lambda: hub.data(1, 0, b"line\n"))
    assert one.recv(100) == stdcopy(1, b"line\n")
    assert guest.acks == []
    mocker.stopall()
    in_loop(relay, lambda: hub.data(1, 5, b"more\n"))
    assert guest.acks == [(1, 10)]
    in_loop(relay, hub.end)
    one.close()


def test_an_output_ends_though_nothing_came_since_its_log_was_lost(relay, tmp_path):
    hub, guest = make(relay, tmp_path / "a.log")
    in_loop(relay, lambda: hub.connect(guest, {1: 0, 2: 0}))
    in_loop(relay, lambda: (hub.eof(1, 500), hub.eof(2, 0)))
    assert hub.ended
    assert (1, 501) in guest.acks
