"""The libvirt driver with real guests: what ``hyperd.vm.driver`` promises, and that nothing is left behind."""

from __future__ import annotations

import os
import random
import shutil
import signal
import string
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from hyperd.agent.frames import Method
from hyperd.agent.plan import Op
from hyperd.config.model import HypervisorConfig
from hyperd.errors import Conflict, DriverError, NotFound
from hyperd.guest.image import GuestFiles, find_guest
from hyperd.vm.driver import DiskSpec, NicSpec, PowerState, VmEventKind, VmSpec
from hyperd.vm.libvirt import accel, designer
from tests.support.agent import Host
from tests.support.driver_process import DriverProcess

pytestmark = [pytest.mark.vm, pytest.mark.root]

TREE = Path(__file__).resolve().parents[2]
SETTINGS = HypervisorConfig(accelerator="tcg")
SCSI = "/sys/class/scsi_device/0:0:0:%d/device/block"


@pytest.fixture(scope="module")
def files() -> GuestFiles:
    return find_guest(TREE / ".cache" / "guest")


@pytest.fixture(scope="module")
def root() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    yield path
    left = emulators(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)
    assert not left, "QEMU processes were left behind"


@pytest.fixture(scope="module")
def shared(root: Path) -> Iterator[DriverProcess]:
    process = DriverProcess(root, SETTINGS)
    yield process
    process.close()


@pytest.fixture
def driver(shared: DriverProcess) -> Iterator[DriverProcess]:
    yield shared
    for vm_id in shared.call("states"):
        shared.call("destroy", vm_id)


@pytest.fixture
def mortal_root(shared: DriverProcess, root: Path) -> Iterator[Path]:
    """A root of its own, for drivers that get killed; it has what libvirt learned about QEMU already."""
    path = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    shutil.copytree(root / "libvirt" / "cache", path / "libvirt" / "cache")
    yield path
    left = emulators(path)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(path)
    assert not left, "QEMU processes were left behind"


