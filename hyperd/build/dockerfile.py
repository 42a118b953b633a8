"""Dockerfiles: instructions as BuildKit's parser gives them, checked, and grouped into stages.

Reference: Docker's (https://docs.docker.com/reference/dockerfile/). The parser accepts unknown verbs and missing
arguments; they are refused here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from hyperd.build import heredocs
from hyperd.build.grammar import MAX_DOCKERFILE
from hyperd.build.heredocs import Heredoc
from hyperd.build.mountflags import parse_mount
from hyperd.errors import HostFault, InvalidInput, NotSupported, TooLarge

MAX_INSTRUCTIONS = 2000
_PARSE_SECONDS = 20.0
_DIRECTIVE = re.compile(r"#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*")
_STAGE_NAME = re.compile(r"[a-z][a-z0-9_.-]*")
# Least and most words, and the flags, of each instruction.
_SHAPES: dict[str, tuple[int, int, frozenset[str]]] = {
    "ADD": (2, 9999, frozenset({"chown", "chmod", "checksum", "link", "keep-git-dir"})),
    "ARG": (1, 9999, frozenset()),
    "CMD": (0, 9999, frozenset()),
    "COPY": (2, 9999, frozenset({"chown", "chmod", "from", "link"})),
    "ENTRYPOINT": (0, 9999, frozenset()),
    "ENV": (2, 9999, frozenset()),
    "EXPOSE": (1, 9999, frozenset()),
    "FROM": (1, 3, frozenset({"platform"})),
    "HEALTHCHECK": (1, 9999, frozenset({"interval", "timeout", "start-period", "start-interval", "retries"})),
    "LABEL": (2, 9999, frozenset()),
    "MAINTAINER": (1, 1, frozenset()),
    "ONBUILD": (0, 9999, frozenset()),
    "RUN": (1, 9999, frozenset({"mount", "network", "security"})),
    "SHELL": (1, 9999, frozenset()),
    "STOPSIGNAL": (1, 1, frozenset()),
    "USER": (1, 1, frozenset()),
    "VOLUME": (1, 9999, frozenset()),
    "WORKDIR": (1, 1, frozenset()),
}
# Flags of BuildKit, with the only value that means what happens here anyway.
_BUILDKIT: dict[str, dict[str, str]] = {
    "ADD": {"checksum": "", "keep-git-dir": "false", "unpack": "", "exclude": ""},
    "COPY": {"parents": "false", "exclude": ""},
    "RUN": {"network": "default", "security": "sandbox", "device": ""},
}
_WITH_HEREDOCS = frozenset({"ADD", "COPY", "ONBUILD", "RUN"})
_NOT_IN_ONBUILD = frozenset({"FROM", "MAINTAINER", "ONBUILD"})


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """One instruction.

    Args:
        verb: in capitals. words: its arguments, not expanded. exec_form: they were a JSON array.
        flags: ``--name=value`` by name; a flag without a value has ``true``.
        text: as written, lines joined. line: its number, from 1.
        trigger: what ONBUILD is to run later.
        mounts: values of ``--mount``, the only flag that comes several times.

    """

    verb: str
    words: tuple[str, ...] = ()
    exec_form: bool = False
    flags: dict[str, str] = field(default_factory=dict)
    text: str = ""
    line: int = 0
    heredocs: tuple[Heredoc, ...] = ()
    trigger: str = ""
    mounts: tuple[str, ...] = ()

    @property
    def shown(self) -> str:
        """The text as progress lines show it: one line."""
        return self.text.strip().split("\n", 1)[0] if self.heredocs else " ".join(self.text.split("\n")).strip()


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What one FROM begins. ``name`` is empty for one without AS."""

    start: Instruction
    base: str
    name: str
    platform: str
    steps: tuple[Instruction, ...]


@dataclass(frozen=True, kw_only=True)
class Dockerfile:
    """A whole file: ARGs before the first FROM, and stages."""

    arguments: tuple[Instruction, ...]
    stages: tuple[Stage, ...]
    escape: str

    @property
    def step_count(self) -> int:
        """How many steps the progress lines count."""
        return len(self.arguments) + sum(1 + len(stage.steps) for stage in self.stages)

    def stage_index(self, name: str, *, before: int) -> int:
        """Find a stage by name or number among the first ``before``; -1 when there is none."""
        for index in range(before - 1, -1, -1):
            if self.stages[index].name and self.stages[index].name == name.lower():
                return index
        if name.isascii() and name.isdigit() and int(name) < before:
            return int(name)
        return -1


