"""The front end of builds: the parser's checks, words, configuration, ignore rules, the context."""

from __future__ import annotations

import io
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.build.cache import StepCache, chain
from hyperd.build.config import ImageDraft, apply_changes, duration
from hyperd.build.context import Context, digest_of
from hyperd.build.dockerfile import parse_dockerfile, parse_instructions
from hyperd.build.expand import expand, expand_text
from hyperd.build.glob import Glob
from hyperd.build.ignore import Ignore, matching
from hyperd.build.mountflags import Mount, parse_mount
from hyperd.errors import HyperError, InvalidInput, NotSupported, TooLarge


def test_stages_arguments_and_flags() -> None:
    found = parse_dockerfile(
        b"# escape=`\nARG A=1\nFROM --platform=linux/amd64 x AS One\nRUN a `\n  b\nFROM one\n"
        b'COPY --from=0 --chown=1:2 ["a b", "c"]\n'
    )
    assert found.escape == "`"
    assert [stage.name for stage in found.stages] == ["one", ""]
    assert found.stages[0].platform == "linux/amd64"
    copy = found.stages[1].steps[0]
    assert (copy.words, copy.exec_form, copy.flags) == (("a b", "c"), True, {"from": "0", "chown": "1:2"})
    assert found.step_count == 5
    assert found.stage_index("ONE", before=2) == 0
    assert found.stage_index("1", before=1) == -1


