"""`build`: a directory goes to the daemon as a tar, the progress comes back."""

from __future__ import annotations

import os
import random
import re
import string
import sys
import tarfile
from collections.abc import Iterator
from contextlib import nullcontext

from hyperctl import credentials, progress, tars, uploads
from hyperctl.api.client import compact
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command

_NAME_LENGTH = 10
_REMOTE = re.compile(r"(https?://|git://|git@|github\.com/)")


@command(
    "build",
    Argument("source", "PATH|URL|-", complete="dir"),
    Option("-t", "--tag", many=True, metavar="NAME[:TAG]", text="Name of the image (repeat); random when absent."),
    Option("-f", "--file", metavar="FILE", complete="file", text="The Dockerfile; PATH/Dockerfile when absent."),
    Option("--build-arg", many=True, metavar="NAME[=VALUE]", text="Value of an ARG (repeat)."),
    Option("--label", many=True, metavar="KEY=VALUE", text="Label of the image (repeat)."),
    Option("--target", metavar="STAGE", text="Stop at this stage."),
    Option("--no-cache", flag=True, text="Make every step anew."),
    Option("--pull", flag=True, text="Ask the registry for newer base images."),
    Option("-q", "--quiet", flag=True, text="Print only the id of the image."),
    examples=(
        "hyperctl build -t team/web:2 .",
        "hyperctl build -t team/web --build-arg VERSION=3 -f docker/Dockerfile .",
        "hyperctl build -t tools https://git.example.com/tools.git#v1",
        "hyperctl build -t tools - < Dockerfile           # or a tar of a directory, also compressed",
    ),
)
def build_command(
    app: App,
    *,
    source: str,
    tag: tuple[str, ...],
    file: str,
    build_arg: tuple[str, ...],
    label: tuple[str, ...],
    target: str,
    no_cache: bool,
    pull: bool,
    quiet: bool,
) -> None:
    """Build an image from a Dockerfile.

    PATH is a directory; - reads a Dockerfile, or a tar of a directory, from standard input. With -q the id comes alone
    on standard output, and signs of life on a terminal.
    """
    parameters: dict[str, str | list[str]] = {"name": list(tag) or [_random_name()]}
    if build_arg:
        parameters["buildargs"] = compact(_pairs(build_arg, environment=True))
    if label:
        parameters["labels"] = compact(_pairs(label, environment=False))
    if target:
        parameters["target"] = target
    for name, asked in (("nocache", no_cache), ("pull", pull), ("q", quiet)):
        if asked:
            parameters[name] = "yes"
    body: Iterator[bytes] = iter(())
    if _REMOTE.match(source) and not os.path.exists(source):
        parameters["remote"] = source
        if file:
            parameters["dockerfile"] = file
    elif source == "-":
        body = _from_stdin(file)
        if file and file != "-":
            parameters["dockerfile"] = file
    else:
        dockerfile = _dockerfile(source, file)
        if dockerfile != "Dockerfile":
            parameters["dockerfile"] = dockerfile
        body = context(source, dockerfile)
    lines = app.client.build(body, parameters, config=credentials.header(credentials.everything()))
    with progress.alive("building") if quiet else nullcontext():
        progress.show(lines, sys.stdout)


# Beginnings of archives (tar has its mark at 257): gzip, bzip2, xz, zstd.
_PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_DOCKERFILE_LIMIT = 1 << 20


