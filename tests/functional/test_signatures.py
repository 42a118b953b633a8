"""The policy on signatures against a real registry: made by hand and by openssl, copied by skopeo; through hyperctl."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hyperd.api.jsonmessage import as_lines
from hyperd.config.model import Config, ImagesConfig, SignatureConfig, SignatureRule
from hyperd.errors import ImageNotFound, RegistryError
from hyperd.image.service import ImageService
from hyperd.image.signing.signature import Flaw, SignatureRefused
from tests.support.cosign import (
    attach,
    bundle_of,
    new_key,
    payload,
    public_file,
    refer,
    refer_bundles,
    referrers,
    signature_manifest,
    signed_for,
    statement,
)
from tests.support.daemon import PROJECT, HyperdLauncher
from tests.support.faulty import FaultyRegistry, send
from tests.support.images import image_services
from tests.support.registry import (
    OCI_INDEX,
    Layer,
    Pushed,
    RegistryServer,
    busybox_tar,
    digest_of,
    layer_tar,
    member,
    run_openssl,
)
from tests.support.until import until

pytestmark = pytest.mark.registry

Make = Callable[..., ImageService]


@pytest.fixture(scope="module")
def registry() -> Iterator[RegistryServer]:
    with RegistryServer() as server:
        yield server


@pytest.fixture
def key() -> Any:
    return new_key()


@pytest.fixture
def make(tmp_path: Path, key: Any) -> Iterator[Make]:
    """Make image services; what begins with the given prefix must be signed by ``key``."""
    path = public_file(key, tmp_path / "key.pub")
    with image_services(tmp_path) as begin:

        def start(prefix: str = "", *more: SignatureRule) -> ImageService:
            rules = (SignatureRule(prefix=prefix, require=(path,)), *more) if prefix else ()
            return begin(Config(images=ImagesConfig(signatures=SignatureConfig(rule=rules))))

        yield start


def policy(prefix: str, *keys: Path) -> Config:
    rule = SignatureRule(prefix=prefix, require=keys)
    return Config(images=ImagesConfig(signatures=SignatureConfig(rule=(rule,))))


def pull(service: ImageService, name: str) -> list[str]:
    lines: list[dict[str, Any]] = []
    service.pull(name, auth=None, progress=as_lines(lines.append))
    return [line["status"] for line in lines]


def refused(service: ImageService, name: str) -> SignatureRefused:
    """Pull, which must be refused before anything is fetched."""
    lines: list[dict[str, Any]] = []
    with pytest.raises(SignatureRefused) as caught:
        service.pull(name, auth=None, progress=as_lines(lines.append))
    assert [line["status"] for line in lines if not line["status"].startswith("Pulling from")] == []
    assert service.totals().layers == 0
    return caught.value


def push(registry: RegistryServer, repository: str, text: str = "") -> Pushed:
    return registry.push(repository, "t", [Layer(layer_tar([member("f", (text or repository).encode())]))])


def test_only_what_is_signed_comes_in(make: Make, registry: RegistryServer, key: Any, tmp_path: Path) -> None:
    pushed = push(registry, "prod/app")
    name = f"{registry.host}/prod/app"
    service = make(f"{registry.host}/prod")
    error = refused(service, f"{name}:t")
    assert error.flaw == Flaw.MISSING
    assert str(error).startswith(f"the policy on signatures refuses {name}:t: it has no signature")

    def flaw(*signed: tuple[bytes, bytes]) -> Flaw:
        attach(registry, "prod/app", pushed.digest, signed)
        return refused(service, f"{name}:t").flaw

    good = signed_for(key, pushed.digest, name)
    other = push(registry, "prod/other")
    assert flaw() == Flaw.MISSING
    assert flaw(signed_for(new_key(), pushed.digest, name)) == Flaw.KEY
    assert flaw((good[0], b"")) == Flaw.MISSING
    assert flaw((good[0] + b" ", good[1])) == Flaw.KEY
    assert flaw((bytes(65 * 1024), good[1])) == Flaw.MISSING  # too long to be looked at
    assert flaw(signed_for(key, other.digest, name)) == Flaw.DIGEST
    assert flaw(signed_for(key, pushed.digest, f"{registry.host}/prod/other")) == Flaw.REPOSITORY
    assert "prod/other" in refused(service, f"{name}:t").details
    attach(registry, "prod/app", pushed.digest, [signed_for(new_key(), pushed.digest, name), good])
    lines = pull(service, f"{name}:t")
    assert lines[:2] == ["Pulling from prod/app", f"Signature: by {tmp_path}/key.pub"]
    assert service.usable(f"{name}:t").id == service.usable(pushed.image_id).id == pushed.image_id
    with pytest.raises(ImageNotFound):
        pull(service, f"{name}:nothing")
    push(registry, "else/where")
    assert "Signature" not in str(pull(service, f"{registry.host}/else/where:t"))


def test_an_index_or_its_manifest_is_signed(make: Make, registry: RegistryServer, key: Any) -> None:
    name = f"{registry.host}/multi/app"
    image = push(registry, "multi/app")
    platform = {"os": "linux", "architecture": "amd64"}
    index = registry.push_index("multi/app", "t", [(image, platform)])
    service = make(f"{registry.host}/multi")
    refused(service, f"{name}:t")
    attach(registry, "multi/app", image.digest, [signed_for(key, image.digest, name)])
    pull(service, f"{name}:t")
    registry.push_index("multi/app", "second", [(push(registry, "multi/app", "2"), platform)])
    second = push(registry, "multi/app", "3")
    index = registry.push_index("multi/app", "third", [(second, platform)])
    attach(registry, "multi/app", index, [signed_for(key, index, name)])
    pull(service, f"{name}:third")
    pull(service, f"{name}@{index}")
    with pytest.raises(SignatureRefused):
        pull(service, f"{name}:second")
    with pytest.raises(SignatureRefused):  # by this digest nobody knows of the index that is signed
        pull(service, f"{name}@{second.digest}")


def test_signatures_that_refer_to_an_image(make: Make, registry: RegistryServer, key: Any) -> None:
    pushed, name = push(registry, "ref/app"), f"{registry.host}/ref/app"
    service = make(f"{registry.host}/ref")
    refer(registry, "ref/app", pushed.digest, [signed_for(new_key(), pushed.digest, name)])
    assert refused(service, f"{name}:t").flaw == Flaw.KEY
    refer(registry, "ref/app", pushed.digest, [signed_for(key, pushed.digest, name)])
    pull(service, f"{name}:t")


def test_bundles_count_where_a_rule_says_so(make: Make, registry: RegistryServer, key: Any, tmp_path: Path) -> None:
    pushed, name = push(registry, "bundled/app"), f"{registry.host}/bundled/app:t"
    digest, prefix = pushed.digest, f"{registry.host}/bundled"
    rule = SignatureRule(prefix=prefix, require=(tmp_path / "key.pub",), bundles=True)
    with_bundles = Config(images=ImagesConfig(signatures=SignatureConfig(rule=(rule,))))
    service = make(prefix)
    service.reconfigure(with_bundles)
    certificate = {"certificate": {"rawBytes": "eA=="}}
    for flaw, found in {
        Flaw.KEY: bundle_of(new_key(), statement(digest), material=certificate),
        Flaw.DIGEST: bundle_of(key, statement("sha256:" + "1" * 64)),
        Flaw.PAYLOAD: bundle_of(key, statement(digest, predicateType="https://slsa.dev/provenance/v1")),
        Flaw.MISSING: b"no bundle",
    }.items():
        refer_bundles(registry, "bundled/app", digest, found)
        error = refused(service, name)
        assert error.flaw == flaw
        assert ("keyless" in error.details) == (flaw == Flaw.KEY)
    good = bundle_of(key, statement(digest))
    attestation = {"dev.sigstore.bundle.predicateType": "https://slsa.dev/provenance/v1"}
    refer_bundles(registry, "bundled/app", digest, good, annotations=attestation)
    assert refused(service, name).flaw == Flaw.MISSING
    refer_bundles(registry, "bundled/app", digest, b"other", good, artifactType="application/vnd.oci.empty.v1+json")
    service.reconfigure(policy(prefix, tmp_path / "key.pub"))
    error = refused(service, name)
    assert (error.flaw, "bundles = true" in error.resolution) == (Flaw.NAMELESS, True)
    service.reconfigure(with_bundles)
    pull(service, name)
    assert service.usable(name).id == pushed.image_id
    service.reconfigure(policy(prefix, tmp_path / "key.pub"))  # what only a bundle had signed goes with bundles
    with pytest.raises(SignatureRefused):
        service.usable(name)


def with_signature(server: FaultyRegistry, key: Any) -> tuple[str, str, bytes, list[bytes]]:
    """Add an image, and the blobs of a signature; give its name and digest, the signature's manifest and blobs."""
    digest, _ = server.add("t", [Layer(layer_tar([member("f")]))])
    name = f"{server.host}/some/repo"
    manifest, blobs = signature_manifest([signed_for(key, digest, name)])
    server.blobs |= {digest_of(blob): blob for blob in blobs}
    return name, digest, manifest, blobs