def test_heredocs() -> None:
    (copy,) = parse_instructions("COPY <<-A <<'B' /to/\n\tone\n\tA\ntwo\nB\n")
    assert [(here.name, here.content, here.literal) for here in copy.heredocs] == [
        ("A", "one\n", False),
        ("B", "two\n", True),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "RUN true",
        "FROM",
        "FROM a b",
        "FROM a AS 1x",
        "FROM a\nFOO b",
        "FROM a\nRUN",
        "FROM a\nCOPY a",
        "FROM a\nCOPY --fro=b a b",
        "FROM a\nENV",
        "FROM a\nSHELL sh -c",
        "FROM a\nONBUILD FROM x",
        "FROM a\nONBUILD ONBUILD RUN x",
        "FROM a\nONBUILD",
        "FROM a\nWORKDIR",
        "FROM a\nCOPY <<E /x\nno end",
        '{"not": "a dockerfile"}',
    ],
)
def test_bad_dockerfiles(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_dockerfile(text.encode())


@pytest.mark.parametrize(
    "line",
    [
        "RUN --mount=type=secret,id=x true",
        "RUN --mount=type=ssh true",
        "RUN --network=host true",
        "RUN --security=insecure true",
        "COPY --parents a b",
        "ADD --checksum=sha256:0 a b",
    ],
)
def test_what_needs_buildkit_is_named(line: str) -> None:
    with pytest.raises(NotSupported, match=r"Dockerfile line 2: .*--"):
        parse_dockerfile(f"FROM a\n{line}".encode())


def test_dockerfiles_are_bounded() -> None:
    with pytest.raises(TooLarge):
        parse_dockerfile(b"FROM a\n" + b"RUN true\n" * 200_000)


def test_mounts() -> None:
    (run,) = parse_instructions("RUN --mount=type=cache,dst=/a --mount=target=/b,rw,from=x true")
    assert run.mounts == ("type=cache,dst=/a", "target=/b,rw,from=x")
    assert parse_mount('"target=/a, b",source=x', line=1) == Mount(
        kind="bind", target="/a, b", read_only=True, options={"target": "/a, b", "source": "x"}
    )
    assert not parse_mount("type=bind,target=/a,readwrite=true", line=1).read_only
    assert not parse_mount("type=cache,target=/a,ro=false", line=1).read_only
    assert parse_mount("type=cache,target=/a,readonly", line=1).read_only
    broken = ("target=/a\rb", "target=/a\nb,rw", "target=/" + "a" * 200_000)
    for bad in (
        "",
        "target",
        "target=",
        "target=/,x",
        "target=/a,mode=8",
        "type=cache,target=/a,uid=-1",
        "ro,ro",
        *broken,
    ):
        with pytest.raises(HyperError):
            parse_mount(bad, line=1)


VARIABLES = {
    "A": "1", "EMPTY": "", "WORD": "two words", "Q": '"', "P": "x.tar.gz", "F": "foobarbaz/bar", "DOT": ".",
}  # fmt: skip


@pytest.mark.parametrize(
    ("word", "result"),
    [
        ("$A", "1"), ("${A}b", "1b"), ("$Ab", ""), ("a$", "a$"), ("\\$A", "$A"), ("'$A'", "$A"), ('"$A x"', "1 x"),
        ("${NO:-d}", "d"), ("${EMPTY:-d}", "d"), ("${EMPTY-d}", ""), ("${A:+y}", "y"), ("${NO:+y}", ""),
        ("${EMPTY+y}", "y"),
        ("${NO:-${A}}", "1"), ('"a\\"b"', 'a"b'), ('"a\\nb"', "a\\nb"), ("a\\ b", "a b"), ("$WORD", "two words"),
        ("${NO:-'x y'}", "x y"), ("$Q$A", '"1'), ("$1x", "x"),
        ("pa$10word", "paword"), ("a$$b", "ab"), ("x$@y", "xy"), ("$-x$!", "x"), ("${10}", ""), ('${NO:-"a}b"}', "a}b"),
        ("${P%.*}", "x.tar"), ("${P%%.*}", "x"), ("${P#*.}", "tar.gz"), ("${P##*.}", "gz"), ("${P%none}", "x.tar.gz"),
        ("${F/bar/X}", "fooXbaz/bar"), ("${F//bar/X}", "fooXbaz/X"), ("${F//\\/b/}", "foobarbazar"), ("${NO/a/b}", ""),
        ("${F/o?b/_}", "f_arbaz/bar"), ("${NO:-${F%/*}}", "foobarbaz"), ('${P%"$DOT"gz}', "x.tar"),
        ("${F//}/-}", "foobarbaz/bar"),
    ],
)  # fmt: skip
def test_words(word: str, result: str) -> None:
    assert expand(word, VARIABLES) == result


@pytest.mark.parametrize(
    "word",
    [
        "'a",
        '"a',
        "${A",
        "${",
        "${}",
        "${A@}",
        "${:A}",
        "${A%",
        "${A/b}",
        "${A%\\x}",
        "${NO?}",
        "${NO:?needed}",
        "${NO:-${A}",
    ],
)
def test_bad_words(word: str) -> None:
    with pytest.raises(InvalidInput):
        expand(word, VARIABLES)


@given(st.text(alphabet="$A{}:-+?#%/*@'\"\\ x", max_size=30))
def test_words_never_break(word: str) -> None:
    try:
        expand(word, VARIABLES)
        expand_text(word, VARIABLES)
    except HyperError:
        return


def test_heredoc_text_keeps_quotes() -> None:
    assert expand_text("\"$A\" '${A}' \\$A \\\\ \\n", VARIABLES) == "\"1\" '1' $A \\ \\n"


def test_configuration() -> None:
    base = {"config": {"Cmd": ["old"], "Entrypoint": ["e"], "Env": ["PATH=/bin", "A=0"]}, "rootfs": {}}
    draft = ImageDraft(base)
    apply_changes(
        draft,
        [
            "ENV A=1 B=$A",
            "ENV C $B",
            'LABEL "k l"="v w" x=$C',
            "EXPOSE 80 8000-8002/udp",
            "VOLUME /a /b",
            "WORKDIR sub",
            "WORKDIR ../up",
            "USER $A:2",
            "STOPSIGNAL SIGKILL",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD x y",
            "ONBUILD RUN z",
            'ENTRYPOINT ["p", "$A"]',
        ],
    )
    assert draft.config == {
        "Entrypoint": ["p", "$A"],
        "Env": ["PATH=/bin", "A=1", "B=0", "C=0"],
        "Labels": {"k l": "v w", "x": "0"},
        "ExposedPorts": {"80/tcp": {}, "8000/udp": {}, "8001/udp": {}, "8002/udp": {}},
        "Volumes": {"/a": {}, "/b": {}},
        "WorkingDir": "/up",
        "User": "1:2",
        "StopSignal": "SIGKILL",
        "Healthcheck": {"Test": ["CMD-SHELL", "x y"], "Interval": 90_000_000_000, "Retries": 3},
        "OnBuild": ["RUN z"],
    }
    assert base["config"]["Cmd"] == ["old"]
    apply_changes(draft, ["CMD a b"])
    apply_changes(draft, ['ENTRYPOINT ["q"]', "HEALTHCHECK NONE"])
    assert draft.config["Cmd"] == ["/bin/sh", "-c", "a b"]
    assert "rootfs" not in draft.finish()


@pytest.mark.parametrize(
    "change", ["RUN x", "EXPOSE 0", "EXPOSE 70000", "STOPSIGNAL NO", "HEALTHCHECK x", "ENV =a", "LABEL ''=x", "X y"]
)
def test_bad_changes(change: str) -> None:
    with pytest.raises(InvalidInput):
        apply_changes(ImageDraft(), [change])


def test_durations() -> None:
    assert duration("1h2m3.5s") == 3_723_500_000_000
    for bad in ("", "5", "s", "1d", "-1s"):
        with pytest.raises(InvalidInput):
            duration(bad)


@pytest.mark.parametrize(
    ("rules", "hidden", "shown"),
    [
        ("*.log", ["a.log"], ["d/a.log", "a.logs"]),
        ("**/*.log", ["a.log", "d/e/a.log"], ["a.txt"]),
        ("/dir/", ["dir", "dir/x/y"], ["dirs", "a/dir"]),
        ("*\n!keep", ["a", "b/c"], ["keep", "keep/x"]),
        ("# *\n\n a? ", ["ab", "ab/c"], ["a", "abc", "# *"]),
        ("[a-c]x\n!bx", ["ax"], ["bx", "dx"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["z", "b/z"]),
        ("./x/../y", ["y"], ["x"]),
    ],
)
def test_ignore_rules(rules: str, hidden: list[str], shown: list[str]) -> None:
    ignore = Ignore(rules)
    assert [path for path in [*hidden, *shown] if ignore.hides(path)] == hidden


@pytest.mark.parametrize("pattern", ["*a" * 30 + "b", "**/*a/" * 30 + "b", "**/*a*a*a*b/" * 30 + "*b*b"])
def test_no_ignore_rule_takes_long(pattern: str) -> None:
    began = time.process_time()
    assert not Ignore(pattern).hides("/".join(["a" * 250] * 16))
    assert matching(["a" * 250, "a/" * 2000 + "a"], pattern) == []
    assert time.process_time() - began < 10


def test_stars_that_need_a_later_place() -> None:
    paths = ["ab/ab", "abab/x", "x/y/ab/q/ab", "aabb", "a/b", "x/a/b/a/b/c"]
    assert matching(paths, "*a*b/*") == ["ab/ab", "abab/x"]
    assert matching(paths, "**/ab/**/ab") == ["ab/ab", "x/y/ab/q/ab"]
    assert matching(paths, "**/a/b/c") == ["x/a/b/a/b/c"]
    assert matching(paths, "**/a/*/**/c") == ["x/a/b/a/b/c"]


def test_sources_with_wildcards() -> None:
    paths = ["a.txt", "b.txt", "d/c.txt", "e\\f"]
    assert matching(paths, "*.txt") == ["a.txt", "b.txt"]
    assert matching(paths, "d/[a-c].t?t") == ["d/c.txt"]
    with pytest.raises(InvalidInput):
        matching(paths, "[a")


def archive(*members: tuple[str, object]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, bytes):
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.type, info.linkname = content  # type: ignore[misc]
                tar.addfile(info)
    return out.getvalue()


def test_a_directory_with_one_file_is_no_file(tmp_path: Path) -> None:
    context = Context(tmp_path / "data", max_bytes=1 << 20)
    context.load(iter([archive(("d/only", b"1"))]))
    assert [match.single for source in ("d", "d/.", "d/only", "d/o*") for match in context.select(source)] == [
        False,
        False,
        True,
        True,
    ]
    context.close()


def test_a_context(tmp_path: Path) -> None:
    context = Context(tmp_path / "data", max_bytes=1 << 20)
    link = (tarfile.SYMTYPE, "../f")
    context.load(iter([archive(("./f", b"1"), ("d/g", b"22"), ("d/l", link), ("h", (tarfile.LNKTYPE, "f")))]))
    assert sorted(context.nodes) == ["d", "d/g", "d/l", "f", "h"]
    assert context.resolve("d/l") == "f"
    assert context.resolve("../../f") == "f"
    assert context.read("d/l", limit=10) == b"1"
    (found,) = context.select("d")
    members = found.members
    assert [member.name for member in members] == ["g", "l"]
    (single,) = context.select("/d/l")
    assert (single.members[0].name, single.single, found.single) == ("l", True, False)
    assert context.select("d/g")[0].single
    with tarfile.open(fileobj=io.BytesIO(b"".join(context.tar(members)))) as tar:
        assert tar.getnames() == ["g", "l"]
        assert tar.extractfile("g").read() == b"22"
    before = digest_of(members)
    context.add_file("d/g", iter([b"23"]))
    assert digest_of(context.select("d")[0].members) != before
    context.ignore(Ignore("d\n!d/g"))
    assert sorted(context.nodes) == ["d", "d/g", "f", "h"]
    with pytest.raises(InvalidInput, match="not found in build context"):
        context.select("nothing")
    context.close()


@pytest.mark.parametrize(
    "members",
    [
        [("../x", b"")],
        [("l", (tarfile.LNKTYPE, "missing"))],
        [("d", (tarfile.CHRTYPE, ""))],
        [("f", bytes(2000))],
    ],
)
def test_hostile_contexts(tmp_path: Path, members: list[tuple[str, object]]) -> None:
    context = Context(tmp_path / "data", max_bytes=1000)
    with pytest.raises((InvalidInput, TooLarge)):
        context.load(iter([archive(*members)]))
    context.close()


def test_links_in_a_circle_lead_nowhere(tmp_path: Path) -> None:
    context = Context(tmp_path / "data", max_bytes=1 << 20)
    context.load(iter([archive(("a", (tarfile.SYMTYPE, "b")), ("b", (tarfile.SYMTYPE, "a/x")))]))
    assert context.resolve("a") is None
    context.close()


def test_the_cache_forgets_the_oldest_and_what_is_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Held:
        def use_layer(self, diff_id: str) -> bool:
            return diff_id.endswith("1")

    cache, held = StepCache(tmp_path / "c"), Held()
    cache.prune()
    one, two, empty = (chain("x", word) for word in ("one", "two", "empty"))
    cache.note(one, "sha256:" + "0" * 63 + "1")
    cache.note(two, "sha256:" + "0" * 63 + "2")
    cache.note(empty, "")
    assert cache.find(one, held) == "sha256:" + "0" * 63 + "1"
    assert cache.find(two, held) is None
    assert cache.find(empty, held) == ""
    (tmp_path / "c" / one).write_text("../../etc/passwd\n")
    assert cache.find(one, held) is None
    assert cache.find("unknown", held) is None
    (tmp_path / "c" / ".draft").touch()
    monkeypatch.setattr("hyperd.build.cache.MAX_ENTRIES", 1)
    cache.prune()
    assert len(list((tmp_path / "c").iterdir())) == 1


def test_the_cache_is_bounded_while_the_daemon_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several builds note at once; the entry that is being written is nobody's remainder."""
    monkeypatch.setattr("hyperd.build.cache.MAX_ENTRIES", 3)
    monkeypatch.setattr("hyperd.build.cache.PRUNE_EVERY", 5)
    cache = StepCache(tmp_path / "c")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: cache.note(chain("x", number), ""), range(100)))
    assert len(list((tmp_path / "c").iterdir())) == 3


