"""libvirt's cache of what it knows of QEMU, without what costs each VM memory."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest

from hyperd.vm.libvirt import capscache

TEXT = """<qemuCaps>
  <emulator>/usr/bin/qemu-system-x86_64</emulator>
  <qemuctime>17</qemuctime>
  <flag name='kvm'/>
  <cpu type='tcg' name='max' usable='yes'/>
  <cpu type='tcg' name='EPYC' typename='EPYC-x86_64-cpu' usable='no'>
    <blocker name='fxsr-opt'/>
    <blocker name='topoext'/>
  </cpu>
  <cpu type='kvm' name='n270' usable='no'/>
  <cpu type='kvm' name='base' typename='base-x86_64-cpu' usable='yes'/>
  <machine type='tcg' name='pc-q35-7.2' hotplugCpus='yes' maxCpus='288'/>
</qemuCaps>
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "cache/qemu/capabilities/0123.xml"
    path.parent.mkdir(parents=True)
    path.write_text(TEXT)
    return path


def prepare(root: Path) -> None:
    capscache.prepare(root, uri=f"qemu:///embed?root={root}", emulator="", kinds=("qemu",))


def test_only_models_that_cannot_be_used_go(file: Path, tmp_path: Path) -> None:
    prepare(tmp_path)
    first = TEXT.index("  <cpu type='tcg' name='EPYC'")
    last = TEXT.index("  <cpu type='kvm' name='base'")
    assert file.read_text() == TEXT[:first] + TEXT[last:]
    assert [path.name for path in file.parent.iterdir()] == ["0123.xml"]


def test_it_is_filled_for_an_emulator_that_is_new(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    probed: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_options: probed.append(words[5]))
    for _ in range(2):
        capscache.prepare(tmp_path, uri="qemu:///embed", emulator="/new/qemu", kinds=("qemu",))
        name = hashlib.sha256(b"/new/qemu").hexdigest()  # virFileCache of libvirt
        (file.parent / f"{name}.xml").write_text(TEXT)
    assert probed == ["/new/qemu"]


@pytest.mark.parametrize("text", ["", "<qemuCaps/>", "no XML", "<cpu usable='no'/>\n"])
def test_what_looks_otherwise_stays(file: Path, tmp_path: Path, text: str) -> None:
    file.write_text(text)
    before = file.stat().st_mtime_ns
    prepare(tmp_path)
    assert (file.read_text(), file.stat().st_mtime_ns) == (text, before)


def test_a_cache_that_is_there_is_not_filled(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_args: object, **_options: object) -> None:
        raise AssertionError(file)

    monkeypatch.setattr(subprocess, "run", run)
    prepare(tmp_path)


def test_a_probe_that_fails_is_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capscache, "_PROBE", "raise SystemExit(3)")
    prepare(tmp_path)
    assert not list(tmp_path.rglob("*.xml"))


@pytest.fixture
def probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let there be a directory for what roots share, and a probe that only writes; give who was probed."""
    probed: list[str] = []
    monkeypatch.setattr(capscache, "RUN", tmp_path)

    def probe(words: list[str], **_options: object) -> None:
        probed.append(words[5])
        (cache_of(Path(words[5])).parent).mkdir(parents=True)
        cache_of(Path(words[5])).write_text(f"<a><emulator>{words[5]}</emulator><qemuctime>1</qemuctime>\n</a>")

    monkeypatch.setattr(subprocess, "run", probe)
    return probed


def cache_of(script: Path) -> Path:
    return script.parent / "cache/qemu/capabilities" / f"{hashlib.sha256(bytes(script)).hexdigest()}.xml"


def opened(script: Path, qemu: Path) -> str:
    """Prepare the cache of a root with a script; give what libvirt finds there."""
    script.parent.mkdir()
    script.write_text("exec qemu")
    capscache.prepare(script.parent, uri="qemu:///embed", emulator=str(script), kinds=("qemu",), qemu=qemu)
    return cache_of(script).read_text()


@pytest.mark.root
def test_roots_share_what_is_known_of_a_qemu(tmp_path: Path, probes: list[str]) -> None:
    qemu = tmp_path / "qemu"
    qemu.touch()
    first, second, third = (tmp_path / name / "script & more" for name in ("a", "b", "c"))
    opened(first, qemu)
    changed = int(qemu.stat().st_ctime)
    found = opened(second, qemu)
    assert probes == [str(first)]
    assert f"<emulator>{tmp_path}/b/script &amp; more</emulator>" in found
    assert int(second.stat().st_ctime) >= changed
    assert f"<qemuctime>{int(second.stat().st_ctime)}</qemuctime>" in found
    (shared,) = tmp_path.glob("hyperd-qemu-*")
    assert shared.stat().st_mode & 0o777 == 0o600
    qemu.write_text("another one")
    opened(third, qemu)
    assert probes == [str(first), str(third)]


@pytest.mark.root
@pytest.mark.parametrize("text", [b"", b"<a/>", b"<emulator>a</emulator>", b"<qemuctime>1</qemuctime>" * 2])
def test_what_is_shared_and_looks_otherwise_is_not_used(tmp_path: Path, probes: list[str], text: bytes) -> None:
    qemu = tmp_path / "qemu"
    qemu.touch()
    opened(tmp_path / "a" / "script", qemu)
    (shared,) = tmp_path.glob("hyperd-qemu-*")
    shared.write_bytes(text)
    opened(tmp_path / "b" / "script", qemu)
    assert len(probes) == 2
