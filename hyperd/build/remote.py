"""Contexts that lie elsewhere: a tar or a Dockerfile on a web server, a git repository."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from hyperd.build.context import Context
from hyperd.build.copying import is_archive
from hyperd.container.fetch import fetch
from hyperd.errors import InvalidInput, NotSupported, Timeout

GIT_SECONDS = 600.0
_WEB = re.compile(r"https?://", re.IGNORECASE)
_GIT = re.compile(r"(git@[^:/]+:|git://|github\.com/|https?://.*\.git(#|$))", re.IGNORECASE)
_BLOCK = 1 << 18


def load_remote(url: str, context: Context, directory: Path) -> None:
    """Load a context from a URL.

    Args:
        url: ``http(s)`` of a tar or a Dockerfile; git's with ``#ref:directory`` at the end.
        context: is filled.
        directory: for temporary files.

    Raises:
        InvalidInput: the URL or what it gives. NotSupported: git is not installed. TooLarge, Timeout.

    """
    if _GIT.match(url):
        _load_git(url, context, directory)
        return
    if not _WEB.match(url):
        raise InvalidInput(f"unsupported remote {url[:200]!r}", resolution="use http, https or git")
    path = directory / "remote"
    fetch(url, path, what="remote")
    try:
        node = context.add_file("", _blocks(path))
        if is_archive(context, node):
            context.load(context.content(node))
        else:
            context.add_file("Dockerfile", _blocks(path))
    finally:
        path.unlink(missing_ok=True)


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            yield block


def _load_git(url: str, context: Context, directory: Path) -> None:
    git = shutil.which("git")
    if git is None:
        raise NotSupported("git is not installed on this host", resolution="install git, or send the context as a tar")
    address, _, fragment = url.partition("#")
    reference, _, inner = fragment.partition(":")
    if address.lower().startswith("github.com/"):
        address = f"https://{address}"
    if reference.startswith("-") or address.startswith("-"):
        raise InvalidInput(f"bad git reference {reference[:100]!r}")
    clone = directory / "git"
    _git([git, "init", "-q", str(clone)])
    _git([git, "-C", str(clone), "fetch", "-q", "--depth", "1", "--", address, reference or "HEAD"])
    archive = [
        git,
        "-C",
        str(clone),
        "archive",
        "--format=tar",
        f"FETCH_HEAD:{inner.strip('/')}" if inner else "FETCH_HEAD",
    ]
    target = directory / "git.tar"
    _git([*archive, "-o", str(target)])
    context.load(_blocks(target))


def _git(command: list[str]) -> None:
    # Only what a context needs: no helper, no prompt, no local path, nothing of the host's configuration.
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ALLOW_PROTOCOL": "http:https:git:ssh",
        "GIT_SSH_COMMAND": "ssh -oBatchMode=yes",
    }
    try:
        done = subprocess.run(
            command, capture_output=True, timeout=GIT_SECONDS, check=False, env=environment, stdin=subprocess.DEVNULL
        )
    except subprocess.TimeoutExpired as error:
        raise Timeout("git takes too long") from error
    if done.returncode:
        raise InvalidInput("git failed", details=done.stderr.decode("utf-8", "replace").strip()[-500:])
