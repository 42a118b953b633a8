"""Which changes of the configuration a running daemon takes over."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hyperd.config.model import Config, LogConfig, NetworkConfig, RegistryConfig
from hyperd.config.reload import RELOADABLE, flat, merge


def test_every_reloadable_key_exists():
    assert set(flat(Config())) >= RELOADABLE


def test_nothing_changes():
    assert merge(Config(), Config()) == (Config(), [], [])


def test_what_can_be_taken_over_is_and_the_rest_is_named():
    new = Config(
        root=Path("/other"),
        log_level="debug",
        network=NetworkConfig(dns=("192.0.2.1",), bridge="other0"),
        registry=RegistryConfig(mirrors=("http://m",), default="example.com"),
        log=LogConfig(max_size=5),
    )
    config, changed, waiting = merge(Config(), new)
    assert set(changed) == {"log_level", "network.dns", "registry.mirrors", "log.max_size"}
    assert set(waiting) == {"root", "network.bridge", "registry.default"}
    assert config == Config(
        log_level="debug",
        network=NetworkConfig(dns=("192.0.2.1",)),
        registry=RegistryConfig(mirrors=("http://m",)),
        log=LogConfig(max_size=5),
    )


@pytest.mark.parametrize("key", sorted(RELOADABLE))
def test_each_key_alone(key):
    section, _, name = key.rpartition(".")
    old = Config()
    owner = getattr(old, section) if section else old
    value = getattr(owner, name)
    other = {str: "x", tuple: ("x",), int: 7, float: 7.0}.get(type(value), Path("/x"))
    changed_owner = dataclasses.replace(owner, **{name: other})
    new = dataclasses.replace(old, **{section: changed_owner}) if section else changed_owner
    assert merge(old, new) == (new, [key], [])
