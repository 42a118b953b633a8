"""User namespaces of VMs: who is in them, and which files of the host can be mapped into them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hyperd.capabilities import Holder
from hyperd.config.model import HypervisorConfig
from hyperd.errors import HostFault
from hyperd.vm import mounts, namespaces
from hyperd.vm.driver import Separation
from hyperd.vm.libvirt.emulator import GROUPS, SEPARATOR, VARIABLE, Wrapper
from hyperd.vm.model import HostFiles
from hyperd.vm.namespaces import Mappings, keeper

UIDS = HypervisorConfig().blocks
FIRST, SECOND = UIDS[0], UIDS[1]

pytestmark = pytest.mark.root


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def enter(holder: Holder, uid: int, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program as root of a namespace, from outside as its owner."""
    who = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "nsenter", f"--user={holder.namespace}"]
    return subprocess.run(
        [*who, "--preserve-credentials", "--", *words], capture_output=True, text=True, check=False, timeout=60
    )


def test_each_vm_has_its_own_ids() -> None:
    assert (len(UIDS) > 4000, UIDS.step) == (True, 65536)
    ids = HypervisorConfig().uids
    assert ids.start < UIDS.start
    assert UIDS[-1] + 65535 in ids
    assert len(HypervisorConfig(uid_range="70000-201071").blocks) == 1
    assert not HypervisorConfig(uid_range="70000-201070").blocks
    assert not HypervisorConfig(uid_range="").blocks


def test_root_of_a_namespace_is_nobody_outside(tmp_path: Path) -> None:
    with keeper([], uid=FIRST) as holder, keeper([], uid=SECOND) as other:
        for name in ("uid_map", "gid_map"):
            assert (holder.namespace.parents[1] / name).read_text().split() == ["0", str(FIRST), "65536"]
        status = (holder.namespace.parents[1] / "status").read_text()
        assert f"Uid:\t{FIRST}\t{FIRST}" in status
        assert "CapEff:\t0000000000000000" in status
        assert "CapPrm:\t0000000000000000" in status
        secret = tmp_path / "secret"
        secret.write_text("x")
        secret.chmod(0o600)
        for path in (secret, Path("/etc/shadow")):
            assert "Permission denied" in enter(holder, FIRST, "cat", str(path)).stderr
        assert enter(holder, FIRST, "id", "-u").stdout == "0\n"
        assert enter(other, FIRST, "true").returncode != 0  # another one is not its to enter
        process = holder.namespace.parents[1]
    with pytest.raises(ProcessLookupError):
        os.kill(int(process.name), 0)


