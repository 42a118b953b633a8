"""Signatures: keys, what is signed, which rule holds, what may be used."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperd.config.load import load
from hyperd.config.model import SignatureConfig, SignatureRule
from hyperd.db.models import ImageRow
from hyperd.db.session import Database
from hyperd.errors import Forbidden, InvalidInput
from hyperd.image.signing.bundle import is_bundle, read_bundle, signed_digests
from hyperd.image.signing.signature import (
    Approval,
    Demand,
    Flaw,
    SignatureGuard,
    SignaturePolicy,
    SignatureRefused,
    approve,
    check_payload,
)
from hyperd.image.signing.store import Signed
from hyperd.publickeys import PublicKey, read_public_key
from tests.support.cosign import SIGN_PREDICATE, new_key, payload, public_file, public_pem, sign, signed_for, statement
from tests.support.registry import run_openssl

DIGEST, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64
REPOSITORY = "registry.example/prod/app"


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "ed25519", "rsa"])
def test_every_kind_of_key(tmp_path: Path, kind: str) -> None:
    private = new_key(kind)
    key = read_public_key(public_file(private, tmp_path / "k.pub"))
    signature = sign(private, b"data")
    assert key.verifies(signature, b"data")
    assert not key.verifies(signature, b"datb")
    assert not key.verifies(sign(new_key(kind), b"data"), b"data")
    for bad in (b"", b"x", signature[:-1], signature + b"\0", bytes(len(signature))):
        assert not key.verifies(bad, b"data")


def test_a_signature_by_openssl(tmp_path: Path) -> None:
    secret, public, data = tmp_path / "k", tmp_path / "k.pub", tmp_path / "data"
    data.write_bytes(b"data")
    for curve, hashed in (("prime256v1", "-sha256"), ("secp384r1", "-sha384"), ("secp521r1", "-sha512")):
        run_openssl("ecparam", "-name", curve, "-genkey", "-noout", "-out", str(secret))
        public.write_bytes(run_openssl("ec", "-in", str(secret), "-pubout"))
        assert read_public_key(public).verifies(run_openssl("dgst", hashed, "-sign", str(secret), str(data)), b"data")


def test_the_fingerprint_is_of_the_key_not_of_the_file(tmp_path: Path) -> None:
    key = new_key()
    first = read_public_key(public_file(key, tmp_path / "a"))
    (tmp_path / "b").write_bytes(b"a comment\n" + public_pem(key) + b"\n\n")
    assert read_public_key(tmp_path / "b").fingerprint == first.fingerprint
    assert read_public_key(public_file(new_key(), tmp_path / "c")).fingerprint != first.fingerprint


def test_what_is_no_key(tmp_path: Path) -> None:
    path = tmp_path / "k"
    one = public_pem(new_key())
    weak = run_openssl("rsa", "-pubout", data=run_openssl("genrsa", "1024"))
    secret = run_openssl("genpkey", "-algorithm", "ed25519")
    for bad in (b"", b"text", one + one, one[:60], secret, weak, public_pem(new_key("k1")), one + bytes(70_000)):
        path.write_bytes(bad)
        with pytest.raises(InvalidInput, match="is not a public key"):
            read_public_key(path)
    for missing in (tmp_path / "nothing", tmp_path):
        with pytest.raises(InvalidInput, match="cannot read"):
            read_public_key(missing)


@pytest.fixture(scope="module")
def private() -> Any:
    return new_key()


@pytest.fixture
def key(private: Any, tmp_path: Path) -> PublicKey:
    return read_public_key(public_file(private, tmp_path / "good.pub"))


def judge(key: PublicKey, *found: tuple[bytes, bytes]) -> tuple[Approval | None, list[tuple[Flaw, str]]]:
    seen: list[tuple[Flaw, str]] = []
    signatures = [Signed(payload=data, signature=signature, origin="tag.sig") for data, signature in found]
    return approve(signatures, digest=DIGEST, repository=REPOSITORY, demand=Demand(keys=(key,)), seen=seen), seen


@pytest.mark.parametrize(
    "reference", [REPOSITORY, f"{REPOSITORY}:tag", f"{REPOSITORY}@{DIGEST}", f"{REPOSITORY}:tag@{DIGEST}"]
)
def test_a_good_signature(private: Any, key: PublicKey, reference: str) -> None:
    assert judge(key, signed_for(private, DIGEST, reference)) == (
        Approval(digest=DIGEST, repository=REPOSITORY, key=key),
        [],
    )


def test_names_of_docker_hub_are_one_name() -> None:
    for name in ("busybox", "docker.io/library/busybox", "index.docker.io/library/busybox"):
        assert check_payload(payload(DIGEST, name), digest=DIGEST, repository="docker.io/library/busybox") is None


def test_every_kind_of_bad_signature(private: Any, key: PublicKey) -> None:
    stranger = new_key()
    good, signature = signed_for(private, DIGEST, REPOSITORY)
    cases = {
        Flaw.KEY: [
            signed_for(stranger, DIGEST, REPOSITORY),
            (good, signature[:-2]),
            (good, b"\0" * 70),
            (good.replace(b"1111", b"1112"), signature),
            (good + b" ", signature),
        ],
        Flaw.PAYLOAD: [
            (text, sign(private, text)) for text in (b"", b"no JSON", b"[]", b'"x"', b"{}", b"[" * 100_000, b"\xff")
        ]
        + [signed_for(private, DIGEST, REPOSITORY, kind="atomic container signature")],
        Flaw.DIGEST: [signed_for(private, OTHER, REPOSITORY), signed_for(private, "", REPOSITORY)],
        Flaw.REPOSITORY: [
            signed_for(private, DIGEST, name)
            for name in ("registry.example/prod/ap", "registry.example/prod", "prod/app", "", "Not A Name")
        ],
    }
    for flaw, found in cases.items():
        for one in found:
            approval, seen = judge(key, one)
            assert (approval, [kind for kind, _ in seen]) == (None, [flaw]), one
    everything = [one for found in cases.values() for one in found]
    assert max(judge(key, *everything)[1])[0] == Flaw.REPOSITORY
    assert judge(key, *everything, (good, signature))[0] is not None


@given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_payload_breaks_the_check(value: Any) -> None:
    keys = ("critical", "image", "identity")
    for data in (value, {"critical": value}, {"critical": dict.fromkeys(keys, value)}):
        assert check_payload(json.dumps(data).encode(), digest=DIGEST, repository=REPOSITORY) is not None


@given(st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_bundle_breaks_its_reader(value: Any) -> None:
    envelope = {"payloadType": "application/vnd.in-toto+json", "payload": "e30=", "signatures": value}
    for data in (
        value,
        {"dsseEnvelope": value},
        {"dsseEnvelope": envelope},
        {"dsseEnvelope": {**envelope, "payload": value}},
    ):
        assert list(read_bundle(json.dumps(data).encode())) == []
    told = {"_type": "https://in-toto.io/Statement/v1", "predicateType": SIGN_PREDICATE}
    for data in (value, told | {"subject": value}, told | {"subject": [value, {"digest": value}]}):
        assert not signed_digests(json.dumps(data).encode())


def test_what_is_a_bundle() -> None:
    for kind in (
        "application/vnd.dev.sigstore.bundle.v0.3+json",
        "application/vnd.dev.sigstore.bundle+json;version=0.2",
    ):
        assert is_bundle(kind)
    for other in ("application/vnd.dev.sigstore.bundle", "application/vnd.dev.cosign.artifact.sig.v1+json", None, {}):
        assert not is_bundle(other)
    assert signed_digests(statement(DIGEST)) == [DIGEST]


def test_the_longest_rule_holds(tmp_path: Path) -> None:
    paths = [public_file(new_key(), tmp_path / name) for name in ("a", "b", "default")]
    rules = [
        SignatureRule(prefix="registry.example/prod", require=(paths[0], paths[1])),
        SignatureRule(prefix="registry.example/prod/deep", require=(paths[1],)),
        SignatureRule(prefix="registry.example/prod/open"),
        SignatureRule(prefix="docker.io"),
    ]
    policy = SignaturePolicy(SignatureConfig(default="require", keys=(paths[2],), rule=tuple(rules)))

    def names(repository: str) -> list[str]:
        return [Path(key.name).name for key in policy.demand(repository).keys]

    assert names("registry.example/prod") == names("registry.example/prod/app") == ["a", "b"]
    assert names("registry.example/prod/deep/x") == ["b"]
    assert names("registry.example/prod/open") == names("docker.io/library/busybox") == []
    for other in ("registry.example/production", "registry.example", "registry.example:5000/prod", ""):
        assert names(other) == ["default"]
    assert not policy.accepts_anything
    assert SignaturePolicy(SignatureConfig(rule=(rules[2],))).accepts_anything


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(tmp_path / "db")
    database.create_all()
    with database.session() as session:
        session.add(ImageRow(id="i", config={}, config_blob=b"{}", created_at=0.0, size=0))
    yield database
    database.close()


def test_what_is_here_may_be_used_when_it_was_checked(tmp_path: Path, database: Database, key: PublicKey) -> None:
    path, other = tmp_path / "good.pub", public_file(new_key(), tmp_path / "other.pub")

    def config(*keys: Path, default: tuple[Path, ...] = ()) -> SignatureConfig:
        rule = SignatureRule(prefix="registry.example/prod", require=keys)
        return SignatureConfig(default="require" if default else "accept", keys=default, rule=(rule,))

    guard = SignatureGuard(config=SignatureConfig(), database=database)
    guard.check_use("i", {REPOSITORY}, name="x")
    guard.reconfigure(config(path))
    with pytest.raises(SignatureRefused, match="x: its signature has not been checked") as caught:
        guard.check_use("i", {REPOSITORY}, name="x")
    assert isinstance(caught.value, Forbidden)
    assert (caught.value.flaw, "pull it" in caught.value.resolution) == (Flaw.UNCHECKED, True)
    guard.check_use("i", {"registry.example/test"}, name="x")
    guard.check_use("i", set(), name="x")
    guard.check_use("i", {REPOSITORY, "registry.example/test"}, name="x")  # by its id
    approval = Approval(digest=DIGEST, repository=REPOSITORY, key=key)
    guard.note("i", None)
    guard.note("gone", approval)
    guard.note("i", approval)
    guard.note("i", approval)
    guard.check_use("i", {REPOSITORY}, name="x")
    with pytest.raises(SignatureRefused):
        guard.check_use("i", {f"{REPOSITORY}2"}, name="x")
    with pytest.raises(SignatureRefused):
        guard.check_use("other", {REPOSITORY}, name="x")
    guard.reconfigure(config(other))  # the key was exchanged
    with pytest.raises(SignatureRefused):
        guard.check_use("i", {REPOSITORY}, name="x")
    guard.reconfigure(config(other, path))
    guard.check_use("i", {REPOSITORY}, name="x")
    guard.reconfigure(config(path, default=(path,)))
    with pytest.raises(SignatureRefused):
        guard.check_use("nameless", set(), name="x")
    with pytest.raises(InvalidInput):
        guard.reconfigure(config(tmp_path / "nothing"))
    with pytest.raises(SignatureRefused):  # and the rules from before hold
        guard.check_use("nameless", set(), name="x")
    with database.session() as session:
        session.delete(session.get_one(ImageRow, "i"))
    with pytest.raises(SignatureRefused):
        guard.check_use("i", {REPOSITORY}, name="x")


def configured(tmp_path: Path, text: str) -> SignatureConfig:
    (tmp_path / "c.toml").write_text(text)
    return load(tmp_path / "c.toml")[0].images.signatures


def test_a_configuration(tmp_path: Path) -> None:
    path = public_file(new_key(), tmp_path / "k.pub")
    text = f'[images.signatures]\n[[images.signatures.rule]]\nprefix = "r.example/a"\nrequire = ["{path}"]\n'
    text += '[[images.signatures.rule]]\nprefix = "localhost:5000/a"\naccept = true\n'
    assert configured(tmp_path, text) == SignatureConfig(
        rule=(SignatureRule(prefix="r.example/a", require=(path,)), SignatureRule(prefix="localhost:5000/a"))
    )
    assert configured(tmp_path, f'[images.signatures]\ndefault = "require"\nkeys = ["{path}"]\n').keys == (path,)


RULE = '[[images.signatures.rule]]\nprefix = "r.example"\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[images.signatures]\ndefault = "maybe"', "must be one of accept, require"),
        ('[images.signatures]\ndefault = "require"', "keys must be given"),
        ('[images.signatures]\nkeys = ["KEY"]', "keys must be given"),
        ("[images]\nx = 1", "unknown key images.x"),
        ("images = 1", "must be a section"),
        ("[images]\nsignatures = 1", "must be a section"),
        ("[images.signatures]\nrule = 1", "must be sections"),
        ("[images.signatures]\nrules = []", "unknown key images.signatures.rules"),
        (RULE, "either require or accept"),
        (RULE + "accept = true\nrequire = ['KEY']", "either require or accept"),
        (RULE + "accept = true\nbundles = true", "is for rules that require"),
        (RULE + "require = ['KEY']\nbundles = 'yes'", "must be true or false"),
        (RULE + "require = []", "either require or accept"),
        (RULE + "accept = 'yes'", "either require or accept"),
        (RULE + "require = 'KEY'", "must be an array of strings"),
        (RULE + "require = ['KEY']\nfoo = 1", "unknown key images.signatures.rule.foo"),
        (RULE + "require = ['relative']", "must be an absolute path"),
        (RULE + "require = ['/no/such/key']", "cannot read the public key"),
        (RULE + "accept = true\n" + RULE + "accept = true", "two rules for one prefix"),
        (RULE.replace("r.example", "team/app") + "accept = true", "must be a registry"),
        (RULE.replace("r.example", "r.example/a:tag") + "accept = true", "must be a registry"),
        (RULE.replace("r.example", "r.example/a/") + "accept = true", "must be a registry"),
        ("[[images.signatures.rule]]\naccept = true", "must have a prefix"),
    ],
)
def test_bad_configurations(tmp_path: Path, text: str, words: str) -> None:
    path = public_file(new_key(), tmp_path / "k.pub")
    with pytest.raises(InvalidInput, match=words):
        configured(tmp_path, text.replace("KEY", str(path)))