def parse_dockerfile(data: bytes) -> Dockerfile:
    """Read a Dockerfile.

    Raises:
        InvalidInput: not a Dockerfile, with the line.
        TooLarge, NotSupported, HostFault: too long; a feature of BuildKit alone; the parser is missing.

    """
    text = data.decode("utf-8", "replace").removeprefix("\ufeff")
    instructions = parse_instructions(text)
    arguments: list[Instruction] = []
    stages: list[Stage] = []
    body: list[Instruction] = []
    for instruction in instructions:
        if instruction.verb == "FROM":
            _close(stages, body)
            body = [instruction]
        elif body:
            body.append(instruction)
        elif instruction.verb == "ARG":
            arguments.append(instruction)
        else:
            raise _wrong(instruction, "no build stage in current context: the first instruction must be FROM")
    _close(stages, body)
    if not stages:
        raise InvalidInput("the Dockerfile has no FROM")
    return Dockerfile(arguments=tuple(arguments), stages=tuple(stages), escape=_escape(text))


def parse_instructions(text: str) -> list[Instruction]:
    """Read instructions that need not be a whole Dockerfile. Errors: as ``parse_dockerfile``."""
    entries = _grammar(text)
    _check_words_apart(entries, text)
    found = [_checked(entry) for entry in entries]
    if len(found) > MAX_INSTRUCTIONS:
        raise TooLarge(f"a Dockerfile can have {MAX_INSTRUCTIONS} instructions", details=f"it has {len(found)}")
    return found


@lru_cache(maxsize=64)
def _parse(text: str) -> str:
    command = [sys.executable, "-P", "-m", "hyperd.build.grammar"]
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, timeout=_PARSE_SECONDS, check=False, cwd="/"
        )
    except subprocess.TimeoutExpired as error:
        raise InvalidInput("the Dockerfile takes too long to parse") from error
    if done.returncode == 1 and done.stdout:
        raise InvalidInput("Dockerfile parse error", details=done.stdout.decode("utf-8", "replace")[:1000])
    if done.returncode:
        raise HostFault(
            "the Dockerfile parser failed",
            details=done.stderr.decode("utf-8", "replace").strip()[-500:],
            resolution="is the package dockerfile installed?",
        )
    return done.stdout.decode()


def _grammar(text: str) -> list[dict[str, object]]:
    if len(text) > MAX_DOCKERFILE:
        raise TooLarge(f"a Dockerfile can have {MAX_DOCKERFILE} bytes")
    result: list[dict[str, object]] = json.loads(_parse(text))
    return result


def _checked(entry: dict[str, object]) -> Instruction:
    verb, text = str(entry["verb"]), str(entry["text"])
    documents, raw_words, raw_flags = entry["heredocs"], entry["words"], entry["flags"]
    if not isinstance(documents, list) or not isinstance(raw_words, list) or not isinstance(raw_flags, list):
        raise HostFault("the Dockerfile parser answers nonsense")
    words = tuple(str(word) for word in raw_words)
    number = entry["line"]
    if documents and verb in ("ADD", "COPY"):  # the words of here-documents can have blanks
        words = _after_flags(text)
    texts = _heredocs(verb, text, documents, number) if not entry["json"] else ()
    instruction = Instruction(
        verb=verb,
        words=words,
        exec_form=bool(entry["json"]),
        flags=_flags([str(flag) for flag in raw_flags]),
        text=text,
        line=number if isinstance(number, int) else 0,
        heredocs=texts,
        trigger=_trigger(text, texts) if verb == "ONBUILD" else "",
        mounts=tuple(str(flag).partition("=")[2] for flag in raw_flags if str(flag).startswith("--mount=")),
    )
    _check(instruction)
    return instruction


def _flags(raw: Sequence[str]) -> dict[str, str]:
    found = {}
    for flag in raw:
        name, equals, value = flag.removeprefix("--").partition("=")
        found[name] = value if equals else "true"
    return found


