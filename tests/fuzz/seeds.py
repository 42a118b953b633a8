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

from hyperd.agent.frames import (
    AGED,
    HEADER,
    Frame,
    FrameType,
    data_frame,
    encode_records,
    hello_frame,
    offset_frame,
    welcome_frame,
)
from hyperd.image.layer import tarstream
from hyperd.image.layer.tarstream import Entry
from hyperd.stream.jsonblocks import encode_block
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
    yield from _rare_layers()


def _member(name: bytes, kind: bytes, data: bytes = b"", *, size: int | None = None, **more: Any) -> bytes:
    """Return a member of any kind, with data behind it, as an archive has it; ``size``: what its header says."""
    header = tarstream._block(Entry(name, kind, **more), len(data) if size is None else size)
    return header + data + bytes(-len(data) % 512)


def _pax(**records: bytes) -> bytes:
    found = b"".join(tarstream._pax_record(key.replace("__", ".").encode(), value) for key, value in records.items())
    return _member(b"pax", b"x", found)


def _changed(member: bytes, at: int, value: bytes) -> bytes:
    """Return a header with other bytes, and the checksum that they need."""
    header = member[:at] + value + member[at + len(value) : 512]
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:] + member[512:]


def _rare_layers() -> Iterator[bytes]:
    """Members and layers that registries hardly ever have."""
    end, file, folder, link, hard = bytes(1024), b"0", b"5", b"2", b"1"
    plain = _member(b"f", file, b"x")
    # Kinds, numbers and names.
    yield _member(b"g", b"g", b"9 a=bcd\n") + _member(b"V", b"V") + plain + end
    yield _changed(_member(b"d/", file), 156, b"\0") + end
    yield _changed(plain, 345, b"prefix") + _member(b"z", b"Z") + end
    yield _changed(plain, 108, b"\x80\0\0\0\0\1\0\0") + _changed(plain, 136, b"\xff" * 12) + end
    yield _changed(plain, 124, b"\xff" * 12) + end
    yield _changed(plain, 108, b"9999999\0") + end
    yield plain[:148] + b"000001\0 " + plain[156:] + end
    yield plain[:700] + plain[:300]
    yield _member(b"x", b"x", size=1 << 21) + end
    yield _member(b"L", b"L", b"n" * 5000) + plain + end
    yield _member(b"K", b"K", b"l" * 5000) + _member(b"s", link) + end
    yield _member(b"L", b"L", b"c" * 300 + b"/d") + plain + end
    for wrong in (b"3 a\n", b"99 a=b\n", b"x a=b\n", b"6 a bc", b"13 path=a\0b\n\n"):
        yield _member(b"x", b"x", wrong) + plain + end
    yield _pax(size=b"1", uid=b"7", gid=b"8", mtime=b"-5.5", path=b"p", linkpath=b"q") + plain + end
    yield _pax(mtime=b".5", comment=b"") + plain + _pax(uid=b"4294967295") + plain + end
    yield _pax(size=b"x") + plain + end
    # Sparse files.
    pairs = b"%011o\0%011o\0" % (0, 1) + b"%011o\0%011o\0" % (600, 1)
    old = _changed(_member(b"s", b"S", b"xy"), 386, pairs)
    yield _changed(old, 483, b"%011o\0" % 700) + end
    yield _changed(_changed(old[:512], 482, b"\1"), 483, b"%011o\0" % 700) + bytes(512) + old[512:] + end
    yield _changed(old, 483, b"%011o\0" % 5) + end
    sparse = {"GNU__sparse__size": b"9", "GNU__sparse__name": b"s"}
    yield _pax(**sparse, GNU__sparse__map=b"0,1,5,1") + _member(b"s", file, b"xy") + end
    yield _pax(**sparse, GNU__sparse__map=b"5,1,0,1") + _member(b"s", file, b"xy") + end
    yield _pax(**sparse, GNU__sparse__map=b"0,1") + _member(b"s", file, b"xy") + end
    yield _pax(**sparse, GNU__sparse__numblocks=b"1") + _member(b"s", file, b"xy") + end
    new = {**sparse, "GNU__sparse__major": b"1", "GNU__sparse__realsize": b"9"}
    yield _pax(**new) + _member(b"s", file, b"1\n0\n1\n".ljust(512, b"\0") + b"x") + end
    yield _pax(**new) + _member(b"s", file, b"1".ljust(512, b"\0")) + end
    # What a layer may not bring, and what becomes something else.
    yield _member(b"c", b"3") + _member(b".wh.c2", b"3") + _member(b"e", b"4", major=4096) + end
    yield _member(b".wh..wh.plnk/a", file) + _member(b".wh.", file) + end
    yield _member(b"", file) + end
    yield _member(b"s", link) + end
    for key in ("trusted.overlay.opaque", "system.x", "user.", "user." + "n" * 300, "user.a=b", "security.capability"):
        yield _pax(**{f"SCHILY__xattr__{key.replace('.', '__')}": b"v"}) + plain + _pax() + end
    many = {f"SCHILY__xattr__user__{n}": b"" for n in range(200)}
    yield _pax(**many) + plain + end
    yield (
        _pax(SCHILY__xattr__user__a=b"v")
        + _member(b"d", folder)
        + _pax(SCHILY__xattr__user__b=b"v")
        + _member(b"d", folder)
        + end
    )
    yield _pax(SCHILY__xattr__user__a=b"v" * 70_000) + plain + end
    # In one pass.
    yield (
        _member(b"d/.wh.a", file)
        + _member(b"d/a/f", file)
        + _member(b"d", folder)
        + _member(b".wh.f", file)
        + plain
        + end
    )
    yield _member(b".wh..wh..opq", file) + _member(b".wh.g", file) + _member(b"d/.wh..wh..opq", file) + end
    yield _member(b"d/.wh..wh..opq", file) + _member(b"d/.wh.x", file) + _member(b"d/e/.wh.y", file) + end
    # Planned.
    twice = plain + plain
    yield (
        twice + _member(b"d", folder) + _member(b"d", folder) + _member(b"d/f", file, b"1") + _member(b"", folder) + end
    )
    yield twice + _member(b"l", link, link=b"d/../d") + _member(b"d", folder) + _member(b"l/f", file) + end
    yield (
        twice
        + _member(b"d", folder)
        + _member(b"l", link, link=b"/d/.")
        + _member(b"l/f", file)
        + _member(b"l", folder)
        + end
    )
    yield twice + _member(b"l", link, link=b"l") + _member(b"l/f", file) + end
    yield twice + _member(b"f/g", file) + end
    yield (
        twice + _member(b"h", hard, link=b"f") + _member(b"h2", hard, link=b"h") + _member(b"s", link, link=b"f") + end
    )
    yield twice + _member(b"h", hard, link=b"lower/f") + _member(b"h2", hard, link=b"h") + end
    yield twice + _member(b"d", folder) + _member(b"h", hard, link=b"d") + end
    yield twice + _member(b".wh.g", file) + _member(b"h", hard, link=b"g") + end
    yield (
        twice
        + _member(b"d/.wh..wh..opq", file)
        + _member(b"d/.wh.a", file)
        + _member(b".wh.d", file)
        + _member(b".wh.f", file)
        + end
    )
    yield twice + _member(b"h", hard, link=b"h") + end
    yield _member(b"d/f", file) + _member(b"d", file) + end
    yield _member(b"d", file) + _member(b"d", folder) + end


