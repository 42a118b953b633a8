"""Credentials from clients, challenges from registries, tokens between them."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.registry.auth import AuthConfig, TokenCache, parse_challenges


def header(data: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).decode()


def test_user_and_password() -> None:
    found = AuthConfig.from_header(header({"username": "ü", "password": "a:b"}))
    assert found is not None
    assert base64.b64decode(found.basic.removeprefix("Basic ")).decode() == "ü:a:b"


def test_standard_base64_without_padding_is_read_too() -> None:
    text = base64.b64encode(json.dumps({"username": "a", "password": "???>>>"}).encode()).decode().rstrip("=")
    found = AuthConfig.from_header(text)
    assert found is not None
    assert found.password == "???>>>"


def test_the_joined_form_of_user_and_password() -> None:
    found = AuthConfig.from_header(header({"auth": base64.b64encode(b"jane:a:b").decode()}))
    assert found is not None
    assert (found.username, found.password) == ("jane", "a:b")


def test_keys_match_in_any_case() -> None:
    found = AuthConfig.from_header(header({"UserName": "a", "PASSWORD": "b"}))
    assert found == AuthConfig(username="a", password="b")


@pytest.mark.parametrize(
    "text",
    [None, "", "!", "e30=", header([]), header(None), header({"username": 5}), header({"email": "x"}), "A" * 100_000,
     base64.urlsafe_b64encode(b"[" * 40_000).decode(), header({"auth": "nonsense"})],
)  # fmt: skip
def test_what_cannot_be_used_is_anonymous(text: str | None) -> None:
    assert AuthConfig.from_header(text) is None


@given(st.text(max_size=200))
def test_any_header_is_read_without_a_fault(text: str) -> None:
    AuthConfig.from_header(text)


def test_secrets_do_not_appear_in_logs() -> None:
    assert "hunter2" not in repr(AuthConfig(username="a", password="hunter2", registrytoken="hunter2"))


def test_bearer_challenge() -> None:
    text = 'Bearer realm="https://t.example/token?a=b,c",service="r \\"x\\"",scope="repository:a/b:pull,push"'
    (found,) = parse_challenges(text)
    assert found.scheme == "bearer"
    assert found.parameters["realm"] == "https://t.example/token?a=b,c"
    assert found.parameters["service"] == 'r "x"'


def test_several_challenges_in_one_header() -> None:
    found = parse_challenges('Basic realm="x", Bearer realm="y", service=z')
    assert [(c.scheme, dict(c.parameters)) for c in found] == [
        ("basic", {"realm": "x"}),
        ("bearer", {"realm": "y", "service": "z"}),
    ]


@given(st.text(max_size=300))
def test_any_challenge_is_read_without_a_fault(text: str) -> None:
    parse_challenges(text)


def test_a_long_hostile_challenge_is_read_quickly() -> None:
    assert parse_challenges("Bearer " + 'a="' * 50_000) != []


def test_tokens_expire_and_can_be_dropped() -> None:
    cache = TokenCache()
    cache.put(("a",), "token", 60)
    assert cache.get(("a",)) == "token"
    assert cache.get(("b",)) == ""
    cache.drop(("a",))
    assert cache.get(("a",)) == ""
    cache.put(("a",), "token", -1)
    assert cache.get(("a",)) == ""


@pytest.mark.parametrize(
    "fields",
    [
        {"auth": "\u00e9"},
        {"auth": "!!!"},
        {"auth": base64.b64encode(b"\xff\xfe").decode()},
        {"username": "\ud800", "password": "x"},
        {"registrytoken": "\u20ac"},
        {"identitytoken": "\u00e9"},
    ],
)
def test_what_no_header_can_carry_is_no_credential(fields: dict[str, str]) -> None:
    assert AuthConfig.from_mapping(fields) is None
    assert AuthConfig.from_header(header(fields)) is None
