"""What a container in a real guest sees of nasty layers, pulled and loaded; judges: umoci and podman."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.layers import CORPUS
from tests.support.oracles import PodmanStore
from tests.support.registry import Layer, RegistryServer, directory, layer_tar, member
from tests.support.rootfs import umoci_view
from tests.support.until import until
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry, pytest.mark.root]

TOOL = ".describe/tool"
# What a container's start puts there.
GIVEN = {"dev", "proc", "sys", "etc", "etc/hosts", "etc/hostname", "etc/resolv.conf"}
MAX_LAYERS = 127

Files = dict[bytes, list[str]]


@pytest.fixture(scope="module")
def tool() -> Iterator[Path]:
    """The program that describes a root; static, it runs on the host and in the image."""
    source = Path(__file__).parents[1] / "support" / "describe.c"
    with tempfile.TemporaryDirectory(prefix="hy", dir="/tmp") as name:
        path = Path(name) / "describe"
        subprocess.run(["gcc", "-static", "-O2", "-Wall", "-o", path, source], check=True)
        yield path


def with_tool(tars: list[bytes], tool: Path) -> list[bytes]:
    """Put the tool into the last layer's tar, so that their number stays."""
    last = io.BytesIO(tars[-1])
    with tarfile.open(fileobj=last, mode="a", format=tarfile.PAX_FORMAT) as archive:
        for info, data in (directory(".describe"), member(TOOL, tool.read_bytes(), mode=0o755)):
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return [*tars[:-1], last.getvalue()]


def parsed(text: str) -> Files:
    """Read what the tool printed; file numbers become the first name that a file has."""
    lines = text.splitlines()
    assert lines[-1] == "end", lines[-1]
    found: Files = {}
    for line in lines[:-1]:
        name, *rest = line.split(" ")
        found[bytes.fromhex(name)] = rest
    names: dict[str, bytes] = {}
    for name in sorted(found):
        found[name] = [
            f"file={names.setdefault(word, name)!r}" if word.startswith("file=") else word for word in found[name]
        ]
    return found


def on_host(tool: Path, root: Path) -> Files:
    return parsed(subprocess.run([tool, root], capture_output=True, text=True, check=True).stdout)


def in_guest(host: Host, image: str) -> Files:
    return parsed(host.ok("run", "--rm", image, f"/{TOOL}", "/"))


def without(word: str, files: Files) -> Files:
    return {name: [one for one in words if not one.startswith(word)] for name, words in files.items()}


def files_of(files: Files) -> Files:
    """Leave directories out: podman shows those that only a lower layer describes otherwise, and its own root."""
    return {name: words for name, words in files.items() if not words[0].startswith("4")}


def compare(got: Files, want: Files) -> None:
    given = {name.encode() for name in GIVEN}
    extra = {name for name in got.keys() - want.keys() if name not in given}
    assert (extra, want.keys() - got.keys() - given) == (set(), set())
    both = {name for name in got.keys() & want.keys() if name not in given - {b"etc"}}
    assert {name: got[name] for name in both if got[name] != want[name]} == {
        name: want[name] for name in both if got[name] != want[name]
    }


def load(host: Host, layout: Path, name: str) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path in sorted(layout.rglob("*")):
            archive.add(path, str(path.relative_to(layout)), recursive=False)
    code, _, text = host.daemon.request(
        "POST",
        "/image/load?" + urllib.parse.urlencode({"name": name}),
        body=out.getvalue(),
        headers={"Content-Type": "application/tar"},
        timeout=200,
    )
    assert (code, b"error" in text) == (200, False), text


def podman_view(layout: Path, tool: Path) -> Files:
    """Let podman lay the layers over each other."""
    with PodmanStore(driver="overlay") as podman:
        image = podman.run("pull", "-q", f"oci:{layout}:t")
        root = podman.run("image", "mount", image)
        try:
            return on_host(tool, Path(root))
        finally:
            podman.run("image", "umount", image)


