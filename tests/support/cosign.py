"""Signatures in cosign's format (its specs/SIGNATURE_SPEC.md), made by hand: Debian 12 has no cosign."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

from tests.support.registry import OCI_INDEX, OCI_MANIFEST, RegistryServer, digest_of

PAYLOAD_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
STATEMENT_TYPE = "application/vnd.in-toto+json"
_EMPTY = "application/vnd.oci.empty.v1+json"
_CONFIG = "application/vnd.oci.image.config.v1+json"


def new_key(kind: str = "p256") -> Any:
    """Make a private key: ``p256``, ``p384``, ``p521``, ``ed25519``, ``rsa``."""
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    if kind == "rsa":
        return rsa.generate_private_key(public_exponent=65537, key_size=2048)
    curves = {"p256": ec.SECP256R1, "p384": ec.SECP384R1, "p521": ec.SECP521R1, "k1": ec.SECP256K1}
    return ec.generate_private_key(curves[kind]())


def public_pem(key: Any) -> bytes:
    """Return the public half as cosign writes it."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def public_file(key: Any, path: Path) -> Path:
    """Write the public half."""
    path.write_bytes(public_pem(key))
    return path


def payload(digest: str, reference: str, *, kind: str = "cosign container image signature") -> bytes:
    """Return what cosign signs."""
    critical = {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def sign(key: Any, data: bytes) -> bytes:
    """Sign as cosign does."""
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(data)
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def signature_manifest(signed: Sequence[tuple[bytes, bytes]], **more: Any) -> tuple[bytes, list[bytes]]:
    """Return a manifest of payloads with their signatures, and the blobs that it needs."""
    blobs = [data for data, _ in signed]
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": [digest_of(blob) for blob in blobs]}}).encode()
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": _CONFIG, "digest": digest_of(config), "size": len(config)},
        "layers": [
            {
                "mediaType": PAYLOAD_LAYER,
                "digest": digest_of(data),
                "size": len(data),
                "annotations": {"dev.cosignproject.cosign/signature": base64.b64encode(signature).decode()},
            }
            for data, signature in signed
        ],
        **more,
    }
    return json.dumps(manifest).encode(), [*blobs, config]


def attach(registry: RegistryServer, repository: str, digest: str, signed: Sequence[tuple[bytes, bytes]]) -> None:
    """Push signatures of a manifest to the tag where cosign keeps them."""
    manifest, blobs = signature_manifest(signed)
    for blob in blobs:
        registry._push_blob(repository, blob)
    registry.push_manifest(repository, f"{digest.replace(':', '-')}.sig", manifest, OCI_MANIFEST)


def refer(registry: RegistryServer, repository: str, digest: str, signed: Sequence[tuple[bytes, bytes]]) -> None:
    """Push signatures that refer to a manifest, for a registry that cannot list referrers: with the fallback tag."""
    subject = {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1}
    manifest, blobs = signature_manifest(signed, subject=subject, artifactType=ARTIFACT)
    for blob in blobs:
        registry._push_blob(repository, blob)
    registry.push_manifest(repository, digest_of(manifest), manifest, OCI_MANIFEST)
    registry.push_manifest(repository, digest.replace(":", "-"), referrers(manifest), OCI_INDEX)


def referrers(manifest: bytes, **entry: Any) -> bytes:
    """Return the index that lists one signature's manifest."""
    one = {
        "mediaType": OCI_MANIFEST,
        "digest": digest_of(manifest),
        "size": len(manifest),
        "artifactType": ARTIFACT,
        **entry,
    }
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [one]}).encode()


def signed_for(key: Any, digest: str, reference: str, **changes: str) -> tuple[bytes, bytes]:
    """Return a payload and its signature."""
    data = payload(digest, reference, **changes)
    return data, sign(key, data)


def statement(digest: str, **changes: Any) -> bytes:
    """Return the statement that cosign 3 signs: this digest is a signed image."""
    subject = [{"digest": {"sha256": digest.removeprefix("sha256:")}}]
    whole = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": subject,
        "predicateType": SIGN_PREDICATE,
        "predicate": {},
    }
    return json.dumps(whole | changes).encode()


def bundle_of(key: Any, said: bytes, *, material: dict[str, Any] | None = None) -> bytes:
    """Return a sigstore bundle: a DSSE envelope of a statement, signed."""
    message = b" ".join([b"DSSEv1", b"%d" % len(STATEMENT_TYPE), STATEMENT_TYPE.encode(), b"%d" % len(said), said])
    envelope = {
        "payload": base64.b64encode(said).decode(),
        "payloadType": STATEMENT_TYPE,
        "signatures": [{"sig": base64.b64encode(sign(key, message)).decode()}],
    }
    material = material or {"publicKey": {"hint": "a hint"}}
    return json.dumps({"mediaType": BUNDLE, "verificationMaterial": material, "dsseEnvelope": envelope}).encode()


def refer_bundles(registry: RegistryServer, repository: str, digest: str, *bundles: bytes, **entry: Any) -> None:
    """Push bundles that refer to a manifest, as cosign 3 does where a registry cannot list referrers."""
    registry._push_blob(repository, b"{}")
    listed = []
    for data in bundles:
        registry._push_blob(repository, data)
        manifest = json.dumps(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "artifactType": BUNDLE,
                "config": {"mediaType": _EMPTY, "digest": digest_of(b"{}"), "size": 2},
                "layers": [{"mediaType": BUNDLE, "digest": digest_of(data), "size": len(data)}],
                "subject": {"mediaType": OCI_MANIFEST, "digest": digest, "size": 1},
            }
        ).encode()
        registry.push_manifest(repository, digest_of(manifest), manifest, OCI_MANIFEST)
        one = {"mediaType": OCI_MANIFEST, "digest": digest_of(manifest), "size": len(manifest), "artifactType": BUNDLE}
        listed.append(one | entry)
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}).encode()
    registry.push_manifest(repository, digest.replace(":", "-"), index, OCI_INDEX)
