"""Names of images: Docker's rules, checked against an independent reader of them."""

from __future__ import annotations

import pytest
from docker_image import digest as oracle_digest
from docker_image import reference as oracle
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperd.errors import InvalidInput
from hyperd.registry.reference import Reference

HEX = "0123456789abcdef" * 4

GOOD = {
    "busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "busybox:1.36": ("docker.io", "library/busybox", "1.36", "", "busybox:1.36"),
    "docker.io/busybox": ("docker.io", "library/busybox", "", "", "busybox"),
    "docker.io/library/busybox:x": ("docker.io", "library/busybox", "x", "", "busybox:x"),
    "index.docker.io/a/b": ("docker.io", "a/b", "", "", "a/b"),
    "a/b/c": ("docker.io", "a/b/c", "", "", "a/b/c"),
    "library/a/b": ("docker.io", "library/a/b", "", "", "library/a/b"),
    "localhost/a": ("localhost", "a", "", "", "localhost/a"),
    "localhost:5000/a/b:t": ("localhost:5000", "a/b", "t", "", "localhost:5000/a/b:t"),
    "Upper/a": ("Upper", "a", "", "", "Upper/a"),
    "[::1]:5000/a": ("[::1]:5000", "a", "", "", "[::1]:5000/a"),
    f"r.example/a@sha256:{HEX}": ("r.example", "a", "", f"sha256:{HEX}", f"r.example/a@sha256:{HEX}"),
    f"a:t@sha256:{HEX}": ("docker.io", "library/a", "t", f"sha256:{HEX}", f"a:t@sha256:{HEX}"),
    "a__b/c---d.e_f": ("docker.io", "a__b/c---d.e_f", "", "", "a__b/c---d.e_f"),
}
BAD = [
    "", ":", "@", "/", "a/", "/a", "a//b", "A", "a/B", "a:", "a:-", "a b", "a\n", "a:t\n", "a@", "a@sha256:",
    "a@md5:00",
    f"a@sha256:{HEX[:-1]}", f"a@sha256:{HEX.upper()}", HEX, "a..b", "a___b", "-a", "a-", "a:" + "t" * 129, "x" * 256,
    "host:port/a", "http://a/b", "ä", "a:ä", "a@sha256:" + HEX + "@sha256:" + HEX, "x" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("text", GOOD)
def test_parts(text: str) -> None:
    found = Reference.parse(text)
    assert (found.domain, found.path, found.tag, found.digest, found.familiar) == GOOD[text]
    assert Reference.parse(found.canonical) == found
    assert Reference.parse(found.familiar) == found


@pytest.mark.parametrize("text", BAD)
def test_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Reference.parse(text)


def test_latest_is_the_tag_of_a_bare_name_only() -> None:
    assert Reference.parse("a").with_default_tag().familiar == "a:latest"
    assert Reference.parse("a:b").with_default_tag().familiar == "a:b"
    assert Reference.parse(f"a@sha256:{HEX}").with_default_tag().tag == ""


def test_a_tag_or_a_digest_replaces_the_own_one() -> None:
    assert Reference.parse("a:b").with_tag("c").familiar == "a:c"
    assert Reference.parse("a:b").with_tag(f"sha256:{HEX}").target == f"sha256:{HEX}"
    with pytest.raises(InvalidInput):
        Reference.parse("a").with_tag("c/d")


def test_another_default_registry_has_no_library() -> None:
    found = Reference.parse("busybox", default_domain="r.example:5000")
    assert (found.canonical, found.familiar) == ("r.example:5000/busybox", "busybox")
    hub = Reference.parse("docker.io/busybox", default_domain="r.example:5000")
    assert (hub.canonical, hub.familiar) == ("docker.io/library/busybox", "docker.io/library/busybox")
    assert Reference.parse(hub.familiar, default_domain="r.example:5000") == hub


PIECES = st.sampled_from(
    ["a", "b0", "A", "localhost", "docker.io", "index.docker.io", "library", "host", "h.example", ":", ":5000",
     "/", "//",
     ".", "..", "-", "--", "_", "__", "___", "@", "@sha256:", HEX, HEX[:32], "latest", "[::1]", " ", "é", "\n", "~"]
)  # fmt: skip


@settings(max_examples=1500, deadline=None)
@given(st.lists(PIECES, max_size=9).map("".join))
def test_same_verdict_as_an_independent_reader(text: str) -> None:
    try:
        theirs = oracle.Reference.parse_normalized_named(text)
    except (oracle.InvalidReference, oracle_digest.InvalidDigest):
        theirs = None
    if text.endswith("\n"):
        theirs = None  # its "$" lets a final newline through, Go's does not
    try:
        ours = Reference.parse(text)
    except InvalidInput:
        ours = None
    assert (ours is None) == (theirs is None), text
    if ours is not None and theirs is not None:
        assert ours.canonical_repository == theirs["name"]
        assert (ours.tag, ours.digest) == (theirs["tag"] or "", theirs["digest"] or "")