def test_files_that_are_mapped_have_the_same_owners_inside(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x\n")
    os.chown(tmp_path / "f", 1000, 1001)
    (tmp_path / "f").chmod(0o600)
    with keeper([], uid=FIRST) as made, opened(tmp_path) as source, made.namespace.open("rb") as namespace:
        tree = mounts.clone(source, "", recursive=True, readonly=False, namespace=namespace.fileno())
        try:
            with keeper([tree], uid=FIRST, namespace=namespace.fileno()) as holder:
                script = (
                    f"cd {holder.path(tree)}/ && stat -c %u:%g f && cat f && echo n > new && chown 999:65535 new; "
                    "chown 65536 new || echo none"
                )
                assert enter(holder, FIRST, "sh", "-c", script).stdout == "1000:1001\nx\nnone\n"
                assert not enter(holder, SECOND, "ls", f"{holder.path(tree)}/").stdout
        finally:
            os.close(tree)
    assert ((tmp_path / "new").stat().st_uid, (tmp_path / "new").stat().st_gid) == (999, 65535)


def test_what_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    mappings = Mappings(UIDS, tmp_path)
    tall = tmp_path / "tall"
    tall.mkdir()
    try:
        for path in (tmp_path, Path("/sys"), Path("/proc")):
            with opened(path) as source:
                found = mappings.obstacle(source)
            assert (path.name in found) == (path != tmp_path), found
        for owner, what in (((70000, 0), "user 70000"), ((0, 65536), "group 65536")):
            os.chown(tall, *owner)
            with opened(tall) as source:
                assert what in mappings.obstacle(source)
        os.chown(tall, 65535, 65535)
        with opened(tall) as source:
            assert mappings.obstacle(source) == ""
        assert mappings.obstacle_anywhere() == mappings.obstacle_anywhere()
    finally:
        mappings.close()
        mappings.close()


def test_a_file_system_below_that_cannot_be_mapped_is_named(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    subprocess.run(["mount", "-t", "proc", "proc", tmp_path / "a b"], check=True)
    mappings = Mappings(UIDS, tmp_path)
    try:
        with opened(tmp_path) as source:
            assert f"proc at {tmp_path}/a b" in mappings.obstacle(source)
        assert str(tmp_path) in mappings.obstacle_anywhere()
    finally:
        subprocess.run(["umount", tmp_path / "a b"], check=True)
        mappings.close()


def test_a_host_without_namespaces_is_an_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(namespaces, "tool", lambda _name: "/bin/false")
    mappings = Mappings(UIDS, tmp_path)
    with pytest.raises(HostFault), keeper([], uid=FIRST):
        pass
    assert "namespace" in mappings.obstacle_anywhere()


def test_what_a_pod_can_have_follows_from_its_files() -> None:
    plain, given, odd = HostFiles(), HostFiles(rooted=True), HostFiles(rooted=True, unmapped="it is overlay")
    none, user, own = Separation.NONE, Separation.USER, Separation.NAMESPACE
    for files, found in ((plain, [none, user, own]), (given, [none, none, own]), (odd, [none, none, none])):
        assert [files.separation(best) for best in (none, user, own)] == found


@pytest.fixture
def wrapper(tmp_path: Path) -> Wrapper:
    for parent in (tmp_path, *tmp_path.parents[:3]):
        if not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o001)
    qemu = tmp_path / "a qemu"
    qemu.write_text('#!/bin/sh\necho "$@"; grep -h -e ^CapEff -e ^Groups /proc/self/status; cat /proc/self/uid_map\n')
    qemu.chmod(0o755)
    made = Wrapper(tmp_path, qemu)
    assert made.usable()
    return made


def test_the_wrapper_starts_qemu_in_a_namespace_or_as_it_is(wrapper: Wrapper) -> None:
    plain = subprocess.run([wrapper.path, "-a", "b c"], capture_output=True, text=True, check=True, env={})
    assert plain.stdout.startswith("-a b c\n")
    assert plain.stdout.split()[-3:] == Path("/proc/self/uid_map").read_text().split()
    with keeper([], uid=FIRST) as holder:
        done = subprocess.run(
            [wrapper.path, "-a", "b c"], capture_output=True, text=True, check=True, user=FIRST, group=UIDS.start,
            extra_groups=[UIDS.start], env={VARIABLE: str(holder.namespace)},
        )  # fmt: skip
    assert "CapEff:\t000000000000001b\n" in done.stdout
    assert done.stdout.split()[-3:] == ["0", str(FIRST), "65536"]
    assert wrapper.try_out(FIRST, UIDS.start) == ""


def test_the_wrapper_enters_the_groups_that_it_is_told_of(wrapper: Wrapper, tmp_path: Path) -> None:
    files = [tmp_path / "a group *", tmp_path / "b"]
    for file in files:
        file.touch()
        os.chown(file, FIRST, -1)
    closed = tmp_path / "closed"  # whoever starts it looks whether it is in
    closed.touch()
    with keeper([], uid=FIRST) as holder:
        told = {VARIABLE: str(holder.namespace), GROUPS: SEPARATOR.join(map(str, [closed, *files]))}
        done = subprocess.run(
            [wrapper.path, "-a", "b c"], capture_output=True, text=True, check=True, user=FIRST, group=UIDS.start,
            extra_groups=[UIDS.start], env=told,
        )  # fmt: skip
    assert done.stdout.startswith("-a b c\n")
    assert done.stderr == ""
    assert [file.read_text() for file in (closed, *files)] == ["", "0\n", "0\n"]


def test_a_qemu_that_was_replaced_makes_another_wrapper(wrapper: Wrapper) -> None:
    before = wrapper.path.stat()
    wrapper.write()
    assert wrapper.path.stat() == before
    wrapper.qemu.write_text("#!/bin/sh\nexit 3\n")
    wrapper.write()
    assert wrapper.path.stat().st_ino != before.st_ino
    assert wrapper.try_out(FIRST, UIDS.start)
    wrapper.qemu.unlink()
    assert not wrapper.usable()
