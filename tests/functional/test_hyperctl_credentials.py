"""Credential helpers: what hyperctl asks `docker-credential-*` programs, and what the daemon gets of it."""

from __future__ import annotations

import base64
import json

import pytest

from tests.support.credential_helper import CredentialHelper, docker_config
from tests.support.fake_hyperd import Exchange, FakeHyperd, lines, ok, refuse

HUB = "https://index.docker.io/v1/"


@pytest.fixture
def fake(fake: FakeHyperd) -> FakeHyperd:
    fake.on("POST", "/auth", ok({"Status": "Login Succeeded"}))
    fake.on("POST", "/image/create", lines({"status": "ok"}))
    fake.on("POST", "/image/build", lines({"stream": "ok\n"}))
    return fake


def sent(exchange: Exchange, name: str = "x-registry-auth") -> object:
    header = exchange.headers.get(name)
    return json.loads(base64.urlsafe_b64decode(header)) if header else None


def test_login_and_logout_with_a_store_for_all(fake, hyperctl, tmp_path):
    helper = CredentialHelper(hyperctl, "drawer")
    file = docker_config(tmp_path, credsStore="drawer", psFormat="x")
    done = hyperctl("login", "-u", "alice", "-p", "s:ecret", "-e", "a@x", "h:1")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == b"login credentials saved in docker-credential-drawer\nLogin Succeeded\n"
    assert helper.kept == {"h:1": ["alice", "s:ecret"]}
    assert json.loads(file.read_text()) == {
        "credsStore": "drawer",
        "psFormat": "x",
        "auths": {"h:1": {"email": "a@x"}},
    }
    assert hyperctl("pull", "h:1/user/app:1").returncode == 0
    auth = {"username": "alice", "password": "s:ecret", "email": "a@x", "serveraddress": "h:1"}
    assert sent(fake.find("/image/create")) == auth
    assert hyperctl("logout", "h:1").stdout == b"Remove login credentials for h:1\n"
    assert (helper.kept, json.loads(file.read_text())["auths"]) == ({}, {})
    assert hyperctl("logout", "h:1").stdout == b"Not logged in to h:1\n"


def test_a_helper_of_its_own_for_one_server(fake, hyperctl, tmp_path):
    """credHelpers wins over credsStore, and everything else goes to the store; so do Docker Hub's names."""
    one, rest = CredentialHelper(hyperctl, "one"), CredentialHelper(hyperctl, "rest")
    docker_config(tmp_path, credsStore="rest", credHelpers={"h:1": "one"})
    one.kept = {"h:1": ["a", "1"]}
    rest.kept = {"h:1": ["never", "asked"], HUB: ["b", "2"], "other:2": ["<token>", "tok"]}
    for image in ("h:1/x:1", "docker.io/u/x:1", "other:2/x:1", "unknown:3/x:1"):
        assert hyperctl("pull", image).returncode == 0
    assert [sent(exchange) for exchange in fake.exchanges] == [
        {"username": "a", "password": "1", "serveraddress": "h:1"},
        {"username": "b", "password": "2", "serveraddress": HUB},
        {"identitytoken": "tok", "serveraddress": "other:2"},
        None,
    ]


def test_a_build_gets_all_credentials(fake, hyperctl, tmp_path):
    one, rest = CredentialHelper(hyperctl, "one"), CredentialHelper(hyperctl, "rest")
    file_entry = {"file:4": {"auth": base64.b64encode(b"c:3").decode()}}
    docker_config(tmp_path, credsStore="rest", credHelpers={"h:1": "one"}, auths=file_entry)
    one.kept, rest.kept = {"h:1": ["a", "1"]}, {"other:2": ["b", "2"]}
    (tmp_path / "ctx").mkdir()
    (tmp_path / "ctx" / "Dockerfile").write_text("FROM h:1/x\n")
    assert hyperctl("build", "ctx").returncode == 0
    assert sent(fake.find("/image/build"), "x-registry-config") == {
        "h:1": {"username": "a", "password": "1", "serveraddress": "h:1"},
        "other:2": {"username": "b", "password": "2", "serveraddress": "other:2"},
        "file:4": {"username": "c", "password": "3", "serveraddress": "file:4"},
    }


def test_a_refused_login_is_erased(fake, hyperctl, tmp_path):
    fake.on("POST", "/auth", refuse(401, "unauthorized: wrong password"))
    helper = CredentialHelper(hyperctl, "drawer")
    docker_config(tmp_path, credsStore="drawer")
    helper.kept = {"h:1": ["a", "old"], "h:2": ["b", "kept"]}
    done = hyperctl("login", "-u", "a", "-p", "new", "h:1")
    assert (done.returncode, b"wrong password" in done.stderr) == (255, True)
    assert helper.kept == {"h:2": ["b", "kept"]}


MISSING = b"the credential helper docker-credential-gone is not on the PATH\n"


def test_a_helper_that_is_not_there(fake, hyperctl, tmp_path):
    """Pulling goes on without credentials, as most images need none; what must be kept or forgotten fails."""
    docker_config(tmp_path, credsStore="gone")
    done = hyperctl("pull", "busybox:1")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"ok\n", b"WARNING: " + MISSING)
    assert sent(fake.find("/image/create")) is None
    for words in (["login", "-u", "a", "-p", "b", "h:1"], ["logout", "h:1"]):
        done = hyperctl(*words)
        assert (done.returncode, done.stdout, done.stderr) == (255, b"", b"hyperctl ERROR: " + MISSING)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'the drawer is locked'; exit 1", "docker-credential-odd get: the drawer is locked"),
        ("exit 3", "docker-credential-odd get: failed and does not say why"),
        ("echo '[1]'", "docker-credential-odd: its answer is not a JSON object"),
        ("echo '{}'", "docker-credential-odd get: no Username and Secret in its answer"),
    ],
)
def test_a_helper_that_does_not_work(hyperctl, tmp_path, script, said):
    CredentialHelper(hyperctl, "odd").program.write_text(f"#!/bin/sh\n{script}\n")
    docker_config(tmp_path, credHelpers={"h:1": "odd"})
    done = hyperctl("pull", "h:1/x:1")
    assert (done.returncode, done.stderr.decode()) == (0, f"WARNING: {said}\n")
    done = hyperctl("logout", "h:1")
    assert (done.returncode, done.stderr.decode()) == (255, f"hyperctl ERROR: {said}\n")


def test_a_helper_is_no_path(hyperctl, tmp_path):
    docker_config(tmp_path, credsStore="../../../bin/sh")
    done = hyperctl("pull", "busybox:1")
    assert b"can not be the name of a credential helper" in done.stderr
