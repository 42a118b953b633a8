"""COPY and ADD: files of the context, of other stages and images, here-documents, downloads and archives."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import unquote, urlsplit

from hyperd.build import guest
from hyperd.build.cache import chain
from hyperd.build.content import WORTHWHILE, ContentTokens
from hyperd.build.context import Context, Member, Node, digest_of
from hyperd.build.dockerfile import Instruction
from hyperd.build.heredocs import read_mark
from hyperd.build.state import Bench
from hyperd.container.fetch import check_allowed, fetch
from hyperd.errors import HyperError, InvalidInput, NotSupported
from hyperd.image.layer.compression import decompressed
from hyperd.image.layer.tarstream import FILE, TarReader

_MODE = re.compile(r"[0-7]{1,5}|[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+(?:,[ugoa]*(?:[-+=](?:[rwxXst]*|[ugo]))+)*")
_URL = re.compile(r"https?://", re.IGNORECASE)
_GIT = re.compile(r"(git@|git://|https?://.*\.git(#|$))", re.IGNORECASE)
_SNIFF = 1 << 18


@dataclass(kw_only=True)
class _Load:
    """What one instruction brings: files, and archives that are unpacked."""

    members: list[Member] = field(default_factory=list)
    archives: list[Node] = field(default_factory=list)
    matches: int = 0
    single: bool = False


class Copying:
    """Carries out COPY and ADD on a stage."""

    def __init__(self, bench: Bench) -> None:
        self._runner = bench
        self._tools = bench.tools

    def carry_out(self, instruction: Instruction) -> None:
        """Carry out one of them. Errors: InvalidInput, NotSupported; those of the guest."""
        runner = self._runner
        flags = {name: runner.word(value) for name, value in instruction.flags.items()}
        mode = flags.get("chmod", "")
        if mode and not _MODE.fullmatch(mode):
            raise InvalidInput(
                f"line {instruction.line}: --chmod={mode[:40]} is no mode", resolution="such as 644 or u=rwX,go=rX"
            )
        if "checksum" in flags or "keep-git-dir" in flags:
            raise NotSupported(f"line {instruction.line}: ADD --checksum and --keep-git-dir are not supported")
        texts = [word for word in instruction.words[:-1] if instruction.heredocs and read_mark(word) is not None]
        if len(texts) != len(instruction.heredocs):
            raise InvalidInput(f"line {instruction.line}: a here-document stands where no source is")
        *sources, target = [word if word in texts else runner.word(word) for word in instruction.words]
        words = [*sources, target]
        if not target or any(not source or "\0" in source for source in words):
            raise InvalidInput(f"line {instruction.line}: {instruction.verb} needs names that are not empty")
        path = runner.path(target)
        if "from" in flags:
            self._between(instruction, flags["from"], sources, path, flags)
        else:
            self._from_context(instruction, sources, path, flags)

    def _between(
        self, instruction: Instruction, source: str, patterns: Sequence[str], target: str, flags: dict[str, str]
    ) -> None:
        tools, state = self._tools, self._runner.state
        origin = tools.find_source(source)
        owner, mode = flags.get("chown") or "0:0", flags.get("chmod") or "-"
        if len(patterns) > 1 and not target.endswith("/"):
            raise _needs_directory(instruction)
        rooted = [posixpath.normpath(posixpath.join("/", pattern)).replace("//", "/") for pattern in patterns]
        key = chain(state.key, instruction.verb, origin.key, rooted, target, owner, mode)

        def work(directory: str) -> None:
            guest.copy_between(
                tools.workshop.agent,
                source=tools.workshop.lower(origin.layers),
                lower=tools.workshop.lower(state.layers),
                work=directory,
                target=target,
                owner=owner,
                mode=mode,
                patterns=rooted,
                cancelled=tools.cancelled,
            )

        self._runner.make(key, _history(instruction, "multi", key, target), work)

    def _from_context(
        self, instruction: Instruction, sources: Sequence[str], target: str, flags: dict[str, str]
    ) -> None:
        tools, state = self._tools, self._runner.state
        load = self._gather(instruction, sources)
        if (load.matches > 1 or len(sources) > 1) and not target.endswith("/"):
            raise _needs_directory(instruction)
        owner, mode = flags.get("chown") or "0:0", flags.get("chmod") or "-"
        archives = [node.digest for node in load.archives]
        key = chain(state.key, instruction.verb, digest_of(load.members), load.single, archives, target, owner, mode)

        def work(directory: str) -> ContentTokens | None:
            lower = tools.workshop.lower(state.layers)
            worthwhile = sum(member.node.size for member in load.members) >= WORTHWHILE
            tokens = ContentTokens(tools.context) if worthwhile and not load.archives else None
            if load.members or not load.archives:
                guest.unpack(
                    tools.workshop.agent,
                    tools.context.tar(load.members, instead=tokens.of if tokens is not None else _itself),
                    lower=lower,
                    work=directory,
                    target=target,
                    owner=owner,
                    mode=mode,
                    single=load.single,
                    copy=True,
                    cancelled=tools.cancelled,
                )
            for node in load.archives:
                chunks = decompressed(tools.context.content(node), max_bytes=tools.context.max_bytes)
                guest.unpack(
                    tools.workshop.agent,
                    chunks,
                    lower=lower,
                    work=directory,
                    target=target if target.endswith("/") else f"{target}/",
                    owner=flags.get("chown") or "-",
                    mode=mode,
                    cancelled=tools.cancelled,
                )
            return tokens

        self._runner.make(key, _history(instruction, "file" if load.single else "multi", key, target), work)

    def _gather(self, instruction: Instruction, sources: Sequence[str]) -> _Load:
        load, context = _Load(), self._tools.context
        heredocs = iter(instruction.heredocs)
        singles = 0
        for source in sources:
            if instruction.heredocs and read_mark(source) is not None:
                here = next(heredocs)
                if "/" in here.name or here.name in (".", ".."):
                    raise InvalidInput(f"line {instruction.line}: {here.name[:100]!r} cannot be the name of a file")
                text = here.content if here.literal else self._runner.text(here.content)
                node = context.add_file("", iter([text.encode("utf-8", "surrogateescape")]))
                load.members.append(Member(name=here.name, node=node))
                load.matches += 1
                singles += 1
                continue
            if instruction.verb == "ADD" and (_GIT.match(source) or _URL.match(source)):
                load.members.append(self._download(source))
                load.matches += 1
                singles += 1
                continue
            for match in context.select(source):
                load.matches += 1
                if instruction.verb == "ADD" and match.single and is_archive(context, match.members[0].node):
                    load.archives.append(match.members[0].node)
                    continue
                singles += match.single
                load.members += match.members
        load.single = load.matches == 1 and singles == 1
        return load

    def _download(self, url: str) -> Member:
        check_allowed(f"ADD {url[:200]}", may_fetch=self._tools.may_fetch, instead="send the file in the context")
        if _GIT.match(url):
            raise NotSupported("ADD of a git repository is not supported", resolution="clone it in a RUN step")
        name = posixpath.basename(unquote(urlsplit(url).path))
        if not name or name in (".", ".."):
            raise InvalidInput(f"cannot determine filename from url: {url[:300]}")
        with TemporaryDirectory(dir=self._tools.context.directory) as directory:
            path = Path(directory) / "download"
            fetch(url, path, what="ADD")
            with path.open("rb") as file:
                node = self._tools.context.add_file("", iter(lambda: file.read(_SNIFF), b""), mode=0o600)
        return Member(name=name, node=replace(node, mode=0o600))


def _history(instruction: Instruction, kind: str, key: str, target: str) -> str:
    """Return what the image's history says; with the key, so that a text stands for one content (``ImageSteps``)."""
    return f"/bin/sh -c #(nop) {instruction.verb} {kind}:{key[:32]} in {target} "


def _itself(_node: Node) -> bytes:
    return b""


def is_archive(context: Context, node: Node) -> bool:
    """Tell whether a file is a tar, compressed or not: ADD unpacks it."""
    if node.kind != FILE or node.size == 0:
        return False
    pieces = decompressed(context.content(node), max_bytes=context.max_bytes)
    try:
        head = iter([next(pieces, b"")])
        return next(iter(TarReader(lambda: next(head, b""), max_entries=10)), None) is not None
    except HyperError:  # whatever it is, it is no archive
        return False


def _needs_directory(instruction: Instruction) -> InvalidInput:
    return InvalidInput(
        f"When using {instruction.verb} with more than one source file, "
        "the destination must be a directory and end with a /"
    )
