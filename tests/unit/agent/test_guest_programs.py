"""Programs that the agent starts, run on this machine: processes, users, namespaces, control groups, terminals."""

from __future__ import annotations

import errno
import os
import signal
import struct
import subprocess
import time
from pathlib import Path

import pytest

from hyperd.agent.frames import Method
from hyperd.agent.plan import Op, Plan
from tests.support.agent import AgentRefusal, Host
from tests.support.hosted import BUSYBOX, agent_binary, cgroup2, contained, hosted_agent, inside, tiny_root

pytestmark = pytest.mark.root


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
    def plan(p: Plan) -> Plan:
        p.add(Op.RLIMIT, 7, 100, 200).add(Op.RLIMIT, 4, 0, "0").add(Op.UMASK, "027")
        return p.argv(["sh", "-c", "ulimit -Sn; ulimit -Hn; ulimit -c; umask"])

    _, out, _ = host.execute(plan)
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

    def plan(p: Plan) -> Plan:
        return contained(p, root).add(Op.USER, "alice").argv(["sh", "-c", "echo again > /proc/self/fd/1"])

    assert host.execute(plan) == (0, b"again\n", b"")


@pytest.mark.parametrize("user", ["0", "1001"])
def test_capabilities(host: Host, tmp_path: Path, user: str) -> None:
    root = tiny_root(tmp_path / "r")
    caps = 1 << 0 | 1 << 10 | 1 << 5  # chown, bind service, kill

    def plan(p: Plan) -> Plan:
        contained(p, root).add(Op.USER, user).add(Op.CAPS, *[f"{caps:x}"] * 4, f"{1 << 10:x}").add(Op.NNP)
        return p.argv(["grep", "-E", "^(Cap|NoNew)", "/proc/self/status"])

    _, out, err = host.execute(plan)
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

    def plan(p: Plan) -> Plan:
        return tty(contained(p, root), 33, 99).add(Op.USER, "alice").argv(["sh", "-c", script])

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

    def plan(p: Plan) -> Plan:
        return tty(p.add(Op.JOIN, "c")).argv(["sh", "-c", "tty; stty size; ls /dev/pts; exit 8"])

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