# Each is one RUN, COPY or ADD with here-documents, and what they say: name, content, whether nothing is expanded.
HEREDOCS = [
    ("RUN <<EOF\n$V\nEOF", [("EOF", "$V\n", False)]),
    ("RUN <<\\EOF\n$V\nEOF", [("EOF", "$V\n", True)]),
    ('RUN <<E"O"F\n$V\nEOF', [("EOF", "$V\n", True)]),
    ("RUN <<'E F'\n$V\nE F", [("E F", "$V\n", True)]),
    ("RUN <<E\\ F\n$V\nE F", [("E F", "$V\n", True)]),
    ("RUN 0<<EOF\n$V\nEOF", [("EOF", "$V\n", False)]),
    ("RUN <<EOF\nEOF", [("EOF", "", False)]),
    ("RUN cat > /f <<'A B'\n$V\nA B", [("A B", "$V\n", True)]),
    ("RUN cat 3<<EOF <&3\n$V\nEOF", [("EOF", "$V\n", False)]),
    ('RUN cat <<-A && \\\n  cat <<"B C"\n\t$V\n\tA\ntwo\nB C', [("A", "$V\n", False), ("B C", "two\n", True)]),
    ("RUN --mount=type=tmpfs,target=/x cat <<EOF\n$V\nEOF", [("EOF", "$V\n", False)]),
    ("COPY <<E'O'F <<'b c' <<-\\D /to/\n1\nEOF\n2\nb c\n\t3\n\tD",
     [("EOF", "1\n", True), ("b c", "2\n", True), ("D", "3\n", True)]),
    ("ADD --chown=1 <<'a b' c /to/\n1\na b", [("a b", "1\n", True)]),
]  # fmt: skip


