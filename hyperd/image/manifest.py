"""Manifests and configurations: the OCI image-spec v1.1 and Docker's image manifest version 2, schema 2."""

from __future__ import annotations

import hashlib
import json
import platform as host_platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperd.errors import ImageNotFound, NotSupported, RegistryError, TooLarge
from hyperd.registry.client import RawManifest
from hyperd.registry.reference import is_digest

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
ACCEPT = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)
MAX_CONFIG = 8 * 2**20
MAX_LAYERS = 127  # Docker's own bound
MAX_INDEX = 1024  # manifests in an index
OCI_PREFIX = "application/vnd.oci."
_CONFIG_TYPES = {OCI_CONFIG, DOCKER_CONFIG, ""}
_LAYER_TYPES = frozenset(
    {
        f"application/vnd.{family}"
        for family in (
            "oci.image.layer.v1.tar",
            "oci.image.layer.v1.tar+gzip",
            "oci.image.layer.v1.tar+zstd",
            "docker.image.rootfs.diff.tar",
            "docker.image.rootfs.diff.tar.gzip",
            "docker.image.rootfs.diff.tar.zstd",
        )
    }
)
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "i686": "386", "ppc64le": "ppc64le"}


@dataclass(frozen=True)
class Descriptor:
    """A checked OCI descriptor."""

    media_type: str
    digest: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """An image manifest: the configuration and the layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def host_architecture() -> str:
    """Return this machine's architecture in Go's words."""
    machine = host_platform.machine()
    return _ARCHITECTURES.get(machine, machine)


def load(body: bytes) -> dict[str, Any]:
    """Read a JSON object that a registry sent.

    Raises:
        RegistryError: it is none.

    """
    try:
        data = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise RegistryError("a registry sent a manifest or configuration that is not JSON", details=str(exc)) from exc
    if not isinstance(data, dict):
        raise RegistryError("a registry sent a manifest or configuration that is not an object")
    return data


def kind_of(data: Mapping[str, Any], media_type: str) -> str:
    """Return the media type of a manifest: its own word, else the header's, else by its shape.

    Raises:
        NotSupported: the retired schema 1, or something else altogether.

    """
    for kind in (data.get("mediaType"), media_type):
        if isinstance(kind, str) and kind in ACCEPT:
            return kind
    if data.get("schemaVersion") == 2:
        if "manifests" in data:
            return OCI_INDEX
        if "config" in data and "layers" in data:
            return OCI_MANIFEST
    raise NotSupported(
        "the registry's manifest is of a kind that is not supported",
        details=str(data.get("mediaType") or media_type)[:100],
        resolution="push the image again with a current tool",
    )


def choose_platform(data: Mapping[str, Any], *, architecture: str = "") -> Descriptor:
    """Choose this host's manifest from an index: Linux, the architecture, the plainest variant.

    Raises:
        ImageNotFound: there is none.
        RegistryError: the index is nonsense.

    """
    wanted = architecture or host_architecture()
    found: list[tuple[str, Mapping[str, Any]]] = []
    for item in _list(data, "manifests", MAX_INDEX):
        target = item.get("platform")
        if not isinstance(target, dict):
            continue
        if target.get("os") == "linux" and target.get("architecture") == wanted:
            found.append((str(target.get("variant") or ""), item))
    if not found:
        raise ImageNotFound(
            f"no matching manifest for linux/{wanted} in the manifest list entries",
            resolution="the image is not made for this machine",
        )
    best = max(found, key=lambda pair: _variant_rank(pair[0], wanted))
    return descriptor(best[1])


def platforms(data: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return what an index says of the platforms of its manifests. Errors: RegistryError, TooLarge."""
    found = (item.get("platform") for item in _list(data, "manifests", MAX_INDEX))
    return [platform if isinstance(platform, dict) else {} for platform in found]


def _variant_rank(variant: str, architecture: str) -> int:
    preferred = {"amd64": ("v1", ""), "arm64": ("v8", ""), "arm": ("v5", "v6", "v7")}.get(architecture, ("",))
    return preferred.index(variant) if variant in preferred else -1


