"""An image's configuration (OCI image-spec, config.md) and the instructions that change nothing else."""

from __future__ import annotations

import copy
import posixpath
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from hyperd.build.dockerfile import Instruction, parse_instructions
from hyperd.build.expand import expand
from hyperd.container.signals import find_signal
from hyperd.errors import InvalidInput

DEFAULT_SHELL = ("/bin/sh", "-c")
# What ``commit`` lets a caller change.
CHANGES = frozenset(
    "CMD ENTRYPOINT ENV EXPOSE HEALTHCHECK LABEL ONBUILD STOPSIGNAL USER VOLUME WORKDIR".split()  # noqa: SIM905
)
_PORT = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?(?:/(tcp|udp|sctp))?", re.IGNORECASE)
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|s|m|h)")
_UNITS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}
_MAX_PORTS = 65536
_HEALTH_FLAGS = {
    "interval": "Interval",
    "timeout": "Timeout",
    "start-period": "StartPeriod",
    "start-interval": "StartInterval",
}


class ImageDraft:
    """A configuration in the making.

    Args:
        image: the whole configuration it begins with; empty for an image from scratch.

    """

    def __init__(self, image: Mapping[str, Any] | None = None, *, escape: str = "\\") -> None:
        self.image: dict[str, Any] = copy.deepcopy(dict(image or {}))
        self.config: dict[str, Any] = dict(self.image.get("config") or {})
        self.history: list[dict[str, Any]] = [
            dict(entry) for entry in self.image.get("history") or () if isinstance(entry, dict)
        ]
        self._complete_history()
        self.escape = escape
        self.arguments: dict[str, str] = {}  # ARGs in scope
        self._command_set = False

    def _complete_history(self) -> None:
        """Give every layer of the base an entry: other tools refuse images whose history counts fewer."""
        layers = len((self.image.get("rootfs") or {}).get("diff_ids") or ())
        told = sum(not entry.get("empty_layer") for entry in self.history)
        created = str(self.image.get("created") or now())
        self.history[:0] = [{"created": created, "comment": "unknown"} for _ in range(layers - told)]

    @property
    def env(self) -> dict[str, str]:
        """The environment of the image."""
        return dict(_pair(item) for item in _strings(self.config.get("Env")))

    @property
    def variables(self) -> dict[str, str]:
        """What words are expanded with: ARGs, and ENV above them."""
        return {**self.arguments, **self.env}

    @property
    def shell(self) -> tuple[str, ...]:
        """The program of the shell forms."""
        return tuple(_strings(self.config.get("Shell"))) or DEFAULT_SHELL

    @property
    def workdir(self) -> str:
        """The working directory, absolute."""
        return str(self.config.get("WorkingDir") or "/")

    def word(self, text: str) -> str:
        """Expand one word. Errors: InvalidInput, TooLarge."""
        return expand(text, self.variables, escape=self.escape)

    def apply(self, instruction: Instruction) -> None:
        """Carry out an instruction that changes only the configuration. Errors: InvalidInput, TooLarge."""
        action: Callable[[Instruction], None] = getattr(self, f"_{instruction.verb.lower()}")
        action(instruction)

    def add_history(self, created_by: str, *, comment: str = "", author: str = "", empty: bool) -> None:
        """Note how the next layer (or none) came to be."""
        entry: dict[str, Any] = {"created": now(), "created_by": created_by}
        if comment:
            entry["comment"] = comment
        if author:
            entry["author"] = author
        if empty:
            entry["empty_layer"] = True
        self.history.append(entry)

    @property
    def identity(self) -> dict[str, Any]:
        """What makes two configurations the same: all but the times of what was made here."""
        history = [{key: value for key, value in entry.items() if key != "created"} for entry in self.history]
        return {
            **{key: self.image[key] for key in self.image if key != "created"},
            "config": self.config,
            "history": history,
        }

    def finish(self) -> dict[str, Any]:
        """Return the whole configuration; ``rootfs`` is left to the store."""
        whole = {**self.image, "created": now(), "config": self.config, "history": self.history}
        for key in ("rootfs", "container", "container_config", "id", "parent"):
            whole.pop(key, None)
        return whole

    # -- instructions

    def _env(self, instruction: Instruction) -> None:
        env = self.env
        fixed = self.variables  # all words of one ENV see the values from before it
        for key, value in _pairs(instruction):
            name = expand(key, fixed, escape=self.escape)
            if not name or "=" in name:
                raise InvalidInput(f"line {instruction.line}: ENV names can not be blank")
            env[name] = expand(value, fixed, escape=self.escape)
        self.config["Env"] = [f"{key}={value}" for key, value in env.items()]

    def _label(self, instruction: Instruction) -> None:
        labels = dict(self.config.get("Labels") or {})
        for key, value in _pairs(instruction):
            if not (name := self.word(key)):
                raise InvalidInput(f"line {instruction.line}: LABEL names can not be blank")
            labels[name] = self.word(value)
        self.config["Labels"] = labels

    def _cmd(self, instruction: Instruction) -> None:
        self.config["Cmd"] = self.command(instruction)
        self._command_set = True

    def _entrypoint(self, instruction: Instruction) -> None:
        self.config["Entrypoint"] = self.command(instruction)
        if not self._command_set:
            self.config.pop("Cmd", None)  # the base's command belongs to the base's entrypoint

    def command(self, instruction: Instruction) -> list[str]:
        """Return the argument vector of an exec or shell form."""
        if instruction.exec_form or not instruction.words:
            return list(instruction.words)
        return [*self.shell, " ".join(instruction.words)]

    def _user(self, instruction: Instruction) -> None:
        self.config["User"] = self.word(instruction.words[0])

    def _workdir(self, instruction: Instruction) -> None:
        path = self.word(instruction.words[0])
        if not path:
            raise InvalidInput(f"line {instruction.line}: WORKDIR is empty")
        self.config["WorkingDir"] = posixpath.normpath(posixpath.join("/", self.workdir, path)).replace("//", "/")

    def _volume(self, instruction: Instruction) -> None:
        volumes = dict(self.config.get("Volumes") or {})
        for word in instruction.words:
            path = self.word(word).strip()
            if not path:
                raise InvalidInput(f"line {instruction.line}: VOLUME specified can not be an empty string")
            volumes[path] = {}
        self.config["Volumes"] = volumes

    def _expose(self, instruction: Instruction) -> None:
        ports = dict(self.config.get("ExposedPorts") or {})
        for word in instruction.words:
            for part in self.word(word).split():
                ports.update({port: {} for port in _ports(part)})
        if len(ports) > _MAX_PORTS:
            raise InvalidInput("too many ports are exposed")
        self.config["ExposedPorts"] = ports

    def _stopsignal(self, instruction: Instruction) -> None:
        name = self.word(instruction.words[0])
        if not find_signal(name):
            raise InvalidInput(f"line {instruction.line}: invalid signal: {name[:40]}")
        self.config["StopSignal"] = name

    def _shell(self, instruction: Instruction) -> None:
        self.config["Shell"] = list(instruction.words)

    def _maintainer(self, instruction: Instruction) -> None:
        self.image["author"] = instruction.words[0]

    def _onbuild(self, instruction: Instruction) -> None:
        self.config["OnBuild"] = [*_strings(self.config.get("OnBuild")), instruction.trigger]

    def _healthcheck(self, instruction: Instruction) -> None:
        kind, *rest = instruction.words
        check: dict[str, Any] = {}
        if kind.upper() == "NONE" and not rest:
            check["Test"] = ["NONE"]
        elif kind.upper() == "CMD" and rest:
            check["Test"] = ["CMD", *rest] if instruction.exec_form else ["CMD-SHELL", " ".join(rest)]
        else:
            raise InvalidInput(f"line {instruction.line}: HEALTHCHECK must be CMD with a command, or NONE")
        for flag, key in _HEALTH_FLAGS.items():
            if flag in instruction.flags:
                check[key] = duration(instruction.flags[flag])
        if (retries := instruction.flags.get("retries")) is not None:
            if not retries.isascii() or not retries.isdigit() or len(retries) > 6:
                raise InvalidInput(f"line {instruction.line}: --retries must be a number")
            check["Retries"] = int(retries)
        self.config["Healthcheck"] = check


