"""Images through a real daemon: push, save, load, import and what is told of them; clients that leave."""

from __future__ import annotations

import gzip
import io
import json
import random
import re
import socket
import tarfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.daemon import HyperdLauncher
from tests.support.hyperctl_process import Runner
from tests.support.oracles import skopeo
from tests.support.registry import Layer, RegistryServer, digest_of, directory, layer_tar, member
from tests.support.until import until
from tests.support.web import serving, web

pytestmark = [pytest.mark.root, pytest.mark.registry]

TAR = layer_tar([directory("bin"), member("bin/sh", b"#!" * 3000, mode=0o755)])
NOISE = layer_tar([member("noise", random.Random(3).randbytes(3_000_000))])


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        server.push("base/image", "t", [Layer(TAR), Layer(NOISE)], oci=True)
        yield server


@pytest.fixture(scope="module")
def daemon() -> Iterator[HyperdLauncher]:
    with HyperdLauncher(driver="fake") as one:
        one.start()
        yield one


@pytest.fixture
def ctl(daemon: HyperdLauncher, tmp_path: Path) -> Iterator[Runner]:
    yield Runner(daemon.host, tmp_path)
    for image in daemon.json("GET", "/images/df")["Images"]:
        daemon.request("DELETE", "/image", imageId=image["Id"], force="yes")
    nothing_stored(daemon)


def stored(daemon: HyperdLauncher) -> list[str]:
    root = daemon.root / "images"
    return sorted(str(path.relative_to(root)) for path in root.glob("**/*") if path.is_file())


def nothing_stored(daemon: HyperdLauncher) -> None:
    """No file is left, but for copies of rows: these go after the rows, and are waited for."""
    assert [name for name in stored(daemon) if not name.startswith("rows/")] == []
    until(lambda: stored(daemon) == [], tell=lambda: stored(daemon))


def ok(ctl: Runner, *words: str, stdin: bytes = b"") -> str:
    done = ctl(*words, stdin=stdin)
    assert (done.returncode, done.stderr) == (0, b""), (words, done)
    return done.stdout.decode()


def images(daemon: HyperdLauncher) -> dict[str, str]:
    rows = daemon.json("GET", "/images/get", all="yes")["imagesList"]
    return {":".join(row.rsplit(":", 4)[:2]): row.rsplit(":", 4)[2] for row in rows}


def lines(body: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in body.split(b"\r\n") if line]