ROOT = [
    [directory("./", mode=0o1711, uid=7, gid=8, pax_headers={"SCHILY.xattr.user.note": "kept"}), member("f", b"f")],
    [member("g", b"g")],
]
SPLIT_LINKS = [
    [
        *[directory("d"), member("d/a", b"one")],
        *[member(name, type=tarfile.LNKTYPE, linkname="d/a") for name in ("d/b", "d/c", "z")],
    ],
    [member("d/a", b"two"), member("d/x", type=tarfile.LNKTYPE, linkname="d/a"), member("d/.wh.c")],
    [directory("e"), member("e/a", b"one"), member("d/b", type=tarfile.LNKTYPE, linkname="e/a")],
]
LINKS_BELOW = [
    [directory("d", mode=0o711), member("d/a", b"one", mode=0o750, uid=3), member("large", b"x" * 300_000)],
    [member(name, type=tarfile.LNKTYPE, linkname=target) for name, target in (("new/x", "d/a"), ("d/y", "large"))],
    [member("d/a", b"two"), member("z", type=tarfile.LNKTYPE, linkname="new/x")],
]
CASES = {
    **{name: CORPUS[name] for name in ("one", "three", "duplicates-on-base", "empty")},
    "root": ROOT,
    "links across layers": SPLIT_LINKS,
    "links to lower layers": LINKS_BELOW,
}
# It refuses names that come twice and links to files of lower layers, and is slow.
NOT_PODMANS = {"duplicates-on-base", "links to lower layers", "large"}


@pytest.mark.parametrize("case", CASES)
def test_a_container_sees_what_umoci_and_podman_see(
    host: Host, registry: RegistryServer, tool: Path, tmp_path: Path, case: str
) -> None:
    see_both_ways(host, registry, tool, tmp_path, case, [layer_tar(members) for members in CASES[case]])


def see_both_ways(  # noqa: PLR0917 - what every test here has
    host: Host, registry: RegistryServer, tool: Path, work: Path, case: str, tars: list[bytes]
) -> None:
    """Pull, look, remove; load, look, remove."""
    tars = with_tool(tars, tool)
    umoci = on_host(tool, umoci_view(tars, work))
    podman = umoci if case in NOT_PODMANS else podman_view(work / "oci", tool)
    registry.push("nasty/image", "t", [Layer(tar) for tar in tars], oci=True)
    for way, name in (("pull", f"{registry.host}/nasty/image:t"), ("load", "nasty:t")):
        if way == "pull":
            host.ok("pull", name)
        else:
            load(host, work / "oci", name)
        try:
            got = in_guest(host, name)
        finally:
            host.ok("rmi", name)
        # overlayfs counts the links of a file in its own layer: as podman's overlay, not as one directory tree
        compare(without("links=", got), without("links=", umoci))
        if case not in NOT_PODMANS:
            compare(files_of(got), files_of(podman))
        if len(tars) == 1:
            compare(got, umoci)


def test_127_layers(host: Host, registry: RegistryServer, tool: Path, tmp_path: Path) -> None:
    layers = [[directory("etc"), directory("d", mode=0o710), member("d/0", b"0"), member("changed", b"0")]]
    for number in range(1, MAX_LAYERS):
        layer = [member(f"d/{number}", b"%d" % number, mtime=number), member("changed", b"%d" % number)]
        if number % 3 == 0:
            layer.append(member(f"d/.wh.{number - 1}"))
        if number % 50 == 0:
            layer.append(directory("d", mode=0o700 + number, uid=number))
        layers.append(layer)
    see_both_ways(host, registry, tool, tmp_path, "", [layer_tar(members) for members in layers])


def test_a_file_of_more_than_4_gib_with_holes(host: Host, registry: RegistryServer, tool: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with (source / "large").open("wb") as file:
        for offset in (0, 2**31 - 3, 2**32 - 5000, 2**32 + 700_000):
            file.seek(offset)
            file.write(b"data at %d" % offset * 1000)
        file.truncate(2**32 + 2**20)
    words = ["tar", "--sparse", "--format=posix", "-C", str(source), "-cf", "-", "large"]
    tar = subprocess.run(words, capture_output=True, check=True).stdout
    assert len(tar) < 2**20
    see_both_ways(
        host, registry, tool, tmp_path, "large", [layer_tar([directory("etc")]), tar, layer_tar([member("x")])]
    )


def test_a_root_that_a_container_changes(host: Host) -> None:
    pod = host.pod("rooted", "chmod 1731 / && chown 5:6 / && echo done; sleep 1000")
    until(lambda: "done" in host.ok("logs", pod))
    host.ok("commit", pod, "made/rooted:t")
    assert host.ok("run", "--rm", "made/rooted:t", "stat", "-c", "%a %u %g", "/") == "1731 5 6\n"
    host.ok("stop", pod)
    host.ok("start", pod)
    until(lambda: host.ok("logs", pod).count("done") == 2)  # its command has run again
    host.ok("exec", pod, "chmod", "700", "/")  # the container's own from now on
    host.ok("stop", pod)
    host.ok("commit", pod, "made/rooted:t")
    assert host.ok("run", "--rm", "made/rooted:t", "stat", "-c", "%a %u %g", "/") == "700 5 6\n"
    host.ok("rm", pod)
    host.ok("rmi", "made/rooted:t")
