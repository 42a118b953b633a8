"""The host's disk is full: starts are refused, a guest that writes waits, and everything goes on when there is room."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.until import until
from tests.vm.conftest import GUEST, Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


@pytest.fixture
def small(registry):
    """A daemon whose root directory is a file system of 200 MiB."""
    daemon = HyperdLauncher(driver="libvirt", guest=GUEST)
    daemon.root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", str(daemon.root)], check=True)
    try:
        with daemon:
            daemon.start()
            host = Host(daemon, f"{registry.host}/busybox")
            host.ok("pull", host.image)
            yield host
            host.assert_clean()
            daemon.stop()
            subprocess.run(["umount", "-l", str(daemon.root)], check=True)
    finally:
        subprocess.run(["umount", "-l", str(daemon.root)], check=False, capture_output=True)


def test_a_full_disk_loses_nothing(small: Host):
    name = small.pod(
        "writer", "read go; head -c 20000000 /dev/urandom > /big; sync; md5sum < /big; echo end; sleep 1000"
    )
    filler = small.daemon.root / "filler"
    with filler.open("wb", buffering=0) as file:
        while shutil.disk_usage(small.daemon.root).free > 6_000_000:  # the guest writes, too: it has just begun
            file.write(bytes(1_000_000))
    refused = small.ctl("run", "-d", "--name", "second", small.image, "true")
    assert refused.returncode == 255
    assert b"disk is full" in refused.stderr
    assert b"Traceback" not in refused.stderr
    assert "second" not in small.ok("list")  # its name is free again
    client = small.background("attach", name)
    assert client.stdin
    client.stdin.write(b"go\n")
    client.stdin.flush()
    until(lambda: "vm.stalled" in small.daemon.log())
    filler.unlink()
    until(lambda: b"end" in small.ctl("logs", name).stdout, 90)
    sums = small.ok("logs", name).splitlines()
    assert sums[0] == small.ok("exec", name, "md5sum", "/big").replace("/big", "-").strip()
    client.kill()
    client.communicate()
    small.ok("rm", name)
