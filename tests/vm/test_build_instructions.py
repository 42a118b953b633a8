"""Every instruction of a Dockerfile in real guests, in few builds: what steps print, what the image has in the end."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from tests.support.builds import build, built, context, send, show
from tests.support.builds import said as said_of
from tests.support.web import serving, web
from tests.vm.conftest import Host

pytestmark = [pytest.mark.vm, pytest.mark.registry]


def directory() -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.mode = tarfile.DIRTYPE, 0o755
    return info


def inspect(host: Host, name: str) -> dict[str, Any]:
    return host.daemon.json("GET", "/image/inspect", imageId=name)


EVERYTHING = r"""# syntax=docker/dockerfile:1
# escape=`
ARG TAG=latest
FROM --platform=$BUILDPLATFORM {image}:${TAG} `
  AS base
MAINTAINER Jane <jane@example.com>
LABEL one="1 x" two=2 `
      three="multi `
line"
LABEL one="again $HOME-${NO:-default}"
ENV A=1 B="two words" C=$A
ENV OLD style with spaces
EXPOSE 80 443/tcp 7000-7002/udp
VOLUME ["/data one", "/data2"]
VOLUME /v1 /v2
STOPSIGNAL SIGUSR1
HEALTHCHECK --interval=1m30s --timeout=5s --start-period=2s --start-interval=500ms --retries=4 CMD ["check", "it"]
ENTRYPOINT ["/bin/echo", "entry $A"]
WORKDIR /w/$A
WORKDIR deep/../er
RUN echo 'root:x:0:' > /etc/group && echo 'crew:x:88:' >> /etc/group `
    # a comment in between
    && chmod 1777 /tmp && echo 'app:x:77:99::/home/app:/bin/sh' >> /etc/passwd && pwd `
    && mkdir -p /data2 && echo kept > /data2/file
