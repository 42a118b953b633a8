"""``RUN --mount``: files of the context, of stages and images, caches and memory, for one step only.

Reference: Docker's (https://docs.docker.com/reference/dockerfile/#run---mount). All of it lies on the build's disk in
its VM: a cache lasts as long as the build, and what is bound is a copy, so a step can write to it without harm.
"""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyperd.agent.frames import Method
from hyperd.agent.plan import MS_NODEV, MS_NOSUID, Plan
from hyperd.build import guest
from hyperd.build.context import Match, digest_of
from hyperd.build.mountflags import Mount, parse_mount, wrong_mount
from hyperd.build.state import Bench, StageState
from hyperd.container.plan import IN_ROOT, GuestProgram
from hyperd.container.volumes import Mounted
from hyperd.errors import AgentError, InvalidInput
from hyperd.guest import layout
from hyperd.image.layer import tarstream
from hyperd.image.layer.tarstream import BLOCK, DIRECTORY, Entry

MAX_MOUNTS = 32  # of one step


@dataclass(frozen=True, kw_only=True)
class Memory(GuestProgram):
    """A tmpfs; ``source`` is its options."""

    def add_to(self, plan: Plan) -> None:
        """Append the steps."""
        plan.mkdir(self.target)
        plan.mount("tmpfs", IN_ROOT + self.target, "tmpfs", MS_NOSUID | MS_NODEV, self.source)


class Mounting:
    """The mounts of one RUN.

    Args:
        bench: the stage.
        texts: the flags' values.
        line: for messages.

    Errors: InvalidInput, NotSupported; those of finding a stage or an image.

    """

    def __init__(self, bench: Bench, texts: Sequence[str], *, line: int) -> None:
        if len(texts) > MAX_MOUNTS:
            raise wrong_mount(line, f"more than {MAX_MOUNTS} of them")
        self._tools = bench.tools
        self._targets: dict[int, str] = {}
        self._mounts = [parse_mount(bench.word(text), line=line) for text in texts]
        self._matches: dict[int, Match] = {}
        self._origins: dict[int, StageState] = {}
        for index, mount in enumerate(self._mounts):
            self._targets[index] = bench.path(mount.target).rstrip("/")
            if mount.kind == "bind":
                self._find(index, mount)

    @property
    def identity(self) -> list[object]:
        """What the step's key has of them; what is in a cache does not count."""
        found: list[object] = []
        for index, mount in enumerate(self._mounts):
            options = {key: value for key, value in mount.options.items() if key not in ("target", "sharing")}
            content = digest_of(self._matches[index].members) if index in self._matches else ""
            origin = self._origins[index].key if index in self._origins else ""
            found.append([mount.kind, self._targets[index], mount.read_only, options, content, origin])
        return found

    def prepare(self, work: str) -> tuple[list[Mounted], list[Memory]]:
        """Bring into the guest what is mounted. ``work``: the step's directory. Errors: those of the guest."""
        mounted, memory = [], []
        for index, mount in enumerate(self._mounts):
            target = self._targets[index]
            if mount.kind == "tmpfs":
                size = f",size={mount.options['size'].lower().rstrip('b')}" if "size" in mount.options else ""
                memory.append(Memory(target=target, source=f"mode=1777{size}"))
                continue
            is_file = False
            if mount.kind == "cache":
                source = self._cache(mount, target)
            else:
                source, is_file = self._copy(index, mount, f"{work}-m{index}")
            mounted.append(Mounted(source=source, path=target, read_only=mount.read_only, is_file=is_file))
        return sorted(mounted, key=lambda one: one.path.count("/")), memory

    def _find(self, index: int, mount: Mount) -> None:
        source, origin = mount.options.get("source", ""), mount.options.get("from", "")
        if origin:
            self._origins[index] = self._tools.find_source(origin)
            return
        matches = self._tools.context.select(source or "/")
        if len(matches) != 1:
            raise InvalidInput(f"RUN --mount: {source[:200]} is not one file or directory of the context")
        self._matches[index] = matches[0]

    def _copy(self, index: int, mount: Mount, work: str) -> tuple[str, bool]:
        tools = self._tools
        made = f"{work}/upper/m"
        if index in self._matches:
            match = self._matches[index]
            self._unpack(tools.context.tar(match.members), work, single=match.single)
            return made, match.single
        origin = self._origins[index]
        guest.copy_between(
            tools.workshop.agent,
            source=tools.workshop.lower(origin.layers),
            lower=[],
            work=work,
            target="/m",
            owner="-",
            mode="-",
            patterns=[posixpath.normpath(posixpath.join("/", mount.options.get("source", "")))],
            cancelled=tools.cancelled,
        )
        try:
            tools.workshop.agent.request(Method.READFILE, [(0, ("", made, 0, 1))])
        except AgentError:
            return made, False
        return made, True

    def _cache(self, mount: Mount, target: str) -> str:
        """Return the directory of a cache, made when this build has none of its name."""
        name = hashlib.sha256((mount.options.get("id") or target).encode()).hexdigest()[:20]
        work = layout.container_dir(f"cache-{name}")
        if self._tools.workshop.caches.get(name) is None:
            options = mount.options
            entry = Entry(
                name=b"m/",
                kind=DIRECTORY,
                mode=int(options.get("mode", "755"), 8),
                uid=int(options.get("uid", "0")),
                gid=int(options.get("gid", "0")),
            )
            self._unpack(iter([tarstream.pack(entry, size=0), bytes(2 * BLOCK)]), work, single=False, target="/")
            self._tools.workshop.caches[name] = f"{work}/upper/m"
        return self._tools.workshop.caches[name]

    def _unpack(self, chunks: Iterable[bytes], work: str, *, single: bool, target: str = "") -> None:
        guest.unpack(
            self._tools.workshop.agent,
            chunks,
            lower=[],
            work=work,
            target=target or ("/m" if single else "/m/"),
            single=single,
            cancelled=self._tools.cancelled,
        )