def _compressed() -> Iterator[bytes]:
    from backports import zstd

    data = b"some data " * 20
    yield data
    yield gzip.compress(data, mtime=0) * 2
    yield zstd.compress(data)
    yield lzma.compress(data)
    yield bz2.compress(data)
    for packed in (gzip.compress(data, mtime=0), zstd.compress(data), lzma.compress(data), bz2.compress(data)):
        yield from (packed[:-4], packed + b"rest", packed + bytes(16), packed * 2, packed[:8] + b"????" + packed[12:])
    yield b"BZhx" + data
    yield b"\x50\x2a\x4d\x18\4\0\0\0skip" + zstd.compress(data)
    yield gzip.compress(bytes(2 << 20), mtime=0)
    yield b""


def _archives() -> Iterator[bytes]:
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [SHA]}}).encode()
    listed = json.dumps([{"Config": "c.json", "RepoTags": ["a:b"], "Layers": ["l/layer.tar"]}]).encode()
    inner = _tar(("f", {}, b"x"))
    yield _tar(("c.json", {}, config), ("l/layer.tar", {}, inner), ("manifest.json", {}, listed))
    index = json.dumps({"schemaVersion": 2, "manifests": [_descriptor()]}).encode()
    yield _tar(("oci-layout", {}, b'{"imageLayoutVersion":"1.0.0"}'), ("index.json", {}, index))
    yield _tar(("l", {"type": tarfile.SYMTYPE, "linkname": "c.json"}, b""), ("c.json", {}, config))
    end, file, link = bytes(1024), b"0", b"2"
    yield _member(b"d", b"5") + _member(b"d/l", link, link=b"../c") + _member(b"c", file, config) + end
    yield _member(b"a", link, link=b"b") + _member(b"b", link, link=b"a") + end
    yield _member(b"d/a", link, link=b"/c") + end
    yield _member(b"a", b"1", link=b"a/../../b") + end
    yield _member(b"c", file) + _member(b"c", file) + end
    yield _member(b"p", b"6") + end
    yield _member(b"/abs", file) + end
    yield _member(b"z", file, bytes(1024)) + _member(b"y.tar", file) + _member(b"x", file, b"x" * 600) + end
    yield (
        _member(b"blobs/sha256/" + b"0a" * 32, file, inner)
        + _member(b"blobs/sha256/x", file, gzip.compress(inner))
        + end
    )
    yield _member(b"l.tar", file, _member(b"f", file)[:148] + bytes(364)) * 1 + end
    yield b"".join(_member(b"%d.tar" % n, file, inner[:512] + b"rest") for n in range(20)) + end
    yield _member(b"big", file, size=1 << 30) + end
    yield gzip.compress(_member(b"c", file, config) + end, mtime=0)


