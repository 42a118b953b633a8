"""`cp`, `diff`, `export`, `top` and the options of `exec`: what is asked of the daemon."""

from __future__ import annotations

import io
import json
import os
import stat
import tarfile
import threading

import pytest

from tests.support.fake_hyperd import Hijack, Reply, ok, refuse
from tests.support.hyperctl_process import CID

NOT_THERE = refuse(404, "no such file")


def seen(kind: int, **more) -> Reply:
    return ok({"name": "x", "mode": kind | 0o755, "size": 1, "link": "", "target": "", **more})


DIRECTORY, FILE = seen(stat.S_IFDIR), seen(stat.S_IFREG)


def packed(*names: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            info = tarfile.TarInfo(name)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
            else:
                info.size = 1
                tar.addfile(info, io.BytesIO(b"x"))
    return out.getvalue()


def names(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return tar.getnames()


def ready(fake, *stats: Reply, tar: bytes = b""):
    fake.on("GET", "/container/stat", *stats).on("GET", "/container/info", ok({"container": {"containerID": CID}}))
    fake.on("GET", "/container/archive", Reply(body=tar, content_type="application/x-tar"))
    fake.on("PUT", "/container/archive", Reply(status=204))


def inside_of(place: str) -> list[str]:
    """What the daemon packs of a directory without its name: no part stands before (container.contents)."""
    return [f"{place}/{name}".lstrip("/") for name in ("hosts", "ssl", "ssl/cert.pem")]


def test_an_empty_directory_without_its_name(fake, hyperctl, tmp_path):
    ready(fake, DIRECTORY, tar=packed())
    assert hyperctl("cp", "c:/empty/.", "new").returncode == 0
    assert (tmp_path / "new").is_dir()


@pytest.mark.parametrize(
    ("source", "target", "there", "made"),
    [
        ("c:/etc/hosts", "copy", [], ["copy"]),
        ("c:/etc/hosts", ".", [], ["hosts"]),
        ("c:etc/hosts", "there", ["there/"], ["there", "there/hosts"]),
        ("c:/etc", "new", [], ["new", "new/inner"]),
        ("c:/etc", "there", ["there/"], ["there", "there/etc", "there/etc/inner"]),
        ("c:/etc/", "there", ["there/"], ["there", "there/etc", "there/etc/inner"]),
        ("c:/usr/bin/../../etc", "there", ["there/"], ["there", "there/etc", "there/etc/inner"]),
        ("c:/etc/ssl/..", "there", ["there/"], ["there", "there/etc", "there/etc/inner"]),
        ("c:/etc/.", "there", ["there/"], ["there", *inside_of("there")]),
        ("c:/etc/.", "new", [], ["new", *inside_of("new")]),
        ("c:/etc/.", ".", [], inside_of("")),
        ("c:/", "there", ["there/"], ["there", "there/root", *inside_of("there/root")]),
        ("c:/", "new", [], ["new", *inside_of("new")]),
        ("c:/.", "there", ["there/"], ["there", *inside_of("there")]),
        ("c:/etc/..", "there", ["there/"], ["there", "there/root", *inside_of("there/root")]),
    ],
)
def test_out_of_a_container(fake, hyperctl, tmp_path, *, source, target, there, made):
    bare = source.endswith("/.") or source in {"c:/", "c:/etc/.."}
    directory = bare or "hosts" not in source
    for name in there:
        (tmp_path / name).mkdir()
    inside = packed("hosts", "ssl/", "ssl/cert.pem") if bare else packed("etc/", "etc/inner")
    data = inside if directory else packed("hosts")
    ready(fake, DIRECTORY if directory else FILE, tar=data)
    done = hyperctl("cp", source, target)
    assert done.returncode == 0, done
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == made


@pytest.mark.parametrize(
    ("source", "target", "stats", "place", "sent"),
    [
        ("file", "c:/srv", [DIRECTORY], "/srv", ["file"]),
        ("file", "c:/srv/new", [NOT_THERE, DIRECTORY], "/srv", ["new"]),
        ("file", "c:/srv/old", [FILE, DIRECTORY], "/srv", ["old"]),
        ("file", "c:/link", [seen(stat.S_IFLNK, target="/real"), DIRECTORY], "/real", ["file"]),
        ("dir", "c:/srv", [DIRECTORY], "/srv", ["dir", "dir/inner"]),
        ("dir/.", "c:/srv", [DIRECTORY], "/srv", ["inner"]),
        ("dir", "c:/new", [NOT_THERE, DIRECTORY], "/", ["new", "new/inner"]),
    ],
)
def test_into_a_container(fake, hyperctl, tmp_path, *, source, target, stats, place, sent):
    (tmp_path / "file").write_bytes(b"1")
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/inner").write_bytes(b"2")
    ready(fake, *stats)
    done = hyperctl("cp", source, target)
    assert done.returncode == 0, done
    put = fake.exchanges[-1]
    assert (put.method, put.parameters["path"]) == ("PUT", [place])
    assert names(put.body) == sent


def test_tars_on_standard_streams(fake, hyperctl):
    ready(fake, DIRECTORY, tar=packed("a"))
    assert hyperctl("cp", "c:/x", "-").stdout == packed("a")
    assert hyperctl("cp", "-", "c:/x", stdin=packed("b")).returncode == 0
    assert names(fake.exchanges[-1].body) == ["b"]


@pytest.mark.parametrize(
    ("words", "stats", "text"),
    [
        (["a", "b"], [FILE], "one of the two must be CONTAINER:PATH"),
        (["c:/a", "d:/b"], [FILE], "one of the two must be CONTAINER:PATH"),
        (["c:/a", "x"], [NOT_THERE], "there is no /a in c"),
        (["c:/a", "nosuch/x"], [FILE], "there is no directory"),
        (["c:/a", "nosuch/"], [FILE], "nosuch/ is not a directory of this machine"),
        (["c:/a", "file"], [DIRECTORY], "file is a file, /a is a directory"),
        (["nosuch", "c:/a"], [DIRECTORY], "there is no nosuch on this machine"),
        (["file", "c:/a/b"], [NOT_THERE, NOT_THERE], "there is no directory /a in c"),
        (["file", "c:/a/"], [NOT_THERE], "/a/ is not a directory of c"),
        ([".", "c:/a"], [FILE], "/a is a file of c, . is a directory"),
        (["-", "c:/a"], [FILE], "/a is not a directory of c: a tar goes into one"),
    ],
)
def test_what_cannot_be_copied(fake, hyperctl, tmp_path, *, words, stats, text):
    (tmp_path / "file").write_bytes(b"1")
    ready(fake, *stats, tar=packed("a"))
    done = hyperctl("cp", *words, stdin=b"")
    assert (done.returncode, text in done.stderr.decode()) == (255, True), done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
    assert all(exchange.method != "PUT" for exchange in fake.exchanges)


def test_a_pods_name_means_its_first_container(fake, hyperctl, tmp_path):
    refusal = refuse(404, "cannot find container")
    fake.on("GET", "/container/stat", refusal, FILE).on("GET", "/container/info", refusal)
    fake.on("GET", "/list", ok({"cData": [f"{CID}:c1:web:running"]}))
    fake.on("GET", "/container/archive", Reply(body=packed("a"), content_type="application/x-tar"))
    assert hyperctl("cp", "web:/a", ".").returncode == 0
    assert fake.exchanges[-1].parameters["container"] == [CID]


def test_diff_top_export(fake, hyperctl, tmp_path):
    changes = [{"path": "/a", "kind": "added"}, {"path": "/b", "kind": "modified"}, {"path": "/c", "kind": "deleted"}]
    fake.on("GET", "/container/changes", ok(changes)).on("GET", "/container/export", Reply(pieces=[b"ta", b"r"]))
    fake.on("GET", "/container/top", ok({"titles": ["PID", "CMD"], "processes": [["1", "sh"]]}))
    assert hyperctl("diff", "c").stdout == b"A /a\nC /b\nD /c\n"
    assert hyperctl("top", "c", "-o", "pid,comm").stdout.split() == [b"PID", b"CMD", b"1", b"sh"]
    assert fake.exchanges[-1].parameters["psArgs"] == ["-o pid,comm"]
    assert hyperctl("export", "c").stdout == b"tar"
    assert hyperctl("export", "-o", "x.tar", "c").returncode == 0
    assert (tmp_path / "x.tar").read_bytes() == b"tar"


def test_a_file_is_written_whole_and_what_is_no_file_stays_itself(fake, hyperctl, tmp_path):
    fake.on("GET", "/container/export", Reply(pieces=[b"ta", b"r"]))
    (tmp_path / "x.tar.part").write_text("the user's")
    (tmp_path / "link.tar").symlink_to("x.tar")
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()), daemon=True)
    reader.start()
    for name in ("link.tar", "pipe"):
        assert hyperctl("export", "-o", name, "c").returncode == 0
    reader.join(60)
    assert (got, (tmp_path / "pipe").is_fifo()) == ([b"tar"], True)
    assert ((tmp_path / "x.tar").read_bytes(), (tmp_path / "link.tar").is_symlink()) == (b"tar", True)
    fake.on("GET", "/container/export", Reply(pieces=[b"oth", b"er"], cut=True))
    assert hyperctl("export", "-o", "x.tar", "c").returncode == 255
    assert (tmp_path / "x.tar").read_bytes() == b"tar"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.tar", "pipe", "x.tar", "x.tar.part"]
    assert (tmp_path / "x.tar.part").read_text() == "the user's"


