"""Templates as files: made once for each kind of VM, replaced when they are of no use, tidied up."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from lxml import etree

from hyperd.agent.plan import Op
from hyperd.errors import DriverError
from hyperd.vm.driver import SHARED_TAG, DiskSpec, Machine, NicSpec, Saved, ShareSpec, Template, VmSpec
from hyperd.vm.fake import FakeDriver
from hyperd.vm.launcher import Starter
from hyperd.vm.libvirt import clone, designer
from hyperd.vm.pool import templates
from hyperd.vm.pool.templates import MAX_TEMPLATES, MAX_UNFIT, Templates, UnfitTemplate
from tests.support.until import until

NIC = NicSpec(mac="52:54:0a:00:00:02", tap="tap0", bridge="hyper0", mtu=1500)


class Driver(FakeDriver):
    """Counts the templates that are made; ``hold`` keeps one from being finished."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[VmSpec] = []
        self.hold = threading.Event()
        self.hold.set()
        self.destroyed: list[str] = []
        self.dressed: list[str] = []

    def make_template(self, spec: VmSpec, template: Template, *, dress: Callable[[], None]) -> None:
        self.made.append(spec)
        dress()
        assert self.hold.wait(60)
        if self.destroyed:
            raise DriverError("switched off")
        super().make_template(spec, template, dress=dress)

    def dress(self, spec: VmSpec) -> None:
        assert spec.disks
        self.dressed.append(spec.vm_id)

    def prove(self, _spec: VmSpec, template: Template) -> None:
        self._maybe_fail("prove")
        assert template.state.is_file()

    def destroy(self, vm_id: str) -> None:
        self.destroyed.append(vm_id)
        self.hold.set()


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def run() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    yield path
    assert not list(path.iterdir()), "something of a template's VM is left"
    shutil.rmtree(path)


@pytest.fixture
def kept(driver: Driver, tmp_path: Path, run: Path) -> Iterator[Templates]:
    made = Templates(
        driver, tmp_path / "t", run=run, bridge="hyper0", dress=driver.dress, prove=driver.prove, enabled=True
    )
    yield made
    made.close()


def spec(**changes: object) -> VmSpec:
    values: dict[str, object] = {
        "vm_id": "vm-abcdefghij",
        "vcpu": 1,
        "memory": 128,
        "kernel": Path("/guest/kernel"),
        "initrd": Path("/guest/initrd"),
        "rundir": Path("/run/hyper/vm-abcdefghij"),
        "nics": (NIC,),
    }
    return VmSpec(**{**values, **changes})  # type: ignore[arg-type]


def test_a_template_is_made_once_of_a_vm_of_its_own(kept: Templates, driver: Driver, tmp_path: Path) -> None:
    assert kept.find(spec()) is None
    found = kept.make(spec())
    assert found is not None
    assert found.state.is_file()
    assert kept.find(spec(vm_id="vm-other")) == found
    assert kept.make(spec()) == found
    [ours] = driver.made
    assert ours.vm_id.startswith("tm-")
    assert (ours.disks, ours.memory, ours.vcpu) == ((), 128, 1)
    assert ours.nics[0].mac != NIC.mac
    assert ours.nics[0].tap != NIC.tap
    assert len(ours.nics[0].tap) <= 15
    assert ours.nics[0].bridge == NIC.bridge
    assert [path.name for path in (tmp_path / "t").iterdir()] == [found.directory.name]


def test_only_the_shape_is_that_of_the_vm_it_was_wanted_for(kept: Templates, driver: Driver, tmp_path: Path) -> None:
    theirs = spec(
        cmdline="quiet",
        disks=(DiskSpec(lun=1, path=tmp_path / "layer"),),
        shares=(ShareSpec(tag=SHARED_TAG, path=tmp_path / "shared"),),
        foreign_files=True,
        uid=70_000,
        mapped=True,
        group="/kubepods/pod1",
        paused=True,
        template=Template(directory=tmp_path / "other"),
        saved=Saved(state=tmp_path / "saved", machine=Machine(accelerator="tcg", version="1", ports=1)),
    )
    fields = dataclasses.fields(VmSpec)
    assert [field.name for field in fields if getattr(theirs, field.name) == field.default] == []
    assert kept.make(theirs) is not None
    [ours] = driver.made
    same = [field.name for field in fields if getattr(ours, field.name) == getattr(theirs, field.name)]
    assert same == ["vcpu", "memory", "kernel", "initrd", "cmdline"]