def _descriptor(**more: Any) -> dict[str, Any]:
    return {"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": SHA, "size": 7, **more}


def _manifests() -> Iterator[bytes]:
    layer = _descriptor(mediaType="application/vnd.oci.image.layer.v1.tar+gzip")
    yield json.dumps({"schemaVersion": 2, "config": _descriptor(), "layers": [layer, layer]}).encode()
    platform = {"os": "linux", "architecture": "amd64", "variant": "v1"}
    yield json.dumps({"schemaVersion": 2, "manifests": [_descriptor(platform=platform), _descriptor()]}).encode()
    yield json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": [SHA, SHA]}}).encode()
    yield from (b"no json", b"[]", b"{}", b'{"schemaVersion": 1}', b'{"schemaVersion": 2}')
    good = {"schemaVersion": 2, "config": _descriptor(mediaType="application/vnd.oci.image.config.v1+json")}
    wrong: tuple[dict[str, Any], ...] = (
        {"layers": [layer, layer]}, {"layers": [_descriptor(mediaType="wrong")]}, {"layers": {}}, {"layers": [7]},
        {"layers": [layer] * 1000}, {"layers": [{**layer, "size": -1}]}, {"layers": [{**layer, "size": True}]},
        {"layers": [{**layer, "digest": "sha512:" + "0" * 128}]}, {"layers": [], "mediaType": layer["mediaType"]},
        {"layers": [], "mediaType": _descriptor()["mediaType"]},
    )  # fmt: skip
    for more in wrong:
        yield json.dumps({**good, **more}).encode()
    yield json.dumps({**good, "config": {**good["config"], "size": 1 << 40}, "layers": []}).encode()  # type: ignore[dict-item]
    for variants in (("",), ("v1", ""), ("v9", "v2"), ()):
        found = [_descriptor(platform={**platform, "variant": one}) for one in variants]
        yield json.dumps({"schemaVersion": 2, "manifests": found}).encode()
    yield json.dumps({"manifests": [_descriptor()] * 5000}).encode()
    for config in ({"os": "windows"}, {"rootfs": 7}, {"rootfs": {"diff_ids": [SHA]}}, {"rootfs": {"diff_ids": "x"}},
                   {"rootfs": {"diff_ids": [SHA, SHA]}, "config": 7}):  # fmt: skip
        yield json.dumps(config).encode()


