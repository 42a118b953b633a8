"""First inputs of the fuzz targets: small, and of every kind that a parser knows."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import json
import lzma
import struct
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hyperd.agent.frames import Frame, FrameType, data_frame, encode_records, hello_frame, offset_frame, welcome_frame
from hyperd.stream.spdy import DICTIONARY
from tests.support.pods import FULL

CORPUS = Path(__file__).parent / "corpus"
SHA = "sha256:" + "0a" * 32


def seeds(target: str) -> list[bytes]:
    """Return the inputs of a target: those made here, and those in the corpus, which once found a fault."""
    made = list(_MAKERS[target]())
    kept = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))] if (CORPUS / target).is_dir() else []
    return [*made, *kept]


def _tar(*members: tuple[str, dict[str, Any], bytes], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for name, fields, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for key, value in fields.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()[: 512 * (4 + 2 * len(members)) + 1024]


def _layers() -> Iterator[bytes]:
    folder, link, hard = {"type": tarfile.DIRTYPE}, {"type": tarfile.SYMTYPE}, {"type": tarfile.LNKTYPE}
    yield _tar(("a", folder, b""), ("a/f", {}, b"x"), ("a/l", {**link, "linkname": "../f"}, b""))
    yield _tar(("f", {}, b"x"), ("h", {**hard, "linkname": "f"}, b""), ("f", {}, b"y"))
    yield _tar((".wh.gone", {}, b""), ("a/.wh..wh..opq", {}, b""), ("a/n", {}, b""))
    yield _tar(("n" * 300, {"pax_headers": {"SCHILY.xattr.user.x": "v", "mtime": "1.5"}}, b""))
    yield _tar(("c", {"type": tarfile.CHRTYPE, "devmajor": 1}, b""), ("p", {"type": tarfile.FIFOTYPE}, b""))
    yield _tar(("n" * 200, {"linkname": "l" * 200, "type": tarfile.SYMTYPE}, b""), form=tarfile.GNU_FORMAT)
    yield _tar(("../../etc/x", {}, b""), ("/abs", {}, b"1"), ("a/../b", {}, b""))
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "9", "GNU.sparse.name": "s"}
    yield _tar(("s", {"pax_headers": sparse}, b"1\n0\n1\n".ljust(512, b"\0") + b"x"))


def _compressed() -> Iterator[bytes]:
    from backports import zstd

    data = b"some data " * 20
    yield data
    yield gzip.compress(data, mtime=0) * 2
    yield zstd.compress(data)
    yield lzma.compress(data)
    yield bz2.compress(data)


def _archives() -> Iterator[bytes]:
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [SHA]}}).encode()
    listed = json.dumps([{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l/layer.tar"]}]).encode()
    inner = _tar(("f", {}, b"x"))
    yield _tar(("c.json", {}, config), ("l/layer.tar", {}, inner), ("manifest.json", {}, listed))
    index = json.dumps({"schemaVersion": 2, "manifests": [_descriptor()]}).encode()
    yield _tar(("oci-layout", {}, b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", {}, index))
    yield _tar(("l", {"type": tarfile.SYMTYPE, "linkname": "c.json"}, b""), ("c.json", {}, config))


def _descriptor(**more: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": SHA, "size": 7, **more}


def _manifests() -> Iterator[bytes]:
    layer = _descriptor(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")
    yield json.dumps({"schemaVersion": 2, "config": _descriptor(), "layers": [layer, layer]}).encode()
    platform = {"os": "linux", "architecture": "amd64", "variant": "v1"}
    yield json.dumps({"schemaVersion": 2, "manifests": [_descriptor(platform=platform), _descriptor()]}).encode()
    yield json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [SHA, SHA]}}).encode()


def _references() -> Iterator[bytes]:
    yield from (b"busybox", b"a/b:c", b"localhost:5000/x/y:1.0", b"h.io/a@" + SHA.encode(), b"[::1]:80/a", b"ab" * 32)


def _dockerfiles() -> Iterator[bytes]:
    yield b"# escape=`\nARG A=1\nFROM --platform=linux/amd64 x AS One\nRUN a `\n  b\n"
    yield b'FROM a\nEXPOSE 80/tcp\nVOLUME ["/v", "/w"]\n'
    yield b"FROM a\nRUN --mount=type=cache,target=/c <<EOF\necho $A\nEOF\nCOPY --from=0 --chown=1:2 <<a b /c/\nx\na\n"
    yield b'FROM scratch\nHEALTHCHECK --interval=1s CMD x\nONBUILD RUN y\nENV a=b c="d"\nMAINTAINER m'
    yield b'FROM a\nADD a b /c/\nLABEL a=b\nSHELL ["x"]\nSTOPSIGNAL 9\nUSER u:g\nWORKDIR /w\nENTRYPOINT e\n'


def _words() -> Iterator[bytes]:
    yield b"a$A${B:-x}${A:+y}${A#*a}${A%%a*}${A/a/b}'$A'\"$B\"\\$A"
    yield b"# c\n!a/**/b\n*.x\n[a-z]?\n/.git\n**/y\n"
    yield b"-eo pid,user,args aux -ef o pcpu"


def _pods() -> Iterator[bytes]:
    yield json.dumps(FULL).encode()
    small = {"id": "p", "containers": [{"image": "a", "command": ["x"], "ports": [{"containerPort": 80}]}]}
    yield json.dumps(small).encode()
    for key in FULL:
        part = copy.deepcopy(small)
        part[key] = FULL[key]
        yield json.dumps(part).encode()


def _bodies() -> Iterator[bytes]:
    host = {
        "Binds": ["/a:/b:ro", "v:/c"], "Memory": 1 << 28, "PortBindings": {"80/tcp": [{"HostPort": "8080"}]},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "CapAdd": ["NET_ADMIN"], "Dns": ["1.1.1.1"],
        "ExtraHosts": ["a:1.2.3.4"], "Tmpfs": {"/t": "size=1m"}, "Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}],
        "Mounts": [{"Type": "volume", "Source": "v", "Target": "/m"}], "LogConfig": {"Type": "json-file"},
        "SecurityOpt": ["no-new-privileges"], "NetworkMode": "bridge", "Links": ["a:b"], "VolumesFrom": ["c:ro"],
    }  # fmt: skip
    networks = {"EndpointsConfig": {"n": {"Aliases": ["x"], "IPAMConfig": {"IPv4Address": "10.0.0.9"}}}}
    config = {
        "Image": "a", "Cmd": ["x"], "Entrypoint": "e", "Env": ["A=b", "C"], "User": "u:g", "Tty": True, "Hostname": "h",
        "ExposedPorts": {"80/tcp": {}}, "Volumes": {"/v": {}}, "Labels": {"a": "b"}, "StopSignal": "SIGINT",
        "Healthcheck": {"Test": ["CMD", "x"], "Interval": 1000000000}, "WorkingDir": "/w",
    }  # fmt: skip
    yield json.dumps({"Image": "a"}).encode()
    yield json.dumps({**config, "HostConfig": host, "NetworkingConfig": networks}).encode()
    for key, value in host.items():
        yield json.dumps({"Image": "a", "HostConfig": {key: value}}).encode()
    for key, value in config.items():
        yield json.dumps({"Image": "a", key: value}).encode()


def _json_logs() -> Iterator[bytes]:
    tail = '","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"'
    yield f'{{"log":"a\\n{tail}}}\n{{"log":"b{tail},"run":1,"end":2}}\n'.encode()
    yield ("".join(f'{{"log":"line {n}\\n{tail}}}\n' for n in range(20))).encode()
    yield f'{{"log":"\\u00e4\\\\\\"\\ud800\\n{tail.replace("stdout", "stderr")}}}\nno json\n{{}}\n'.encode()


def _cri_logs() -> Iterator[bytes]:
    yield b"2026-01-02T03:04:05.000000006Z stdout F whole\n2026-01-02T03:04:05.000000006Z stderr P part\nrubbish\n"


def _frames() -> Iterator[bytes]:
    records = encode_records([(1, ("a", b"b", 3)), (2, ())])
    yield Frame(FrameType.RESPONSE, 1, 2, 0, records).encode() + data_frame(17, 5, b"out")
    yield hello_frame(b"n" * 16) + welcome_frame(b"n" * 16, b"b" * 16) + b"rest"
    yield b"old bytes" + offset_frame(FrameType.EOF, 17, 9) + records


def _spdy() -> Iterator[bytes]:
    def text(value: bytes) -> bytes:
        return struct.pack(">I", len(value)) + value

    pack = zlib.compressobj(zdict=DICTIONARY)
    block = struct.pack(">I", 1) + text(b"streamtype") + text(b"stdin")
    headers = pack.compress(block) + pack.flush(zlib.Z_SYNC_FLUSH)
    body = struct.pack(">IIH", 1, 0, 0) + headers
    opened = struct.pack(">HHI", 0x8003, 1, len(body)) + body
    yield opened + struct.pack(">II", 1, 1 << 24 | 2) + b"hi"
    yield struct.pack(">HHII", 0x8003, 6, 4, 7) + struct.pack(">HHIII", 0x8003, 3, 8, 1, 5)
    yield struct.pack(">HHIII", 0x8003, 7, 8, 0, 0) + struct.pack(">HHI", 0x8003, 4, 0)


def _websocket() -> Iterator[bytes]:
    for head in (0x82, 0x81, 0x89, 0x8A, 0x88, 0x02, 0x80):
        yield bytes([head, 0x80 | 4]) + b"mask" + bytes(a ^ b for a, b in zip(b"text", b"mask", strict=True))
    yield bytes([0x82, 0x80 | 126]) + struct.pack(">H", 300) + b"mask" + b"x" * 300


_MAKERS = {
    "layer": _layers,
    "archive": _archives,
    "compression": _compressed,
    "manifest": _manifests,
    "reference": _references,
    "dockerfile": _dockerfiles,
    "words": _words,
    "context": _layers,
    "pod": _pods,
    "docker_create": _bodies,
    "json_log": _json_logs,
    "cri_log": _cri_logs,
    "agent": _frames,
    "spdy": _spdy,
    "websocket": _websocket,
}