def test_the_list_of_referrers_is_asked_for(make: Make, key: Any) -> None:
    with FaultyRegistry() as server:
        name, _, manifest, _ = with_signature(server, key)
        server.add_manifest("unnamed", manifest, "application/vnd.oci.image.manifest.v1+json")
        answer: list[tuple[int, bytes]] = []

        def fault(handler: Any, path: str) -> bool:
            if "/referrers/" not in path:
                return False
            send(handler, answer[0][1], status=answer[0][0], Content_Type=OCI_INDEX)
            return True

        server.fault = fault
        service = make(server.host)
        for status, body in (
            (404, b""),
            (405, b""),
            (200, referrers(manifest, artifactType="application/spdx+json")),
            (200, referrers(manifest, mediaType="application/x")),
            (200, referrers(manifest, size=-1)),
            (200, b'{"manifests": [1, {}, {"mediaType": []}]}'.replace(b"[]", b'""')),
            (200, b"{}"),
        ):
            answer[:] = [(status, body)]
            assert refused(service, f"{name}:t").flaw == Flaw.MISSING, body
        answer[:] = [(200, b"[]")]
        with pytest.raises(RegistryError):
            pull(service, f"{name}:t")
        answer[:] = [(200, referrers(manifest))]
        pull(service, f"{name}:t")


