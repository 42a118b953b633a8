"""A registry and a daemon whose VMs only pretend, for the tests of this directory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import Layer, RegistryServer, busybox_tar, layer_tar, member


@pytest.fixture(scope="package")
def registry() -> Iterator[RegistryServer]:
    """A registry with three images that share their first layer."""
    with RegistryServer() as server:
        for name in ("busybox", "other", "third"):
            server.push(name, "latest", [Layer(busybox_tar()), Layer(layer_tar([member("name", name.encode())]))])
        yield server


@pytest.fixture(scope="module")
def daemon(registry: RegistryServer) -> Iterator[HyperdLauncher]:
    """A daemon, which must not have had an internal error in the end."""
    with HyperdLauncher(config="stop_grace = 1\n") as launcher:
        launcher.start()
        yield launcher
        assert "internal_error" not in launcher.log()


@pytest.fixture(scope="module")
def image(daemon: HyperdLauncher, registry: RegistryServer) -> str:
    """An image that the daemon has."""
    name = f"{registry.host}/busybox:latest"
    status, _, body = daemon.request("POST", "/image/create", imageName=name)
    assert status == 200, body
    return name