@pytest.mark.parametrize("before", ["", "ONBUILD ", "ONBUILD \\\n "])
@pytest.mark.parametrize("case", HEREDOCS, ids=[case[0] for case in HEREDOCS])
def test_no_here_document_gets_lost(case: tuple[str, list[tuple[str, str, bool]]], before: str) -> None:
    text, documents = case
    first, last = parse_instructions(f"{before}{text}\nRUN after\n")
    if before:
        (first,) = parse_instructions(first.trigger)
    assert [(one.name, one.content, one.literal) for one in first.heredocs] == documents
    assert last.words == ("after",)


def test_the_words_of_a_copy_with_here_documents_stay_whole() -> None:
    (copy,) = parse_instructions("COPY --chown=1 <<'a b' c /to/\n1\na b\n")
    assert (copy.words, copy.flags) == (("<<'a b'", "c", "/to/"), {"chown": "1"})


@pytest.mark.parametrize(
    "text",
    [
        "RUN << 'EOF'\nRUN x\nEOF",
        "RUN cat <<- EOF > /f\nRUN x\n\tEOF",
        "ONBUILD RUN << EOF\nRUN x\nEOF",
        "COPY << EOF /f\nRUN x\nEOF",
        "RUN cat << RUN\nCMD x\nRUN",
        "RUN echo ${a@Q} <<CMD\nRUN x\nCMD",
        "RUN <<EOF\nno end",
        'RUN ["sh", "<<EOF"]\nx\nEOF',
    ],
)
def test_a_here_document_that_is_not_understood_is_refused(text: str) -> None:
    with pytest.raises(HyperError):
        parse_instructions(f"{text}\n")