def test_a_new_disk_gets_a_template_of_its_own_that_has_one(kept: Templates, driver: Driver) -> None:
    plain, with_disk = kept.make(spec()), kept.make(spec(), 64 << 20)
    assert plain is not None
    assert with_disk is not None
    assert plain != with_disk
    assert with_disk.disk.stat().st_size == 64 << 20
    assert not plain.disk.exists()
    assert driver.dressed == [driver.made[1].vm_id]
    assert [disk.path.name for disk in driver.made[1].disks] == ["disk"]
    assert kept.find(spec(), 64 << 20) == with_disk
    assert kept.find(spec(), 65 << 20) is None


def test_a_wanted_template_is_made_later_and_asked_for_once(kept: Templates, driver: Driver) -> None:
    for _ in range(3):
        kept.want(spec())
    assert driver.made == []  # the pod that has just booted comes first
    until(lambda: kept.find(spec()))
    kept.want(spec())
    assert len(driver.made) == 1


@pytest.mark.parametrize("step", ["make_template", "prove"])
def test_one_that_cannot_be_made_is_not_tried_again_and_leaves_nothing(
    kept: Templates, driver: Driver, tmp_path: Path, step: str
) -> None:
    driver.fail_next = step
    assert kept.make(spec()) is None
    assert list((tmp_path / "t").iterdir()) == []
    kept.want(spec())
    assert not [thread for thread in threading.enumerate() if thread.name == "vm-templates"]
    assert kept.make(spec()) is not None  # the pool may: it waits longer and longer by itself


def test_unfit_templates_are_removed_and_end_the_making(kept: Templates) -> None:
    for number in range(2 * MAX_UNFIT - 1):
        if number == MAX_UNFIT - 1:
            kept.accept()  # only those in a row count
        found = kept.make(spec())
        assert found is not None
        kept.reject(found)
        assert not found.directory.exists()
    assert kept.make(spec()) is None
    assert kept.find(spec()) is None


def test_a_template_outlives_vms_that_are_only_late(kept: Templates) -> None:
    found = kept.make(spec())
    assert found is not None
    for _ in range(3):
        for _ in range(templates.MAX_LATE - 1):
            kept.reject(found, late=True)
        assert kept.find(spec()) == found
        kept.accept()  # only those in a row count
    for _ in range(templates.MAX_LATE):
        kept.reject(found, late=True)
    assert kept.find(spec()) is None
    assert kept.make(spec()) is not None  # which is tried again


@pytest.mark.parametrize(
    "changes", [{"memory": templates.MAX_MEMORY + 1}, {"nics": (NIC, replace(NIC, bridge="somebodys"))}]
)
def test_some_vms_get_none(kept: Templates, driver: Driver, changes: dict[str, object]) -> None:
    assert kept.make(spec(**changes)) is None
    kept.want(spec(**changes))
    assert driver.made == []


def test_switched_off(driver: Driver, tmp_path: Path, run: Path) -> None:
    off = Templates(
        driver, tmp_path / "t", run=run, bridge="hyper0", dress=driver.dress, prove=driver.prove, enabled=False
    )
    assert off.make(spec()) is None
    off.want(spec())
    off.close()
    assert driver.made == []
    assert not (tmp_path / "t").exists()