def apply_changes(draft: ImageDraft, changes: Sequence[str]) -> None:
    """Carry out the instructions that a commit or import names. Errors: InvalidInput, TooLarge."""
    text = "\n".join(change for change in changes if change.strip())
    if not text:
        return
    for instruction in parse_instructions(text):
        if instruction.verb not in CHANGES:
            raise InvalidInput(f"{instruction.verb} is not a valid change command")
        draft.apply(instruction)


def duration(text: str) -> int:
    """Read a duration as Go writes it (``1m30s``); give nanoseconds. Errors: InvalidInput."""
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise InvalidInput(f"bad duration {text[:40]!r}", resolution="such as 30s or 1m30s")
    return round(sum(float(number) * _UNITS[unit] for number, unit in parts))


def now() -> str:
    """Return the time as RFC 3339 with nanoseconds."""
    nanoseconds = time.time_ns()
    when = datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    return f"{when:%Y-%m-%dT%H:%M:%S}.{nanoseconds % 10**9:09d}Z"


def _ports(text: str) -> list[str]:
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidInput(f"invalid containerPort: {text[:40]}")
    first, protocol = int(match[1]), (match[3] or "tcp").lower()
    last = int(match[2] or first)
    if not 1 <= first <= last <= 65535:
        raise InvalidInput(f"invalid range format for containerPort: {text[:40]}")
    return [f"{port}/{protocol}" for port in range(first, last + 1)]


def _pairs(instruction: Instruction) -> list[tuple[str, str]]:
    if len(instruction.words) % 2:
        raise InvalidInput(f"line {instruction.line}: {instruction.verb} must have names and values")
    return list(zip(instruction.words[::2], instruction.words[1::2], strict=True))


def _pair(item: str) -> tuple[str, str]:
    key, _, value = item.partition("=")
    return key, value


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []
