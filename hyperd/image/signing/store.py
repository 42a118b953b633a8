"""Where cosign keeps signatures: beside the image, in the same repository.

First the tag ``sha256-<hex>.sig``, then what refers to the manifest (OCI distribution-spec v1.1, "Listing Referrers",
and its fallback, the tag ``sha256-<hex>``). Either leads to manifests whose layers are signed payloads.
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
from hyperd.registry.client import FinalError, RegistryClient

log = structlog.get_logger(__name__)

PAYLOAD_LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
MAX_PAYLOAD = 64 * 1024  # bytes
MAX_SIGNATURES = 50  # of one manifest
MAX_REFERRERS = 20  # manifests of signatures that are looked at
_MANIFESTS = (manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST)


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A signature as a registry gave it, not checked: ``signature`` over ``payload``. ``origin``: where it was."""

    payload: bytes
    signature: bytes
    origin: str


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
        text = (layer.get("annotations") or {}) if layer.get("mediaType") == PAYLOAD_LAYER else {}
        signature = _decoded(text.get(ANNOTATION) if isinstance(text, dict) else None)
        descriptor = _descriptor(layer)
        if not signature or descriptor is None or descriptor.size > MAX_PAYLOAD:
            continue
        payload = client.small_blob(descriptor.digest, size=descriptor.size)
        yield Signed(payload=payload, signature=signature, origin=target)


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
        if item.get("artifactType") in {ARTIFACT, None, ""} and item.get("mediaType") in _MANIFESTS
    ]
    return [found for item in items[:MAX_REFERRERS] if (found := _descriptor(item)) is not None]


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
