"""Many descriptors, and none left: the daemon lives, and who has a connection is served."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.errors import HostFault
from hyperd.network import nft
from tests.support.daemon import HyperdLauncher

pytestmark = pytest.mark.root

FD_SETSIZE = 1024  # what select(2) can name


@contextlib.contextmanager
def many_descriptors(count: int) -> Iterator[None]:
    """Allow this process (and what it starts) ``count`` open descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert before[1] >= count, f"the hard limit of open files is {before[1]}"
    resource.setrlimit(resource.RLIMIT_NOFILE, (count, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_pod_with_a_port_starts_beside_a_thousand_connections() -> None:
    pod = {"id": "ported", "portmappings": [{"containerPort": "80", "hostPort": "48080", "protocol": "tcp"}]}
    with many_descriptors(4096), contextlib.ExitStack() as stack:
        daemon = stack.enter_context(HyperdLauncher(driver="fake"))
        daemon.start()
        for _ in range(FD_SETSIZE + 30):
            stack.enter_context(daemon.raw())
        pod_id = daemon.json("POST", "/pod/create", body=pod)["ID"]
        daemon.json("POST", "/pod/start", podId=pod_id)
        assert len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())) > FD_SETSIZE
        daemon.json("DELETE", "/pod", podId=pod_id)
        assert daemon.request("GET", "/_ping")[2] == b"OK"


def test_rules_are_written_whatever_the_number_of_the_next_descriptor() -> None:
    with many_descriptors(20_000), contextlib.ExitStack() as stack:
        for _ in range(19_000):
            stack.callback(os.close, os.dup(0))
        with pytest.raises(HostFault, match="refused"):
            nft.apply("no such command")
        nft.apply("add table inet hyperd_test_descriptors; delete table inet hyperd_test_descriptors")
