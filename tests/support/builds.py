"""Builds in tests: contexts as tars, sending them, what is said, what the image has."""

from __future__ import annotations

import io
import json
import tarfile
import urllib.parse
from collections.abc import Mapping
from typing import Any

from tests.vm.conftest import Host


def context(files: Mapping[str, str | bytes | tarfile.TarInfo], *, mtime: int = 1_500_000_000) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            if isinstance(content, tarfile.TarInfo):
                content.name = name
                archive.addfile(content)
                continue
            data = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o755 if name.endswith(".sh") else 0o644, mtime
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def send(host: Host, data: bytes, **query: Any) -> tuple[int, Any, bytes]:
    target = "/image/build?" + urllib.parse.urlencode(query, doseq=True)
    return host.daemon.request("POST", target, body=data, headers={"Content-Type": "application/tar"}, timeout=200)


def build(host: Host, files: Mapping[str, Any] | bytes, **query: Any) -> list[dict[str, Any]]:
    """Build; give the progress lines."""
    code, _, text = send(host, files if isinstance(files, bytes) else context(files), **query)
    assert code == 200, text
    return [json.loads(line) for line in text.splitlines()]


def said(lines: list[dict[str, Any]]) -> str:
    return "".join(line.get("stream", "") for line in lines)


def built(host: Host, files: Mapping[str, Any] | bytes, **query: Any) -> str:
    """Build, which must succeed; give what was said."""
    lines = build(host, files, **query)
    assert "error" not in lines[-1], lines
    return said(lines)


def show(host: Host, image: str, *words: str) -> str:
    done = host.ctl("run", "--rm", image, *words)
    assert done.returncode == 0, done
    return done.stdout.decode()
