"""The agent itself, run on this machine: requests, plans and files (programs: test_guest_programs.py)."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hyperd.agent.frames import Frame, FrameType, Method, encode_records
from hyperd.agent.plan import MNT_DETACH, MS_BIND, Op, Plan
from hyperd.guest.image import agent_sources
from tests.support.agent import AgentRefusal, Host
from tests.support.hosted import HostedAgent, agent_binary, contained, tiny_root

pytestmark = pytest.mark.root


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