@pytest.fixture
def bridge() -> Iterator[str]:
    name = f"hyt{os.getpid() % 100000}{random.randrange(100)}"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    subprocess.run(["ip", "link", "set", name, "up"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def emulators(root: Path) -> list[int]:
    """Pids of QEMUs whose command line names the root; dead ones that nobody has reaped do not count."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if command.startswith(b"/usr/bin/qemu") and f"{root}/".encode() in command:
                found.append(int(entry.name))
    return found


def emulator(root: Path, vm_id: str) -> int:
    [pid] = [pid for pid in emulators(root) if f"guest={vm_id}," in Path(f"/proc/{pid}/cmdline").read_text()]
    return pid


def open_files(pid: int) -> set[str]:
    """Paths that a process has open; it may open and close others meanwhile."""
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            found.add(str(link.readlink()))
    return found


def make_spec(root: Path, files: GuestFiles, **changes: object) -> VmSpec:
    vm_id = "vm-" + "".join(random.choices(string.ascii_letters, k=10))
    rundir = root / "run" / vm_id
    rundir.mkdir(parents=True)
    values: dict[str, object] = {
        "vm_id": vm_id,
        "vcpu": 1,
        "memory": 128,
        "kernel": files.kernel,
        "initrd": files.initrd,
    }
    return VmSpec(rundir=rundir, **{**values, **changes})  # type: ignore[arg-type]


def make_nic(bridge: str) -> NicSpec:
    number = random.randrange(1 << 24)
    mac = f"52:54:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    return NicSpec(mac=mac, tap=f"hyt{number:08x}", bridge=bridge)


def make_disk(path: Path, lun: int, text: bytes = b"", *, readonly: bool = False) -> DiskSpec:
    with path.open("wb") as out:
        out.write(text)
        out.truncate(1 << 20)
    return DiskSpec(lun=lun, path=path, readonly=readonly)


@contextmanager
def agent(spec: VmSpec, *, fresh: bool = True) -> Iterator[Host]:
    with Host(spec.control_socket, spec.stream_socket, fresh=fresh, timeout=150) as host:
        yield host


def shell(host: Host, script: str) -> str:
    """Run a script in the guest, outside containers; gives its output."""
    name = "t" + "".join(random.choices(string.ascii_letters, k=8))
    code, out, err = host.execute(lambda plan: plan.add(Op.ARGV, "/sbin/busybox", "sh", "-c", script), name=name)
    assert code == 0, (script, out, err)
    return out.decode()


def wait_in_guest(host: Host, condition: str) -> None:
    shell(host, f"for i in $(seq 1000); do if {condition}; then exit 0; fi; sleep 0.05; done; exit 1")


def find_disk(host: Host, lun: int) -> None:
    """Let the guest look for a disk of its boot, as the agent does for `lun:N`; it is told of those that come later."""
    shell(host, f"echo 0 0 {lun} > /sys/class/scsi_host/host0/scan")
    wait_in_guest(host, f"[ -e {SCSI % lun} ]")


def tap_exists(name: str) -> bool:
    return Path(f"/sys/class/net/{name}").exists()


def assert_gone(root: Path, spec: VmSpec) -> None:
    """No process, tap or socket."""
    assert all(f"guest={spec.vm_id}," not in Path(f"/proc/{pid}/cmdline").read_text() for pid in emulators(root))
    assert not spec.control_socket.exists()
    assert not spec.stream_socket.exists()
    assert not any(tap_exists(nic.tap) for nic in spec.nics)


def wait_until(condition: object, what: str, timeout: float = 60.0) -> None:
    until = time.monotonic() + timeout
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < until, what
        time.sleep(0.02)


def test_open_tells_what_vms_run_on(driver: DriverProcess) -> None:
    assert driver.info.driver == "libvirt"
    assert (driver.info.accelerator, driver.info.reason) == ("tcg", "set in the config")
    assert driver.info.version.startswith("QEMU ")
    assert driver.info.max_vcpu >= 8


def test_boots_a_guest_whose_agent_answers(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files, cmdline="hyperd.test=1")
    driver.call("create", spec)
    assert driver.call("states") == {spec.vm_id: PowerState.RUNNING}
    with agent(spec) as host:
        assert host.ask(Method.PING)
        assert "hyperd.test=1" in shell(host, "cat /proc/cmdline")
    stats = driver.call("stats", spec.vm_id)
    assert stats.memory_rss > 32 << 20
    assert stats.cpu_total == stats.cpu_user + stats.cpu_system > 0
    assert spec.console_log.exists()


def test_boots_two_cpus(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files, vcpu=2)
    driver.call("create", spec)
    with agent(spec) as host:
        assert shell(host, "grep -c ^processor /proc/cpuinfo").strip() == "2"


def test_paused_vm_does_nothing_until_it_is_resumed(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    with agent(spec) as host:
        driver.call("pause", spec.vm_id)
        driver.call("pause", spec.vm_id)
        assert driver.call("states") == {spec.vm_id: PowerState.PAUSED}
        request = host.post(Method.PING)
        with pytest.raises(TimeoutError):
            host.answer(request, timeout=0.7)
        driver.call("resume", spec.vm_id)
        driver.call("resume", spec.vm_id)
        assert host.answer(request)
        assert driver.call("states") == {spec.vm_id: PowerState.RUNNING}


def test_created_paused(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files, paused=True)
    driver.call("create", spec)
    assert driver.call("states") == {spec.vm_id: PowerState.PAUSED}
    assert driver.call("stats", spec.vm_id).cpu_total < 2 * 10**9
    driver.call("resume", spec.vm_id)
    with agent(spec) as host:
        assert host.ask(Method.PING)


def test_disks_at_boot_and_later(driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path) -> None:
    first = make_disk(tmp_path / "first", 0, b"first disk\n")
    second = make_disk(tmp_path / "second", 200, b"second disk\n", readonly=True)
    spec = make_spec(root, files, disks=(first,))
    driver.call("create", spec)
    with agent(spec) as host:
        find_disk(host, 0)
        assert shell(host, f"head -n1 /dev/$(ls {SCSI % 0})") == "first disk\n"
        shell(host, f"echo written > /dev/$(ls {SCSI % 0}); sync")
        driver.call("attach_disk", spec.vm_id, second)
        wait_in_guest(host, f"[ -e {SCSI % 200} ]")
        assert shell(host, f"head -n1 /dev/$(ls {SCSI % 200})") == "second disk\n"
        assert shell(host, f"cat /sys/block/$(ls {SCSI % 200})/ro").strip() == "1"
        counters = driver.call("stats", spec.vm_id).block
        assert counters["0"]["write_bytes"] > 0
        assert counters["200"]["read_bytes"] > 0
        for disk in (first, second):
            driver.call("detach_disk", spec.vm_id, disk.lun)
            wait_in_guest(host, f"[ ! -e {SCSI % disk.lun} ]")
    assert (tmp_path / "first").read_bytes().startswith(b"written\n")
    assert not open_files(emulator(root, spec.vm_id)) & {str(first.path), str(second.path)}


def test_disk_attached_to_a_paused_vm(driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    with agent(spec) as host:
        driver.call("pause", spec.vm_id)
        driver.call("attach_disk", spec.vm_id, make_disk(tmp_path / "layer", 3, b"layer\n", readonly=True))
        driver.call("attach_disk", spec.vm_id, make_disk(tmp_path / "other", 4, b"other\n", readonly=True))
        driver.call("detach_disk", spec.vm_id, 4)
        driver.call("resume", spec.vm_id)
        wait_in_guest(host, f"[ -e {SCSI % 3} ]")
        assert shell(host, f"head -n1 /dev/$(ls {SCSI % 3})") == "layer\n"


def test_two_vms_share_a_readonly_disk(driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path) -> None:
    disk = make_disk(tmp_path / "layer", 1, b"shared\n", readonly=True)
    specs = [make_spec(root, files, disks=(disk,)) for _ in range(2)]
    for spec in specs:
        driver.call("create", spec)
    assert driver.call("states").keys() == {spec.vm_id for spec in specs}


def test_disk_faults_leave_the_vm_as_it_was(
    driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path
) -> None:
    spec = make_spec(root, files, disks=(make_disk(tmp_path / "disk", 1),))
    driver.call("create", spec)
    with pytest.raises(DriverError):
        driver.call("attach_disk", spec.vm_id, DiskSpec(lun=2, path=tmp_path / "missing"))
    with pytest.raises((DriverError, Conflict)):
        driver.call("attach_disk", spec.vm_id, make_disk(tmp_path / "another", 1))
    driver.call("attach_disk", spec.vm_id, make_disk(tmp_path / "third", 2))
    driver.call("detach_disk", spec.vm_id, 77)


def test_nics_come_and_go(driver: DriverProcess, root: Path, files: GuestFiles, bridge: str) -> None:
    at_boot, later = make_nic(bridge), make_nic(bridge)
    spec = make_spec(root, files, nics=(at_boot,))
    driver.call("create", spec)
    addresses = "cat /sys/class/net/*/address"
    with agent(spec) as host:
        wait_in_guest(host, f"{addresses} | grep -q {at_boot.mac}")
        driver.call("attach_nic", spec.vm_id, later)
        for nic in (at_boot, later):
            assert Path(f"/sys/class/net/{bridge}/brif/{nic.tap}").exists()
        wait_in_guest(host, f"{addresses} | grep -q {later.mac}")
        assert driver.call("stats", spec.vm_id).network.keys() == {at_boot.tap, later.tap}
        for nic in (later, at_boot):
            driver.call("detach_nic", spec.vm_id, nic.mac)
            assert not tap_exists(nic.tap)
            wait_in_guest(host, f"! {addresses} | grep -q {nic.mac}")
        driver.call("detach_nic", spec.vm_id, later.mac)
        driver.call("attach_nic", spec.vm_id, later)
        wait_in_guest(host, f"{addresses} | grep -q {later.mac}")
    driver.call("destroy", spec.vm_id)
    assert not tap_exists(later.tap)


def test_nic_without_a_bridge(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    nic = NicSpec(mac="52:54:00:00:00:99", tap="", bridge="")
    spec = make_spec(root, files, nics=(nic,))
    driver.call("create", spec)
    with agent(spec) as host:
        wait_in_guest(host, f"cat /sys/class/net/*/address | grep -q {nic.mac}")


def test_failed_nic_leaves_no_tap(driver: DriverProcess, root: Path, files: GuestFiles, bridge: str) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    lost = make_nic("hytnobridge")
    with pytest.raises(DriverError):
        driver.call("attach_nic", spec.vm_id, lost)
    assert not tap_exists(lost.tap)
    # The third finds no free root port: two are spare.
    nics = [make_nic(bridge) for _ in range(3)]
    driver.call("attach_nic", spec.vm_id, nics[0])
    driver.call("attach_nic", spec.vm_id, nics[1])
    with pytest.raises(DriverError):
        driver.call("attach_nic", spec.vm_id, nics[2])
    assert [tap_exists(nic.tap) for nic in nics] == [True, True, False]


def test_destroy_leaves_nothing(
    driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path, bridge: str
) -> None:
    disk = make_disk(tmp_path / "disk", 0)
    spec = make_spec(root, files, nics=(make_nic(bridge),), disks=(disk,))
    driver.call("create", spec)
    driver.call("destroy", spec.vm_id)
    assert_gone(root, spec)
    assert spec.vm_id not in driver.call("states")
    assert disk.path.exists()
    assert driver.wait_event(spec.vm_id) is VmEventKind.STOPPED
    driver.call("destroy", spec.vm_id)
    driver.call("destroy", "vm-unknownunk")
    for method in ("pause", "resume", "stats"):
        with pytest.raises(NotFound):
            driver.call(method, spec.vm_id)


def test_destroyed_id_can_be_used_again_at_once(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    for _ in range(2):
        driver.call("create", spec)
        driver.call("destroy", spec.vm_id)
    driver.call("create", spec)
    with agent(spec) as host:
        assert host.ask(Method.PING)
    assert driver.call("states") == {spec.vm_id: PowerState.RUNNING}


@pytest.mark.parametrize("fault", ["kernel", "bridge", "disk", "format", "memory", "rundir"])
def test_failed_create_leaves_nothing(  # noqa: PLR0917 - fixtures
    driver: DriverProcess, root: Path, files: GuestFiles, tmp_path: Path, bridge: str, fault: str
) -> None:
    (tmp_path / "bad").write_bytes(b"x" * 512)
    changes: dict[str, dict[str, object]] = {
        "kernel": {"kernel": tmp_path / "missing"},
        "bridge": {"nics": (make_nic(bridge), make_nic("hytnobridge"))},
        "disk": {"disks": (DiskSpec(lun=0, path=tmp_path / "missing"),)},
        "format": {"disks": (DiskSpec(lun=0, path=tmp_path / "bad", fmt="qcow2"),)},
        "memory": {"memory": 1 << 30},
        "rundir": {},
    }
    spec = make_spec(root, files, **{"nics": (make_nic(bridge),), **changes[fault]})
    if fault == "rundir":
        spec.rundir.rmdir()
    started = time.monotonic()
    with pytest.raises(DriverError):
        driver.call("create", spec)
    # libvirt would wait 15 s for a QEMU that nobody reaps.
    assert time.monotonic() - started < 10
    assert_gone(root, spec)
    assert driver.call("states") == {}
    if fault != "rundir":
        driver.call("create", make_spec(root, files, nics=(spec.nics[0],)))


def test_an_id_is_used_once(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    calls = [driver.submit("create", spec) for _ in range(3)]
    errors = [call.exception(60) for call in calls]
    assert sorted(type(error) is Conflict for error in errors) == [False, True, True]
    assert errors.count(None) == 1
    with agent(spec) as host:
        assert host.ask(Method.PING)


def test_crash_is_told(driver: DriverProcess, root: Path, files: GuestFiles, bridge: str) -> None:
    spec = make_spec(root, files, nics=(make_nic(bridge),))
    driver.call("create", spec)
    os.kill(emulator(root, spec.vm_id), signal.SIGKILL)
    assert driver.wait_event(spec.vm_id) is VmEventKind.CRASHED
    assert driver.call("states") == {}
    assert_gone(root, spec)


def test_panic_is_told(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    with agent(spec) as host:
        shell(host, "(sleep 0.2; echo c > /proc/sysrq-trigger) >/dev/null 2>&1 &")
        assert driver.wait_event(spec.vm_id) is VmEventKind.CRASHED
    assert driver.call("states") == {}


def test_power_off_is_told(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    with agent(spec) as host:
        host.run_shutdown = host.ask(Method.SHUTDOWN, 0)  # type: ignore[attr-defined]
    assert driver.wait_event(spec.vm_id) is VmEventKind.STOPPED
    assert driver.call("states") == {}
    assert_gone(root, spec)
    driver.call("destroy", spec.vm_id)


def test_five_at_once(driver: DriverProcess, root: Path, files: GuestFiles, bridge: str) -> None:
    specs = [make_spec(root, files, nics=(make_nic(bridge),)) for _ in range(5)]
    for call in [driver.submit("create", spec) for spec in specs]:
        call.result(90)
    assert driver.call("states") == {spec.vm_id: PowerState.RUNNING for spec in specs}
    for spec in specs:
        with agent(spec) as host:
            assert host.ask(Method.PING)
    for call in [driver.submit("destroy", spec.vm_id) for spec in specs]:
        call.result(60)
    for spec in specs:
        assert_gone(root, spec)


def test_killed_daemon_loses_no_vm(mortal_root: Path, files: GuestFiles, tmp_path: Path, bridge: str) -> None:
    first = DriverProcess(mortal_root, SETTINGS)
    specs = [make_spec(mortal_root, files, nics=(make_nic(bridge),)) for _ in range(3)]
    for spec in specs:
        first.call("create", spec)
    with agent(specs[0]) as host:
        boot_id = host.boot_id
    first.call("pause", specs[1].vm_id)
    first.kill()

    second = DriverProcess(mortal_root, SETTINGS)
    try:
        states = {spec.vm_id: PowerState.RUNNING for spec in specs} | {specs[1].vm_id: PowerState.PAUSED}
        assert second.call("states") == states
        second.call("resume", specs[1].vm_id)
        with agent(specs[0], fresh=False) as host:
            assert host.boot_id == boot_id
            second.call("attach_disk", specs[0].vm_id, make_disk(tmp_path / "disk", 5, b"after\n"))
            wait_in_guest(host, f"[ -e {SCSI % 5} ]")
        second.call("detach_disk", specs[0].vm_id, 5)
        second.call("destroy", specs[0].vm_id)
        assert_gone(mortal_root, specs[0])
        os.kill(emulator(mortal_root, specs[1].vm_id), signal.SIGKILL)
        assert second.wait_event(specs[1].vm_id) is VmEventKind.CRASHED
        second.call("destroy", specs[2].vm_id)
        assert_gone(mortal_root, specs[2])
        assert second.call("states") == {}
    finally:
        second.close()


def test_stopped_daemon_loses_no_vm(mortal_root: Path, files: GuestFiles) -> None:
    first = DriverProcess(mortal_root, SETTINGS)
    spec = make_spec(mortal_root, files)
    first.call("create", spec)
    first.close()
    assert first.process.returncode == 0
    second = DriverProcess(mortal_root, SETTINGS)
    try:
        assert second.call("states") == {spec.vm_id: PowerState.RUNNING}
        with agent(spec) as host:
            assert host.ask(Method.PING)
        second.call("destroy", spec.vm_id)
    finally:
        second.close()


def test_vm_that_died_without_a_daemon_is_not_known(mortal_root: Path, files: GuestFiles) -> None:
    first = DriverProcess(mortal_root, SETTINGS)
    dead, alive = make_spec(mortal_root, files), make_spec(mortal_root, files)
    for spec in (dead, alive):
        first.call("create", spec)
    first.kill()
    os.kill(emulator(mortal_root, dead.vm_id), signal.SIGKILL)
    wait_until(lambda: len(emulators(mortal_root)) == 1, "QEMU did not die")
    second = DriverProcess(mortal_root, SETTINGS)
    try:
        assert second.call("states") == {alive.vm_id: PowerState.RUNNING}
        second.call("destroy", dead.vm_id)
        second.call("destroy", alive.vm_id)
    finally:
        second.close()


@pytest.mark.parametrize("delay", [0.02, 0.06, 0.12, 0.2])
def test_daemon_killed_while_it_starts_a_vm(mortal_root: Path, files: GuestFiles, bridge: str, delay: float) -> None:
    """Afterwards the VM is known or gone, never a QEMU that nobody knows of."""
    first = DriverProcess(mortal_root, SETTINGS)
    spec = make_spec(mortal_root, files, nics=(make_nic(bridge),))
    first.submit("create", spec)
    time.sleep(delay)
    first.kill()
    second = DriverProcess(mortal_root, SETTINGS)
    try:
        known = second.call("states")
        wait_until(lambda: len(emulators(mortal_root)) == len(known), f"an unknown QEMU runs, known: {known}")
        second.call("destroy", spec.vm_id)
        assert second.call("states") == {}
        assert not emulators(mortal_root)
        assert not tap_exists(spec.nics[0].tap)
    finally:
        second.close()


def test_one_daemon_per_root(driver: DriverProcess, root: Path) -> None:
    with pytest.raises(DriverError, match="Cannot open the hypervisor"):
        DriverProcess(root, SETTINGS)
    assert driver.call("states") == {}


def test_calls_from_many_threads(driver: DriverProcess, root: Path, files: GuestFiles) -> None:
    spec = make_spec(root, files)
    driver.call("create", spec)
    calls = [driver.submit(method, *args) for _ in range(10) for method, args in (
        ("states", ()), ("pause", (spec.vm_id,)), ("stats", (spec.vm_id,)), ("resume", (spec.vm_id,)),
    )]  # fmt: skip
    for call in calls:
        call.result(60)
    driver.call("resume", spec.vm_id)
    with agent(spec) as host:
        assert host.ask(Method.PING)


def test_accelerator_is_found_out_once(mortal_root: Path, files: GuestFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(mortal_root))
    settings = HypervisorConfig(kernel=files.kernel, initrd=files.initrd)
    first = DriverProcess(mortal_root, settings)
    try:
        assert first.info.accelerator in {"kvm", "tcg"}
        assert first.info.reason
        assert not emulators(mortal_root), "the probe is still there"
        spec = make_spec(mortal_root, files)
        first.call("create", spec)
        with agent(spec) as host:
            assert host.ask(Method.PING)
    finally:
        first.kill()
    second = DriverProcess(mortal_root, settings)
    try:
        assert second.info == first.info
        assert second.open_time < accel.DEADLINE / 2, "it was tried again"
        second.call("destroy", spec.vm_id)
    finally:
        second.close()


def test_probe_of_an_accelerator(files: GuestFiles) -> None:
    """TCG works everywhere: the proof is accepted. An accelerator that does not exist is none."""
    guest = accel.ProbeGuest(
        emulator="/usr/bin/qemu-system-x86_64",
        kernel=files.kernel,
        initrd=files.initrd,
        firmware=designer.find_firmware(),
    )
    assert accel.boots(guest, accelerator="tcg", deadline=60)
    assert not accel.boots(guest, accelerator="nonsense", deadline=60)


def test_daemon_killed_while_it_tries_kvm(
    mortal_root: Path, files: GuestFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where KVM works or is missing the verdict is there before the daemon dies; then nothing is left either."""
    monkeypatch.setenv("TMPDIR", str(mortal_root))
    settings = HypervisorConfig(kernel=files.kernel, initrd=files.initrd)
    process = DriverProcess(mortal_root, settings, wait=False)
    wait_until(lambda: process.opening.done() or emulators(mortal_root), "neither probe nor verdict", 60)
    process.kill()
    wait_until(lambda: not emulators(mortal_root), "the probe survived its daemon")
