"""Builds of Dockerfiles in real guests."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import shutil
import socket
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.builds import build, built, context, send, show
from tests.support.images import stored
from tests.support.registry import RegistryServer
from tests.support.until import until
from tests.support.web import web
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def test_a_dockerfile_becomes_an_image_and_is_cached(host: Host):
    dockerfile = f"""FROM {host.image} AS base
ARG WHO=world
ENV GREETING="hello $WHO" PLACE=here
WORKDIR /srv/app
COPY hello.sh sub/ ./
COPY --chown=12:34 --chmod=640 hello.sh /renamed
RUN echo built on $(pwd) by $WHO > made && rm /bin/wc && ln made twin
RUN ["sh", "-c", "echo $GREETING"]
USER 1000:1000
EXPOSE 80/tcp
LABEL a=b
CMD ["./hello.sh"]
"""
    files = {
        "Dockerfile": dockerfile,
        "hello.sh": "#!/bin/sh\necho $GREETING in $(pwd) as $(id -u)\n",
        "sub/x": "1\n",
        "sub/y/z": "2\n",
    }
    first = built(host, files, t=["made/hello:1", "made/hello:2"], buildargs='{"WHO":"tests","UNKNOWN":"1"}')
    assert first.startswith(f"Step 1/12 : FROM {host.image} AS base\n ---> ")
    assert "hello tests\n" in first
    assert "[Warning] One or more build-args [UNKNOWN] were not consumed\n" in first
    assert "Successfully built " in first
    assert first.endswith("Successfully tagged made/hello:1\nSuccessfully tagged made/hello:2\n")
    assert show(host, "made/hello:1") == "hello tests in /srv/app as 1000\n"
    look = "cat made x y/z; stat -c '%a %u %g %h %Y' /renamed made x; ls /bin/wc 2>&1; id -u"
    assert show(host, "made/hello:2", "sh", "-c", look).splitlines() == [
        "built on /srv/app by tests", "1", "2",
        "640 12 34 1 1500000000", f"644 0 0 2 {show(host, 'made/hello:2', 'stat', '-c', '%Y', 'made').strip()}",
        "644 0 0 1 1500000000", "ls: /bin/wc: No such file or directory", "1000",
    ]  # fmt: skip
    before = host.daemon.log().count("event=vm.booted")
    second = built(host, files, t="made/hello:3", buildargs='{"WHO":"tests"}')
    assert second.count(" ---> Using cache\n") == 5
    assert "Running in" not in second
    ids = {host.daemon.json("GET", "/image/inspect", imageId=f"made/hello:{tag}")["Id"] for tag in (1, 2, 3)}
    assert len(ids) == 1  # the same image, and none is left without a name
    assert not host.daemon.json("GET", "/images/get", filters='{"dangling":["true"]}')["imagesList"]
    assert host.daemon.log().count("event=vm.booted") == before  # no VM was needed
    files["sub/x"] = "changed\n"
    third = built(host, files, t="made/hello:3", buildargs='{"WHO":"tests"}')
    assert third.count(" ---> Using cache\n") == 1
    assert show(host, "made/hello:3", "cat", "x") == "changed\n"
    quiet = built(host, files, q="1", nocache="1", buildargs='{"WHO":"tests"}')
    assert quiet.startswith("sha256:")
    assert len(quiet.split()) == 1
    host.ok("rmi", "-f", "made/hello:1", "made/hello:2", "made/hello:3", quiet.strip())
    host.assert_clean()


def test_stages_copy_from_each_other_and_from_images(host: Host):
    dockerfile = f"""ARG BASE={host.image}
FROM $BASE AS one
RUN mkdir -p /out/deep && echo 1 > /out/deep/f && ln -s deep/f /out/l && mknod /out/null c 1 3 && chmod 700 /out/deep
FROM one AS two
RUN rm /out/deep/f && echo 2 > /out/two
FROM scratch
COPY --from=one /out/ /from-one/
COPY --from=two /out /from-two
COPY --from=0 /out/deep/f /renamed
COPY --from={host.image} /bin/busybox /bin/
COPY --from=one --chown=7:8 /out/t* /out/deep/f* /wild/
"""
    built(host, {"Dockerfile": dockerfile.replace(" /out/t*", "")}, t="made/stages")
    look = (
        "cd /; /bin/busybox find from-* renamed wild | /bin/busybox sort;"
        " /bin/busybox stat -c '%a %u %F' from-one/deep from-one/null wild/f"
    )
    out = show(host, "made/stages", "/bin/busybox", "sh", "-c", look).splitlines()
    assert out == [
        "from-one", "from-one/deep", "from-one/deep/f", "from-one/l", "from-one/null", "from-two", "from-two/deep",
        "from-two/l", "from-two/null", "from-two/two", "renamed", "wild", "wild/f",
        "700 0 directory", "644 0 character special file", "644 7 regular file",
    ]  # fmt: skip
    lines = build(host, {"Dockerfile": dockerfile}, t="made/never")
    assert "no such file" in lines[-1]["error"]
    only = built(host, {"Dockerfile": dockerfile}, t="made/one", target="one")
    assert "Step 3/11" in only
    assert "Step 4/11" not in only
    host.ok("rmi", "made/stages", "made/one")
    host.assert_clean()


def test_heredocs_onbuild_shell_and_wildcards(host: Host):
    base = f"""FROM {host.image}