def _references() -> Iterator[bytes]:
    yield from (b"busybox", b"a/b:c", b"localhost:5000/x/y:1.0", b"h.io/a@" + SHA.encode(), b"[::1]:80/a", b"ab" * 32)
    yield from (b"", b"a" * 2000, b"a@sha256:1", b"a:", b"a:-", b"A", b"a..b", b"a" * 300, b"index.docker.io/a", b"a@b")
    yield from (b"docker.io/library/a", b"h.io/b:t@" + SHA.encode(), b"a@md5:" + b"0" * 32, b"UPPER/a", b"localhost/a")


def _dockerfiles() -> Iterator[bytes]:
    yield b"# escape=`\nARG A=1\nFROM --platform=linux/amd64 x AS One\nRUN a `\n  b\n"
    yield b'FROM a\nEXPOSE 80/tcp\nVOLUME ["/v", "/w"]\n'
    yield b"FROM a\nRUN --mount=type=cache,target=/c <<EOF\necho $A\nEOF\nCOPY --from=0 --chown=1:2 <<a b /c/\nx\na\n"
    yield b'FROM scratch\nHEALTHCHECK --interval=1s CMD x\nONBUILD RUN y\nENV a=b c="d"\nMAINTAINER m'
    yield b'FROM a\nADD a b /c/\nLABEL a=b\nSHELL ["x"]\nSTOPSIGNAL 9\nUSER u:g\nWORKDIR /w\nENTRYPOINT e\n'
    yield from (b"", b"ARG A\n", b"RUN a\n", b"FROM\n", b"FROM a b\n", b"FROM a AS -\n", b"FROM a as B\nFROM b\n")
    for line in (
        b"WRONG a",
        b"COPY a",
        b"MAINTAINER",
        b"USER a b",
        b"SHELL a",
        b"ONBUILD",
        b"ONBUILD FROM a",
        b"ONBUILD ONBUILD RUN a",
        b"ONBUILD COPY a b",
        b"RUN --network=host a",
        b"RUN --network=default a",
        b"RUN --wrong a",
        b"COPY --link a b",
        b"RUN --mount=type=wrong a",
        b"RUN --mount=$A a",
        b"RUN --mount=type=bind,target=/a --mount=type=tmpfs,target=/b a",
        b"ONBUILD RUN <<E\na\nE",
        b"RUN << E\na\nE",
        b"RUN a<<b",
        b"RUN <<'E' <<-\"F\"\na\nE\n\tb\n\tF",
        b"RUN 3<<E cat\na\nE",
        b"COPY --chown=1 <<'a b' c /d\nx\na b",
        b"ADD <<a\\b /c\nx\nab",
        b"RUN <<<x",
        b'RUN echo "<<E"',
        b"RUN <<E\nno end",
        b'RUN ["a", "<<E"]',
        b"HEALTHCHECK NONE",
        b'HEALTHCHECK --interval=1s --retries=3 CMD ["x"]',
        b'COPY <<"a"b /c\nx\nab',
    ):
        yield b"FROM a\n" + line + b"\n"
    yield b"# syntax=x\n# escape=`\n\n# escape=\\\nFROM a\nRUN a `\nb\n"
    yield b"\xef\xbb\xbfFROM a\n"


