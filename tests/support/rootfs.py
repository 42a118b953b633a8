"""Root file systems side by side: what overlayfs shows of our layers, what ``umoci unpack`` makes of the same tars.

The host mounts layers here, and only here, because the tests made them themselves.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.support.registry import digest_of


@contextmanager
def mounted(kind: str, source: str, options: str, where: Path) -> Iterator[Path]:
    """Mount something while the block runs."""
    where.mkdir()
    subprocess.run(["mount", "-t", kind, "-o", options, source, where], check=True)
    try:
        yield where
    finally:
        subprocess.run(["umount", where], check=True)


@contextmanager
def overlaid(images: Sequence[Path], work: Path) -> Iterator[Path]:
    """Mount squashfs images, bottom first, as a container sees them."""
    with ExitStack() as stack:
        lowers = [
            stack.enter_context(mounted("squashfs", str(image), "loop,ro", work / f"m{number}"))
            for number, image in enumerate(images)
        ]
        empty = work / "empty"
        empty.mkdir()
        layers = ":".join(str(path) for path in [*reversed(lowers), empty])
        yield stack.enter_context(mounted("overlay", "overlay", f"ro,lowerdir={layers}", work / "overlay"))


def umoci_view(tars: list[bytes], work: Path) -> Path:
    """Let umoci unpack layers; give the root."""
    layout = work / "oci"
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def add(data: bytes, media_type: str) -> dict[str, Any]:
        (blobs / hashlib.sha256(data).hexdigest()).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{media_type}", "digest": digest_of(data), "size": len(data)}

    layers = [add(gzip.compress(tar), "layer.v1.tar+gzip") for tar in tars]
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": add(json.dumps(config).encode(), "config.v1+json"),
        "layers": layers,
    }
    entry = add(json.dumps(manifest).encode(), "manifest.v1+json")
    entry["annotations"] = {"org.opencontainers.image.ref.name": "t"}
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    subprocess.run(["umoci", "unpack", "--image", f"{layout}:t", work / "bundle"], check=True, capture_output=True)
    return work / "bundle" / "rootfs"


def attributes(path: bytes) -> dict[str, bytes]:
    """Return a file's extended attributes but overlayfs' own."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
    except OSError:  # a squashfs without any has no table of them
        return {}
    found = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    return {name: value for name, value in found.items() if not name.startswith("trusted.overlay.")}


def describe(root: Path, *, count_links: bool) -> dict[bytes, tuple[object, ...]]:
    """Everything about every file and the root (an empty name), but times of directories (umoci touches them).

    overlayfs shows the link count of the lowest layer: with several layers only which names are one file is compared.
    """
    found: dict[bytes, tuple[object, ...]] = {}
    top_name = os.fsencode(root)
    groups: dict[tuple[int, int], bytes] = {}
    top = root.stat()
    found[b""] = (stat.S_IFDIR, stat.S_IMODE(top.st_mode), top.st_uid, top.st_gid, attributes(top_name))
    for where, names, files in os.walk(top_name):
        names.sort()
        for name in sorted(names + files):
            path = where + b"/" + name
            shown = path[len(top_name) + 1 :]
            status = os.lstat(path)
            kind = stat.S_IFMT(status.st_mode)
            detail: object = None
            if stat.S_ISREG(status.st_mode):
                detail = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                detail = Path(os.fsdecode(path)).readlink()
            elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
                detail = status.st_rdev
            links: object = None
            if not stat.S_ISDIR(status.st_mode):
                links = (
                    status.st_nlink if count_links else 0,
                    groups.setdefault((status.st_dev, status.st_ino), shown),
                )
            found[shown] = (
                kind,
                stat.S_IMODE(status.st_mode),
                status.st_uid,
                status.st_gid,
                links,
                int(status.st_mtime) if not stat.S_ISDIR(status.st_mode) else None,
                attributes(path),
                detail,
            )
    return found