def test_a_registry_that_fails_lets_nothing_in(make: Make, key: Any) -> None:
    with FaultyRegistry() as server:
        name, digest, manifest, blobs = with_signature(server, key)
        server.add_manifest(f"{digest.replace(':', '-')}.sig", manifest, "application/vnd.oci.image.manifest.v1+json")
        service = make(server.host)
        wrong = [b""]

        def fault(handler: Any, path: str) -> bool:
            if digest_of(blobs[0]) in path:
                send(handler, bytes(len(blobs[0])))
                return True
            return False

        server.fault = fault
        with pytest.raises(RegistryError, match="wrong data"):
            pull(service, f"{name}:t")
        server.fault = lambda handler, path: ".sig" in path and (send(handler, wrong[0], status=400), True)[1]
        with pytest.raises(RegistryError):
            pull(service, f"{name}:t")
        server.fault = lambda _handler, _path: False
        pull(service, f"{name}:t")


def test_openssl_signs_and_skopeo_copies(make: Make, registry: RegistryServer, tmp_path: Path) -> None:
    secret, public, text = (tmp_path / name for name in ("secret", "openssl.pub", "payload"))
    run_openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(secret))
    public.write_bytes(run_openssl("ec", "-in", str(secret), "-pubout"))
    pushed = push(registry, "ssl/app")
    source, target = f"{registry.host}/ssl/app", f"{registry.host}/copied/app"
    tag = f"{pushed.digest.replace(':', '-')}.sig"

    def openssl_signs(reference: str) -> None:
        text.write_bytes(payload(pushed.digest, reference))
        signature = run_openssl("dgst", "-sha256", "-sign", str(secret), str(text))
        attach(registry, "ssl/app", pushed.digest, [(text.read_bytes(), signature)])

    def skopeo_copies(what: str) -> None:
        words = ["skopeo", "--insecure-policy", "copy", "-q", "--src-tls-verify=false", "--dest-tls-verify=false"]
        subprocess.run([*words, f"docker://{source}:{what}", f"docker://{target}:{what}"], check=True, timeout=60)

    openssl_signs(source)
    service = make(registry.host)
    assert refused(service, f"{source}:t").flaw == Flaw.KEY
    skopeo_copies("t")
    service.reconfigure(policy(registry.host, tmp_path / "key.pub", public))
    assert refused(service, f"{target}:t").flaw == Flaw.MISSING
    skopeo_copies(tag)
    assert refused(service, f"{target}:t").flaw == Flaw.REPOSITORY
    openssl_signs(target)
    skopeo_copies(tag)
    assert f"Signature: by {public}" in pull(service, f"{target}:t")
    assert service.usable(f"{target}:t").id == pushed.image_id


