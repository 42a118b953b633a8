"""The agent as PID 1 of a real guest: boots, disks, containers, hosts that come and go, the end.

One guest serves all tests but those of boot and end. Disks: LUN 0 is a busybox root as squashfs, LUN 1 an empty ext4.
"""

from __future__ import annotations

import errno
import io
import signal
import subprocess
import tarfile
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from hyperd.agent import client
from hyperd.agent.frames import Method
from hyperd.agent.plan import MNT_DETACH, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, Op, Plan
from hyperd.guest.image import GuestFiles, build_guest, find_guest
from hyperd.stream.relay import Relay
from tests.support.agent import AgentRefusal, Host, Memory
from tests.support.guest import FAST_CMDLINE, Guest
from tests.support.until import until

pytestmark = [pytest.mark.vm]

TREE = Path(__file__).resolve().parents[2]
GUEST = TREE / ".cache" / "guest"
LAYER, SCRATCH, BOX = "/run/t/layer", "/run/t/scratch", "/run/t/box"
names = count(1)


@pytest.fixture(scope="session")
def guest_files() -> GuestFiles:
    """What to boot, as fresh as the sources."""
    return build_guest(GUEST)


@pytest.fixture(scope="session")
def layer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A busybox root as the image store makes it: a tar streamed into squashfs."""
    path = tmp_path_factory.mktemp("layer") / "layer.sqfs"
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("bin", "dev", "etc", "proc", "sys", "tmp", "root"):
            entry = tarfile.TarInfo(name)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        busybox = Path("/bin/busybox").read_bytes()
        for name, data, mode in (
            ("bin/busybox", busybox, 0o755),
            ("etc/passwd", b"root:x:0:0::/root:/bin/sh\nweb:x:33:33::/srv:/bin/sh\n", 0o644),
            ("etc/group", b"root:x:0:\nweb:x:33:\n", 0o644),
        ):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), mode
            tar.addfile(entry, io.BytesIO(data))
        applets = subprocess.run(["/bin/busybox", "--list"], capture_output=True, text=True, check=True).stdout.split()
        for name in applets:
            if name != "busybox":
                entry = tarfile.TarInfo(f"bin/{name}")
                entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(entry)
    subprocess.run(["tar2sqfs", "-q", "-c", "lz4", path], input=stream.getvalue(), check=True, capture_output=True)
    return path


def new_scratch(directory: Path) -> Path:
    """An empty ext4 on a sparse file."""
    path = directory / "scratch.img"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True)
    return path


@pytest.fixture(scope="session")
def guest(guest_files: GuestFiles, layer: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    disks = [(layer, True), (new_scratch(tmp_path_factory.mktemp("scratch")), False)]
    with Guest(guest_files, disks=disks) as running:
        with running.connect(fresh=True) as host:
            host.run(
                Plan()
                .mkdir(LAYER)
                .mount("lun:0", LAYER, "squashfs", MS_RDONLY)
                .mkdir(SCRATCH)
                .mount("lun:1", SCRATCH, "ext4")
            )
        yield running
        assert "panic" not in running.console.read_text(errors="replace").lower()


@pytest.fixture
def host(guest: Guest) -> Iterator[Host]:
    with guest.connect() as link:
        yield link
        assert link.states() == {}


def box_plan(name: str) -> Plan:
    """What a container's root is made of, in the agent's namespaces."""
    upper, work, merged = f"{SCRATCH}/{name}/upper", f"{SCRATCH}/{name}/work", f"{BOX}/{name}"
    data = f"lowerdir={LAYER},upperdir={upper},workdir={work}"
    return Plan().mkdir(upper).mkdir(work).mkdir(merged).mount("overlay", merged, "overlay", 0, data)


def undo_box(name: str) -> Plan:
    merged = f"{BOX}/{name}"
    return Plan().add(Op.UMOUNT, merged, MNT_DETACH).add(Op.REMOVE, merged).add(Op.REMOVE, f"{SCRATCH}/{name}")


def isolated(plan: Plan, name: str) -> Plan:
    """All isolation a container has."""
    merged = f"{BOX}/{name}"
    nothing = MS_NOSUID | MS_NODEV | MS_NOEXEC
    plan.add(Op.CGROUP, f"boxes/{name}").add(Op.UNSHARE, "mnt", "pid", "cgroup")
    plan.mount("proc", f"{merged}/proc", "proc", nothing).mount("sysfs", f"{merged}/sys", "sysfs", nothing | MS_RDONLY)
    plan.mount("tmpfs", f"{merged}/dev", "tmpfs", MS_NOSUID, "mode=0755,size=64k").mkdir(f"{merged}/dev/pts")
    plan.mount("devpts", f"{merged}/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
    for device, minor in (("null", 3), ("zero", 5), ("urandom", 9)):
        plan.add(Op.MKNOD, f"{merged}/dev/{device}", "020666", 1, minor)
    plan.add(Op.SYMLINK, "pts/ptmx", f"{merged}/dev/ptmx")
    return plan.add(Op.PIVOT, merged).add(Op.CWD, "/").env({"PATH": "/bin", "TERM": "xterm"})


@pytest.fixture
def box(host: Host) -> Iterator[str]:
    """The name of a container root, mounted."""
    name = f"b{next(names)}"
    host.run(box_plan(name))
    yield name
    host.run(undo_box(name).add(Op.REMOVE, f"/sys/fs/cgroup/boxes/{name}"))


# Boot.


@pytest.mark.parametrize("flavour", ["minimal", "distro"])
def test_boot_and_power_off(guest_files: GuestFiles, flavour: str) -> None:
    files = GuestFiles(kernel=GUEST / f"kernel-{flavour}", initrd=GUEST / f"initrd-{flavour}", flavour=flavour)
    if flavour == "distro":
        build_guest(GUEST, kernel="distro")
    elif find_guest(GUEST).flavour != "minimal":
        pytest.skip("no minimal kernel was built (scripts/build-kernel)")
    with Guest(files) as guest, guest.connect(fresh=True) as host:
        took = time.monotonic() - guest.started
        version, *_ = host.ask(Method.PING)[0].args
        assert version == b"1"
        # Everything a container needs is there, whatever was still being loaded at WELCOME.
        _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "cat", "/proc/filesystems", "/proc/mounts"]))
        words = "squashfs", "overlay", "ext4", "/sys/fs/cgroup cgroup2", "/dev/pts devpts", "/dev/shm tmpfs"
        assert [word for word in words if word not in out.decode()] == []
        assert host.execute(lambda plan: plan.argv(["busybox", "ip", "link", "show", "lo"]))[1].find(b",UP") > 0
        if flavour == "distro":  # programs are not read again and again when memory has run out
            ttl = "/sys/kernel/mm/lru_gen/min_ttl_ms"
            assert host.execute(lambda plan: plan.argv(["/sbin/busybox", "cat", ttl]))[1] == b"1000\n"
        begin = time.monotonic()
        host.ask(Method.SHUTDOWN, 1000)
        assert guest.process.wait(60) == 0
        print(f"{flavour}: WELCOME after {took:.2f} s, off after {time.monotonic() - begin:.2f} s")  # noqa: T201
        console = guest.console.read_text(errors="replace")
        assert "panic" not in console.lower()
        assert "hyper-agent:" not in console


def test_sigterm_of_the_first_process_powers_off(guest_files: GuestFiles) -> None:
    with Guest(guest_files, cmdline=FAST_CMDLINE) as guest, guest.connect(fresh=True) as host:
        base = host.new_base()
        host.start(host.program("p", base).argv(["/sbin/busybox", "poweroff"]))
        assert guest.process.wait(60) == 0


def test_shutdown_leaves_a_clean_disk(guest_files: GuestFiles, layer: Path, tmp_path: Path) -> None:
    scratch = new_scratch(tmp_path)
    with Guest(guest_files, disks=[(layer, True), (scratch, False)]) as guest, guest.connect(fresh=True) as host:
        host.run(Plan().mkdir(LAYER).mount("lun:0", LAYER, "squashfs", MS_RDONLY))
        host.run(Plan().mkdir(SCRATCH).mount("lun:1", SCRATCH, "ext4"))
        host.run(box_plan("last"))
        base = host.new_base()
        script = "trap 'echo asked > /end; exit 0' TERM; echo on; while :; do sleep 0.1; done"
        host.start(isolated(host.program("last", base), "last").argv(["sh", "-c", script]))
        host.pump(lambda: host.output(base + 1) == b"on\n")
        host.ask(Method.SHUTDOWN, 10_000)
        assert guest.process.wait(60) == 0
    head = subprocess.run(["dumpe2fs", "-h", scratch], capture_output=True, text=True, check=True).stdout
    assert "needs_recovery" not in head
    read = subprocess.run(["debugfs", "-R", "cat last/upper/end", scratch], capture_output=True, text=True, check=True)
    assert read.stdout == "asked\n"


# Containers.


def test_an_isolated_container(host: Host, box: str) -> None:
    script = (
        "echo $$; set -- $(ps -o pid); echo $#; ls /; touch /new; "
        "cat /proc/self/cgroup; mount | grep -c ' / '; hostname; exit 3"
    )
    code, out, err = host.execute(lambda plan: isolated(plan, box).argv(["sh", "-c", script]))
    lines = out.decode().splitlines()
    assert (code, err) == (3, b"")
    assert lines[0] == "2"
    assert lines[1] == "4"  # head, init, sh, ps
    assert lines[2:9] == ["bin", "dev", "etc", "proc", "root", "sys", "tmp"]
    assert lines[9] == "0::/"
    assert lines[10] == "1"
    new = host.ask(Method.READFILE, "", f"{SCRATCH}/{box}/upper/new", 0, 1)[0].args
    assert new == (b"0", b"")


@pytest.mark.parametrize(("argv", "code"), [(["none"], errno.ENOENT), (["/etc/passwd"], errno.EACCES)])
def test_programs_that_cannot_run(host: Host, box: str, argv: list[str], code: int) -> None:
    with pytest.raises(AgentRefusal) as caught:
        host.execute(lambda plan: isolated(plan, box).argv(argv))
    assert caught.value.code == code
    assert caught.value.text.startswith("EXEC")
    # Nothing of it holds the disk any more.
    host.run(Plan().add(Op.UMOUNT, f"{BOX}/{box}", 0))
    _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "cat", "/proc/mounts"]))
    assert box.encode() not in out


def test_exec_and_terminals(host: Host, box: str) -> None:
    base = host.new_base()
    host.start(isolated(host.program("main", base), box).argv(["sleep", "1000"]))

    def joined(plan: Plan) -> Plan:
        return plan.add(Op.JOIN, "main").env({"PATH": "/bin"})

    script = "ps -o comm; cat /proc/self/cgroup; exit 4"
    code, out, _ = host.execute(lambda plan: joined(plan).argv(["sh", "-c", script]), name="e")
    assert code == 4
    assert out.decode().split() == ["COMMAND", "hyper-init", "sleep", "sh", "ps", "0::/"]

    def terminal(plan: Plan) -> Plan:
        words = ["sh", "-c", "stty size; tty; id -un; exit 5"]
        return joined(plan).add(Op.TTY, 30, 90).add(Op.USER, "web").argv(words)

    code, out, _ = host.execute(terminal, name="t", tty=True, stdin="open")
    assert (code, out.decode().split()) == (5, ["30", "90", "/dev/pts/0", "web"])
    host.ask(Method.SIGNAL, "main", signal.SIGTERM, "one")
    assert host.finish("main", base)[0] == 143


def test_stats_of_a_container(host: Host, box: str) -> None:
    base = host.new_base()
    host.start(isolated(host.program("s", base), box).argv(["sh", "-c", "head -c 100000 /dev/zero > /f; sleep 1000"]))
    stats = {(r.args[0].decode(), r.args[1].decode()): int(r.args[2]) for r in host.ask(Method.STATS)}
    assert stats["s", "memory.current"] > 0
    assert stats["s", "cpu.usage_usec"] > 0
    assert stats["s", "pids.current"] >= 2
    assert stats["vm", "memory.total"] > 50 << 20
    assert ("vm", "block.sda.read_bytes") in stats
    host.ask(Method.SIGNAL, "s", 9, "all")
    assert host.finish("s", base)[0] == 137


def test_out_of_memory_is_told(host: Host, box: str) -> None:
    base = host.new_base()
    limit = "/sys/fs/cgroup/boxes/" + box + "/memory.max"
    plan = host.program("o", base).add(Op.CGROUP, f"boxes/{box}").write(limit, str(8 << 20), None)
    host.start(isolated(plan, box).argv(["sh", "-c", "x=x; while :; do x=$x$x; done"]))
    host.finish("o", base)
    host.pump(lambda: any(code == 2 and record.args[0] == b"o" for code, record in host.events))


def test_a_fork_bomb_hurts_only_itself(host: Host, box: str) -> None:
    base = host.new_base()
    limit = f"/sys/fs/cgroup/boxes/{box}/pids.max"
    plan = host.program("f", base).add(Op.CGROUP, f"boxes/{box}").write(limit, "64", None)
    host.start(isolated(plan, box).argv(["sh", "-c", "f() { f | f & f; }; f 2>/dev/null"]))
    for _ in range(5):
        host.ask(Method.PING, timeout=90)
    if "f" not in host.exits:
        host.ask(Method.SIGNAL, "f", 9, "all")
    host.finish("f", base, timeout=150)


def test_clock_hostname_entropy_and_disks(host: Host) -> None:
    host.run(Plan().add(Op.TIME, 1_600_000_000, 5).add(Op.HOSTNAME, "pod-7").add(Op.ENTROPY, bytes(range(64))))
    _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "sh", "-c", "date +%s; hostname"]))
    seconds, name = out.split()
    assert 0 <= int(seconds) - 1_600_000_000 < 60
    assert name == b"pod-7"
    assert host.ask(Method.QUIESCE) == []
    with pytest.raises(AgentRefusal, match="MOUNT lun:9 on /tmp: No such device"):
        host.run(Plan().mount("lun:9", "/tmp", "ext4"))


def test_network_steps(host: Host) -> None:
    host.run(
        Plan()
        .add(Op.ADDR, "lo", "10.9.8.7/24")
        .add(Op.ADDR, "lo", "10.9.8.7/24")
        .add(Op.ADDR, "lo", "fd00::7/64")
        .add(Op.ROUTE, "10.20.0.0/16", "10.9.8.1", "lo")
        .add(Op.ROUTE, "10.20.0.0/16", "10.9.8.2", "lo")
        .add(Op.ROUTE, "default", "10.9.8.1", "")
        .add(Op.LINK, "lo", "lo", 1400)
    )
    script = "ip addr show lo; ip route; ip -6 route"
    _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "sh", "-c", script]))
    text = out.decode()
    words = "10.9.8.7/24 brd 10.9.8.255", "fd00::7/64", "10.20.0.0/16 via 10.9.8.2", "default via 10.9.8.1", "mtu 1400"
    assert [word for word in words if word not in text] == []
    assert "tentative" not in text
    host.run(Plan().add(Op.LINKDOWN, "lo").add(Op.LINKDOWN, "none"))
    _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "ip", "addr", "show", "lo"]))
    assert b"10.9.8.7" not in out
    assert b",UP" not in out
    host.run(Plan().add(Op.LINK, "00:00:00:00:00:00", "lo", 65535).add(Op.ADDR, "lo", "127.0.0.1/8"))
    for bad in ("10.0.0.1/33", "10.0.0/8", "x", "::1/129"):
        with pytest.raises(AgentRefusal):
            host.run(Plan().add(Op.ADDR, "lo", bad))


def test_addresses_that_lead_to_the_guest_itself(host: Host) -> None:
    def table() -> str:
        _, out, _ = host.execute(lambda plan: plan.argv(["/sbin/busybox", "ip", "route", "show", "table", "local"]))
        return out.decode()

    host.run(Plan().add(Op.ADDR, "lo", "10.9.8.7/24").add(Op.ADDR, "lo", "10.9.8.8/24"))
    for source in ("10.9.8.7", "10.9.8.8"):
        host.run(Plan().add(Op.LOCAL, "10.254.0.9", source))
        (line,) = [line for line in table().splitlines() if "10.254.0.9" in line]
        assert line.split()[-2:] == ["src", source]
    host.run(Plan().add(Op.LOCAL, "10.254.0.9", "").add(Op.LOCAL, "10.254.0.9", ""))
    assert "10.254.0.9" not in table()
    host.run(Plan().add(Op.MODULES, "services").add(Op.MODULES, "nosuch").add(Op.IPVS, 5, b""))
    with pytest.raises(AgentRefusal, match="IPVS 4"):
        host.run(Plan().add(Op.IPVS, 4, b"short"))
    host.run(Plan().add(Op.LINKDOWN, "lo").add(Op.LINK, "lo", "lo", 65535).add(Op.ADDR, "lo", "127.0.0.1/8"))


# Hosts that come and go.


def test_no_byte_is_lost_when_hosts_come_and_go(guest: Guest) -> None:
    """About 1 MB/s of numbered lines; hosts die in the middle, the last one has every line once."""
    memory = Memory()
    script = "i=0; while [ $i -lt 40 ]; do seq $((i * 15000)) $((i * 15000 + 14999)); i=$((i + 1)); sleep 0.1; done"
    with guest.connect() as first:
        base = first.new_base()
        first.start(first.program("lines", base).argv(["/sbin/busybox", "sh", "-c", script]))
    deaths = 0
    while True:
        with guest.connect(memory=memory) as host:
            host.resume(base)
            if host.states()["lines"][0] == b"exited":
                host.pump(lambda: host.ended(base), timeout=150)
                host.ask(Method.FORGET, "lines")
                break
            goal = len(host.output(base + 1)) + 150_000
            while len(host.output(base + 1)) < goal and "lines" not in host.exits:
                host.turn(1.0)
                host.pump(lambda: True)
            deaths += 1
    lines = memory.outputs[base + 1].data.split()
    assert lines == [b"%d" % number for number in range(600_000)]
    assert deaths >= 5


def test_a_paused_guest_goes_on_where_it_was(guest: Guest, host: Host) -> None:
    base = host.new_base()
    host.start(host.program("p", base).argv(["/sbin/busybox", "sh", "-c", "sleep 0.3; echo after"]))
    guest.qmp("stop")
    with pytest.raises(TimeoutError):
        host.ask(Method.PING, timeout=0.5)
    guest.qmp("cont")
    assert host.finish("p", base) == (0, b"after\n", b"")


def test_hosts_that_go_and_come_while_a_guest_is_paused(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    """QEMU misses that they go; who comes before the guest goes on is heard, and who comes later is in the end."""
    silences: list[str] = []
    monkeypatch.setattr(client.log, "warning", lambda event, **_: silences.append(event))
    relay = Relay()
    relay.start()
    memory = Memory()
    with guest.connect(memory=memory) as host:
        base = host.new_base()
        host.start(host.program("ticks", base).argv(["/sbin/busybox", "sh", "-c", "while echo; do usleep 2000; done"]))
    try:
        for early in (True, True, False, True):
            # A greeting that is lost is waited for this long; one that was heard has time for a slow guest.
            monkeypatch.setattr(client, "GREETING_TIMEOUT", 60.0 if early else 1.0)
            with guest.connect(memory=memory) as host:
                host.resume(base)
                host.turn(0.1)
                guest.qmp("stop")
            agent = agent_of(guest, relay)
            if early:
                agent.reach()
            guest.qmp("cont")
            time.sleep(0.1)
            agent.connect(fresh=False, timeout=90)
            assert agent.boot_id == host.boot_id
            assert silences == ([] if early else ["agent.silent"])
            silences.clear()
            agent.close()
        with guest.connect(memory=memory) as host:
            host.ask(Method.SIGNAL, "ticks", 9, "one")
            host.resume(base)
            host.pump(lambda: host.ended(base))
            host.ask(Method.FORGET, "ticks")
    finally:
        relay.stop()


def agent_of(guest: Guest, relay: Relay) -> client.AgentClient:
    return client.AgentClient(
        relay,
        name="vm-test",
        control=guest.control,
        stream=guest.stream,
        on_exit=lambda _process, _code: None,
        on_lost=lambda: None,
    )


def test_an_idle_guest_with_no_host_does_nothing(guest: Guest) -> None:
    """No busy loop while nobody is connected."""
    guest.connect().close()

    def idle() -> bool:
        begin = cpu_ticks(guest)
        time.sleep(1.0)
        return cpu_ticks(guest) - begin < 20  # of 100

    until(idle)  # what it had to do before may not be over


def cpu_ticks(guest: Guest) -> int:
    """What QEMU used so far, in hundredths of a second."""
    fields = Path(f"/proc/{guest.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def test_a_disk_that_comes_later(guest: Guest, host: Host, tmp_path: Path) -> None:
    image = new_scratch(tmp_path)
    posted = host.post(Method.RUN, Plan().mkdir("/run/late").mount("lun:5", "/run/late", "ext4").encode())
    host.ask(Method.PING)
    node = {"node-name": "late", "file": {"driver": "file", "filename": str(image)}}
    disk = {"bus": "scsi0.0", "channel": 0, "scsi-id": 0, "lun": 5, "drive": "late", "id": "late"}
    guest.qmp("blockdev-add", driver="raw", **node)
    guest.qmp("device_add", driver="scsi-hd", **disk)
    host.answer(posted)
    host.run(Plan().write("/run/late/f", "x").add(Op.UMOUNT, "/run/late", 0))
    guest.qmp("device_del", id="late")
