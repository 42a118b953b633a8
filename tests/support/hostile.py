"""Hostile archives, and the four ways into a daemon: pull, load, import, the context of a build."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import urllib.parse
import zlib
from collections.abc import Iterator
from pathlib import Path

from tests.support.daemon import HyperdLauncher
from tests.support.faulty import FaultyRegistry
from tests.support.registry import Layer, digest_of, layer_tar, member
from tests.support.until import until

WAYS = ("pull", "load", "import", "build")
BLOCK = 512
_NOTES = "builds/cache/"  # what builds that ended well note of their steps
_COPIES = "images/rows/"


def header(name: bytes, *, size: bytes = b"", kind: bytes = b"0", link: bytes = b"") -> bytes:
    """Write a ustar header by hand; ``size`` is the raw field."""
    block = name.ljust(100, b"\0") + b"0000644\0" + b"0000000\0" * 2 + (size or b"00000000000\0").ljust(12, b"\0")
    block += b"00000000000\0" + b" " * 8 + kind + link.ljust(100, b"\0") + b"ustar\x0000"
    block = block.ljust(BLOCK, b"\0")
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def base256(value: int) -> bytes:
    """Write a number as GNU tar does when octal digits do not suffice."""
    data = bytearray((value % 2**96).to_bytes(12, "big"))
    data[0] |= 0x80
    return bytes(data)


def many(count: int, *, again: bool = False) -> Iterator[bytes]:
    """Yield an archive of empty files, a piece at a time; with ``again`` the first one comes twice."""
    block = header(b"d0000000/f0000000")
    plain, rest = sum(block) - sum(block[148:156]) + 8 * 0x20, block[156:]
    digits = sum(b"00000000000000")
    for start in range(0, count, 1000):
        pieces = []
        for number in range(start, min(start + 1000, count)):
            words = b"%07d%07d" % (number // 1000, number)
            checksum = plain - digits + sum(words)
            pieces.append(b"d%b/f%b" % (words[:7], words[7:]) + block[17:148] + b"%06o\0 " % checksum + rest)
        yield b"".join(pieces)
    yield (block if again else b"") + bytes(2 * BLOCK)


def packed(pieces: Iterator[bytes]) -> bytes:
    """Compress an archive by gzip without having all of it."""
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1, mtime=0) as file:
        for piece in pieces:
            file.write(piece)
    return out.getvalue()


def bomb(size: int) -> bytes:
    """Return an archive of one file of zeros, compressed a thousand times."""

    def pieces() -> Iterator[bytes]:
        yield header(b"zeros", size=b"%011o\0" % size)
        for _ in range(size >> 20):
            yield bytes(2**20)
        yield bytes(2 * BLOCK)

    return packed(pieces())


def deep(count: int) -> bytes:
    """Return an archive whose every member lies two thousand directories deep."""
    return layer_tar([member(f"{number}/" + "a/" * 2000 + "f") for number in range(count)])


def attributes(count: int) -> Iterator[bytes]:
    """Yield an archive whose every member has sixty thousand bytes of attributes."""
    record = b"60000 SCHILY.xattr.user.a=".ljust(59_999, b"x") + b"\n"
    meta = header(b"x", size=b"%011o\0" % len(record), kind=b"x") + record + bytes(-len(record) % BLOCK)
    for number in range(count):
        yield meta + header(b"%d" % number)
    yield bytes(2 * BLOCK)


def diff_id_of(blob: bytes) -> str:
    """Return the diff_id of a layer without having all of it in memory."""
    if not blob.startswith(b"\x1f\x8b"):
        return digest_of(blob)
    digest, unpacker = hashlib.sha256(), zlib.decompressobj(31)
    data = blob
    while data and not unpacker.eof:
        digest.update(unpacker.decompress(data, 2**20))
        data = unpacker.unconsumed_tail
    digest.update(unpacker.flush())
    return f"sha256:{digest.hexdigest()}"


def docker_archive(layer: bytes, diff_id: str) -> bytes:
    """Wrap a layer into an archive of images."""
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}})
    manifest = json.dumps([{"Config": "c.json", "RepoTags": ["hostile:t"], "Layers": ["l.tar"]}])
    return layer_tar(
        [member("manifest.json", manifest.encode()), member("c.json", config.encode()), member("l.tar", layer)]
    )


class Gate:
    """Sends layers into a daemon.

    Args:
        daemon: with the fake driver.
        registry: for pulls.

    """

    def __init__(self, daemon: HyperdLauncher, registry: FaultyRegistry) -> None:
        self.daemon = daemon
        self.registry = registry
        self._notes: set[str] = set()

    def send(self, way: str, blob: bytes, *, diff_id: str = "", timeout: float = 110.0) -> str:
        """Send a layer (or context), possibly compressed; give what the daemon said, errors included."""
        self._notes = {name for name in self._stored() if name.startswith(_NOTES)}
        diff_id = diff_id or ("sha256:" + "0" * 64)
        if way == "pull":
            layer = Layer(b"", blob=blob)
            self.registry.add("t", [layer], config={"rootfs": {"type": "layers", "diff_ids": [diff_id]}})
            return self._post("/image/create", b"", timeout, imageName=f"{self.registry.host}/some/image:t")
        if way == "load":
            return self._post("/image/load", docker_archive(blob, diff_id), timeout)
        if way == "import":
            return self._post("/image/create", blob, timeout, fromSrc="-", repo="hostile", tag="t")
        return self._post("/image/build", blob, timeout, t="hostile:t")

    def _post(self, path: str, body: bytes, timeout: float, **query: str) -> str:
        target = f"{path}?{urllib.parse.urlencode(query)}"
        headers = {"Content-Type": "application/tar"}
        code, _, text = self.daemon.request("POST", target, body=body, headers=headers, timeout=timeout)
        return f"{code} {text.decode(errors='replace')}"

    def nothing_stored(self) -> bool:
        """Say whether what was sent last has left nothing; copies of rows go after the rows, and are waited for."""
        left = self._left()
        assert [name for name in left if not name.startswith(_COPIES)] == []
        return until(lambda: not self._left(), tell=self._left)

    def _left(self) -> list[str]:
        return [name for name in self._stored() if name not in self._notes]

    def _stored(self) -> list[str]:
        root = self.daemon.root
        files = (path for part in ("images", "pods", "builds") for path in root.glob(f"{part}/**/*") if path.is_file())
        return sorted(str(path.relative_to(root)) for path in files)

    def remove(self) -> None:
        """Remove all images."""
        for image in self.daemon.json("GET", "/images/df")["Images"]:
            self.daemon.request("DELETE", "/image", imageId=image["Id"], force="yes")

    def memory(self) -> int:
        """Return the daemon's highest use of memory since ``forget``, bytes."""
        status = Path(f"/proc/{self.daemon.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024  # type: ignore[index]

    def forget(self) -> int:
        """Begin a new measurement of memory; give what is used now, bytes."""
        Path(f"/proc/{self.daemon.pid}/clear_refs").write_text("5")
        return self.memory()
