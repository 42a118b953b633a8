"""The agent in hosted mode: two unix sockets on this machine instead of a VM's ports."""

from __future__ import annotations

import fcntl
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from hyperd.agent.plan import MS_BIND, MS_NOSUID, MS_REC, Op, Plan
from hyperd.guest.image import build_agent
from tests.support.agent import Host, Memory

TREE = Path(__file__).resolve().parents[2]
BUSYBOX = "/bin/busybox"


@cache
def agent_binary() -> Path:
    """Build the agent (only what changed) and give its path; processes that want it at the same time wait."""
    place = TREE / ".cache" / "agent"
    place.mkdir(parents=True, exist_ok=True)
    with (place / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return build_agent(place)


def cgroup2() -> Path:
    """Where cgroup v2 is mounted on this machine."""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        words = line.split()
        if words[words.index("-") + 1] == "cgroup2":
            return Path(words[4])
    raise AssertionError("this machine has no cgroup v2 mount")


class HostedAgent:
    """A running agent."""

    def __init__(self, directory: Path) -> None:
        self.control, self.stream = directory / "c", directory / "s"
        self.process = subprocess.Popen(
            [agent_binary(), "--test", self.control, self.stream, cgroup2()], stdin=subprocess.DEVNULL
        )

    def connect(self, *, fresh: bool = False, memory: Memory | None = None) -> Host:
        """Connect as a host does."""
        return Host(self.control, self.stream, fresh=fresh, memory=memory)


@contextmanager
def hosted_agent() -> Iterator[HostedAgent]:
    """Run an agent; whatever it started is gone afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="hy", dir="/tmp"))
    agent = HostedAgent(directory)
    try:
        yield agent
    finally:
        agent.process.terminate()
        try:
            agent.process.wait(90)
        finally:
            agent.process.kill()
            agent.process.wait()
            shutil.rmtree(directory)


def inside(plan: Plan) -> Plan:
    """Add namespaces with a /proc of their own."""
    return plan.add(Op.UNSHARE, "mnt", "pid", "cgroup").mount("proc", "/proc", "proc")


def tiny_root(path: Path) -> Path:
    """Make a root with busybox, users and groups."""
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
    """Add a small container below ``root``."""
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
