"""Layers that show how a file system is made of several."""

from __future__ import annotations

import hashlib
import tarfile

from tests.support.registry import directory, member

CAPABILITY = b"\x01\x00\x00\x02\x00\x20" + bytes(14)


def xattr(name: str, value: bytes) -> dict[str, str]:
    return {f"SCHILY.xattr.{name}": value.decode("utf-8", "surrogateescape")}


def base() -> list[tuple[tarfile.TarInfo, bytes]]:
    """A layer with everything that a file can be."""
    long_parts = "/".join(["p" * 120, "q" * 200, "r" * 255])
    deep = "/".join(f"{i:0100d}" for i in range(30))
    parents = [directory("/".join(deep.split("/")[: i + 1])) for i in range(30)]
    return [
        directory("./", mode=0o755),
        directory("etc", mode=0o750, uid=1, gid=2, mtime=1234567890),
        directory("etc/sub"),
        directory("tmp", mode=0o1777),
        directory("var"),
        directory("var/keep"),
        directory("var/opaque"),
        directory("var/opaque/inner"),
        directory("p" * 120),
        directory("p" * 120 + "/" + "q" * 200),
        *parents,
        member("etc/plain", b"plain\n", mtime=1000000000.75),
        member("etc/setuid", b"s", mode=0o6755),
        member("etc/sticky", b"s", mode=0o1644, uid=70000, gid=70001),
        member("etc/big-ids", b"i", uid=3000000000, gid=4294967294),
        member("etc/capable", b"c", pax_headers=xattr("security.capability", CAPABILITY)),
        member("etc/attributes", b"a", pax_headers=xattr("user.note", b"line\nline\0end")),
        member("etc/linked", b"linked twice"),
        member("etc/link", type=tarfile.LNKTYPE, linkname="etc/linked"),
        member("etc/sub/link", type=tarfile.LNKTYPE, linkname="./etc//linked"),
        member("etc/symlink", type=tarfile.SYMTYPE, linkname="../../outside/../etc/plain"),
        member("etc/absolute", type=tarfile.SYMTYPE, linkname="/etc/plain"),
        member("etc/long-symlink", type=tarfile.SYMTYPE, linkname="s/" * 1500 + "end"),
        member("etc/linked-symlink", type=tarfile.LNKTYPE, linkname="etc/symlink"),
        member("etc/null", type=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666),
        member("etc/disk", type=tarfile.BLKTYPE, devmajor=8, devminor=300, mode=0o660, gid=6),
        member("etc/pipe", type=tarfile.FIFOTYPE, mode=0o600),
        member("etc/with space", b"1"),
        member("etc/with\nnewline", b"2"),
        member("etc/not-utf8-\udcff\udcfe", b"3"),
        member("etc/grün", b"4"),
        member("etc/back\\slash", b"5"),
        member("etc/-dash", b"6"),
        member("etc/*", b"7"),
        member("etc/empty", b""),
        member("etc/zeros", bytes(300_000)),
        member("etc/large", hashlib.sha256(b"x").digest() * 40_000),
        member("n" * 100, b"exactly a hundred"),
        member("m" * 101, b"a hundred and one"),
        member(long_parts, b"long"),
        member(deep + "/file", b"deep"),
        member("link-to-long", type=tarfile.LNKTYPE, linkname=long_parts),
        member("var/keep/a", b"a"),
        member("var/keep/b", b"b"),
        member("var/opaque/old", b"old"),
        member("var/opaque/inner/old", b"old"),
    ]


def changes() -> list[tuple[tarfile.TarInfo, bytes]]:
    """A layer that hides and replaces parts of ``base``."""
    return [
        directory("etc", mode=0o711, uid=5),
        member("etc/.wh.plain"),
        member("etc/.wh.null"),
        directory("var"),
        directory("var/keep"),
        member("var/keep/.wh.a"),
        member("var/keep/c", b"c"),
        directory("var/opaque", mode=0o700),
        member("var/opaque/new", b"new"),
        member("var/opaque/.wh..wh..opq"),
        member("etc/empty", b"no more"),
        member("etc/symlink", b"now a file"),
        member("etc/.wh.sub"),
        member("tmp", b"a file where a directory was"),
        member("never", b"to be hidden later"),
    ]


def top() -> list[tuple[tarfile.TarInfo, bytes]]:
    """A layer on both."""
    return [
        member(".wh.never"),
        directory("etc"),
        directory("etc/sub"),
        member("etc/sub/again", b"again"),
        member("etc/plain", b"back again"),
        directory("var"),
        member("var/.wh.keep"),
        directory("only"),
        directory("only/dirs", mode=0o500),
    ]


def replaced_in_layer() -> list[tuple[tarfile.TarInfo, bytes]]:
    """Names that occur twice: the last one wins, hard links keep what they were made of."""
    return [
        directory("d", mode=0o700),
        member("d/x", b"first"),
        member("d/kept", type=tarfile.LNKTYPE, linkname="d/x"),
        member("d/x", b"second, longer"),
        directory("d", mode=0o755, uid=9),
        member("d/s", type=tarfile.SYMTYPE, linkname="x"),
        member("d/s", b"was a link"),
        directory("gone"),
        member("gone/child", b"lost"),
        member("gone", b"a file now"),
        member("was-file", b"f"),
        directory("was-file", mode=0o711),
        member("was-file/child", b"c"),
        directory("real"),
        member("alias", type=tarfile.SYMTYPE, linkname="/real"),
        member("alias/through", b"lies in real"),
    ]


def only_files() -> list[tuple[tarfile.TarInfo, bytes]]:
    """No directory has a member of its own."""
    return [member("a/b/c/file", b"1"), member("/abs/file", b"2"), member("x/./y/../z", b"3"), member("a/b/d", b"4")]


CORPUS = {
    "one": [base()],
    "two": [base(), changes()],
    "three": [base(), changes(), top()],
    "duplicates": [replaced_in_layer()],
    "duplicates-on-base": [base(), replaced_in_layer()],
    "parents-missing": [only_files()],
    "empty": [base(), []],
}