def _words() -> Iterator[bytes]:
    yield b"a$A${B:-x}${A:+y}${A#*a}${A%%a*}${A/a/b}'$A'\"$B\"\\$A"
    yield b"# c\n!a/**/b\n*.x\n[a-z]?\n/.git\n**/y\n"
    yield b"-eo pid,user,args aux -ef o pcpu"
    yield from (
        b"'a",
        b'"a',
        b'"a\\n$A\\$\\"b"',
        b"${A",
        b"${A:-b",
        b"${}",
        b"${:x}",
        b"${A:}",
        b"${A!x}",
        b"${A?}",
        b"${B:?gone}",
        b"${B?}",
        b"${C?gone}",
        b"${A-x}${C-x}${C+x}${A+x}${B:+x}",
        b"$1$?$$$@ $- $",
        b"a\\",
        b"${A//a/}${A/b/c}${A/a}",
        b"${A#\\*}${A%\\q}",
        b"${A%%\\}}${A##?*}${A%*}",
        b"${C:-${C:-${A:-'x'}}}",
        b'${C:-"a\\b$A"}',
        b"${C:-" * 200 + b"}" * 200,
        b"${A/\\//x}",
        b"\xef\xbb\xbf!\n!./..\n../a\na/../b\na/**/**/c\n**\n",
        b"[a\n",
        b"[]a]\n[^b-]\n[z-a]\n\\*x\\\n",
        b"*a*a*b?\n",
        b"a\n" * 12_000,
    )


def _pods() -> Iterator[bytes]:
    yield json.dumps(FULL).encode()
    small = {"id": "p", "containers": [{"image": "a", "command": ["x"], "ports": [{"containerPort": 80}]}]}
    yield json.dumps(small).encode()
    for key in FULL:
        part = copy.deepcopy(small)
        part[key] = FULL[key]
        yield json.dumps(part).encode()
    for more in _rare_pods():
        yield json.dumps({**small, **more}).encode()
    for part in _rare_containers():
        yield json.dumps({"id": "p", "containers": [{"image": "a", **part}]}).encode()
        yield json.dumps({"image": "a", **part}).encode()
    port = {"containerPort": "80-90", "hostPort": "80-90", "protocol": "tcp"}
    service = {"serviceip": "10.0.0.1", "serviceport": 80, "protocol": "TCP", "hosts": []}
    host = {"hostip": "10.0.0.2", "hostport": 80}
    for found in ([], [port], [port, port], [port] * 70_000, [service], [{**service, "hosts": [host, host]}],
                  [{**service, "serviceip": "224.0.0.1"}], [service] * 5000, "text", 7):  # fmt: skip
        yield json.dumps(found).encode()


def _rare_pods() -> Iterator[dict[str, Any]]:
    """Yield what pods may have, right and wrong."""
    for name in ("h" * 64, "a.b", "a_b", "-"):
        yield {"hostname": name}
    for volume in (
        {"name": ""}, {"name": "v", "format": "wrong"}, {"name": "v", "format": "vfs", "source": "rel"},
        {"name": "v", "format": "raw", "source": "/a/../b"}, {"name": "v", "format": "rbd"},
        {"name": "v", "format": "nas", "source": "x"}, {"name": "v", "format": "nas", "source": "h:/x"},
        {"name": "v", "format": "vfs", "source": "/s", "cache": "wrong"},
        {"name": "v", "format": "nas", "source": "[::1]:/x"},
    ):  # fmt: skip
        yield {"volumes": [volume]}
        yield {"volumes": [volume, volume]}
    yield {"files": [{"name": "", "content": "x"}]}
    yield {"files": [{"name": "f", "content": "x"}] * 2}
    service = {"serviceip": "10.0.0.1", "serviceport": 80, "protocol": "TCP", "hosts": []}
    for ip in ("10.0.0.1", "224.0.0.1", "0.0.0.0", "::1"):  # noqa: S104 - refused
        yield {"services": [{**service, "serviceip": ip}]}
    yield {"services": [service, service]}
    for server in ("1.1.1.1", "wrong"):
        yield {"dns": [server]}
    for nics in (
        [{"gateway": "10.0.0.1", "ip": "10.0.0.2/24"}] * 2, [{"bridge": "b"}], [{"mtu": 9}], [{"id": "a"}, {"id": "a"}],
        [{"mac": "02:00:00:00:00:01"}] * 2, [{"bridge": "b", "ip": "10.0.0.2/24", "mtu": 1400}],
    ):  # fmt: skip
        yield {"interfaces": nics}
    yield {"portmappings": [{"containerPort": "80", "hostPort": "80"}] * 2}
    yield {"containers": [{"image": "a", "name": "n"}, {"image": "b", "name": "n"}]}
    yield {"containers": [7]}
    yield {"unknown": 1}


