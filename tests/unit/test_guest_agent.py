"""The agent itself, run on this machine: requests, plans, processes, namespaces (streams: test_guest_streams.py)."""

from __future__ import annotations

import errno
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hyperd.agent.frames import Frame, FrameType, Method, encode_records
from hyperd.agent.plan import MNT_DETACH, MS_BIND, MS_NOSUID, MS_REC, Op, Plan
from hyperd.guest.image import agent_sources
from tests.support.agent import AgentRefusal, Host
from tests.support.hosted import HostedAgent, agent_binary, cgroup2, hosted_agent

pytestmark = pytest.mark.root

BUSYBOX = "/bin/busybox"


@pytest.fixture(scope="module")
def agent() -> Iterator[HostedAgent]:
    with hosted_agent() as running:
        yield running


@pytest.fixture
def host(agent: HostedAgent) -> Iterator[Host]:
    with agent.connect() as link:
        yield link
        left = link.states()
        assert not left, f"the test left processes behind: {left}"


def inside(plan: Plan) -> Plan:
    """Namespaces with a /proc of their own."""
    return plan.add(Op.UNSHARE, "mnt", "pid", "cgroup").mount("proc", "/proc", "proc")


def tiny_root(path: Path) -> Path:
    """A root with busybox, users and groups."""
    for name in ("bin", "etc", "proc", "dev", "tmp"):
        (path / name).mkdir(parents=True)
    (path / "bin" / "busybox").write_bytes(Path(BUSYBOX).read_bytes())
    (path / "bin" / "busybox").chmod(0o755)
    for applet in (
        "sh",
        "cat",
        "id",
        "pwd",
        "env",
        "ls",
        "tty",
        "stty",
        "sleep",
        "kill",
        "ps",
        "mount",
        "readlink",
        "grep",
    ):
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc" / "passwd").write_text("root:x:0:0::/root:/bin/sh\nalice:x:1001:100::/home/alice:/bin/sh\nshort:x\n")
    (path / "etc" / "group").write_text("root:x:0:\nusers:x:100:\nwheel:x:10:bob,alice\naudio:x:63:\n")
    return path


def contained(plan: Plan, root: Path, **env: str) -> Plan:
    """A small container below ``root``."""
    inner = str(root)
    return (
        plan.add(Op.UNSHARE, "mnt", "pid")
        .mount(inner, inner, "", MS_BIND | MS_REC)
        .mount("proc", f"{inner}/proc", "proc")
        .mount("tmpfs", f"{inner}/dev", "tmpfs", MS_NOSUID, "mode=0755")
        .mkdir(f"{inner}/dev/pts")
        .mount("devpts", f"{inner}/dev/pts", "devpts", 0, "newinstance,ptmxmode=0666,mode=0620")
        .add(Op.MKNOD, f"{inner}/dev/null", "020666", 1, 3)
        .add(Op.MKNOD, f"{inner}/dev/tty", "020666", 5, 0)
        .add(Op.SYMLINK, "pts/ptmx", f"{inner}/dev/ptmx")
        .add(Op.PIVOT, inner)
        .add(Op.CWD, "/")
        .env(env)
    )


# Compiled parts.