def names_in(archive: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return tar.getnames()


def test_the_way_of_an_image(daemon: HyperdLauncher, ctl: Runner, registry: RegistryServer, tmp_path: Path) -> None:
    name, copy = f"{registry.host}/base/image:t", f"{registry.host}/copy/image:u"
    ok(ctl, "pull", name)
    ok(ctl, "tag", name, copy)
    shown = ok(ctl, "push", copy)
    assert "Mounted from base/image" in shown
    digests = [json.loads(skopeo("inspect", "--tls-verify=false", f"docker://{one}"))["Digest"] for one in (name, copy)]
    assert digests[0] == digests[1]
    image_id = images(daemon)[copy]
    ok(ctl, "save", "-o", "docker.tar", name, copy)
    ok(ctl, "save", "-f", "oci", "-o", "oci.tar", "-r", f"{copy}=mine", copy)
    piped = ctl("save", copy).stdout
    assert names_in(piped)[0] == "manifest.json"
    ok(ctl, "rmi", name, copy)
    nothing_stored(daemon)
    assert ok(ctl, "load", "-i", "docker.tar") == f"Loaded image: {name}\nLoaded image: {copy}\n"
    ok(ctl, "rmi", name, copy)
    assert ok(ctl, "load", "-i", "oci.tar", "-r", "back:1=mine") == "Loaded image: back:1\n"
    assert ok(ctl, "load", stdin=gzip.compress(piped)) == f"Loaded image: {copy}\n"
    assert images(daemon) == {"back:1": image_id, copy: image_id}


def test_import_and_what_is_told(daemon: HyperdLauncher, ctl: Runner, tmp_path: Path) -> None:
    (tmp_path / "root.tar.gz").write_bytes(gzip.compress(TAR))
    said = ok(ctl, "import", "-c", "CMD /bin/sh", "-c", "ENV A=1", "-m", "by hand", "root.tar.gz", "imported/one:1")
    image_id = said.strip()
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", image_id)
    (told,) = json.loads(ok(ctl, "inspect", "imported/one:1"))
    assert (told["Id"], told["RepoTags"], told["Comment"]) == (image_id, ["imported/one:1"], "by hand")
    assert told["Config"] == {"Cmd": ["/bin/sh", "-c", "/bin/sh"], "Env": ["A=1"]}
    assert (told["Size"], told["RootFS"]["Layers"]) == (len(TAR), [digest_of(TAR)])
    (step,) = daemon.json("GET", "/image/history", imageId="imported/one:1")
    assert (step["Id"], step["Size"], step["Comment"], step["Tags"]) == (
        image_id,
        len(TAR),
        "by hand",
        ["imported/one:1"],
    )
    assert "by hand" in ok(ctl, "history", "imported/one:1")
    assert ok(ctl, "history", "-q", "imported/one:1").strip() == image_id.removeprefix("sha256:")[:12]
    assert "imported/one:1" in ok(ctl, "image", "df")
    ok(ctl, "import", "-", stdin=TAR)
    assert len(images(daemon)) == 2
    pruned = ok(ctl, "image", "prune")
    assert re.fullmatch(r"deleted: sha256:[0-9a-f]{64}\nTotal reclaimed space: 0 B\n", pruned)
    assert "untagged: imported/one:1" in ok(ctl, "image", "prune", "-a")
    assert images(daemon) == {}


@pytest.fixture
def url() -> Iterator[str]:
    with web({"/root.tar": NOISE}) as address:
        yield address


@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_larger_than_json_may_be(daemon: HyperdLauncher, ctl: Runner, chunked: bool) -> None:
    tar = layer_tar([member("zeros", bytes(40_000_000))])
    pieces = [tar[at : at + 2**20] for at in range(0, len(tar), 2**20)]
    with daemon.connection() as connection:
        headers = {"Content-Type": "application/x-tar"} | ({} if chunked else {"Content-Length": str(len(tar))})
        path = "/image/create?fromSrc=-&repo=large"
        connection.request("POST", path, body=iter(pieces), headers=headers, encode_chunked=chunked)
        response = connection.getresponse()
        assert (response.status, b"sha256:" in response.read()) == (200, True)
    assert daemon.json("GET", "/image/inspect", imageId="large")["Size"] == len(tar)


def test_import_from_the_web(daemon: HyperdLauncher, ctl: Runner, url: str) -> None:
    said = ok(ctl, "import", f"{url}/root.tar", "from/web").splitlines()
    assert said[0] == f"Downloading from {url}/root.tar"
    assert images(daemon) == {"from/web:latest": said[-1].removeprefix("sha256:")}
    for source, status in ((f"{url}/none", 400), ("http://127.0.0.1:1/x", 502), ("ftp://x/y", 400)):
        assert daemon.request("POST", "/image/create", fromSrc=source)[0] == status


def test_search(daemon: HyperdLauncher, ctl: Runner, registry: RegistryServer) -> None:
    found = daemon.json("GET", "/images/search", term=f"{registry.host}/BASE")
    assert [row["name"] for row in found] == ["base/image"]
    assert "base/image" in ok(ctl, "search", f"{registry.host}/image")
    assert daemon.json("GET", "/images/search", term=f"{registry.host}/nosuch") == []
    assert daemon.request("GET", "/images/search", term="")[0] == 400


def test_a_registry_without_search(daemon: HyperdLauncher) -> None:
    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(200 if self.path == "/v2/" else 404)

    with serving(Nothing) as url:
        status, _, body = daemon.request("GET", "/images/search", term=f"{url.removeprefix('http://')}/x")
    assert (status, b"cannot be searched" in body) == (501, True)


REFUSED = [
    ("POST", "/image/push", {"remote": "x"}, 400, b"Bad parameters and missing X-Registry-Auth: EOF"),
    ("POST", "/images/push", {"remote": ""}, 400, b"remote is required"),
    ("GET", "/images/save", {}, 400, b"names of images are needed"),
    ("GET", "/images/save", {"names": "nosuch"}, 404, b"No such image: nosuch:latest"),
    ("GET", "/images/save", {"names": "x", "format": "zip"}, 400, b"there is no format"),
    ("GET", "/images/save", {"names": "x", "refs": "[1]"}, 400, b"refs"),
    ("GET", "/images/save", {"names": "x", "refs": '{"x":"a/b"}'}, 400, b"cannot be a reference"),
    ("POST", "/image/load", {}, 400, b"not an archive of images"),
    ("POST", "/image/load", {"name": "a", "refs": '{"a":"b"}'}, 400, b"cannot load with either name and refs"),
    ("POST", "/image/create", {}, 400, b"imageName is required"),
    ("POST", "/image/create", {"fromSrc": "-"}, 400, b"not the tar of a file system"),
    ("POST", "/image/create", {"fromSrc": "-", "repo": "Bad"}, 400, b"invalid reference format"),
    ("POST", "/image/create", {"fromSrc": "-", "tag": "t"}, 400, b"a tag needs a repository"),
    ("POST", "/image/create", {"fromSrc": "-", "changes": "RUN rm -rf /"}, 400, b"RUN"),
    ("POST", "/image/tag", {"imageId": "nosuch", "repo": "a"}, 404, b"No such image: nosuch:latest"),
    ("POST", "/image/tag", {"imageId": "nosuch"}, 400, b"repo is required"),
    ("GET", "/image/inspect", {"imageId": "nosuch"}, 404, b"No such image: nosuch:latest"),
    ("GET", "/image/history", {"imageId": "nosuch"}, 404, b"No such image: nosuch:latest"),
    ("POST", "/images/prune", {"until": "yesterday"}, 400, b"until"),
]


@pytest.mark.parametrize("case", REFUSED, ids=[f"{case[1]} {case[4].decode()}" for case in REFUSED])
def test_what_is_refused(daemon: HyperdLauncher, case: tuple[str, str, dict[str, str], int, bytes]) -> None:
    method, path, query, status, words = case
    got = daemon.request(method, path, **query)
    assert (got[0], words in got[2]) == (status, True), got
    nothing_stored(daemon)


def test_push_with_credentials_in_the_body(daemon: HyperdLauncher, ctl: Runner, registry: RegistryServer) -> None:
    name = f"{registry.host}/body/auth"
    ok(ctl, "import", "-", f"{name}:t", stdin=TAR)
    for path in ("/image/push", "/images/push"):
        status, headers, body = daemon.request(
            "POST", path, body=b'{"username":"","password":""}', remote=name, tag="t"
        )
        assert (status, headers["Content-Type"]) == (200, "application/json")
        assert lines(body)[-1]["aux"]["Tag"] == "t"
    status, _, body = daemon.request("POST", "/image/push", remote="127.0.0.1:1/x/y", headers={"X-Registry-Auth": ""})
    assert (status, b"does not exist locally" in body) == (404, True)


def test_an_unreachable_registry(daemon: HyperdLauncher, ctl: Runner) -> None:
    ok(ctl, "import", "-", "127.0.0.1:1/x/y:t", stdin=TAR)
    done = ctl("push", "127.0.0.1:1/x/y:t")
    assert (done.returncode, b"cannot talk to registry 127.0.0.1:1" in done.stderr) == (255, True), done


def half_sent(daemon: HyperdLauncher, path: str, data: bytes, *, chunked: bool) -> None:
    """Begin a request with a body and go away in the middle of it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2 * len(data)}"
        sock.sendall(f"POST {path} HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode())
        sock.sendall(b"%x\r\n%b\r\n" % (len(data), data) if chunked else data)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("path", ["/image/load", "/image/create?fromSrc=-&repo=half"])
def test_a_client_that_leaves_while_it_sends(daemon: HyperdLauncher, ctl: Runner, path: str, chunked: bool) -> None:
    inner = layer_tar([member("l.tar", NOISE), member("m.tar", NOISE)])
    before = daemon.log().count("the client left while it sent")
    half_sent(daemon, path, inner[: len(inner) - 700_000], chunked=chunked)
    until(lambda: daemon.log().count("the client left while it sent") > before)
    until(lambda: stored(daemon) == [], tell=lambda: stored(daemon))  # nobody gets an answer that says when
    assert images(daemon) == {}


def test_a_client_that_leaves_while_it_gets(daemon: HyperdLauncher, ctl: Runner) -> None:
    ok(ctl, "import", "-", "big:1", stdin=NOISE)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(b"GET /images/save?names=big:1 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert sock.recv(12) == b"HTTP/1.1 200"
    until(lambda: "work=save" in daemon.log() or '"work": "save"' in daemon.log())
    ok(ctl, "rmi", "big:1")  # nothing holds it any more
    nothing_stored(daemon)


def test_a_load_that_was_killed_leaves_nothing(daemon: HyperdLauncher, ctl: Runner) -> None:
    inner = layer_tar([member("l.tar", NOISE), member("m.tar", TAR)])
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(b"POST /image/load HTTP/1.1\r\nHost: x\r\nContent-Length: 9999999\r\n\r\n")
        sock.sendall(inner[:2_000_000])
        until(lambda: any(name.startswith("tmp/") for name in stored(daemon)))
        daemon.restart(kill=True)
    nothing_stored(daemon)


def test_old_clients_get_whole_answers(daemon: HyperdLauncher, ctl: Runner) -> None:
    ok(ctl, "import", "-", "plain:1", stdin=TAR)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(daemon.socket))
        sock.sendall(b"GET /v1.17/images/save?names=plain:1 HTTP/1.0\r\n\r\n")
        data = b"".join(iter(lambda: sock.recv(65536), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert b"application/x-tar" in head
    assert b"chunked" not in head.lower()
    assert len(names_in(body)) == 3