def _rare_containers() -> Iterator[dict[str, Any]]:
    """Yield what containers may have, right and wrong."""
    yield {"cache": "wrong"}
    detail = {"name": "v", "source": "/s", "format": "vfs"}
    for ref in (
        {"path": "/v"}, {"volume": "v", "path": "/"}, {"volume": "v", "path": "/v"}, {"path": "/v", "detail": detail},
        {"volume": "w", "path": "/v", "detail": {**detail, "source": "rel"}},
    ):  # fmt: skip
        yield {"volumes": [ref]}
        yield {"volumes": [ref, ref]}
    yield {
        "volumes": [{"volume": "a", "path": "/v", "detail": detail}, {"volume": "b", "path": "/v/", "detail": detail}]
    }
    yield {"envs": [{"env": "A", "value": "1"}] * 2}
    for file in (
        {"perm": "9"},
        {"path": "/d/", "filename": ""},
        {"path": "/d/", "filename": "f"},
        {"path": "/d/", "filename": ".."},
    ):
        yield {"files": [{"filename": "f", "path": "/f", "perm": "0644", **file}]}
    for name, soft, hard in (("nofile", 2, 1), ("nofile", 1, 1 << 40), ("core", -1, 5), ("core", 1, -1)):
        yield {"ulimits": [{"name": name, "soft": soft, "hard": hard}]}
    yield {"ulimits": [{"name": "core", "soft": 1, "hard": 1}] * 2}


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
    for key, value in _rare_host():
        yield json.dumps({"Image": "a", "HostConfig": {key: value}}).encode()
    for more in _rare_config():
        yield json.dumps({"Image": "a", **more}).encode()