def test_the_least_used_go_and_what_dead_daemons_left(kept: Templates, tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    dead = tmp_path / "t" / ".part-4194305-abc"  # above the kernel's largest pid
    daemon, program = (subprocess.Popen([name, "60"], executable="/bin/sleep") for name in ("hyperd", "other"))
    other = tmp_path / "t" / f".part-{program.pid}-abc"  # the number was given to another program
    living = tmp_path / "t" / f".part-{daemon.pid}-abc"
    for part in (dead, other, living):
        part.mkdir()
    found = []
    for number in range(MAX_TEMPLATES + 1):
        made = kept.make(spec(memory=128 + number))
        assert made is not None
        os.utime(made.directory, (1e9 + number, 1e9 + number))
        found.append(made)
        if number == MAX_TEMPLATES - 1:
            assert kept.find(spec()) == found[0]  # used again: the second is the oldest now
    assert [made.directory.exists() for made in found] == [True, False, *[True] * (MAX_TEMPLATES - 1)]
    for process in (daemon, program):
        process.kill()
        process.wait()
    assert not dead.exists()
    assert not other.exists()
    assert living.exists()


def test_a_full_disk_gets_no_template(kept: Templates, driver: Driver, mocker) -> None:  # type: ignore[no-untyped-def]
    mocker.patch("shutil.disk_usage", return_value=shutil._ntuple_diskusage(10, 9, 1))
    assert kept.make(spec()) is None
    assert driver.made == []


def test_the_end_does_not_wait_for_one_that_is_being_made(driver: Driver, tmp_path: Path, run: Path) -> None:
    ending = Templates(
        driver, tmp_path / "t", run=run, bridge="hyper0", dress=driver.dress, prove=driver.prove, enabled=True
    )
    driver.hold.clear()
    ending.want(spec())
    until(lambda: driver.made)
    ending.close()
    assert driver.destroyed == [driver.made[0].vm_id]
    assert list((tmp_path / "t").iterdir()) == []


def test_the_plan_renews_what_must_differ() -> None:
    one, two = templates.renew([NIC]), templates.renew([NIC])
    by_op = {Op(op): args for op, args in one.steps}
    assert set(by_op) == {Op.TIME, Op.ENTROPY, Op.WRITE, Op.MAC}
    assert abs(int(by_op[Op.TIME][0]) - time.time()) < 60
    assert by_op[Op.MAC][1] == NIC.mac
    for op in (Op.ENTROPY, Op.WRITE):
        assert by_op[op] != {Op(code): args for code, args in two.steps}[op]


# -- the domains


PLATFORM = designer.Platform(accelerator="tcg", root="/var/lib/hyper", firmware="/usr/share/qemu/qboot.rom")
TEMPLATE = Template(directory=Path("/var/lib/hyper/templates/a,b"))


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    return etree.RelaxNG(etree.parse("/usr/share/libvirt/schemas/domain.rng"))


@pytest.mark.parametrize("make", [clone.template_domain, clone.clone_domain])
def test_domains_are_valid_and_have_no_balloon(schema: etree.RelaxNG, make) -> None:  # type: ignore[no-untyped-def]
    source = TEMPLATE.memory if make is clone.clone_domain else TEMPLATE
    node = etree.fromstring(make(designer.domain(spec(), PLATFORM), source).xml())
    assert schema.validate(node), schema.error_log
    assert node.find("devices/memballoon").get("model") == "none"
    words = [arg.get("value") for arg in node.iterfind(f"{{{clone.config.QEMU_NS}}}commandline/")]
    assert "size=128M" in words[1]
    assert "mem-path=/var/lib/hyper/templates/a,,b/memory" in words[1]
    cloned = make is clone.clone_domain
    assert words[1].endswith("share=off" if cloned else "share=on")
    assert ("-incoming" in words) == cloned


def key(
    made: VmSpec, *, platform: designer.Platform = PLATFORM, version: str = "1", files: tuple[Path, ...] = ()
) -> str:
    return clone.template_key(made, platform, version=version, files=files)


def test_the_key_is_that_of_all_clones_and_of_nothing_else(tmp_path: Path) -> None:
    plain = key(spec())
    other_nic = replace(NIC, mac="52:54:0a:00:00:99", tap="tap9", bridge="hyper1")
    assert plain == key(spec(vm_id="vm-b", rundir=Path("/x"), nics=(other_nic,), paused=True))
    assert plain == key(spec(), platform=replace(PLATFORM, root="/elsewhere"))
    scripts = [
        replace(PLATFORM, emulator=f"{root}/libvirt/qemu-in-namespace") for root in ("/var/lib/hyper", "/elsewhere")
    ]
    assert {key(spec(), platform=one) for one in scripts} == {plain}
    kernel = tmp_path / "kernel"
    kernel.write_text("one")
    with_kernel = key(spec(), files=(kernel,))
    kernel.write_text("another")
    keys = {
        plain,
        key(spec(memory=129)),
        key(spec(vcpu=2)),
        key(spec(nics=())),
        key(spec(nics=(replace(NIC, mtu=1400),))),
        key(spec(nics=(replace(NIC, bridge=""),))),
        key(spec(), version="2"),
        key(spec(), platform=replace(PLATFORM, tsc_khz=1000)),
        with_kernel,
        key(spec(), files=(kernel,)),
    }
    assert len(keys) == 10


@pytest.mark.parametrize(("there", "rejected"), [(False, 0), (True, 1)])
def test_a_template_that_another_daemon_removes_meanwhile(tmp_path: Path, *, there: bool, rejected: int) -> None:
    template, found = Template(directory=tmp_path / "t"), []
    template.directory.mkdir()
    if there:
        template.state.touch()

    def create(*_: object) -> float:
        raise FileNotFoundError(template.state)

    starter = SimpleNamespace(
        templates=SimpleNamespace(reject=lambda one, **_: found.append(one)),
        _create=create,
    )
    vm = SimpleNamespace(id="vm-1")
    with pytest.raises(UnfitTemplate, match="did not start from its template"):  # it boots its kernel then
        Starter._go_on(starter, vm, spec(), template, None)  # type: ignore[arg-type]
    assert len(found) == rejected  # what is gone is not counted as unfit