def parse_manifest(data: Mapping[str, Any]) -> Manifest:
    """Check an image manifest.

    Raises:
        RegistryError: nonsense.
        NotSupported: not a container image, or layers of an unknown kind.
        TooLarge: more layers than ``MAX_LAYERS`` or a configuration over ``MAX_CONFIG``.

    """
    raw = data.get("config")
    if not isinstance(raw, dict):
        raise RegistryError("a manifest has no configuration")
    config = descriptor(raw)
    if config.media_type not in _CONFIG_TYPES:
        raise NotSupported("this is not a container image", details=config.media_type[:100])
    if config.size > MAX_CONFIG:
        raise TooLarge(f"an image's configuration has more than {MAX_CONFIG} bytes")
    layers = tuple(descriptor(item) for item in _list(data, "layers", MAX_LAYERS))
    for layer in layers:
        if layer.media_type not in _LAYER_TYPES:
            raise NotSupported("an image has layers of a kind that is not supported", details=layer.media_type[:100])
    return Manifest(config, layers)


def diff_ids(config: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Return the layers' uncompressed digests that a configuration names.

    Raises:
        RegistryError: they are not as many as the manifest has, or no digests.
        NotSupported: an image for another system.

    """
    system = config.get("os") or "linux"
    if system != "linux":
        raise NotSupported("only Linux images can run here", details=str(system)[:40])
    rootfs = config.get("rootfs")
    found = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    found = [] if found is None else found
    good = isinstance(found, list) and all(isinstance(d, str) and _is_sha256(d) for d in found)
    if not good or len(found) != count:
        raise RegistryError("an image's configuration does not fit its manifest", details="rootfs.diff_ids")
    if not isinstance(config.get("config") or {}, dict):
        raise RegistryError("an image's configuration is nonsense", details="config")
    return tuple(found)


def layer_type(kind: str, *, oci: bool = True) -> str:
    """Return the media type of a layer that is compressed by ``gzip``, ``zstd`` or not at all (empty)."""
    if oci:
        return "application/vnd.oci.image.layer.v1.tar" + (f"+{kind}" if kind else "")
    return "application/vnd.docker.image.rootfs.diff.tar" + (f".{kind}" if kind else "")


def new_manifest(config: bytes, layers: Sequence[Descriptor], *, oci: bool) -> RawManifest:
    """Write a manifest.

    Args:
        config: the image's configuration.
        layers: bottom first; their media types say how they are compressed.
        oci: as OCI image manifest, else as Docker's schema 2.

    """
    digest = "sha256:" + hashlib.sha256(config).hexdigest()
    data = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST if oci else DOCKER_MANIFEST,
        "config": {"mediaType": OCI_CONFIG if oci else DOCKER_CONFIG, "digest": digest, "size": len(config)},
        "layers": [
            {
                "mediaType": layer_type(layer.media_type.partition("+")[2], oci=oci),
                "digest": layer.digest,
                "size": layer.size,
            }
            for layer in layers
        ],
    }
    body = json.dumps(data, separators=(",", ":")).encode()
    return RawManifest(body, str(data["mediaType"]), "sha256:" + hashlib.sha256(body).hexdigest())


def _list(data: Mapping[str, Any], key: str, most: int) -> list[dict[str, Any]]:
    found = data.get(key)
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise RegistryError("a manifest is nonsense", details=key)
    if len(found) > most:
        raise TooLarge(f"a manifest has more than {most} {key}")
    return found


def descriptor(data: Mapping[str, Any]) -> Descriptor:
    """Check a descriptor.

    Raises:
        RegistryError: nonsense.
        NotSupported: a digest that is not sha256.

    """
    media_type, digest, size = data.get("mediaType") or "", data.get("digest"), data.get("size")
    good = isinstance(media_type, str) and isinstance(digest, str) and isinstance(size, int)
    if not good or isinstance(size, bool) or not isinstance(digest, str) or not isinstance(size, int) or size < 0:
        raise RegistryError("a manifest has a bad descriptor")
    if not _is_sha256(digest):
        raise NotSupported("a manifest uses a digest that is not sha256", details=digest[:100])
    return Descriptor(str(media_type), digest, size)


def _is_sha256(digest: str) -> bool:
    return digest.startswith("sha256:") and is_digest(digest)