def test_images_that_are_here_already(make: Make, registry: RegistryServer, key: Any, tmp_path: Path) -> None:
    pushed, name = push(registry, "here/app"), f"{registry.host}/here/app:t"
    service = make()
    pull(service, name)
    service.tag(name, "free")
    service.reconfigure(policy(f"{registry.host}/here", tmp_path / "key.pub"))
    for use in (name, f"{registry.host}/here/app@{pushed.digest}"):
        with pytest.raises(SignatureRefused) as caught:
            service.usable(use)
        assert caught.value.flaw == Flaw.UNCHECKED
    assert service.usable("free").id == pushed.image_id
    assert service.usable(pushed.image_id).id == pushed.image_id  # it has a name that is free
    with pytest.raises(SignatureRefused):  # a pull of what is here is held to the policy, too
        pull(service, name)
    attach(registry, "here/app", pushed.digest, [signed_for(key, pushed.digest, name)])
    assert "Image is up to date" in pull(service, name)[-1]
    service.usable(name)
    archive = b"".join(service.save(["free"]))  # a name alone signs nothing: load gives it to another image
    other = push(registry, "free/other", "other")
    pull(service, f"{registry.host}/free/other:t")
    service.tag(f"{registry.host}/free/other:t", name)
    with pytest.raises(SignatureRefused):
        service.usable(name)
    assert service.get(name).id == other.image_id
    pull(service, name)
    assert service.usable(name).id == pushed.image_id
    service.remove(name, force=True)
    service.remove("free", force=True)
    with pytest.raises(ImageNotFound):
        service.get(pushed.image_id)
    service.load(iter([archive]))
    service.tag("free", name)
    assert service.get(name).id == pushed.image_id
    with pytest.raises(SignatureRefused):  # what was checked went with the image
        service.usable(name)


def hyperctl(daemon: HyperdLauncher, *words: str) -> tuple[int, str, str]:
    argv = [str(Path(sys.executable).with_name("hyperctl")), "-H", daemon.host, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, cwd=PROJECT)
    return done.returncode, done.stdout, done.stderr


def test_through_hyperctl_with_a_reload(registry: RegistryServer, key: Any, tmp_path: Path) -> None:
    path = public_file(key, tmp_path / "key.pub")
    image = f"{registry.host}/daemon/app:t"
    pushed = registry.push("daemon/app", "t", [Layer(busybox_tar())])
    with HyperdLauncher(driver="fake") as daemon:
        plain = daemon.config_path.read_text()
        daemon.start()
        assert hyperctl(daemon, "pull", image)[0] == 0
        rule = f'\n[[images.signatures.rule]]\nprefix = "{registry.host}/daemon"\nrequire = ["{path}"]\n'
        daemon.config_path.write_text(plain + rule.replace("key.pub", "nothing.pub"))
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "config.refused" in daemon.log())
        assert hyperctl(daemon, "pull", image)[0] == 0
        daemon.config_path.write_text(plain + rule)
        daemon.process.send_signal(signal.SIGHUP)
        until(lambda: "config.reloaded" in daemon.log())
        code, _, error = hyperctl(daemon, "pull", image)
        assert (code, "it has no signature" in error) == (255, True), error
        code, _, error = hyperctl(daemon, "run", "--rm", image, "true")
        assert (code, "its signature has not been checked" in error) == (255, True), error
        spec = {"id": "p", "containers": [{"image": image}]}
        status, _, body = daemon.request("POST", "/pod/create", body=spec)
        assert (status, "signature has not been checked" in str(body)) == (403, True)
        attach(registry, "daemon/app", pushed.digest, [signed_for(key, pushed.digest, image)])
        code, out, error = hyperctl(daemon, "pull", image)
        assert (code, f"Signature: by {path}" in out) == (0, True), error
        created = daemon.json("POST", "/pod/create", body=spec)
        daemon.json("DELETE", "/pod", podId=created["ID"])
        assert json.dumps(daemon.json("GET", "/list", item="pod")["podData"]) == "[]"
