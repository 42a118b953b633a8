"""The wheel, installed outside the source tree: it builds its guest and runs a pod."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.registry import RegistryServer
from tests.support.wheel import build_wheel, environment
from tests.vm.conftest import GUEST

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def test_an_installed_wheel_builds_its_guest_and_runs_a_pod(registry: RegistryServer, tmp_path: Path) -> None:
    programs = environment(tmp_path / "venv", build_wheel(tmp_path), libraries="daemon")
    guest = tmp_path / "guest"
    guest.mkdir()
    # Kernels take minutes or a network: only the agent and the initramfs are made here.
    for name in ("kernel-minimal", "kernel-distro", "initrd-distro", "initrd-distro.inputs"):
        if (GUEST / name).exists():
            shutil.copy(GUEST / name, guest)
    argv = [str(programs / "hyperd"), "build-guest", "--output", str(guest)]
    built = subprocess.run(argv, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    assert str(guest) in built.stdout
    with HyperdLauncher(driver="libvirt", guest=guest, command=[str(programs / "hyperd")]) as daemon:
        daemon.start()

        def hyperctl(*words: str) -> str:
            line = [str(programs / "hyperctl"), "-H", daemon.host, *words]
            done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path, timeout=200)
            assert done.returncode == 0, (done.stderr, daemon.log()[-4000:])
            return done.stdout

        image = f"{registry.host}/busybox"
        assert hyperctl("run", "--rm", image, "echo", "from a wheel").endswith("from a wheel\n")