def _rare_host() -> Iterator[tuple[str, Any]]:
    """Yield what HostConfig may have, right and wrong, key by key."""
    for text in (
        "/v", "v:/a:nocopy", "v:/a:rslave,z", "v:/a:rshared", "v:/a:wrong", "a:b:c:d", ":/a", "v:relative", "v:/a/../b",
        "v:/", "/same:/a", "v!:/a",
    ):  # fmt: skip
        yield "Binds", [text]
    yield "Binds", ["/same:/a", "/same:/b", "v:/c", "v:/c"]
    yield "VolumesFrom", ["c:wrong"]
    for text in ("", "size=1m,mode=1700,ro,uid=5,noexec", "size=x", "mode=9", "wrong"):
        yield "Tmpfs", {"/t": text}
    bind = {"Type": "bind", "Source": "/s", "Target": "/t"}
    volume = {"Type": "volume", "Target": "/t"}
    for mount in (
        {"Type": "tmpfs", "Target": "/t", "ReadOnly": True, "TmpfsOptions": {"SizeBytes": 5, "Mode": 448}},
        {"Type": "tmpfs", "Target": "/t", "Source": "s"}, {"Type": "npipe", "Target": "/t"}, bind,
        {**bind, "Source": ""}, {**bind, "Source": "rel"}, {**bind, "BindOptions": {"Propagation": "shared"}},
        {**bind, "BindOptions": {"Propagation": "wrong"}}, {**bind, "BindOptions": {"NonRecursive": True}},
        {**bind, "BindOptions": {"CreateMountpoint": True, "Propagation": "rprivate"}}, volume,
        {**volume, "VolumeOptions": {"NoCopy": True, "DriverConfig": {"Name": "nfs"}}},
        {**volume, "VolumeOptions": {"Labels": {"a": "b"}, "DriverConfig": {"Name": "local", "Options": {"o": "x"}}}},
    ):  # fmt: skip
        yield "Mounts", [mount]
    for name, most in (("always", 3), ("on-failure", -1), ("wrong", 0), ("unless-stopped", 0), ("no", 0)):
        yield "RestartPolicy", {"Name": name, "MaximumRetryCount": most}
    for port in ("80/sctp", "x", "80-90/udp", "80"):
        yield "PortBindings", {port: None}
    yield "PublishAllPorts", True
    for text in ("a", "a:b:c", ":b", "/a:/b/c"):
        yield "Links", [text]
    for text in ("a", ":1", "a:"):
        yield "ExtraHosts", [text]
    for kind, options in (("wrong", {}), ("", {"max-size": "1m"}), ("syslog", {"syslog-address": "udp://a"}), ("", {})):
        yield "LogConfig", {"Type": kind, "Config": options}
    for text in (
        "no-new-privileges:false", "seccomp=unconfined", "seccomp:unconfined", "systempaths=unconfined",
        "label=disable", "apparmor=x", "wrong",
    ):  # fmt: skip
        yield "SecurityOpt", [text]
    yield "MaskedPaths", ["/proc/x"]
    yield "ReadonlyPaths", []
    for mode in ("none", "container:x", "host", "other", "default"):
        yield "NetworkMode", mode


def _rare_config() -> Iterator[dict[str, Any]]:
    """Yield bodies with what Config may have, right and wrong."""
    for test in ([], ["NONE"], ["CMD-SHELL", "x"], ["CMD"], ["WRONG", "x"]):
        yield {"Healthcheck": {"Test": test, "Retries": 2}}
    yield {"Healthcheck": {"Test": ["CMD", "x"], "Interval": -1}}
    for words in ([], [""], ["e"]):
        yield {"Entrypoint": words}
    for env in ("", "=b", "A", "A=b=c"):
        yield {"Env": [env]}
    yield {"ExposedPorts": {"wrong/x": {}}}
    yield {"Volumes": {"/v/": {}, "//w": {}}}
    yield {"NetworkDisabled": True, "StopTimeout": 5}
    yield {"ExposedPorts": {"80/tcp": {}, "81/udp": {}}, "HostConfig": {"PublishAllPorts": True}}
    yield {"HostConfig": {"AutoRemove": True, "RestartPolicy": {"Name": "always"}}}
    point = {"Links": ["a:b"], "MacAddress": "02:00:00:00:00:01", "DriverOpts": {"a": "b"}}
    for name in ("bridge", "default", "n"):
        yield {"HostConfig": {"NetworkMode": name}, "NetworkingConfig": {"EndpointsConfig": {name: point, "m": None}}}


def _json_logs() -> Iterator[bytes]:
    tail = '","stream":"stdout","time":"2026-01-02T03:04:05.000000006Z"'
    yield f'{{"log":"a\\n{tail}}}\n{{"log":"b{tail},"run":1,"end":2}}\n'.encode()
    yield ("".join(f'{{"log":"line {n}\\n{tail}}}\n' for n in range(20))).encode()

    def line(text: str, stream: str = "stdout") -> str:
        return f'{{"log":"{text}{tail.replace("stdout", stream)}}}\n'

    mixed = line("a\\n") + line("b", "stderr") + line("c\\n")
    yield mixed.encode()
    yield (mixed * 40).encode()
    yield (line("same\\n") * 50 + line("\\x") + line("other", "stderr") * 50 + line("end")[:-1]).encode()
    yield (
        line("\\ud800") * 3 + line("\\x") * 3 + '{"log":"a"}\n' + '{"log":"b","stream":"other"}\n' + line("z")
    ).encode()
    yield (line("x" * 300_000) + line("y")).encode()
    yield b"".join(encode_block(b"one\ntwo\n" * 40, stream="stdout", time="2026-01-02T03:04:05Z", run=1, end=0))
    yield f'{{"log":"\\u00e4\\\\\\"\\ud800\\n{tail.replace("stdout", "stderr")}}}\nno json\n{{}}\n'.encode()