def _heredocs(verb: str, text: str, found: Sequence[Sequence[object]], line: object) -> tuple[Heredoc, ...]:
    """Return the here-documents of an instruction. Errors: NotSupported when it is not clear which there are."""
    if verb not in _WITH_HEREDOCS:
        return ()
    documents = heredocs.given(_first_line(text), found)
    if documents is None:
        raise NotSupported(
            f"Dockerfile line {line}: the parser does not see the here-documents that are written here",
            resolution="write the word behind << plain, in quotes as a whole, or put the text into a file",
        )
    return documents


def _check_words_apart(entries: Sequence[Mapping[str, object]], text: str) -> None:
    """Refuse ``<< WORD``: newer parsers take a here-document for it, this one takes its text for instructions."""
    lines = text.splitlines()
    for entry in entries:
        number = entry["line"]
        if entry["verb"] not in _WITH_HEREDOCS or entry["json"] or not isinstance(number, int):
            continue
        following = {line.lstrip("\t") for line in lines[number:]}
        if any(word in following for word in heredocs.apart(_first_line(str(entry["text"])))):
            raise NotSupported(
                f"Dockerfile line {number}: a blank between << and the word of a here-document is not supported",
                resolution="leave it out",
            )


def _first_line(text: str) -> str:
    return text.split("\n", 1)[0]


def _after_flags(text: str) -> tuple[str, ...]:
    """Return an instruction's words without its verb and its flags."""
    words = heredocs.raw_words(_first_line(text))[1:]
    while words and words[0].startswith("--"):
        words.pop(0)
    return tuple(words)


def _trigger(text: str, documents: Sequence[Heredoc]) -> str:
    parts = text.split(None, 1)
    return heredocs.with_texts(parts[1], documents) if len(parts) > 1 else ""


def _check(instruction: Instruction) -> None:
    verb = instruction.verb
    if verb not in _SHAPES:
        raise _wrong(instruction, f"unknown instruction: {verb}")
    least, most, flags = _SHAPES[verb]
    count = len(instruction.words)
    if verb == "ONBUILD":
        _check_trigger(instruction)
        return
    if count < least or (least == 1 and not instruction.words[0].strip()):
        raise _wrong(instruction, f"{verb} requires at least {least} argument{'s' if least != 1 else ''}")
    if count > most:
        raise _wrong(instruction, f"{verb} takes at most {most} argument{'s' if most != 1 else ''}")
    for name, value in instruction.flags.items():
        if name in _BUILDKIT.get(verb, {}) and value != _BUILDKIT[verb][name]:
            raise NotSupported(
                f"Dockerfile line {instruction.line}: {verb} --{name}={value[:40]} is not supported",
                resolution="leave it out",
            )
        if name not in flags:
            raise _wrong(instruction, f"unknown flag: {name}")
    if verb == "SHELL" and not instruction.exec_form:
        raise _wrong(instruction, "SHELL requires the arguments to be in JSON form")
    for text in instruction.mounts:
        if "$" not in text:  # else when its variables are known
            parse_mount(text, line=instruction.line)


def _check_trigger(instruction: Instruction) -> None:
    if not instruction.trigger:
        raise _wrong(instruction, "ONBUILD requires at least one argument")
    if instruction.trigger.split(None, 1)[0].upper() in _NOT_IN_ONBUILD:
        raise _wrong(
            instruction, f"{instruction.trigger.split(None, 1)[0].upper()} is not allowed as an ONBUILD trigger"
        )
    parse_instructions(instruction.trigger)


def _close(stages: list[Stage], body: list[Instruction]) -> None:
    if not body:
        return
    start, words = body[0], body[0].words
    name = ""
    if len(words) == 3 and words[1].lower() == "as":
        name = words[2].lower()
        if not _STAGE_NAME.fullmatch(name):
            raise _wrong(start, f"invalid name for build stage: {words[2]!r}")
    elif len(words) != 1:
        raise _wrong(start, "FROM requires either one or three arguments")
    stages.append(
        Stage(start=start, base=words[0], name=name, platform=start.flags.get("platform", ""), steps=tuple(body[1:]))
    )


def _escape(text: str) -> str:
    for line in text.splitlines():
        match = _DIRECTIVE.fullmatch(line.strip())
        if match is None:
            break
        if match[1].lower() == "escape":
            return match[2]
    return "\\"


def _wrong(instruction: Instruction, what: str) -> InvalidInput:
    return InvalidInput(f"dockerfile parse error line {instruction.line}: {what}")