@pytest.mark.timeout(600)  # clang compiles the agent
@pytest.mark.parametrize("target", ["check", "fuzz"])
def test_parsers(target: str) -> None:
    agent_binary()
    done = subprocess.run(
        ["make", "-s", "-C", agent_sources(), f"BUILD={agent_binary().parent}", "FUZZ_RUNS=30000", target],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_agent_is_static() -> None:
    assert b"INTERP" not in subprocess.run(["readelf", "-lW", agent_binary()], capture_output=True, check=True).stdout


# Requests.


def test_ping(host: Host) -> None:
    version, uptime, release, total, available = host.ask(Method.PING)[0].args
    assert version == b"1"
    assert int(uptime) > 0
    assert release.decode() == os.uname().release
    assert int(total) >= int(available) > 0


@pytest.mark.parametrize(
    ("method", "payload", "code"),
    [
        (99, b"", errno.ENOSYS),
        (0, b"", errno.ENOSYS),
        (Method.SIGNAL, b"\0\1", errno.EINVAL),
        (Method.SIGNAL, encode_records([(0, ("nobody", 9, "one"))]), errno.ESRCH),
        (Method.SIGNAL, encode_records([(0, ("x" * 65, 9, "one"))]), errno.EINVAL),
        (Method.FORGET, encode_records([(0, ("nobody",))]), errno.ESRCH),
        (Method.RESIZE, encode_records([(0, ("nobody", 1, 1))]), errno.ESRCH),
        (Method.RUN, b"\0\1\0\1", errno.EINVAL),
        (Method.RUN, encode_records([(99, ())]), errno.ENOSYS),
        (Method.RUN, encode_records([(Op.MKDIR, ("/tmp",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.MKDIR, (b"/t\0mp", "755"))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.ARGV, ("true",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.UNSHARE, ("pid",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.UNSHARE, ("moon",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.JOIN, ("p",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.MODULES, ("../x",))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.IPVS, ("many", b"\0"))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.LOCAL, ("here", ""))]), errno.EINVAL),
        (Method.RUN, encode_records([(Op.LOCAL, ("10.0.0.1", "there"))]), errno.EINVAL),
        (Method.START, encode_records([(Op.ARGV, ("true",))]), errno.EINVAL),
        (Method.START, encode_records([(Op.PROCESS, ("p",))]), errno.EINVAL),
        (Method.START, encode_records([(Op.PROCESS, ("../p",)), (Op.ARGV, ("true",))]), errno.EINVAL),
        (Method.START, encode_records([(Op.PROCESS, ("p",)), (Op.JOIN, ("no",)), (Op.ARGV, ("true",))]), errno.ESRCH),
        (
            Method.START,
            encode_records([(Op.PROCESS, ("p",)), (Op.STREAMS, (0, "null")), (Op.ARGV, ("x",))]),
            errno.EINVAL,
        ),
        (Method.READFILE, encode_records([(0, ("", "/etc/hostname", 0, 131073))]), errno.EINVAL),
        (Method.READFILE, encode_records([(0, ("", "/etc", 0, 1))]), errno.EISDIR),
        (Method.READFILE, encode_records([(0, ("", "/dev/zero", 0, 1))]), errno.EINVAL),
        (Method.READFILE, encode_records([(0, ("", "/none", 0, 1))]), errno.ENOENT),
        (Method.SHUTDOWN, encode_records([(0, ("-1",))]), errno.EINVAL),
    ],
)
def test_bad_requests_get_an_errno(host: Host, method: int, payload: bytes, code: int) -> None:
    with pytest.raises(AgentRefusal) as caught:
        host.answer(host.post(method, payload))
    assert caught.value.code == code


def test_readfile(host: Host, tmp_path: Path) -> None:
    data = os.urandom(300_000)
    (tmp_path / "f").write_bytes(data)
    size, part = host.ask(Method.READFILE, "", str(tmp_path / "f"), 1000, 131072)[0].args
    assert (int(size), part) == (len(data), data[1000 : 1000 + 131072])
    assert host.ask(Method.READFILE, "", str(tmp_path / "f"), 400_000, 10)[0].args == (b"300000", b"")


def test_readfile_of_a_container_follows_its_links_inside(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")
    (root / "etc" / "link").symlink_to("/etc/passwd")
    base = host.new_base()
    host.start(contained(host.program("c", base), root).argv(["sleep", "100"]))
    assert host.ask(Method.READFILE, "c", "/etc/link", 0, 1000)[0].args[1] == (root / "etc" / "passwd").read_bytes()
    host.ask(Method.SIGNAL, "c", signal.SIGKILL, "one")
    host.finish("c", base)


def test_quiesce(host: Host) -> None:
    assert host.ask(Method.QUIESCE) == []


def test_a_slow_plan_holds_nobody(host: Host, tmp_path: Path) -> None:
    slow = host.post(Method.RUN, Plan().add(Op.MOUNT, "lun:3", str(tmp_path), "ext4", 0, "").encode())
    host.ask(Method.PING)
    assert host.execute(lambda plan: plan.argv(["echo", "x"]))[1] == b"x\n"
    assert slow not in host.answers  # they did not wait for it
    with pytest.raises(AgentRefusal) as caught:
        host.answer(slow)
    assert caught.value.text == f"MOUNT lun:3 on {tmp_path}: No such device"
    assert caught.value.code == errno.ENODEV


def test_too_many_plans_at_once_are_refused_and_the_rest_answered(host: Host, tmp_path: Path) -> None:
    posted = [host.post(Method.RUN, Plan().add(Op.LINK, "none0", "", 0).encode()) for _ in range(70)]
    codes = []
    for ident in posted:
        with pytest.raises(AgentRefusal) as caught:
            host.answer(ident)
        codes.append(caught.value.code)
    assert sorted(codes) == sorted([errno.ENODEV] * 64 + [errno.EAGAIN] * 6)


def test_a_host_that_never_listens_costs_bounded_memory(agent: HostedAgent) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{agent.process.pid}/statm").read_text().split()[1]) * 4096

    with agent.connect() as deaf:
        before = resident()
        request = Frame(FrameType.REQUEST, 7, Method.STATS).encode()
        deaf.control.socket.setblocking(True)
        for _ in range(300):
            deaf.control.socket.sendall(request * 40)
        assert resident() - before < 8 << 20
    with agent.connect() as host:  # the next one is served
        assert host.ask(Method.PING)


# Files.


def test_files_of_a_plan(host: Host, tmp_path: Path) -> None:
    base = str(tmp_path)
    host.run(
        Plan()
        .mkdir(f"{base}/a/b", 0o1777)
        .add(Op.MKDIR, f"{base}/own", "700", 12, 34)
        .mkdir(f"{base}/a")
        .write(f"{base}/x/y/file", b"zero\0byte", 0o640, 5, 6)
        .add(Op.SYMLINK, "target", f"{base}/x/link")
        .add(Op.SYMLINK, "other", f"{base}/x/link")
        .add(Op.MKNOD, f"{base}/null", "020666", 1, 3)
        .add(Op.MKNOD, f"{base}/null", "020666", 1, 3)
        .write(f"{base}/x/y/file", b"shorter", 0o644)
    )
    assert stat.S_IMODE((tmp_path / "a/b").stat().st_mode) == 0o1777
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o755
    own = (tmp_path / "own").stat()
    assert (stat.S_IMODE(own.st_mode), own.st_uid, own.st_gid) == (0o700, 12, 34)
    assert (tmp_path / "x/y/file").read_bytes() == b"shorter"
    assert (tmp_path / "x/link").readlink() == Path("other")
    assert (tmp_path / "null").stat().st_rdev == os.makedev(1, 3)


def test_write_into_existing_files_only(host: Host, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    host.run(Plan().write(str(tmp_path / "there"), "new", None))
    assert (tmp_path / "there").read_text() == "new"
    with pytest.raises(AgentRefusal, match=f"WRITE {tmp_path}/missing: No such file"):
        host.run(Plan().write(str(tmp_path / "missing"), "new", None))


def test_files_in_pieces_with_named_owners(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    (root / "long").write_text("x" * 100)
    staged = str(tmp_path / "staged")
    host.run(Plan().write(staged, b"", 0o600).add(Op.APPEND, staged, b"one\0").add(Op.APPEND, staged, b"two"))
    host.run(
        Plan()
        .add(Op.OPENROOT, str(root))
        .add(Op.FILE, staged, "/new/deep/file", "4750", "alice", "wheel")
        .add(Op.FILE, staged, "/long", "600", "7", "root")
        .add(Op.WRITE, "/etc/small", "604", "root", "users", b"x")
    )
    for name, content, kind in (
        ("new/deep/file", b"one\0two", (0o4750, 1001, 10)),
        ("long", b"one\0two", (0o600, 7, 0)),
        ("etc/small", b"x", (0o604, 0, 100)),
    ):
        found = (root / name).stat()
        assert ((root / name).read_bytes(), (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid)) == (
            content,
            kind,
        )


@pytest.mark.parametrize(
    ("user", "group", "text"), [("bob", "0", "WRITE: no user bob"), ("alice", "staff", "WRITE: no group staff")]
)
def test_owners_that_do_not_exist(host: Host, tmp_path: Path, user: str, group: str, text: str) -> None:
    root = tiny_root(tmp_path / "root")
    with pytest.raises(AgentRefusal, match=text):
        host.run(Plan().add(Op.OPENROOT, str(root)).add(Op.WRITE, "/f", "644", user, group, b"x"))
    assert not (root / "f").exists()


def test_append_makes_no_file_and_follows_no_link(host: Host, tmp_path: Path) -> None:
    (tmp_path / "there").write_text("old")
    (tmp_path / "link").symlink_to("there")
    for name in ("missing", "link"):
        with pytest.raises(AgentRefusal, match="APPEND"):
            host.run(Plan().add(Op.APPEND, str(tmp_path / name), b"x"))
    assert (tmp_path / "there").read_text() == "old"


def test_copyup_copies_a_tree_once(host: Host, tmp_path: Path) -> None:
    root, target = tmp_path / "root", tmp_path / "volumes" / "v"
    data = root / "data"
    (data / "sub").mkdir(parents=True)
    (data / "f").write_bytes(os.urandom(200_000))
    (data / "sub" / "link").symlink_to("/etc/passwd")
    os.mkfifo(data / "pipe")
    os.mknod(data / "null", 0o600 | stat.S_IFCHR, os.makedev(1, 3))
    os.setxattr(data / "f", "user.kept", b"yes")
    os.chown(data / "f", 5, 6)
    (data / "f").chmod(0o4755)
    os.utime(data / "f", (1, 2))
    os.lchown(data / "sub" / "link", 7, 8)
    data.chmod(0o1750)
    plan = Plan().add(Op.OPENROOT, str(root)).add(Op.COPYUP, "/data", str(target))
    host.run(plan)
    copy = (target / "f").stat()
    assert (target / "f").read_bytes() == (data / "f").read_bytes()
    assert (copy.st_mode & 0o7777, copy.st_uid, copy.st_gid, copy.st_mtime) == (0o4755, 5, 6, 2)
    assert os.getxattr(target / "f", "user.kept") == b"yes"
    assert (target / "sub" / "link").readlink() == Path("/etc/passwd")
    assert (target / "sub" / "link").lstat().st_uid == 7
    assert stat.S_ISFIFO((target / "pipe").stat().st_mode)
    assert (target / "null").stat().st_rdev == os.makedev(1, 3)
    assert stat.S_IMODE(target.stat().st_mode) == 0o1750
    # The second time the volume is somebody's.
    (target / "f").unlink()
    host.run(plan)
    assert not (target / "f").exists()


def test_copyup_begins_anew_after_a_cut_off_copy(host: Host, tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "data").mkdir(parents=True)
    (root / "data" / "f").write_text("x")
    (tmp_path / "v.new" / "half").mkdir(parents=True)
    host.run(Plan().add(Op.OPENROOT, str(root)).add(Op.COPYUP, "/data", str(tmp_path / "v")))
    assert [path.name for path in (tmp_path / "v").iterdir()] == ["f"]
    assert not (tmp_path / "v.new").exists()


@pytest.mark.parametrize("path", ["/missing/deep", "/file", "/out"])
def test_copyup_of_nothing_is_an_empty_directory(host: Host, tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "file").touch()
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "f").touch()
    (root / "out").symlink_to(tmp_path / "secret")
    host.run(Plan().add(Op.OPENROOT, str(root)).add(Op.COPYUP, path, str(tmp_path / "v")))
    assert list((tmp_path / "v").iterdir()) == []
    assert stat.S_IMODE((tmp_path / "v").stat().st_mode) == 0o755


def test_like_takes_attributes_once_and_nothing_else(host: Host, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "deep" / "upper"
    source.mkdir()
    (source / "f").touch()
    os.setxattr(source, "user.kept", b"yes")
    os.setxattr(source, "trusted.overlay.opaque", b"y")
    os.chown(source, 5, 6)
    source.chmod(0o1711)
    plan = Plan().add(Op.LIKE, str(target), str(source))
    host.run(plan)
    made = target.stat()
    assert (stat.S_IMODE(made.st_mode), made.st_uid, made.st_gid) == (0o1711, 5, 6)
    assert {name: os.getxattr(target, name) for name in os.listxattr(target)} == {"user.kept": b"yes"}
    assert list(target.iterdir()) == []
    target.chmod(0o700)  # from now on it is the container's
    host.run(plan)
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    with pytest.raises(AgentRefusal, match="LIKE"):
        host.run(Plan().add(Op.LIKE, str(tmp_path / "other"), str(tmp_path / "missing")))
    assert not (tmp_path / "other").exists()


def test_a_failing_step_leaves_the_ones_before(host: Host, tmp_path: Path) -> None:
    with pytest.raises(AgentRefusal) as caught:
        host.run(Plan().mkdir(f"{tmp_path}/one").mkdir("/proc/nope").mkdir(f"{tmp_path}/two"))
    assert caught.value.text.startswith("MKDIR /proc/nope: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one"]


def test_a_fifo_holds_no_plan(host: Host, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(AgentRefusal) as caught:
        host.run(Plan().write(str(tmp_path / "fifo"), "x"), timeout=3)
    assert caught.value.code == errno.ENXIO


def test_openroot_never_leads_out(host: Host, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    for path in (root / "etc", outside):
        path.mkdir(parents=True)
    (outside / "victim").write_text("safe")
    (root / "abs").symlink_to(outside)
    (root / "up").symlink_to("../outside")
    (root / "etc" / "resolv.conf").symlink_to("../run/stub.conf")
    (root / "etc" / "loop").symlink_to("loop")
    host.run(
        Plan()
        .add(Op.OPENROOT, str(root))
        .write("/etc/resolv.conf", "inside")
        .write("/../../escape", "inside")
        .add(Op.REMOVE, "/up/victim")
        .add(Op.OPENROOT, "")
        .write(f"{tmp_path}/normal", "x")
    )
    assert (outside / "victim").read_text() == "safe"
    assert list(outside.iterdir()) == [outside / "victim"]
    assert (root / "escape").read_text() == "inside"
    assert (root / "etc/resolv.conf").read_text() == "inside"
    assert (tmp_path / "normal").exists()
    for path in ("/abs/victim", "/up/victim"):
        with pytest.raises(AgentRefusal):
            host.run(Plan().add(Op.OPENROOT, str(root)).write(path, "bad"))
    with pytest.raises(AgentRefusal):
        host.run(Plan().add(Op.OPENROOT, str(root)).write("/etc/loop", "x"))
    assert (outside / "victim").read_text() == "safe"


def test_a_mount_target_may_be_below_openroot(host: Host, tmp_path: Path) -> None:
    root, secret, outside = tmp_path / "root", tmp_path / "secret", tmp_path / "hosts"
    (root / "etc").mkdir(parents=True)
    secret.write_text("mounted")
    outside.write_text("outside")
    (root / "etc" / "hosts").symlink_to(f"../../../../../../../..{outside}")
    (root / Path(*outside.parts[1:-1])).mkdir(parents=True)
    plan = Plan().add(Op.UNSHARE, "mnt").add(Op.OPENROOT, str(root)).mount(str(secret), "root:/etc/hosts", "", MS_BIND)
    # The link leads to a file inside the root that does not exist yet: it is made for the mount, in the root.
    host.run(plan)
    assert (root / Path(*outside.parts[1:])).read_text() == ""
    (root / Path(*outside.parts[1:])).write_text("inner")
    host.run(plan.add(Op.OPENROOT, "").add(Op.UMOUNT, f"{root}{outside}", 0))
    assert outside.read_text() == "outside"


LINKS = {
    "absolute": ("/nowhere/zone", "nowhere/zone"),
    "relative": ("../nowhere/zone", "nowhere/zone"),
    "out of the root": ("../../../../nowhere/zone", "nowhere/zone"),
    "through another": ("/etc/second", "third/place"),
}


@pytest.mark.parametrize("case", LINKS)
@pytest.mark.parametrize("directory", [False, True])
def test_a_link_that_leads_nowhere_is_followed_inside_the_root(
    host: Host, tmp_path: Path, case: str, directory: bool
) -> None:
    root = tiny_root(tmp_path / "root")
    target, made = LINKS[case]
    (root / "etc" / "place").symlink_to(target)
    (root / "etc" / "second").symlink_to("/third/place")
    (root / "third").mkdir()
    source = tmp_path / "source"
    source.mkdir() if directory else source.write_text("shown")
    plan = Plan().add(Op.UNSHARE, "mnt").add(Op.OPENROOT, str(root))
    if directory:
        plan.mkdir("/etc/place")
    host.run(plan.bind(str(source), "root:/etc/place"))
    assert (root / made).is_dir() if directory else (root / made).is_file()
    assert (root / "etc" / "place").is_symlink()
    assert not (tmp_path / "nowhere").exists()


def test_links_are_followed_while_others_rename(host: Host, tmp_path: Path) -> None:
    """The kernel gives up a way through ".." (EAGAIN) when something was renamed meanwhile, anywhere on the machine."""
    root = tiny_root(tmp_path / "root")
    (root / "deep" / "er").mkdir(parents=True)
    (root / "place").symlink_to("/".join(["deep/er", "../.."] * 10 + ["deep"]))
    plan = Plan().add(Op.OPENROOT, str(root))
    for number in range(1000):
        plan.mkdir(f"/place/{number}")
    renames = "import os\nos.mkdir('a')\nprint(flush=True)\nwhile True:\n os.rename('a', 'b')\n os.rename('b', 'a')"
    with subprocess.Popen([sys.executable, "-c", renames], cwd=tmp_path, stdout=subprocess.PIPE) as busy:
        assert busy.stdout
        try:
            assert busy.stdout.readline()
            host.run(plan)
        finally:
            busy.kill()
    assert len(list((root / "deep").iterdir())) == 1001


def test_a_mount_below_a_link_that_leads_nowhere(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    (root / "data").symlink_to("/srv/data")
    host.run(Plan().add(Op.OPENROOT, str(root)).mkdir("/data/deep/er", 0o700))
    assert (root / "srv" / "data" / "deep" / "er").is_dir()


def test_links_in_a_circle(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(AgentRefusal, match="MKDIR /a"):
        host.run(Plan().add(Op.OPENROOT, str(root)).mkdir("/a/x"))


def test_remove(host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "f").write_text("x")
    keep = tmp_path / "keep"
    keep.mkdir()
    (keep / "file").write_text("x")
    (tree / "a" / "link").symlink_to(keep)
    host.run(Plan().add(Op.REMOVE, str(tree)).add(Op.REMOVE, str(tree)).add(Op.REMOVE, str(tmp_path / "no" / "where")))
    assert not tree.exists()
    assert (keep / "file").exists()


def test_remove_of_a_deep_tree(host: Host, tmp_path: Path) -> None:
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    host.run(Plan().add(Op.REMOVE, f"{tmp_path}/d"))
    assert list(tmp_path.iterdir()) == []


def test_remove_never_crosses_a_mount(host: Host, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "m").mkdir(parents=True)
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_text("x")
    plan = Plan().add(Op.UNSHARE, "mnt").mount(str(source), f"{tree}/m", "", MS_BIND)
    with pytest.raises(AgentRefusal) as caught:
        host.run(plan.add(Op.REMOVE, str(tree)))
    assert caught.value.code == errno.EBUSY
    assert (source / "file").exists()


def test_umount_of_nothing_is_fine(host: Host, tmp_path: Path) -> None:
    host.run(Plan().add(Op.UMOUNT, str(tmp_path), MNT_DETACH).add(Op.UMOUNT, str(tmp_path / "missing"), 0))


# Programs.


def test_output_and_exit_code(host: Host) -> None:
    assert host.execute(lambda plan: plan.argv(["sh", "-c", "echo out; echo err >&2; exit 7"])) == (
        7,
        b"out\n",
        b"err\n",
    )


@pytest.mark.parametrize("wrap", [lambda plan: plan, inside], ids=["plain", "namespaces"])
def test_death_by_signal(host: Host, wrap) -> None:
    assert host.execute(lambda plan: wrap(plan).argv(["sh", "-c", "kill -TERM $$; sleep 9"]))[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize("wrap", [lambda plan: plan, inside], ids=["plain", "namespaces"])
@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["no-such-program"], errno.ENOENT),
        (["/no/such"], errno.ENOENT),
        (["/etc/passwd"], errno.EACCES),
        (["/etc"], errno.EACCES),
        ([""], errno.ENOENT),
    ],
)
def test_programs_that_cannot_run(host: Host, wrap, argv: list[str], code: int) -> None:
    with pytest.raises(AgentRefusal) as caught:
        host.execute(lambda plan: wrap(plan).argv(argv))
    assert caught.value.code == code
    assert caught.value.text.startswith("EXEC")
    assert host.states() == {}


def test_a_file_that_is_no_program(host: Host, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a program")
    (tmp_path / "text").chmod(0o755)
    with pytest.raises(AgentRefusal) as caught:
        host.execute(lambda plan: plan.argv([str(tmp_path / "text")]))
    assert (caught.value.code, caught.value.text.startswith("EXEC")) == (errno.ENOEXEC, True)


def test_path_of_the_environment(host: Host, tmp_path: Path) -> None:
    for name, mode in (("one", 0o644), ("two", 0o755)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "tool").write_text(f"#!/bin/sh\necho {name}\n")
        (tmp_path / name / "tool").chmod(mode)
    env = {"PATH": f"{tmp_path}/none:{tmp_path}/one:{tmp_path}/two"}
    assert host.execute(lambda plan: plan.env(env).argv(["tool"]))[1] == b"two\n"
    with pytest.raises(AgentRefusal) as caught:
        host.execute(lambda plan: plan.env({"PATH": f"{tmp_path}/one"}).argv(["tool"]))
    assert caught.value.code == errno.EACCES


def test_nothing_of_the_agent_leaks_into_a_program(host: Host) -> None:
    script = "ls /proc/self/fd | tr '\\n' ' '; env; umask; grep -E 'Sig(Blk|Ign)' /proc/self/status; ulimit -Sn"
    _, out, _ = host.execute(lambda plan: plan.env({"A": "1"}).env({"B": "2"}).argv(["sh", "-c", script]))
    text = out.decode()
    assert text.startswith("0 1 2 3 ")  # 3 is ls's own
    assert "A=1\n" in text
    assert "B=2\n" in text
    assert "PATH" not in text
    assert "0022\n" in text
    assert text.count(f"{0:016x}") == 2
    assert text.endswith("1024\n")


def test_a_process_id_is_unique_and_so_are_streams(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("one", base).argv(["sleep", "100"]))
    for name, streams in (("one", base + 8), ("two", base), ("two", base + 2), ("two", base - 2)):
        with pytest.raises(AgentRefusal) as caught:
            host.start(host.program(name, streams).argv(["true"]))
        assert caught.value.code == errno.EEXIST
    with pytest.raises(AgentRefusal) as caught:
        host.ask(Method.FORGET, "one")
    assert caught.value.code == errno.EBUSY
    host.ask(Method.SIGNAL, "one", 9, "one")
    assert host.finish("one", base)[0] == 137
    with pytest.raises(AgentRefusal) as caught:
        host.ask(Method.SIGNAL, "one", 9, "one")
    assert caught.value.code == errno.ESRCH


def test_list_tells_of_living_and_dead(host: Host) -> None:
    base = host.new_base()
    pid = host.start(inside(host.program("l", base)).argv(["sh", "-c", "echo hello; exit 4"]))
    host.pump(lambda: "l" in host.exits and host.ended(base))
    host.ask(Method.PING)  # the acknowledgements are on another port: give them a moment
    host.pump(lambda: host.states()["l"][5] == b"7")
    state, listed, code, streams, received, acked, made, *_, finished, age = host.states()["l"]
    assert (state, int(listed), code, int(streams), received) == (b"exited", pid, b"4", base, b"0")
    assert (acked, made) == (b"7", b"7")
    assert abs(int(finished) / 1e9 - time.time()) < 60
    assert 0 <= int(age) < 60_000  # milliseconds since its end
    host.finish("l", base)


def test_the_namespaces_init(host: Host) -> None:
    script = "echo $$; (sleep 0.1 & ) ; ps -o pid,stat | grep -c Z; kill -USR1 1; sleep 5 & wait"
    base = host.new_base()
    host.start(inside(host.program("i", base)).argv(["sh", "-c", f"trap 'echo got; exit 3' USR1; {script}"]))
    code, out, _ = host.finish("i", base)
    assert code == 3
    assert out.split()[0] == b"2"
    assert out.split()[-1] == b"got"


def test_the_end_of_the_main_process_ends_all(host: Host, tmp_path: Path) -> None:
    mark = f"9{os.getpid()}.5"
    code, _, _ = host.execute(lambda plan: inside(plan).argv(["sh", "-c", f"setsid sleep {mark} & exit 0"]))
    assert code == 0
    assert subprocess.run(["pgrep", "-f", f"^sleep {mark}"], check=False, stdout=subprocess.DEVNULL).returncode == 1


def test_signal_all_reaches_every_process_of_the_container(host: Host) -> None:
    base = host.new_base()
    inner = "trap 'echo inner; exit' TERM; echo ready; while :; do sleep 0.05; done"
    script = f'trap : TERM; sh -c "{inner}" & wait; wait; echo main'
    host.start(inside(host.program("a", base)).argv(["sh", "-c", script]))
    host.pump(lambda: b"ready" in host.output(base + 1))
    host.ask(Method.SIGNAL, "a", signal.SIGTERM, "all")
    code, out, _ = host.finish("a", base)
    assert code == 0
    assert b"inner\n" in out
    assert b"main\n" in out


def test_rlimits(host: Host) -> None:
    plan = lambda p: p.add(Op.RLIMIT, 7, 100, 200).add(Op.RLIMIT, 4, 0, "0").add(Op.UMASK, "027")  # noqa: E731
    _, out, _ = host.execute(lambda p: plan(p).argv(["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c; umask"]))
    assert out.split() == [b"100", b"200", b"0", b"0027"]


def test_users(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")

    def who(*user: str, env: dict[str, str] | None = None) -> list[str]:
        script = 'echo $(id -u) $(id -g) $(id -G) "$HOME" "$USER"'
        code, out, err = host.execute(
            lambda p: contained(p, root, **(env or {})).add(Op.USER, *user).argv(["sh", "-c", script])
        )
        assert code == 0, err
        return out.decode().split()

    assert who("alice") == ["1001", "100", "100", "10", "/home/alice", "alice"]
    assert who("1001") == who("alice")
    assert who("alice:audio") == ["1001", "63", "63", "/home/alice", "alice"]
    assert who("4242") == ["4242", "0", "0", "/"]
    assert who("4242:4343", "audio", "77") == ["4242", "4343", "4343", "63", "77", "/"]
    assert who("root", env={"HOME": "/set"}) == ["0", "0", "0", "/set", "root"]
    assert who("alice:audio:all") == ["1001", "63", "63", "10", "/home/alice", "alice"]
    assert who("1001:4343:all", "77") == ["1001", "4343", "4343", "10", "77", "/home/alice", "alice"]
    assert who("alice::all") == who("alice")
    assert who("alice::none", "77") == ["1001", "100", "100", "77", "/home/alice", "alice"]
    assert who("0::none") == who("0")
    for bad in ("nobody-here", "alice:nogroup", "-1", "4294967295", "alice:audio:some"):
        with pytest.raises(AgentRefusal) as caught:
            who(bad)
        assert caught.value.text.startswith("USER: no ")
        assert caught.value.code == errno.ENOENT


def test_the_answer_tells_whom_a_program_begins_as(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")

    def told(number: int, *user: str) -> bytes:
        base = host.new_base()
        plan = contained(host.program(f"who{number}", base), root)
        plan = (plan.add(Op.USER, *user) if user else plan).argv(["sh", "-c", "grep ^Groups: /proc/self/status"])
        (record,) = host.answer(host.post(Method.START, plan.encode()))
        groups = host.finish(f"who{number}", base)[1].split()[1:]
        assert sorted(groups, key=int) == sorted(record.args[1].split()[2:], key=int)
        return record.args[1]

    assert told(1, "alice:audio:all", "77") == b"1001 63 63 10 77"
    assert told(2) == b"0 0 0"


def test_a_user_may_reopen_its_streams(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")
    plan = lambda p: contained(p, root).add(Op.USER, "alice")  # noqa: E731
    assert host.execute(lambda p: plan(p).argv(["sh", "-c", "echo again > /proc/self/fd/1"])) == (0, b"again\n", b"")


@pytest.mark.parametrize("user", ["0", "1001"])
def test_capabilities(host: Host, tmp_path: Path, user: str) -> None:
    root = tiny_root(tmp_path / "r")
    caps = 1 << 0 | 1 << 10 | 1 << 5  # chown, bind service, kill
    plan = lambda p: contained(p, root).add(Op.USER, user).add(Op.CAPS, *[f"{caps:x}"] * 4, f"{1 << 10:x}").add(Op.NNP)  # noqa: E731
    _, out, err = host.execute(lambda p: plan(p).argv(["grep", "-E", "^(Cap|NoNew)", "/proc/self/status"]))
    found = {line.split(":")[0]: line.split()[1] for line in out.decode().splitlines()}
    assert not err
    assert int(found["CapBnd"], 16) == caps
    assert int(found["CapInh"], 16) == caps
    assert int(found["CapAmb"], 16) == 1 << 10
    # execve(2): root gets all it may have, others what is ambient.
    assert int(found["CapEff"], 16) == int(found["CapPrm"], 16) == (caps if user == "0" else 1 << 10)
    assert found["NoNewPrivs"] == "1"


def deny(number: int, code: int) -> bytes:
    """A filter that answers one system call with an errno."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050000 | code), (0x06, 0, 0, 0x7FFF0000)]
    return b"".join(struct.pack("=HBBI", *step) for step in steps)


@pytest.mark.parametrize("nnp", [True, False])
def test_seccomp(host: Host, tmp_path: Path, nnp: bool) -> None:
    root = tiny_root(tmp_path / "r")

    def plan(p: Plan) -> Plan:
        p = contained(p, root).add(Op.SECCOMP, deny(83, errno.EDOM)).add(Op.USER, "alice").add(Op.CAPS, *["0"] * 5)
        return p.add(Op.NNP) if nnp else p

    code, _, err = host.execute(lambda p: plan(p).argv(["busybox", "mkdir", "/tmp/x"]))
    assert code == 1
    assert b"omain" in err  # EDOM's text
    with pytest.raises(AgentRefusal, match="SECCOMP"):
        host.execute(lambda p: p.add(Op.SECCOMP, b"1234567").argv(["true"]))


def test_cwd_is_made(host: Host, tmp_path: Path) -> None:
    assert (
        host.execute(lambda p: p.add(Op.CWD, f"{tmp_path}/new/dir").argv(["pwd"]))[1].decode()
        == f"{tmp_path}/new/dir\n"
    )


def test_a_working_directory_over_a_link_that_leads_nowhere(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    (root / "app").symlink_to("/srv/site")
    code, out, _ = host.execute(lambda p: contained(p, root).add(Op.CWD, "/app/here").argv(["pwd"]))
    assert (code, out) == (0, b"/srv/site/here\n")


def test_masked_and_protected_paths(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    (root / "secret").mkdir()
    (root / "secret" / "key").write_text("k")
    (root / "file").write_text("content")
    script = "ls /secret; cat /file; cat /etc/group >/dev/null && ! echo x 2>/dev/null >>/etc/group && echo held"

    def plan(p: Plan) -> Plan:
        contained(p, root).add(Op.MASK, "/secret").add(Op.MASK, "/file").add(Op.MASK, "/none")
        return p.add(Op.PROTECT, "/etc").add(Op.PROTECT, "/none").argv(["sh", "-c", script])

    assert host.execute(plan)[:2] == (0, b"held\n")


def test_protected_paths_keep_what_else_their_mount_allows(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")

    def plan(p: Plan) -> Plan:
        contained(p, root).add(Op.PROTECT, "/bin").add(Op.PROTECT, "/dev")
        return p.argv(["sh", "-c", "cat /proc/self/mountinfo; echo x 2>/dev/null >/bin/new"])

    _, out, _ = host.execute(plan)  # programs of /bin run
    found = {line.split()[4]: {*line.split()[5].split(",")} - {"relatime"} for line in out.decode().splitlines()}
    assert (found["/bin"], found["/dev"]) == ({"ro"}, {"ro", "nosuid"})
    assert not (root / "bin/new").exists()


def test_nodes_of_devices(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "root")
    plan = Plan().add(Op.OPENROOT, str(root)).add(Op.NODES, "/dev/zero", "/dev/given").add(Op.NODES, "/dev", "/all")
    host.run(plan)
    assert (root / "dev" / "given").stat().st_rdev == os.makedev(1, 5)
    assert (root / "all" / "null").stat().st_rdev == os.makedev(1, 3)
    assert not [path.name for path in (root / "all").iterdir() if path.name.startswith(("console", "ttyS"))]
    with pytest.raises(AgentRefusal, match="NODES /etc/passwd"):
        host.run(Plan().add(Op.OPENROOT, str(root)).add(Op.NODES, "/etc/passwd", "/dev/x"))


def first(plan: Plan) -> Plan:
    return plan.add(Op.UNSHARE, "mnt", "pid").add(Op.FIRST).mount("proc", "/proc", "proc")


def test_the_program_is_process_one(host: Host) -> None:
    code, out, _ = host.execute(lambda p: first(p).argv(["sh", "-c", "echo $$ $PPID; exit 3"]))
    assert (code, out) == (3, b"1 0\n")


def test_process_one_without_a_handler_ignores_signals_but_kill(host: Host) -> None:
    base = host.new_base()
    host.start(first(host.program("one", base)).argv([BUSYBOX, "sleep", "100"]))
    host.ask(Method.SIGNAL, "one", signal.SIGTERM, "one")
    with pytest.raises(AgentRefusal) as caught:  # none of ours is in there to pass it on
        host.ask(Method.SIGNAL, "one", signal.SIGTERM, "all")
    assert caught.value.code == errno.ENOTSUP
    code, out, _ = host.execute(lambda p: p.add(Op.JOIN, "one").argv([BUSYBOX, "sh", "-c", "kill -0 1; echo $?"]))
    assert (code, out) == (0, b"0\n")
    host.ask(Method.SIGNAL, "one", signal.SIGKILL, "all")
    assert host.finish("one", base)[0] == 137


def test_process_one_gets_the_signals_it_asked_for(host: Host) -> None:
    script = "trap 'echo heard; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    base = host.new_base()
    host.start(first(host.program("trap", base)).argv([BUSYBOX, "sh", "-c", script]))
    host.pump(lambda: b"ready" in host.output(base + 1))
    host.ask(Method.SIGNAL, "trap", signal.SIGTERM, "one")
    code, out, _ = host.finish("trap", base)
    assert (code, out) == (7, b"ready\nheard\n")


def test_devices_of_a_control_group(host: Host) -> None:
    name = f"hydev{os.getpid()}"
    rules = ("c *:* m", "c 1:3 rwm", "c 5:0 rwm", "/dev/zero r")
    script = """
        echo x >/dev/null && echo null; head -c1 /dev/zero | wc -c; echo x 2>&- >/dev/zero || echo not written
        head -c1 /dev/urandom 2>&- | wc -c; mknod $0 c 1 9 && ! head -c1 $0 2>&- && echo made; rm $0"""
    node = f"/tmp/{name}"

    def plan(p: Plan) -> Plan:
        return p.add(Op.CGROUP, name).add(Op.DEVICES, name, *rules).argv(["sh", "-c", script, node])

    try:
        code, out, err = host.execute(plan)
        assert (code, out.split(b"\n")) == (0, [b"null", b"1", b"not written", b"0", b"made", b""]), err
        with pytest.raises(AgentRefusal, match="DEVICES c 1:3 loud"):
            host.run(Plan().add(Op.DEVICES, name, "c 1:3 loud"))
    finally:
        host.run(Plan().add(Op.REMOVE, str(cgroup2() / name)))


def test_cgroups_and_join(host: Host) -> None:
    name = f"hytest{os.getpid()}"
    base = host.new_base()
    try:
        host.start(inside(host.program("c", base).add(Op.CGROUP, f"{name}/box")).argv(["sleep", "100"]))
        assert len((cgroup2() / name / "box" / "cgroup.procs").read_text().split()) == 2
        stats = {(r.args[0], r.args[1]) for r in host.ask(Method.STATS)}
        assert (b"c", b"cpu.usage_usec") in stats
        assert (b"vm", b"memory.total") in stats
        script = (
            "cat /proc/self/cgroup; for p in self 2; do readlink /proc/$p/ns/mnt /proc/$p/ns/pid; done; echo $$; exit 5"
        )
        code, out, _ = host.execute(lambda p: p.add(Op.JOIN, "c").argv(["sh", "-c", script]), name="e")
        lines = out.decode().splitlines()
        assert code == 5
        assert "0::/" in lines  # its cgroup is the root of its cgroup namespace
        assert lines[-5:-3] == lines[-3:-1]
        assert lines[-1] == "3"
        host.ask(Method.SIGNAL, "c", 9, "all")
        assert host.finish("c", base)[0] == 137
    finally:
        host.run(Plan().add(Op.REMOVE, str(cgroup2() / name)))
    assert not (cgroup2() / name).exists()
    for bad in ("", "../x", "a/../../b", "/x", "a/.."):
        with pytest.raises(AgentRefusal):
            host.run(Plan().add(Op.CGROUP, bad))


def test_a_shared_pid_namespace(host: Host) -> None:
    name = f"hypid{os.getpid()}"
    stay = Plan().add(Op.PROCESS, "stay").add(Op.UNSHARE, "mnt", "pid").add(Op.FIRST)
    host.start(stay.argv([str(agent_binary()), "--stay"]))

    def shared(process: str, base: int) -> Plan:
        plan = host.program(process, base).add(Op.CGROUP, f"{name}/{process}").add(Op.PIDNS, "stay")
        return plan.add(Op.UNSHARE, "mnt").mount("proc", "/proc", "proc")

    one, two = host.new_base(), host.new_base()
    try:
        # It leaves an orphan in a session of its own, which holds no stream.
        orphan = "setsid sleep 1000 </dev/null >/dev/null 2>&1 & echo on; exec sleep 1000"
        host.start(shared("one", one).argv(["sh", "-c", orphan]))
        host.pump(lambda: host.output(one + 1) == b"on\n")
        script = "kill -TERM 1; kill -0 1 && ps -o args | grep -c '[s]leep 1000'; sh -c 'sleep 0 & exec true'"
        host.start(shared("two", two).argv([BUSYBOX, "sh", "-c", script]))
        code, out, _ = host.finish("two", two)
        assert (code, out) == (0, b"2\n")
        code, out, _ = host.execute(lambda p: p.add(Op.JOIN, "one").argv(["sh", "-c", "cat /proc/1/comm; echo $$"]))
        assert out.splitlines()[0] == b"hyper-agent"
        assert int(out.splitlines()[1]) > 2
        with pytest.raises(AgentRefusal) as caught:
            host.ask(Method.SIGNAL, "one", signal.SIGTERM, "all")
        assert caught.value.code == errno.ENOTSUP
        host.ask(Method.SIGNAL, "one", signal.SIGTERM, "one")
        assert host.finish("one", one)[0] == 143
        assert (cgroup2() / name / "one" / "cgroup.procs").read_text() == ""
        assert host.states()["stay"][0] == b"running"
        for steps in (
            [(Op.PIDNS, "stay")],
            [(Op.CGROUP, name), (Op.PIDNS, "stay"), (Op.UNSHARE, "pid")],
            [(Op.CGROUP, name), (Op.PIDNS, "nobody")],
        ):
            plan = host.program("bad", host.new_base())
            for op, word in steps:
                plan.add(op, word)
            with pytest.raises(AgentRefusal):
                host.start(plan.argv(["true"]))
    finally:
        host.ask(Method.SIGNAL, "stay", signal.SIGKILL, "all")
        host.pump(lambda: "stay" in host.exits)
        host.ask(Method.FORGET, "stay")
        host.run(Plan().add(Op.REMOVE, str(cgroup2() / name)))


def test_an_exec_dies_with_its_container(host: Host) -> None:
    base, second = host.new_base(), host.new_base()
    host.start(inside(host.program("c", base)).argv(["sleep", "100"]))
    host.start(host.program("e", second).add(Op.JOIN, "c").argv(["sh", "-c", "sleep 100 & echo on; wait"]))
    host.pump(lambda: host.output(second + 1) == b"on\n")
    host.ask(Method.SIGNAL, "c", 15, "one")
    assert host.finish("e", second)[0] == 137
    assert host.finish("c", base)[0] == 143


def test_signals_to_an_exec_stay_with_it(host: Host) -> None:
    base, second = host.new_base(), host.new_base()
    host.start(inside(host.program("c", base)).argv(["sleep", "100"]))
    host.start(host.program("e", second).add(Op.JOIN, "c").argv(["sh", "-c", "sleep 100 & wait"]))
    host.ask(Method.SIGNAL, "e", 9, "all")
    assert host.finish("e", second)[0] == 137
    assert host.states()["c"][0] == b"running"
    host.ask(Method.SIGNAL, "c", 9, "one")
    host.finish("c", base)


def test_a_failed_start_leaves_nothing(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")
    before = len(Path("/proc/self/mountinfo").read_text().splitlines())
    with pytest.raises(AgentRefusal):
        host.execute(lambda p: contained(p, root).argv(["/bin/none"]))
    with pytest.raises(AgentRefusal, match="MOUNT bad on /nowhere"):
        host.execute(lambda p: inside(p).mount("bad", "/nowhere", "tmpfs").argv(["true"]))
    assert host.states() == {}
    assert len(Path("/proc/self/mountinfo").read_text().splitlines()) == before


# Terminals.


def tty(plan: Plan, rows: int = 24, columns: int = 80) -> Plan:
    return plan.add(Op.TTY, rows, columns)


def test_a_terminal(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")
    script = "stty size; tty; test -c /dev/console && echo console > /dev/console; echo x > /dev/tty; ls -l /dev/pts/0"
    plan = lambda p: tty(contained(p, root), 33, 99).add(Op.USER, "alice").argv(["sh", "-c", script])  # noqa: E731
    code, out, err = host.execute(plan, tty=True)
    assert (code, err) == (0, b"")
    lines = out.decode().replace("\r", "").splitlines()
    assert lines[:4] == ["33 99", "/dev/pts/0", "console", "x"]
    assert " alice " in lines[4]


def test_a_terminal_is_resized_and_its_session_told(host: Host) -> None:
    base = host.new_base()
    script = "trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.05; done"
    host.start(tty(inside(host.program("t", base, stdin="open"))).argv(["sh", "-c", script]))
    host.pump(lambda: b"ready" in host.output(base + 1))
    host.ask(Method.RESIZE, "t", 50, 132)
    code, out, _ = host.finish("t", base, tty=True)
    assert (code, out) == (6, b"ready\r\n50 132\r\n")


def test_keys_and_the_end_of_input(host: Host) -> None:
    base = host.new_base()
    host.start(tty(inside(host.program("t", base, stdin="open"))).argv(["cat"]))
    host.feed(base, b"hello\n")
    code, out, _ = host.finish("t", base, tty=True)
    assert (code, out) == (0, b"hello\r\nhello\r\n")
    base = host.new_base()
    host.start(tty(inside(host.program("t", base, stdin="open"))).argv(["sleep", "100"]))
    host.feed(base, b"\x03", end=False)  # ^C
    assert host.finish("t", base, tty=True)[0] == 128 + signal.SIGINT


def test_a_terminal_in_a_joined_container(host: Host, tmp_path: Path) -> None:
    root = tiny_root(tmp_path / "r")
    base = host.new_base()
    host.start(contained(host.program("c", base), root).argv(["sleep", "100"]))
    plan = lambda p: tty(p.add(Op.JOIN, "c")).argv(["sh", "-c", "tty; stty size; ls /dev/pts; exit 8"])  # noqa: E731
    code, out, _ = host.execute(plan, name="e", tty=True, stdin="open")
    assert (code, out.split()) == (8, [b"/dev/pts/0", b"24", b"80", b"0", b"ptmx"])
    host.ask(Method.SIGNAL, "c", 9, "one")
    host.finish("c", base)


def test_resize_without_terminal(host: Host) -> None:
    base = host.new_base()
    host.start(host.program("n", base).argv(["sleep", "100"]))
    with pytest.raises(AgentRefusal) as caught:
        host.ask(Method.RESIZE, "n", 1, 1)
    assert caught.value.code == errno.ENOTTY
    host.ask(Method.SIGNAL, "n", 9, "one")
    host.finish("n", base)


# The end.


@pytest.mark.parametrize("how", ["request", "signal"])
def test_shutdown_asks_then_kills(how: str) -> None:
    with hosted_agent() as agent, agent.connect(fresh=True) as host:
        polite, stubborn = host.new_base(), host.new_base()
        host.start(
            inside(host.program("polite", polite)).argv(
                ["sh", "-c", "trap 'echo bye; exit 0' TERM; echo on; while :; do sleep 0.05; done"]
            )
        )
        host.start(
            inside(host.program("stubborn", stubborn)).argv(
                ["sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.05; done"]
            )
        )
        host.pump(lambda: host.output(polite + 1) == host.output(stubborn + 1) == b"on\n")
        if how == "request":
            host.ask(Method.SHUTDOWN, 300)
        else:
            agent.process.send_signal(signal.SIGUSR2)
        host.pump(lambda: len(host.exits) == 2, timeout=20)
        assert host.exits == {"polite": 0, "stubborn": 137}
        assert host.output(polite + 1) == b"on\nbye\n"
        assert agent.process.wait(60) == 0