def _from_stdin(file: str) -> Iterator[bytes]:
    """Yield standard input as a context: a tar as it is, anything else as the only file of one, the Dockerfile.

    Raises:
        UsageProblem: there is nothing, or no Dockerfile in it can be meant.

    """
    head = sys.stdin.buffer.read(tarfile.BLOCKSIZE)
    if not head:
        raise UsageProblem("there is nothing on standard input: a Dockerfile or a tar is expected there")
    if head.startswith(_PACKED) or head[257:262] == b"ustar":
        yield head
        yield from uploads.pieces(sys.stdin.buffer)
        return
    if file and file != "-":
        raise UsageProblem("what is on standard input is no tar: a Dockerfile comes without --file")
    text = head + sys.stdin.buffer.read(_DOCKERFILE_LIMIT)
    if len(text) > _DOCKERFILE_LIMIT:
        raise UsageProblem("what is on standard input is neither a tar nor a Dockerfile: it is too long")
    info = tarfile.TarInfo("Dockerfile")
    info.size, info.mode = len(text), 0o644
    yield info.tobuf(tarfile.PAX_FORMAT) + text + bytes(-len(text) % tarfile.BLOCKSIZE)
    yield bytes(2 * tarfile.BLOCKSIZE)


def context(directory: str, dockerfile: str) -> Iterator[bytes]:
    """Yield a directory as a tar (POSIX pax), without what `.dockerignore` names.

    Raises:
        UsageProblem: a file cannot be read.

    """
    needed = {dockerfile, ".dockerignore"}
    rules = _rules(os.path.join(directory, ".dockerignore"))
    try:
        for name in tars.walk(directory):
            if name in needed or not _hidden(rules, name):
                yield from tars.member(os.path.join(directory, name), name)
    except OSError as error:
        raise UsageProblem(f"cannot read {error.filename or directory}: {error.strerror}") from error
    yield tars.end()


def _dockerfile(directory: str, file: str) -> str:
    """Return the Dockerfile's path inside the directory.

    Raises:
        UsageProblem: it is missing or outside.

    """
    if not os.path.isdir(directory):
        raise UsageProblem(f"{directory} is not a directory")
    path = file or os.path.join(directory, "Dockerfile")
    if not os.path.isfile(path) and file and os.path.isfile(os.path.join(directory, file)):
        path = os.path.join(directory, file)
    if not os.path.isfile(path):
        raise UsageProblem(f"Cannot locate Dockerfile: {path}")
    inside = os.path.relpath(os.path.abspath(path), os.path.abspath(directory))
    if inside.startswith(os.pardir):
        raise UsageProblem(f"The Dockerfile ({path}) must be within the build context ({directory})")
    return inside


def _rules(path: str) -> list[tuple[re.Pattern[str], bool]]:
    """Read `.dockerignore`: patterns and whether they bring back what others hide. The daemon has the last word."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = [line.strip() for line in file]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UsageProblem(f"cannot read {path}: {error.strerror}") from error
    rules = []
    for line in lines:
        wanted = line.startswith("!")
        pattern = os.path.normpath(line[wanted:].strip() or ".").strip("/")
        if line and not line.startswith("#") and pattern not in {".", ".."}:
            rules.append((_regex(pattern), wanted))
    return rules


_WILDCARDS = re.compile(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]|\\.|.", re.DOTALL)
_MEANINGS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def _regex(pattern: str) -> re.Pattern[str]:
    text = ""
    for part in _WILDCARDS.findall(pattern):
        if part in _MEANINGS:
            text += _MEANINGS[part]
        elif part[0] == "[" and len(part) > 1:
            text += part
        else:
            text += re.escape(part[-1])
    try:
        return re.compile(f"{text}(?:/.*)?", re.DOTALL)
    except re.error:
        raise UsageProblem(f".dockerignore has a bad pattern: {pattern}") from None


def _hidden(rules: list[tuple[re.Pattern[str], bool]], name: str) -> bool:
    hidden = False
    for pattern, wanted in rules:
        if hidden == wanted and pattern.fullmatch(name):
            hidden = not wanted
    return hidden


def _pairs(texts: tuple[str, ...], *, environment: bool) -> dict[str, str]:
    """Split `key=value`; a build argument without a value takes the one of the environment."""
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or (not equals and not environment):
            raise UsageProblem(f"'{text}' must be key=value")
        if equals:
            pairs[key] = value
        elif key in os.environ:
            pairs[key] = os.environ[key]
    return pairs


def _random_name() -> str:
    return "".join(random.choice(string.ascii_lowercase) for _ in range(_NAME_LENGTH))
