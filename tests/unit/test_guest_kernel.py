"""The kernel's build as far as it goes without compiling."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hyperd.errors import InvalidInput, NotFound
from hyperd.guest import kernel

TREE = Path(__file__).resolve().parents[2]


def test_options_are_read() -> None:
    text = 'CONFIG_A=y\n# CONFIG_B is not set\n# a comment\nCONFIG_C="text"\nCONFIG_D=n\n\nCONFIG_E=64\n'
    assert kernel.parse_options(text) == {
        "CONFIG_A": "y",
        "CONFIG_B": "n",
        "CONFIG_C": '"text"',
        "CONFIG_D": "n",
        "CONFIG_E": "64",
    }


def test_lost_options_are_named() -> None:
    wanted = {"CONFIG_A": "y", "CONFIG_B": "n", "CONFIG_C": "y", "CONFIG_D": "64"}
    assert kernel.lost_options(wanted=wanted, got={"CONFIG_A": "y", "CONFIG_C": "n", "CONFIG_D": "8"}) == [
        "CONFIG_C=y",
        "CONFIG_D=64",
    ]
    assert kernel.lost_options(wanted=wanted, got={**wanted, "CONFIG_X": "y"}) == []


def test_fragment_names_each_option_once_and_what_pods_need() -> None:
    lines = [line for line in kernel.default_config().read_text().splitlines() if line.startswith("CONFIG_")]
    names = [line.partition("=")[0] for line in lines]
    assert len(names) == len(set(names))
    options = kernel.parse_options("\n".join(lines))
    for name in (
        "VIRTIO_CONSOLE",
        "SCSI_VIRTIO",
        "VIRTIO_NET",
        "SQUASHFS_LZ4",
        "OVERLAY_FS",
        "EXT4_FS",
        "IP_VS",
        "NFS_V4",
        "PVH",
        "PVPANIC",
        "HOTPLUG_PCI_ACPI",
        "SECCOMP_FILTER",
    ):
        assert options[f"CONFIG_{name}"] == "y", name


def test_hash_depends_on_every_input() -> None:
    inputs = {"config": b"a", "source": "6.1-1", "compiler": "gcc 12"}
    base = kernel.inputs_hash(**inputs)  # type: ignore[arg-type]
    assert base == kernel.inputs_hash(**inputs)  # type: ignore[arg-type]
    for name, value in {"config": b"b", "source": "6.1-2", "compiler": "gcc 13"}.items():
        assert kernel.inputs_hash(**{**inputs, name: value}) != base  # type: ignore[arg-type]
    # No two inputs can be shifted into each other.
    assert kernel.inputs_hash(config=b"a", source="bc", compiler="") != kernel.inputs_hash(
        config=b"ab", source="c", compiler=""
    )


def test_same_inputs_are_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fragment"
    config.write_text("CONFIG_A=y\n")
    monkeypatch.setattr(kernel, "_source_version", lambda: ("6.1-1", None))
    monkeypatch.setattr(kernel, "_compiler", lambda: "gcc 12")

    def refuse(_work: Path) -> Path:
        raise NotFound("the source is asked for")

    monkeypatch.setattr(kernel, "_download", refuse)
    output = tmp_path / "out"
    with pytest.raises(NotFound):
        kernel.build_kernel(output, config=config)
    assert not (output / kernel.KERNEL_NAME).exists()

    (output / kernel.KERNEL_NAME).write_bytes(b"kernel")
    stamp = kernel.inputs_hash(config=b"CONFIG_A=y\n", source="6.1-1", compiler="gcc 12")
    (output / f"{kernel.KERNEL_NAME}.inputs").write_text(stamp + "\n")
    assert kernel.build_kernel(output, config=config) == output / kernel.KERNEL_NAME
    with pytest.raises(NotFound):
        kernel.build_kernel(output, config=config, force=True)
    config.write_text("CONFIG_A=n\n")
    with pytest.raises(NotFound):
        kernel.build_kernel(output, config=config)
    assert (output / kernel.KERNEL_NAME).read_bytes() == b"kernel", "an older kernel stays"


def test_failed_build_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "fragment"
    config.write_text("CONFIG_A=y\n")
    tarball = tmp_path / "linux.tar.xz"
    tarball.write_bytes(b"not a tar")
    monkeypatch.setattr(kernel, "_source_version", lambda: ("6.1-1", tarball))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temp"))
    (tmp_path / "temp").mkdir()
    with pytest.raises(kernel.HostFault, match="tar"):
        kernel.build_kernel(tmp_path / "out", config=config)
    assert not list((tmp_path / "temp").iterdir())
    assert {path.name for path in (tmp_path / "out").iterdir()} == {".kernel-minimal.lock"}


@pytest.mark.parametrize(
    ("arguments", "kind"), [({"config": Path("/nowhere/x")}, NotFound), ({"jobs": 0}, InvalidInput)]
)
def test_bad_arguments(tmp_path: Path, arguments: dict[str, object], kind: type[Exception]) -> None:
    with pytest.raises(kind):
        kernel.build_kernel(tmp_path, **arguments)  # type: ignore[arg-type]


def test_script_says_what_is_wrong(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(TREE / "scripts" / "build-kernel"), "--config", "/nowhere/x", "--output", str(tmp_path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TREE)},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("build-kernel: No kernel configuration")
    assert "Traceback" not in done.stderr