USER app:crew
RUN id -u; id -g; umask; touch /tmp/mine; stat -c '%u %g' /tmp/mine; echo "home=$HOME C=$C OLD=$OLD"
RUN ["/bin/sh", "-c", "echo exec form: $0 $A", "zero"]
USER 1234
RUN id -u; id -g
SHELL ["/bin/sh", "-ec"]
CMD echo shell form
ONBUILD RUN echo trigger
ONBUILD ENV BUILT=on
FROM base
COPY --chown=app f /c/app
COPY --chown=app:crew --chmod=4750 f /c/both
COPY --chown=55 f /c/number
COPY --chown=55:crew --chmod=0600 d /c/dir/
COPY ["f", "with space", "/c/json form/"]
COPY --link d/. /c/linked/
COPY f /c/new/name
COPY d/*.txt d/?.md /c/wild/
ADD --chown=7:8 --chmod=700 d /c/added/
USER 0
RUN cd /c && find . -type f | sort | while read -r n; do stat -c '%n %a %u %g' "$n"; done; stat -c '%n %a %u %g' dir new
RUN stat -c '%n %a %u %g' /w/1/er; cat /data2/file
"""


def test_every_instruction_and_its_place_in_the_configuration(host: Host):
    files = {"f": "f", "with space": "s", "d/a.txt": "a", "d/b.md": "b", "d/c.log": "c", "d/e/deep.txt": "deep"}
    said = built(host, {"Dockerfile": EVERYTHING.replace("{image}", host.image), **files}, t="made/every:1")
    assert f"Step 2/38 : FROM --platform=$BUILDPLATFORM {host.image}:${{TAG}}   AS base\n" in said
    for words in (
        "/w/1/er\n",
        "77\n88\n0022\n77 88\nhome=/home/app C= OLD=style with spaces\n",
        "exec form: zero 1\n",
        "1234\n0\n",
        (
            "./added/a.txt 700 7 8\n./added/b.md 700 7 8\n./added/c.log 700 7 8\n./added/e/deep.txt 700 7 8\n"
            "./app 644 77 99\n./both 4750 77 88\n"
            "./dir/a.txt 600 55 88\n./dir/b.md 600 55 88\n./dir/c.log 600 55 88\n./dir/e/deep.txt 600 55 88\n"
            "./json form/f 644 0 0\n./json form/with space 644 0 0\n"
            "./linked/a.txt 644 0 0\n./linked/b.md 644 0 0\n./linked/c.log 644 0 0\n./linked/e/deep.txt 644 0 0\n"
            "./new/name 644 0 0\n./number 644 55 55\n"
            "./wild/a.txt 644 0 0\n./wild/b.md 644 0 0\n"
        ),
        "new 755 0 0\n",
        "/w/1/er 755 0 0\nkept\n",
        "# Executing 2 build triggers\n",
        "trigger\n",
    ):
        assert words in said, said
    whole = inspect(host, "made/every:1")
    config = whole["Config"]
    assert whole["Author"] == "Jane <jane@example.com>"
    assert config["Labels"] == {"one": "again -default", "two": "2", "three": "multi line"}
    assert {"A=1", "B=two words", "C=", "OLD=style with spaces", "BUILT=on"} <= set(config["Env"])
    assert sorted(config["ExposedPorts"]) == ["443/tcp", "7000/udp", "7001/udp", "7002/udp", "80/tcp"]
    assert sorted(config["Volumes"]) == ["/data one", "/data2", "/v1", "/v2"]
    assert (config["StopSignal"], config["User"], config["WorkingDir"]) == ("SIGUSR1", "0", "/w/1/er")
    assert config["Entrypoint"] == ["/bin/echo", "entry $A"]
    assert config["Cmd"] == ["/bin/sh", "-ec", "echo shell form"]
    assert config["Shell"] == ["/bin/sh", "-ec"]
    assert config["Healthcheck"] == {
        "Test": ["CMD", "check", "it"], "Interval": 90 * 10**9, "Timeout": 5 * 10**9, "StartPeriod": 2 * 10**9,
        "StartInterval": 5 * 10**8, "Retries": 4,
    }  # fmt: skip
    assert not config.get("OnBuild")
    grandchild = built(host, {"Dockerfile": "FROM made/every:1\nHEALTHCHECK NONE\nRUN echo $BUILT\n"}, t="made/every:2")
    assert "trigger" not in grandchild
    assert inspect(host, "made/every:2")["Config"]["Healthcheck"] == {"Test": ["NONE"]}
    host.ok("rmi", "made/every:1", "made/every:2")
    host.assert_clean()


SCOPES = """ARG GLOBAL=global
ARG BOTH=$GLOBAL-too
FROM {image} AS base
ARG BOTH
ARG GIVEN=default
ARG LATER=${GIVEN}-x NONE
ENV SET=env
ARG SET=arg
RUN echo "1 GLOBAL=$GLOBAL BOTH=$BOTH GIVEN=$GIVEN LATER=$LATER NONE=${NONE-unset} SET=$SET ARCH=$TARGETARCH"
ARG TARGETARCH BOTH=own
RUN echo "2 ARCH=$TARGETARCH BOTH=$BOTH PROXY=$HTTP_PROXY"
ENV KEPT=$GIVEN
FROM base AS child
RUN echo "3 BOTH=$BOTH GIVEN=$GIVEN"
FROM {image} AS other
ARG GLOBAL
RUN echo "4 GLOBAL=$GLOBAL GIVEN=$GIVEN BOTH=$BOTH"
COPY --from=base /etc/passwd /$GLOBAL
FROM child
RUN env | sort | grep -v PWD > /env
"""


def test_scopes_of_arguments_and_what_the_cache_makes_of_them(host: Host):
    files = {"Dockerfile": SCOPES.replace("{image}", host.image)}
    given = {"GIVEN": "given", "HTTP_PROXY": "http://proxy.test:1", "SET": "given"}
    said = built(host, files, t="made/scopes", buildargs=json.dumps(given))
    for line in (
        "1 GLOBAL= BOTH=global-too GIVEN=given LATER=given-x NONE=unset SET=env ARCH=\n",
        "2 ARCH=amd64 BOTH=own PROXY=http://proxy.test:1\n",
        "3 BOTH=own GIVEN=given\n",
        "4 GLOBAL=global GIVEN= BOTH=\n",
    ):
        assert line in said, said
    assert "[Warning]" not in said
    env = inspect(host, "made/scopes")["Config"]["Env"]
    assert {"SET=env", "KEPT=given"} <= set(env)
    assert not [word for word in env if word.startswith(("GIVEN", "HTTP_PROXY", "BOTH"))]
    assert "GIVEN=given" in show(host, "made/scopes", "cat", "/env")
    again = built(host, files, t="made/scopes", buildargs=json.dumps({**given, "HTTP_PROXY": "http://other.test:1"}))
    assert "Running in" not in again  # a proxy is no reason to make anything anew
    other = built(host, files, t="made/scopes", buildargs=json.dumps({**given, "GIVEN": "other"}))
    assert "1 GLOBAL= BOTH=global-too GIVEN=other LATER=other-x" in other
    assert "4 GLOBAL=global" not in other  # the stage that does not know it stays
    host.ok("rmi", "made/scopes")


HEREDOCS = r"""FROM {image}
ARG WHO=me
COPY --chmod=755 <<-script <<"quoted" /h/
	#!/bin/sh
	echo "$WHO ran $0 \$0"
	script
$WHO "stays"
quoted
RUN <<EOF
#!/bin/sh -e
echo "a script of its own: $0"
false || echo "args: $#"
EOF
RUN cat > /one <<ONE && cat > /two <<'TWO'
$WHO is expanded by the shell
ONE
$WHO is not
TWO
RUN /h/script; cat /h/quoted /one /two; ls -a /tmp | wc -l
COPY <<empty /h/empty-file
empty
ADD <<added /h/renamed
by add
added
RUN stat -c '%n %s %a' /h/empty-file /h/renamed
RUN <<\E"O"F
echo backslash > /q1
EOF
RUN 0<<'E F'
echo "blank $WHO" > /q2
E F
RUN cat > /q3 <<-"A B" && cat 3<<EOF <&3 >> /q3
	tabs $WHO
	A B
third $WHO
EOF
COPY <<'c d' <<E\F /q/
$WHO
c d
$WHO too
EF
RUN cat /q1 /q2 /q3 '/q/c d' /q/EF
ONBUILD RUN cat > /on <<'O N' && echo "on $WHO" >> /on && ln -s real /to && mkdir /real
$WHO in onbuild
O N
ONBUILD COPY <<-'T O' /to/
	to
	T O
ONBUILD USER 5:6
ONBUILD WORKDIR /made/by/user
"""


def test_here_documents_of_every_kind(host: Host):
    said = built(host, {"Dockerfile": HEREDOCS.replace("{image}", host.image)}, t="made/heredocs")
    for words in (
        "me ran  /h/script\n",
        '$WHO "stays"\n',
        "me is expanded by the shell\n",
        "$WHO is not\n",
        "a script of its own: /",
        "args: 0\n",
        "\n2\n",
        "/h/empty-file 0 644\n/h/renamed 7 644\n",
        "backslash\nblank me\ntabs $WHO\nthird me\n$WHO\n$WHO too\n",
    ):
        assert words in said, said
    child = """FROM made/heredocs
USER 0
RUN cat /on '/real/T O'; stat -c '%n %a %u %g' /made /made/by /made/by/user; pwd
COPY --chmod=u=rwX,go=rX d /modes/
RUN stat -c '%n %a' /modes/* && ln -s modes /merged && echo kept > /modes/kept
ADD d.tar /
RUN ls -d /merged/*; stat -c '%F' /merged
COPY d2 /
"""
    files = {"Dockerfile": child, "d/plain": "p", "d/run.sh": "r", "d2/merged/lost": "l"}
    files["d.tar"] = context({"merged/": directory(), "merged/added": "a"})
    lines = build(host, files, t="made/never")
    for words in (
        "$WHO in onbuild\non \nto\n",
        "/made 755 5 6\n/made/by 755 5 6\n/made/by/user 755 5 6\n/made/by/user\n",
        "/modes/plain 644\n/modes/run.sh 755\n",
        "/merged/added\n/merged/kept\n/merged/plain\n/merged/run.sh\nsymbolic link\n",
    ):
        assert words in said_of(lines), lines
    assert "cannot copy to non-directory" in lines[-1]["error"]
    host.ok("rmi", "made/heredocs")


def test_a_directory_with_one_file_stays_a_directory(host: Host):
    dockerfile = f"""FROM {host.image}
COPY one /made
RUN --mount=type=bind,source=one,target=/bound cat /made/only /bound/only
"""
    assert "text\ntext\n" in built(host, {"Dockerfile": dockerfile, "one/only": "text\n"}, t="made/one")
    host.ok("rmi", "made/one")


def test_add_of_downloads_and_archives(host: Host):
    inner = context({"in/x": "x", "y": "y"})
    dockerfile = """FROM {image}
ADD {url}/inner.tar {url}/q/name.bin?query=1 /web/
ADD --chown=3:4 --chmod=711 {url}/name.bin /web/renamed
ADD inner.tar.gz fake.tar.gz d /local/
ADD --chown=5:6 inner.tar.gz /owned
RUN find /web /local /owned | sort; stat -c '%n %a %u %g %s' /web/* /owned/y
"""
    fake = b"not a tar at all" * 100
    files = {"inner.tar.gz": gzip.compress(inner, mtime=0), "fake.tar.gz": fake, "d/z": "z"}
    with web({"/inner.tar": inner, "/name.bin": b"12345", "/q/name.bin?query=1": b"123"}) as url:
        text = dockerfile.replace("{image}", host.image).replace("{url}", url)
        said = built(host, {"Dockerfile": text, **files}, t="made/add")
        for words in (
            (
                "/local\n/local/fake.tar.gz\n/local/in\n/local/in/x\n/local/y\n/local/z\n/owned\n/owned/in\n/owned/in/x\n"
                "/owned/y\n/web\n/web/inner.tar\n/web/name.bin\n/web/renamed\n"
            ),
            f"/web/inner.tar 600 0 0 {len(inner)}\n/web/name.bin 600 0 0 3\n/web/renamed 711 3 4 5\n",
            "/owned/y 644 5 6 1\n",
        ):
            assert words in said, said
        again = built(host, {"Dockerfile": text, **files}, t="made/add")
        assert "Running in" not in again
        lines = build(host, {"Dockerfile": f"FROM {host.image}\nADD {url}/missing /x\n"})
        assert "404" in lines[-1]["error"]
        lines = build(host, {"Dockerfile": f"FROM {host.image}\nADD {url}/ /x/\n"})
        assert "cannot determine filename" in lines[-1]["error"]
    host.ok("rmi", "made/add")
    host.assert_clean()


def test_the_cache_goes_by_content(host: Host):
    dockerfile = f"FROM {host.image}\nCOPY sub /sub\nRUN echo after\n"
    files: dict[str, Any] = {"Dockerfile": dockerfile, "sub/a": "1", "sub/b": "2", "unused": "1"}
    assert "Using cache" not in built(host, files, t="made/content")
    assert built(host, {**files, "unused": "2"}, t="made/content").count("Using cache") == 2
    later = context(files, mtime=1_600_000_000)
    assert later != context(files)
    assert built(host, later, t="made/content").count("Using cache") == 2
    renamed = {name: text for name, text in files.items() if name != "sub/b"} | {"sub/c": "2"}
    assert "Using cache" not in built(host, renamed, t="made/content")
    reordered = {"unused": "3", "sub/b": "2", "sub/a": "1", "Dockerfile": dockerfile}
    assert built(host, reordered, t="made/content").count("Using cache") == 2
    more = {**files, "sub/a.sh": "1"}  # is executable
    assert "Using cache" not in built(host, more, t="made/content")
    assert "Using cache" not in built(host, files, t="made/content", nocache="1")
    host.ok("rmi", "made/content")


def test_limits_of_memory_and_processors(host: Host):
    look = "awk '/MemTotal/ { print ($2 > 230000 && $2 < 330000) ? \"fits\" : $2 }' /proc/meminfo"
    dockerfile = f"FROM {host.image}\nRUN nproc; {look}\n"
    said = built(
        host, {"Dockerfile": dockerfile}, t="made/limits", memory=300 << 20, cpuquota=150_000, cpuperiod=100_000
    )
    assert "\n2\nfits\n" in said
    hungry = f"FROM {host.image}\nRUN dd if=/dev/zero of=/dev/null bs=100M count=1\n"
    lines = build(host, {"Dockerfile": hungry}, memory=128 << 20)
    assert "returned a non-zero code: 137" in lines[-1]["error"], lines
    assert send(host, context({"Dockerfile": dockerfile}), memory="much")[0] == 400
    host.ok("rmi", "made/limits")
    host.assert_clean()


def test_ignore_files_of_a_dockerfile_and_of_a_context(host: Host):
    files = {
        "docker/Build": f"FROM {host.image}\nCOPY . /c/\nRUN cd /c; find . -type f | sort\n",
        "docker/Build.dockerignore": "**/*.log\n!keep/*.log\ndocker\n",
        ".dockerignore": "never\n",
        "a.log": "", "b": "", "keep/c.log": "", "x/y/d.log": "", "never": "",
    }  # fmt: skip
    said = built(host, files, dockerfile="docker/Build", t="made/ignore")
    assert "\n./.dockerignore\n./b\n./keep/c.log\n./never\n" in said
    del files["docker/Build.dockerignore"]
    said = built(host, files, dockerfile="docker/Build", t="made/ignore")
    assert "\n./.dockerignore\n./a.log\n./b\n./docker/Build\n./keep/c.log\n./x/y/d.log\n" in said
    files[".dockerignore"] = "*\n"  # hides the Dockerfile from COPY, not from the build
    files["docker/Build"] = files["docker/Build"].replace("COPY . /c/", "COPY b /c/")
    lines = build(host, files, dockerfile="docker/Build")
    assert "file not found in build context" in lines[-1]["error"]
    host.ok("rmi", "made/ignore")


@contextmanager
def git_server(root: Path) -> Iterator[str]:
    """Serve the repositories below a directory as git's own web server does (gitprotocol-http)."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def answer(self) -> None:
            path, _, query = self.path.partition("?")
            environment = {
                **os.environ, "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1", "PATH_INFO": path,
                "QUERY_STRING": query, "REQUEST_METHOD": self.command, "GIT_CONFIG_GLOBAL": os.devnull,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }  # fmt: skip
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            done = subprocess.run(["git", "http-backend"], input=body, capture_output=True, env=environment, check=True)
            head, _, content = done.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for name, value in {**fields, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

    with serving(Handler) as url:
        yield url


def repository(image: str, work: Path, bare: Path) -> None:
    """Make a repository with two commits; the first has the tag ``first``."""
    names = {f"GIT_{role}_{what}": "x@x" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}

    def git(*words: str) -> None:
        environment = {**os.environ, **names, "GIT_CONFIG_GLOBAL": os.devnull}
        subprocess.run(["git", "-C", str(work), *words], check=True, capture_output=True, env=environment)

    (work / "sub").mkdir(parents=True)
    git("init", "-q", "-b", "main")
    for text in ("one", "two"):
        (work / "Dockerfile").write_text(f"FROM {image}\nCOPY f /f\nRUN cat /f\n")
        (work / "f").write_text(f"{text} at the top\n")
        (work / "sub/Dockerfile").write_text(f"FROM {image}\nCOPY . /s/\nRUN cat /s/g; ls -A /s\n")
        (work / "sub/g").write_text(f"{text} below\n")
        git("add", ".")
        git("commit", "-q", "-m", text)
        if text == "one":
            git("tag", "first")
    git("clone", "-q", "--bare", ".", str(bare))


def test_git_repositories_as_contexts(host: Host, tmp_path: Path):
    repository(host.image, tmp_path / "work", tmp_path / "repo.git")
    with git_server(tmp_path) as url:
        assert "two at the top\n" in built(host, b"", remote=f"{url}/repo.git", t="made/git")
        said = built(host, b"", remote=f"{url}/repo.git#first:sub", t="made/git")
        assert "one below\nDockerfile\ng\n" in said
        assert "two below\n" in built(host, b"", remote=f"{url}/repo.git#:sub", t="made/git")
        for bad in ("repo.git#nothing", "repo.git#:nowhere", "missing.git", "repo.git#--upload-pack=x"):
            code, _, text = send(host, b"", remote=f"{url}/{bad}")
            assert code == 400, (bad, text)
    for bad in ("git://127.0.0.1:1/x.git", "file:///etc/passwd", str(tmp_path / "repo.git"), "ext::sh -c true.git"):
        code, _, text = send(host, b"", remote=bad)
        assert code == 400, (bad, text)
    assert not list((host.daemon.root / "builds").glob("build-*"))
    host.ok("rmi", "made/git")


MOUNTS = """FROM {image} AS tools
RUN mkdir -p /tools/deep && echo tool > /tools/deep/run && ln -s deep/run /tools/link && chown -R 5:6 /tools/deep
FROM {image}
ARG WHERE=/cache
RUN --mount=type=cache,target=$WHERE,mode=0750,uid=7,gid=8 stat -c 'cache %a %u %g' /cache; echo kept > /cache/x
RUN --mount=target=/ctx --mount=type=bind,source=one.txt,dst=/files/one,rw cat /ctx/dir/two /files/one; echo more >> \\
 /files/one; wc -l /files/one; touch /ctx/no 2>&1; echo
RUN --mount=type=bind,from=tools,source=/tools,target=/t --mount=from=tools,src=tools/deep/run,target=/r <<EOF
stat -c 'stage %n %u %g' /t/deep/run; cat /t/link /r; touch /t/no || true
EOF
RUN --mount=type=tmpfs,target=/scratch/mem,size=64k --mount=type=cache,id=/cache,dst=/other,readonly \\
 grep -c /scratch/mem /proc/mounts; cat /other/x; dd if=/dev/zero of=/scratch/mem/big bs=1k count=100 2>&1 | tail -1
RUN ls -d /cache /ctx /files /t /r /other /scratch 2>&1 | sed 's/^/left: /'; cat /cache/x 2>&1; true
"""


def test_mounts_of_steps(host: Host):
    files = {"Dockerfile": MOUNTS.replace("{image}", host.image), "one.txt": "one\n", "dir/two": "two\n"}
    said = built(host, files, t="made/mounts")
    for words in (
        "cache 750 7 8\n",
        "two\none\n2 /files/one\ntouch: /ctx/no: Read-only file system\n",
        "stage /t/deep/run 5 6\ntool\ntool\ntouch: /t/no: Read-only file system\n",
        "1\nkept\n64+0 records out\n",
        "cat: can't open '/cache/x': No such file or directory\n",
    ):
        assert words in said, said
    # What was made only to mount something on it is no part of a layer; its parents are.
    assert sorted(line for line in said.splitlines() if line.startswith("left: /")) == [
        "left: /files",
        "left: /scratch",
    ]
    assert "Running in" not in built(host, files, t="made/mounts")
    assert built(host, {**files, "dir/three": "3"}, t="made/mounts").count("Using cache") == 2
    for bad, status in (
        ("type=secret,id=x", 501), ("type=ssh", 501), ("type=odd,target=/x", 501), ("type=cache", 400),
        ("type=cache,target=/", 400), ("type=cache,target=/x,sharing=odd", 400), ("target=/x,size=1", 501),
        ("type=cache,target=/x,from=y", 501), ("type=tmpfs,target=/x,size=many", 400),
        ("type=cache,target=/x,mode=9", 400), ("type=cache,target=/x,target=/y", 400),
    ):  # fmt: skip
        code, _, text = send(host, context({"Dockerfile": f"FROM {host.image}\nRUN --mount={bad} true\n"}))
        assert code == status, (bad, text)
    for bad in ("RUN --network=none true", "RUN --security=insecure true", "COPY --parents a b", "COPY --exclude=x a b",
                "ADD --checksum=sha256:0 a b", "RUN --device=x true"):  # fmt: skip
        code, _, text = send(host, context({"Dockerfile": f"FROM {host.image}\n{bad}\n"}))
        assert (code, b"line 2" in text, b"not supported" in text) == (501, True, True), (bad, text)
    assert "ok\n" in built(host, {"Dockerfile": f"FROM {host.image}\nRUN --network=default echo ok\n"}, t="made/mounts")
    host.ok("rmi", "made/mounts")
    host.assert_clean()


def test_how_steps_run(host: Host):
    """Network, hosts, /dev/shm and ulimits of RUN; steps of other images; what is told to have no effect."""
    dockerfile = f"""FROM {host.image}
RUN echo $(ls /sys/class/net | grep -v dummy); grep -c . /proc/net/route
RUN grep named /etc/hosts; df -k /dev/shm | tail -1 | tr -s " " | cut -d" " -f2; ulimit -n; ulimit -H -n
"""
    limits = json.dumps([{"Name": "nofile", "Soft": 100, "Hard": 200}])
    hosts = ["named.one:192.0.2.7", "named.two:host-gateway"]
    alone = built(
        host, {"Dockerfile": dockerfile}, t="made/alone", networkmode="none", extrahosts=hosts, shmsize=1 << 20,
        ulimits=limits, cpushares=7,
    )  # fmt: skip
    assert alone.startswith("[Warning] cpushares=7 has no effect")
    for words in ("\nlo\n1\n", "192.0.2.7\tnamed.one\n1024\n100\n200\n"):
        assert words in alone, alone
    assert "named.two" not in alone.split("Step 3")[1].split("\n", 1)[1]  # there is no gateway
    more = dockerfile + "RUN grep named.two /etc/hosts; echo $(ls /sys/class/net | grep -v dummy)\n"
    host.daemon.json("POST", "/images/prune")
    for path in (host.daemon.root / "builds/cache").iterdir():
        path.unlink()
    said = built(host, {"Dockerfile": more}, t="made/more", cachefrom='["made/alone","made/none"]', extrahosts=hosts)
    assert said.count(" ---> Using cache\n") == 2
    gateway = said.split("\tnamed.two\n", maxsplit=1)[0].split()[-1]
    assert gateway.count(".") == 3
    assert f"{gateway}\tnamed.two\neth0 lo\n" in said
    code, _, text = send(host, context({"Dockerfile": dockerfile}), networkmode="host")
    assert (code, b"cannot use the network" in text) == (501, True)
    host.ok("rmi", "made/alone", "made/more")
    host.assert_clean()


def test_steps_of_other_images_are_used_only_for_the_same_content(host: Host):
    """COPY --from and RUN --mount have the same words when an earlier stage, or the context, is another."""
    dockerfile = f"""FROM {host.image} AS maker
COPY src /src
RUN cp /src /made
FROM {host.image}
RUN echo no reason to be made again
COPY --from=maker /made /made
RUN --mount=type=bind,source=src,target=/mnt cp /mnt /mounted
"""
    files = {"Dockerfile": dockerfile, "src": "old\n"}
    built(host, files, t="made/first")

    def forget() -> None:
        for path in (host.daemon.root / "builds/cache").iterdir():
            path.unlink()

    forget()
    said = built(host, files, t="made/same", cachefrom='["made/first"]')
    assert said.count(" ---> Using cache\n") == 3, said  # all of the last stage: the images have no other
    look = "RUN cat /made /mounted\n"
    files["src"] = "new\n"
    forget()
    said = built(host, {**files, "Dockerfile": dockerfile + look}, t="made/second", cachefrom='["made/first"]')
    assert (said.count(" ---> Using cache\n"), "new\nnew\n" in said) == (1, True), said
    said = built(host, {**files, "Dockerfile": dockerfile + look + "RUN cat /made\n"}, t="made/third")
    assert "new\n" in said.split("Step 9/9")[1], said  # nothing wrong was noted in the cache of this host
    plain = f"FROM {host.image}\nRUN cat /mnt 2>&1 | tee /seen\n"
    mounting = plain.replace("RUN", "RUN --mount=type=bind,source=src,target=/mnt")
    built(host, {"Dockerfile": mounting, "src": "old\n"}, t="made/mounting")
    hint = '["made/mounting"]'
    assert "No such file" in built(host, {"Dockerfile": plain}, t="made/plain", cachefrom=hint)
    assert "\nnew\n" in built(host, {"Dockerfile": mounting, "src": "new\n"}, t="made/plain", cachefrom=hint)
    host.daemon.json("POST", "/images/prune")
    host.ok("rmi", "made/first", "made/same", "made/second", "made/third", "made/mounting", "made/plain")
    host.assert_clean()