def test_exec_with_its_own_user_environment_and_directory(fake, hyperctl, tmp_path):
    (tmp_path / "vars").write_text("B=2\n")
    fake.on("POST", "/exec/create", ok("e1", 201)).on("GET", "/exitcode", ok(0))
    fake.on("POST", "/exec/start", Hijack(lambda talk: talk.out(b"hi")))
    words = ["-u", "www:web", "-w", "/srv", "-e", "A=1", "--env-file", "vars", "--privileged"]
    assert hyperctl("exec", *words, "c", "id").stdout == b"hi"
    sent = fake.exchanges[0].parameters
    assert (sent["user"], sent["workdir"], sent["env"]) == (["www:web"], ["/srv"], ["B=2", "A=1"])
    assert (sent["privileged"], json.loads(sent["command"][0])) == (["true"], ["id"])
    done = hyperctl("exec", "-m", "-u", "x", "web", "id")
    assert (done.returncode, b"--user is for commands in containers" in done.stderr) == (255, True)


def test_exec_detached(fake, hyperctl):
    fake.on("POST", "/exec/create", ok("e1", 201)).on("POST", "/exec/start", ok({"id": "e1"}))
    assert hyperctl("exec", "-d", "c", "sleep", "9").returncode == 0
    assert fake.exchanges[-1].parameters == {"container": ["c"], "exec": ["e1"], "detach": ["true"]}