@pytest.mark.parametrize(
    "line",
    ["echo '<<X'", "cat <<<X", "echo $((1<<2))", "echo $((1 << 2)); echo 2", 'echo "<<X"', "echo it's", "a<<2"],
)
def test_what_only_looks_like_a_here_document(line: str) -> None:
    run, after = parse_instructions(f"RUN {line}\nRUN true\n")
    assert (run.heredocs, after.words) == ((), ("true",))


def test_a_byte_order_mark_before_a_directive() -> None:
    found = parse_dockerfile("\ufeff# escape=`\nFROM a\nRUN x `\n y\n".encode())
    assert (found.escape, [step.words for step in found.stages[0].steps]) == ("`", [("x  y",)])


def test_patterns_take_no_time_to_speak_of() -> None:
    value = "a" * 60_000
    assert expand("${V//a/b}", {"V": value}) == "b" * 60_000
    assert expand("${V%%" + "*a" * 30 + "b}", {"V": value}) == value
    with pytest.raises(TooLarge):
        expand("${V#" + "*a" * 300 + "b}", {"V": value})
    with pytest.raises(TooLarge):
        expand("${V//a/b}", {"V": "a" * 100_000})


@given(
    st.text("ab*?", min_size=1, max_size=4),
    st.text("abc", max_size=8),
    st.booleans(),
)
def test_patterns_cut_what_fits(pattern: str, value: str, longest: bool) -> None:
    """Compare with the plainest way: every cut is tried with ``fnmatch``."""
    glob = Glob(pattern)
    cuts = [at for at in range(len(value) + 1) if fnmatchcase(value[:at], pattern)]
    want = value[(max if longest else min)(cuts) :] if cuts else value
    assert glob.without_prefix(value, longest=longest) == want
    cuts = [at for at in range(len(value) + 1) if fnmatchcase(value[at:], pattern)]
    want = value[: (min if longest else max)(cuts)] if cuts else value
    assert glob.without_suffix(value, longest=longest) == want