ONBUILD COPY *.txt /texts/
ONBUILD RUN ls /texts > /list
HEALTHCHECK --interval=5s --retries=2 CMD true
STOPSIGNAL SIGINT
MAINTAINER me
"""
    built(host, {"Dockerfile": base}, t="made/parent")
    child = r"""FROM made/parent
ENV V=value
RUN <<EOF
echo script $V > /script
echo second >> /script
EOF
COPY <<plain <<'raw' /here/
$V and "quotes" \$V
plain
$V stays
raw
SHELL ["/bin/sh", "-xc"]
RUN <<CAT cat > /catted
from a heredoc $V
CAT
"""
    files = {"Dockerfile": child, "a.txt": "a", "b.txt": "b", "c.md": "c", ".dockerignore": "b.*\n", "sub/d.txt": "d"}
    text = built(host, files, t="made/child")
    assert "# Executing 2 build triggers\n" in text
    look = "cat /list /script /here/plain /here/raw /catted"
    assert show(host, "made/child", "sh", "-c", look) == (
        'a.txt\nscript value\nsecond\nvalue and "quotes" $V\n$V stays\nfrom a heredoc value\n'
    )
    host.ok("rmi", "made/child", "made/parent")


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_contexts_and_local_archives(host: Host, pack):
    inner = pack(context({"in/archive": "yes\n"}))
    files = {"other/Build": f"FROM {host.image}\nADD inner.tar /data/\nCOPY inner.tar /kept\n", "inner.tar": inner}
    built(host, pack(context(files)), t="made/add", dockerfile="other/Build")
    assert show(host, "made/add", "sh", "-c", "cat /data/in/archive; stat -c %s /kept") == f"yes\n{len(inner)}\n"
    host.ok("rmi", "made/add")


def test_remote_contexts_and_downloads(host: Host):
    tar = context({"Dockerfile": f"FROM {host.image}\nCOPY f /f\n", "f": "remote\n"})
    plain = f"FROM {host.image}\nRUN echo hi > /f\n".encode()
    with web({"/ctx.tar": tar, "/Dockerfile": plain, "/d/file.bin": b"got"}) as url:
        built(host, b"", remote=f"{url}/ctx.tar", t="made/remote")
        assert show(host, "made/remote", "cat", "/f") == "remote\n"
        built(host, b"", remote=f"{url}/Dockerfile", t="made/remote")
        assert show(host, "made/remote", "cat", "/f") == "hi\n"
        files = {"Dockerfile": f"FROM {host.image}\nADD {url}/d/file.bin /dl/\n"}
        built(host, files, t="made/remote")
        assert show(host, "made/remote", "sh", "-c", "cat /dl/file.bin; stat -c %a /dl/file.bin") == "got600\n"
    host.ok("rmi", "made/remote")


@pytest.mark.parametrize(
    ("dockerfile", "words"),
    [
        ("FROM {image}\nRUN exit 3\n", "The command '/bin/sh -c exit 3' returned a non-zero code: 3"),
        ('FROM {image}\nRUN ["/no/such"]\n', "returned a non-zero code: 127"),
        ("FROM {image}\nCOPY missing /x\n", "file not found in build context"),
        ("FROM {image}\nCOPY --from=9 /a /b\n", "no such stage"),
        ("FROM {image}\nCOPY --chown=nobodyknows Dockerfile /b\n", "no user nobodyknows"),
        ("FROM {image}\nUSER nobodyknows\nRUN true\n", "nobodyknows"),
        ("FROM {image}\nCOPY Dockerfile Dockerfile /b\n", "end with a /"),
    ],
)
def test_failures_are_told_and_leave_nothing(host: Host, dockerfile: str, words: str):
    lines = build(host, {"Dockerfile": dockerfile.replace("{image}", host.image)}, t="made/never")
    assert words in lines[-1]["error"]
    assert lines[-1]["errorDetail"]["message"] == lines[-1]["error"]
    rows = host.daemon.json("GET", "/images/get", all="yes")["imagesList"]
    assert not any("made/never" in row for row in rows)
    host.assert_clean()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"garbage" * 1000, 400),
        (gzip.compress(b"x" * 2000)[:-9], 400),
        (context({"other": "x"}), 400),
        (context({"Dockerfile": "RUN x\n"}), 400),
        (context({"Dockerfile": "FROM a\nBAKE bread\n"}), 400),
        (context({"Dockerfile": "FROM a\nRUN --mount=type=secret,id=x true\n"}), 501),
        (context({"../Dockerfile": "FROM scratch"}), 400),
    ],
    ids=["empty", "garbage", "cut", "none", "no-from", "unknown", "mount", "escape"],
)
def test_what_is_no_build_is_refused_before_a_word(host: Host, data: bytes, status: int):
    code, _, text = send(host, data)
    assert code == status, text


def test_steps_before_a_failure_stay_cached(host: Host):
    good = f"FROM {host.image}\nRUN echo expensive > /e\n"
    build(host, {"Dockerfile": good + "RUN false\n"})
    text = built(host, {"Dockerfile": good + "RUN true\n"}, t="made/again")
    assert text.count("Using cache") == 1
    host.ok("rmi", "made/again")


def test_a_client_that_leaves_ends_the_build(host: Host):
    data = context({"Dockerfile": f"FROM {host.image}\nRUN echo first > /x\nRUN echo waiting; sleep 1000\n"})
    files = stored(host.daemon.root)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(host.daemon.host.removeprefix("unix://"))
        head = f"POST /image/build?t=made/left HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
        client.sendall(head.encode() + data)
        seen = b""
        while b'"waiting\\n' not in seen:
            piece = client.recv(65536)
            assert piece, seen
            seen += piece
    until(lambda: not any(host.left().values()))
    until(lambda: stored(host.daemon.root) == files)
    until(lambda: not list((host.daemon.root / "builds").glob("build-*")))


def test_hyperctl_builds_a_directory(host: Host, tmp_path):
    (tmp_path / "Dockerfile").write_text(f"FROM {host.image}\nCOPY . /all/\n")
    (tmp_path / ".dockerignore").write_text("secret\n")
    (tmp_path / "secret").write_text("s")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/file").write_text("content")
    (tmp_path / "dir/link").symlink_to("file")
    out = host.ok("build", "-t", "made/ctl", str(tmp_path))
    assert "Successfully tagged made/ctl:latest" in out
    names = show(host, "made/ctl", "sh", "-c", "cd /all; find | sort").split()
    assert names == [".", "./.dockerignore", "./Dockerfile", "./dir", "./dir/file", "./dir/link"]
    (tmp_path / "Dockerfile").write_text(f"FROM {host.image}\nRUN false\n")
    failed = host.ctl("build", "-t", "made/ctl", str(tmp_path))
    assert failed.returncode == 255
    assert b"non-zero code: 1" in failed.stdout + failed.stderr
    host.ok("rmi", "made/ctl")


TWENTY = """ARG BASE
FROM $BASE AS builder
ARG VERSION=3
ENV OUT=/out V=$VERSION
WORKDIR /src
COPY src/ .
COPY --chown=5:6 src/one.c src/two.c /kept/
RUN mkdir -p $OUT/bin $OUT/empty && chmod 711 $OUT/empty
RUN for i in 1 2 3; do echo "$V $i" > $OUT/bin/tool$i; chmod 75$i $OUT/bin/tool$i; done
RUN ln $OUT/bin/tool1 $OUT/bin/hard && ln -s tool2 $OUT/bin/soft
RUN rm $OUT/bin/tool3 && rm -r /src/deep
RUN mkdir /src/deep && echo again > /src/deep/again
RUN mkfifo -m 640 $OUT/fifo
RUN chmod 4755 $OUT/bin/tool1
FROM $BASE
LABEL stage=final
COPY --from=builder /out/ /usr/local/
COPY --from=builder --chown=1:1 /src/deep /deep
ADD files.tar /unpacked/
RUN rm -r /var && mkdir /var && echo new > /var/new
RUN echo more >> /etc/group; rm /bin/wc; chown 7:8 /usr/local/fifo; chown -h 9:9 /usr/local/bin/soft
USER 3
VOLUME /data
CMD ["true"]
"""


def tree(directory: Path) -> dict[str, tuple[object, ...]]:
    """Names, types, modes, owners, link counts and contents; times only of what was copied."""
    found = {}
    for path in sorted(directory.rglob("*")):
        info = path.lstat()
        content: object = None
        if stat.S_ISREG(info.st_mode):
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        elif stat.S_ISLNK(info.st_mode):
            content = str(path.readlink())
        links = 0 if stat.S_ISDIR(info.st_mode) else info.st_nlink
        found[str(path.relative_to(directory))] = (oct(info.st_mode), info.st_uid, info.st_gid, links, content)
    return found


def unpacked(source: str, directory: Path) -> tuple[dict[str, tuple[object, ...]], dict[str, Any]]:
    """Fetch an image by skopeo and unpack it by umoci; give its files and its configuration."""
    layout = f"{directory}/oci:x"
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", source, f"oci:{layout}"], check=True)
    config = json.loads(subprocess.check_output(["skopeo", "inspect", "--config", f"oci:{layout}"]))
    subprocess.run(["umoci", "unpack", "--image", layout, str(directory / "bundle")], check=True, capture_output=True)
    return tree(directory / "bundle/rootfs"), config


def test_twenty_steps_and_two_stages_are_as_podman_builds_them(host: Host, registry: RegistryServer, tmp_path: Path):
    files = {
        "Dockerfile": TWENTY,
        "src/one.c": "1\n",
        "src/two.c": "2\n",
        "src/run.sh": "#!/bin/sh\n",
        "src/deep/old": "old",
        "files.tar": context({"a/b": "from a tar\n", "run.sh": "x"}),
    }
    base = f"{registry.host}/ours/base:1"
    built(host, {"Dockerfile": f"FROM {host.image}\nLABEL base=yes\n"}, t=base)  # podman wants a history
    host.ok("push", base)
    text = built(host, files, t=f"{registry.host}/ours/twenty:1", buildargs=json.dumps({"BASE": base}))
    assert "Step 24/24" in text
    again = built(host, files, t=f"{registry.host}/ours/twenty:1", buildargs=json.dumps({"BASE": base}))
    assert "Running in" not in again
    host.ok("push", f"{registry.host}/ours/twenty:1")
    (tmp_path / "ours").mkdir()
    ours, our_config = unpacked(f"docker://{registry.host}/ours/twenty:1", tmp_path / "ours")
    directory = tmp_path / "context"
    with tarfile.open(fileobj=io.BytesIO(context(files))) as archive:
        archive.extractall(directory, filter="fully_trusted")  # noqa: S202 - made above
    short = tempfile.mkdtemp(prefix="hy", dir="/tmp")
    podman = ["podman", "--root", f"{short}/s", "--runroot", f"{short}/r", "--storage-driver", "vfs"]
    options = ["--isolation", "chroot", "--format", "docker", "--tls-verify=false", "-q"]
    argument = ["--build-arg", f"BASE={base}"]
    try:
        command = [*podman, "build", *options, *argument, "-t", "theirs", str(directory)]
        done = subprocess.run(command, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        command = [*podman, "save", "-q", "--format", "docker-archive", "-o", f"{tmp_path}/theirs.tar", "theirs"]
        subprocess.run(command, check=True)
    finally:
        subprocess.run([*podman, "system", "reset", "-f"], check=False, capture_output=True)
        shutil.rmtree(short, ignore_errors=True)
    (tmp_path / "theirs").mkdir()
    theirs, their_config = unpacked(f"docker-archive:{tmp_path}/theirs.tar", tmp_path / "theirs")
    # What buildah makes to mount its own files, and leaves behind.
    extra = {"etc/hosts", "etc/hostname", "etc/resolv.conf", "run", "run/.containerenv"}
    assert ours == {name: value for name, value in theirs.items() if name in ours or name not in extra}
    for key in ("Env", "Cmd", "User", "Volumes", "WorkingDir"):
        assert our_config["config"].get(key) == their_config["config"].get(key), key
    host.ok("rmi", f"{registry.host}/ours/twenty:1", base)


def test_large_files_get_into_the_image_and_into_later_steps(host: Host):
    """Their content does not go through the guest; nobody can tell."""
    large, small = os.urandom(5_000_003), os.urandom(70_000)
    dockerfile = f"""FROM {host.image}
RUN mkdir /there && ln -s there /link && echo old > /there/big
COPY --chown=3:4 --chmod=u=rw,go=r d /link
COPY d/big /renamed
RUN sha256sum /there/big /there/deep/small /renamed; stat -c '%a %u %g %s' /there/big /renamed; echo more >> /renamed
"""
    files = {"Dockerfile": dockerfile, "d/big": large, "d/deep/small": small, "d/empty": ""}
    said = built(host, files, t="made/large")
    digest = hashlib.sha256(large).hexdigest()
    for words in (
        f"{digest}  /there/big\n{hashlib.sha256(small).hexdigest()}  /there/deep/small\n{digest}  /renamed\n",
        "644 3 4 5000003\n644 0 0 5000003\n",
    ):
        assert words in said, said
    appended = hashlib.sha256(large + b"more\n").hexdigest()
    look = "sha256sum /link/big /renamed; stat -c %s /there/empty"
    assert show(host, "made/large", "sh", "-c", look) == f"{digest}  /link/big\n{appended}  /renamed\n0\n"
    again = built(host, files, t="made/large")
    assert again.count(" ---> Using cache\n") == 4
    host.ok("rmi", "made/large")
    host.assert_clean()