def _cri_logs() -> Iterator[bytes]:
    yield b"2026-01-02T03:04:05.000000006Z stdout F whole\n2026-01-02T03:04:05.000000006Z stderr P part\nrubbish\n"


def _frames() -> Iterator[bytes]:
    records = encode_records([(1, ("a", b"b", 3)), (2, ())])
    yield Frame(FrameType.RESPONSE, 1, 2, 0, records).encode() + data_frame(17, 5, b"out")
    yield hello_frame(b"n" * 16) + welcome_frame(b"n" * 16, b"b" * 16) + b"rest"
    yield b"old bytes" + offset_frame(FrameType.EOF, 17, 9) + records
    yield b"rest HYF"
    yield b"H"
    yield Frame(FrameType.DATA, 17).encode() + Frame(FrameType.EOF, 17, payload=b"short").encode()
    aged = bytes(8) + (1500).to_bytes(4, "big")
    yield Frame(FrameType.DATA, 17, flags=AGED, payload=aged + b"out").encode()
    yield Frame(FrameType.DATA, 17, flags=AGED, payload=b"short").encode()
    whole = Frame(FrameType.EVENT, payload=b"x").encode()
    yield HEADER.pack(b"HYFR", 1, 0, 0, 0, 1 << 30) + whole + whole[:-4] + b"NOPE" + whole
    yield from (records[:-1], records[:6], records[:3], records + b"\0")
    welcome = welcome_frame(b"n" * 16, b"b" * 16)
    yield welcome
    yield b"x" * 60 + welcome[:40]
    yield welcome[:32] + b"\0\0\0\7" + welcome[36:]


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

    def control(kind: int, inner: bytes, flags: int = 0) -> bytes:
        return struct.pack(">HHI", 0x8003, kind, flags << 24 | len(inner)) + inner

    one = struct.pack(">I", 1)
    yield opened + opened  # the same stream again
    yield opened + control(3, one + one) + struct.pack(">II", 1, 2) + b"hi"
    yield opened + struct.pack(">II", 1, 1 << 24) + struct.pack(">II", 1, 2) + b"hi" + struct.pack(">II", 9, 0)
    yield control(1, body, flags=1) + struct.pack(">II", 1, 2) + b"hi"
    yield struct.pack(">HHI", 0x8002, 1, 0) + opened
    yield struct.pack(">HHI", 0x8003, 1, 1 << 20)
    yield control(1, b"short") + control(6, struct.pack(">I", 8)) + control(6, b"")
    yield control(1, struct.pack(">IIH", 2, 0, 0) + headers)
    yield control(1, struct.pack(">IIH", 1, 0, 0) + b"no zlib")
    more = pack.compress(block) + pack.flush(zlib.Z_SYNC_FLUSH)
    yield (
        opened
        + control(8, one + more, flags=1)
        + control(8, one + pack.compress(block) + pack.flush(zlib.Z_SYNC_FLUSH), 1)
    )
    for wrong in (block + b"more", block[:-2], bytes(2), struct.pack(">I", 9) + b"x", bytes(1 << 18)):
        new = zlib.compressobj(zdict=DICTIONARY)
        yield control(1, struct.pack(">IIH", 1, 0, 0) + new.compress(wrong) + new.flush(zlib.Z_SYNC_FLUSH))


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
