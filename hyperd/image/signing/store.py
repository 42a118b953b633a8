"""Where cosign keeps signatures: beside the image, in the same repository.

First the tag ``sha256-<hex>.sig``, then what refers to the manifest (OCI distribution-spec v1.1, "Listing Referrers",
and its fallback, the tag ``sha256-<hex>``). Either leads to manifests whose layers are signed payloads, or bundles
(``hyperd.image.signing.bundle``).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import structlog

from hyperd.errors import ImageNotFound, NotSupported, RegistryError
from hyperd.image import manifest as manifests
from hyperd.image.manifest import Descriptor
from hyperd.image.signing import bundle
from hyperd.registry.client import FinalError, RegistryClient

log = structlog.get_logger(__name__)

PAYLOAD_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
MAX_PAYLOAD = 64 * 1024  # bytes
MAX_BUNDLE = 1024 * 1024  # bytes: with certificates and entries of logs
MAX_SIGNATURES = 50  # of one manifest
MAX_REFERRERS = 20  # manifests of signatures that are looked at
_MANIFESTS = (manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST)
_UNTOLD = {None, "", "application/vnd.oci.empty.v1+json"}  # what a list says when the manifest alone tells its type


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signature as a registry gave it, not checked.

    Args:
        payload: what is signed.
        signature: over ``message``, or over the payload itself where that is None.
        origin: where it was, for people.
        message: of a bundle: the payload in the form that is signed.

    """

    payload: bytes
    signature: bytes
    origin: str
    message: bytes | None = None


def signatures_of(client: RegistryClient, digest: str) -> Iterator[Signed]:
    """Yield the signatures of a manifest, one after the other as they are asked for.

    What is no signature is left out.

    Raises:
        RegistryError, Timeout, Unauthorized, Forbidden, Cancelled: the registry's part.

    """
    tag = f"{digest.replace(':', '-')}.sig"
    yield from _attached(client, tag)
    for descriptor in _referrers(client, digest):
        yield from _attached(client, descriptor.digest)


def _attached(client: RegistryClient, target: str) -> Iterator[Signed]:
    try:
        raw = client.manifest(target, _MANIFESTS)
    except ImageNotFound:
        return
    layers = _objects(manifests.load(raw.body).get("layers"))
    for layer in layers[:MAX_SIGNATURES]:
        if bundle.is_bundle(layer.get("mediaType")):
            yield from _bundled(client, layer, target)
            continue
        text = (layer.get("annotations") or {}) if layer.get("mediaType") == PAYLOAD_LAYER else {}
        signature = _decoded(text.get(ANNOTATION) if isinstance(text, dict) else None)
        descriptor = _descriptor(layer)
        if not signature or descriptor is None or descriptor.size > MAX_PAYLOAD:
            continue
        payload = client.small_blob(descriptor.digest, size=descriptor.size)
        yield Signed(payload=payload, signature=signature, origin=target)


def _bundled(client: RegistryClient, layer: dict[str, Any], target: str) -> Iterator[Signed]:
    descriptor = _descriptor(layer)
    if descriptor is None or descriptor.size > MAX_BUNDLE:
        return
    data = client.small_blob(descriptor.digest, size=descriptor.size)
    origin = f"{target} (keyless, which is not supported)" if bundle.has_certificate(data) else target
    for payload, message, signature in bundle.read_bundle(data):
        yield Signed(payload=payload, signature=signature, origin=origin, message=message)


def _referrers(client: RegistryClient, digest: str) -> list[Descriptor]:
    try:
        body = client.referrers(digest)
    except (ImageNotFound, FinalError):  # a registry that does not know the request
        try:
            body = client.manifest(digest.replace(":", "-"), (manifests.OCI_INDEX,)).body
        except ImageNotFound:
            return []
    # An older client's manifest says by its configuration's type what it is, which not every registry repeats.
    items = [
        item
        for item in _objects(manifests.load(body).get("manifests"))
        if item.get("mediaType") in _MANIFESTS and _may_sign(item)
    ]
    return [found for item in items[:MAX_REFERRERS] if (found := _descriptor(item)) is not None]


def _may_sign(item: dict[str, Any]) -> bool:
    """Return whether an entry of the list may be a signature: of bundles, attestations say that they are none."""
    kind, notes = item.get("artifactType"), item.get("annotations")
    if (
        isinstance(notes, dict)
        and notes.get(bundle.PREDICATE_ANNOTATION, bundle.SIGN_PREDICATE) != bundle.SIGN_PREDICATE
    ):
        return False
    return kind is None or (isinstance(kind, str) and (kind == ARTIFACT or kind in _UNTOLD or bundle.is_bundle(kind)))


def _descriptor(item: dict[str, Any]) -> Descriptor | None:
    try:
        return manifests.descriptor(item)
    except (RegistryError, NotSupported) as error:
        log.info("signature.bad_descriptor", error=str(error))
        return None


def _objects(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _decoded(text: object) -> bytes:
    if not isinstance(text, str) or len(text) > MAX_PAYLOAD:
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
