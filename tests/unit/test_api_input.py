"""Numbers and texts that only look like such: refused, or taken as they are meant, and never an internal error."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from hyperd.api import params
from hyperd.api.build_settings import with_settings
from hyperd.api.credentials import registry_config
from hyperd.api.docker import params as docker_params
from hyperd.build.order import BuildOrder
from hyperd.errors import InvalidInput
from hyperd.image.transfer.pull import host_of


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a\\ud800": ["x\\uDFFFy", {"b": "\\ud83d\\ude00"}]}',
        b'{"a\xed\xa0\x80": ["x\xed\xbf\xbfy", {"b": "\xf0\x9f\x98\x80"}]}',
        '{"a\\ud800": ["x\\udfffy", {"b": "\\ud83d\\ude00"}]}'.encode("utf-16-le"),
    ],
    ids=["escaped", "utf-8", "utf-16"],
)
@pytest.mark.parametrize("decode", [params.json_text, docker_params.decode])
def test_lone_surrogates_become_what_go_makes_of_them(decode: Any, raw: bytes) -> None:
    assert decode(raw, "it") == {"a\ufffd": ["x\ufffdy", {"b": "\N{GRINNING FACE}"}]}


@pytest.mark.parametrize("size", ["9" * 5000, "1" + "0" * 13, "²", "-1"])
def test_sizes_that_are_none(size: str) -> None:
    with pytest.raises(InvalidInput, match="shmsize must be"):
        with_settings(BuildOrder(), lambda name: [size] if name == "shmsize" else [], str)


def test_addresses_of_registries_that_are_none() -> None:
    with pytest.raises(InvalidInput, match="no address of a registry"):
        host_of("http://[::1")
    given = {server: {"username": "a", "password": "b"} for server in ("http://[::1", "https://example.com/v1/")}
    header = base64.urlsafe_b64encode(json.dumps(given).encode()).decode()
    assert set(registry_config(header)) == {"example.com"}
