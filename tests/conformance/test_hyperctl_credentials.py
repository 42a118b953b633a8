"""Credentials that a helper keeps, against a real daemon and a registry that asks for them."""

from __future__ import annotations

import json

import pytest

from tests.support.credential_helper import CredentialHelper, docker_config
from tests.support.hyperctl_process import Runner
from tests.support.registry import PASSWORD, USER, Layer, RegistryServer, busybox_tar

pytestmark = [pytest.mark.root, pytest.mark.registry]


def test_login_pull_push_and_logout(daemon, tmp_path):
    hyperctl = Runner(daemon.host, tmp_path)
    helper = CredentialHelper(hyperctl, "drawer")
    with RegistryServer(auth="basic") as server:
        server.push("private", "1", [Layer(busybox_tar())])
        file = docker_config(tmp_path, credHelpers={server.host: "drawer"})
        name = f"{server.host}/private:1"
        assert b"Authentication is required" in hyperctl("pull", name).stderr
        done = hyperctl("login", "-u", USER, "--password-stdin", server.host, stdin=PASSWORD.encode())
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout == b"login credentials saved in docker-credential-drawer\nLogin Succeeded\n"
        assert helper.kept == {server.host: [USER, PASSWORD]}
        assert PASSWORD not in file.read_text()
        assert "auth" not in json.loads(file.read_text())["auths"][server.host]
        assert hyperctl("pull", name).returncode == 0
        pushed = f"{server.host}/team/private:2"
        assert hyperctl("tag", name, pushed).returncode == 0
        assert hyperctl("push", pushed).returncode == 0
        assert hyperctl("rmi", name, pushed).returncode == 0
        assert hyperctl("logout", server.host).stdout == f"Remove login credentials for {server.host}\n".encode()
        assert helper.kept == {}
        assert hyperctl("pull", pushed).returncode == 255
