"""Sigstore bundles: the form in which cosign 3 keeps a signature (cosign's specs/BUNDLE_SPEC.md).

A bundle is a JSON object (sigstore/protobuf-specs, sigstore_bundle.proto) with a DSSE envelope: a payload, which is an
in-toto statement about the image, and signatures over the payload's "pre-authentication encoding" (secure-systems-lab/
dsse, protocol.md). The statement names the manifest's digest and, unlike the older payload, no repository.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from typing import Any

STATEMENT_TYPE = "application/vnd.in-toto+json"
STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
SIGN_PREDICATE = "https://sigstore.dev/cosign/sign/v1"
PREDICATE_ANNOTATION = "dev.sigstore.bundle.predicateType"
MAX_SIGNATURES = 10  # of one envelope
_MEDIA_TYPE = re.compile(r"application/vnd\.dev\.sigstore\.bundle(\.v0\.\d+\+json|\+json;version=0\.\d+)")


def is_bundle(media_type: object) -> bool:
    """Return whether a media type is that of a bundle, of whichever version."""
    return isinstance(media_type, str) and _MEDIA_TYPE.fullmatch(media_type) is not None


def read_bundle(data: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Yield ``(payload, message, signature)`` of each signature in a bundle; the signature is over the message.

    Nothing is yielded for what is no bundle, and for one that signs something else than a statement.

    """
    try:
        bundle = json.loads(data)
    except (ValueError, RecursionError):
        return
    envelope = bundle.get("dsseEnvelope") if isinstance(bundle, dict) else None
    if not isinstance(envelope, dict) or envelope.get("payloadType") != STATEMENT_TYPE:
        return
    payload, signatures = _decoded(envelope.get("payload")), envelope.get("signatures")
    if not payload or not isinstance(signatures, list):
        return
    for one in signatures[:MAX_SIGNATURES]:
        signature = _decoded(one.get("sig")) if isinstance(one, dict) else b""
        if signature:
            yield payload, encoded_for_signing(payload), signature


def has_certificate(data: bytes) -> bool:
    """Return whether a bundle carries a certificate in the place of a key: "keyless" signing."""
    try:
        material = json.loads(data)["verificationMaterial"]
    except (ValueError, RecursionError, KeyError, TypeError):
        return False
    return isinstance(material, dict) and ("certificate" in material or "x509CertificateChain" in material)


def encoded_for_signing(payload: bytes) -> bytes:
    """Return the bytes that a signature of an envelope is over (DSSE, "PAE")."""
    kind = STATEMENT_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def signed_digests(payload: bytes) -> list[str] | None:
    """Return the digests (``sha256:<hex>``) that a statement says are signed images; None when it says other things."""
    try:
        statement = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    if not isinstance(statement, dict) or statement.get("_type") not in STATEMENTS:
        return None
    if statement.get("predicateType") != SIGN_PREDICATE or not isinstance(statement.get("subject"), list):
        return None
    subjects: list[Any] = statement["subject"]
    digests = [subject.get("digest") for subject in subjects if isinstance(subject, dict)]
    return [f"sha256:{digest['sha256']}" for digest in digests if isinstance(digest, dict) and "sha256" in digest]


def _decoded(text: object) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except (binascii.Error, ValueError):
        return b""
