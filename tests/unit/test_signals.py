"""Signals by name and number."""

from __future__ import annotations

import signal

import pytest

from hyperd.container.signals import find_signal, parse_signal, signal_name, stop_signal
from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("9", 9),
        ("64", 64),
        ("KILL", 9),
        ("sigterm", 15),
        ("SIGCLD", 17),
        ("SIGRTMIN+3", 37),
        ("RTMIN+3", 37),
        ("rtmin", 34),
        ("SIGRTMAX-1", 63),
        ("SIGRTMAX", 64),
        ("RTMAX-30", 34),
        (" HUP ", 1),
    ],
)
def test_signals_are_known(text: str, number: int):
    assert find_signal(text) == parse_signal(text) == number


@pytest.mark.parametrize(
    "text",
    ["", "0", "65", "-1", "NOPE", "RTMIN-1", "RTMAX+1", "RTMIN+31", "RTMAX-31", "RTMIN+", "SIGSIGTERM", "1.5", "٣"],
)
def test_others_are_refused(text: str):
    assert find_signal(text) == 0
    with pytest.raises(InvalidInput, match="unknown signal"):
        parse_signal(text)


def test_every_name_is_read_back():
    for number in range(1, 65):
        if number not in (32, 33):  # the C library's own
            assert find_signal(signal_name(number)) == number


def test_the_specification_wins_over_the_image_and_an_unknown_one_is_told():
    image = {"config": {"StopSignal": "SIGRTMIN+3"}}
    assert stop_signal(ContainerSpec(), image).number == 37
    assert stop_signal(ContainerSpec(stop_signal="HUP"), image).number == signal.SIGHUP
    assert stop_signal(ContainerSpec(), {}).number == signal.SIGTERM
    strange = stop_signal(ContainerSpec(), {"config": {"StopSignal": "SIGNOPE"}})
    assert (strange.number, strange.unknown) == (signal.SIGTERM, "SIGNOPE")
