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

from hyperd.guest.image import build_agent
from tests.support.agent import Host, Memory

TREE = Path(__file__).resolve().parents[2]


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
