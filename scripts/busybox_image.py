"""Makes a small container image from Debian's static busybox and pushes it to a registry. Standard library only.

The tests use it as a module, ``scripts/make-busybox-image`` is its command line. Formats: OCI image specification 1.0
(manifest, configuration), Docker's registry API v2 as in the OCI distribution specification (push). The same input
gives the same bytes, so digests stay the same.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import http.client
import io
import json
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
BUSYBOX = Path("/bin/busybox")
_DIRECTORIES = {
    "bin": 0o755, "dev": 0o755, "etc": 0o755, "home": 0o755, "proc": 0o555, "root": 0o700, "sbin": 0o755,
    "sys": 0o555, "tmp": 0o1777, "usr": 0o755, "usr/bin": 0o755, "usr/sbin": 0o755, "var": 0o755, "var/tmp": 0o1777,
}  # fmt: skip
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hostname": "localhost\n",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}  # fmt: skip


class PushError(Exception):
    """A registry did not take something."""


@dataclass(frozen=True)
class Image:
    """An image as a registry has it.

    Args:
        manifest: the manifest's bytes.
        blobs: everything it refers to, by digest.
        media_type: of the manifest.

    """

    manifest: bytes
    blobs: Mapping[str, bytes] = field(repr=False)
    media_type: str = MANIFEST

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return digest_of(self.manifest)


def digest_of(data: bytes) -> str:
    """Return the OCI digest of some bytes."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def root_tar(busybox: Path = BUSYBOX) -> bytes:
    """Return the root file system as an uncompressed tar: busybox, a symbolic link for every applet, /etc."""
    listed = subprocess.run([str(busybox), "--list"], capture_output=True, text=True, check=True)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in _DIRECTORIES.items():
            _add(archive, name, mode=mode, kind=tarfile.DIRTYPE)
        _add(archive, "bin/busybox", mode=0o755, data=busybox.read_bytes())
        for applet in sorted(set(listed.stdout.split()) - {"busybox"}):
            _add(archive, f"bin/{applet}", mode=0o777, kind=tarfile.SYMTYPE, target="busybox")
        for name, text in _FILES.items():
            _add(archive, name, mode=0o644, data=text.encode())
    return buffer.getvalue()


def build(
    layers: Sequence[bytes] | None = None,
    *,
    command: Sequence[str] = ("sh",),
    config: Mapping[str, object] | None = None,
) -> Image:
    """Make an image.

    Args:
        layers: uncompressed tars, bottom first; None = ``root_tar()`` alone.
        command: the default command.
        config: more keys of the configuration's ``config`` object (``Env``, ``User``, ``Entrypoint``...).

    """
    tars = [root_tar()] if layers is None else list(layers)
    packed = [gzip.compress(tar, compresslevel=6, mtime=0) for tar in tars]
    settings = {"Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"], "Cmd": list(command)}
    description = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "created": "1970-01-01T00:00:00Z",
            "config": {**settings, **(config or {})},
            "rootfs": {"type": "layers", "diff_ids": [digest_of(tar) for tar in tars]},
            "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "make-busybox-image"} for _ in tars],
        },
        sort_keys=True,
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, description),
            "layers": [_descriptor(LAYER, data) for data in packed],
        },
        sort_keys=True,
    ).encode()
    return Image(manifest, {digest_of(data): data for data in (description, *packed)})


def push(image: Image, *, registry: str, name: str, tags: Sequence[str] = ("latest",), timeout: float = 30) -> None:
    """Push an image over plain HTTP.

    Args:
        image: what ``build`` made.
        registry: ``host:port`` or ``http://host:port``.
        name: repository, such as ``library/busybox``.
        tags: at least one.
        timeout: seconds, of one request.

    Errors: PushError when the registry refuses; OSError when it cannot be reached.

    """
    host = urlsplit(registry).netloc if "//" in registry else registry
    connection = http.client.HTTPConnection(host, timeout=timeout)
    try:
        for digest, data in image.blobs.items():
            _push_blob(connection, name, digest, data)
        for tag in tags:
            headers = {"Content-Type": image.media_type}
            _ask(connection, "PUT", f"/v2/{name}/manifests/{tag}", image.manifest, headers=headers)
    finally:
        connection.close()


def _push_blob(connection: http.client.HTTPConnection, name: str, digest: str, data: bytes) -> None:
    location = _ask(connection, "POST", f"/v2/{name}/blobs/uploads/").get("Location")
    if not location:
        raise PushError("the registry gave no place to upload to")
    parts = urlsplit(location)
    query = f"{parts.query}&digest={digest}" if parts.query else f"digest={digest}"
    _ask(connection, "PUT", f"{parts.path}?{query}", data, headers={"Content-Type": "application/octet-stream"})


def _ask(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes = b"",
    *,
    headers: Mapping[str, str] | None = None,
) -> http.client.HTTPMessage:
    connection.request(method, path, body=body, headers=dict(headers or {}))
    response = connection.getresponse()
    text = response.read()
    if response.status not in {201, 202}:
        raise PushError(f"{method} {path}: {response.status} {text[:500].decode('utf-8', 'replace')}")
    return response.headers


def _add(
    archive: tarfile.TarFile,
    name: str,
    *,
    mode: int,
    data: bytes = b"",
    kind: bytes = tarfile.REGTYPE,
    target: str = "",
) -> None:
    entry = tarfile.TarInfo(name)
    entry.mode, entry.size, entry.type, entry.linkname = mode, len(data), kind, target
    archive.addfile(entry, io.BytesIO(data))


def _descriptor(media_type: str, data: bytes) -> dict[str, object]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data)}


def main() -> int:
    """Make and push, print the manifest's digest."""
    parser = argparse.ArgumentParser(prog="make-busybox-image", description=__doc__)
    parser.add_argument("--registry", required=True, help="host:port of a registry that speaks plain HTTP")
    parser.add_argument("--name", default="library/busybox", help="repository (default library/busybox)")
    parser.add_argument("--tag", action="append", help="repeatable (default latest)")
    parser.add_argument("--busybox", type=Path, default=BUSYBOX, help="the static binary (Debian: busybox-static)")
    args = parser.parse_args()
    try:
        image = build([root_tar(args.busybox)])
        push(image, registry=args.registry, name=args.name, tags=args.tag or ["latest"])
    except (PushError, OSError, subprocess.CalledProcessError) as error:
        print(f"make-busybox-image: {error}", file=sys.stderr)
        return 1
    print(image.digest)
    return 0
