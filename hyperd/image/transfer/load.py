"""Images from an archive: an OCI layout, Docker's archive of version 1.10 and later, or the one before (legacy).

Formats: OCI image-spec v1.1 image-layout.md (and the ``refs`` directory it had before 1.0), Docker's image
specification v1.2 (``manifest.json``) and v1.0 (``repositories``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

import structlog

from hyperd.errors import HyperError, InvalidInput, RegistryError, TooLarge
from hyperd.failpoint import failpoint
from hyperd.image import manifest as manifests
from hyperd.image.catalog import Catalog, NewLayer
from hyperd.image.manifest import Descriptor
from hyperd.image.model import Loaded
from hyperd.image.origins import Provenance
from hyperd.image.progress import ImageLoaded, NameMoved, Sink
from hyperd.image.transfer.archive import Contents, read_archive
from hyperd.image.transfer.ingest import Intake
from hyperd.image.transfer.save import IMAGE_NAME, REF_NAME
from hyperd.registry.client import RawManifest
from hyperd.registry.reference import DOCKER_DOMAIN, Reference, is_digest

log = structlog.get_logger(__name__)

MANIFEST, LEGACY, LAYOUT, INDEX = "manifest.json", "repositories", "oci-layout", "index.json"
MAX_IMAGES = 1024
_OLD_REFS = "refs/"
_REFERENCE_TYPE = "vnd.docker.reference.type"  # of what is said of an image (attestations) and is none itself
_V1_ID = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_V1_KEYS = ("architecture", "os", "created", "author", "config", "container_config", "docker_version")


@dataclass(frozen=True, kw_only=True)
class _Ready:
    """An image whose parts are all here and right."""

    config: Mapping[str, Any]
    layers: Sequence[NewLayer]
    names: Sequence[Reference]
    blob: bytes = b""
    manifest: RawManifest | None = None


class Loader:
    """Loads archives. Safe for threads.

    Args:
        catalog: the rows.
        provenance: the rows of manifests and blobs.
        adding: begins an intake.
        max_layer: bytes of a layer.

    """

    def __init__(
        self, *, catalog: Catalog, provenance: Provenance, adding: Callable[[], Intake], max_layer: int
    ) -> None:
        self._catalog = catalog
        self._provenance = provenance
        self._adding = adding
        self._max_layer = max_layer

    def load(
        self, chunks: Iterator[bytes], *, name: str = "", references: Mapping[str, str] | None = None, sink: Sink
    ) -> list[Loaded]:
        """Load all images of an archive, or none of them.

        Args:
            chunks: the archive, compressed or not.
            name: for an OCI layout: what its images are called; without a tag their references become the tags.
            references: for an OCI layout: names for images by their references in it (name to reference).
            sink: is told what was loaded.

        Raises:
            InvalidInput, TooLarge, NotSupported: it is no archive, hostile, damaged, or for another system.
            OutOfSpace, HostFault: this host's part.
            Whatever the chunks raise.

        """
        if name and references:
            raise InvalidInput("cannot load with either name and refs")
        with self._adding() as intake:
            run = _Load(self._catalog, self._provenance, intake, sink)
            try:
                contents = read_archive(chunks, intake, known=run.known, max_layer=self._max_layer)
                failpoint("image.load.archive_read")
            except InvalidInput as exc:
                raise InvalidInput(
                    "this is not an archive of images",
                    details=str(exc),
                    resolution="give a tar archive as save writes it; compressed ones are fine",
                ) from exc
            try:
                return run.finish(contents, name=name, references=references or {})
            except RegistryError as exc:  # what reads manifests takes a registry for the culprit
                raise InvalidInput("an archive of images is damaged", details=str(exc)) from exc


class _Load:
    def __init__(self, catalog: Catalog, provenance: Provenance, intake: Intake, sink: Sink) -> None:
        self._catalog = catalog
        self._provenance = provenance
        self._intake = intake
        self._sink = sink
        self._expected: dict[str, str] | None = None

    def known(self, member: str, small: dict[str, bytes]) -> bool:
        """Tell whether a member's layer is here already, from what came before it in the archive."""
        if member.startswith("blobs/sha256/"):
            digest = f"sha256:{member.removeprefix('blobs/sha256/')}"
            diff_id = self._catalog.blob_layer(digest) if is_digest(digest) else ""
            return bool(diff_id) and self._intake.use_layer(diff_id, blob=digest)
        if member == MANIFEST:
            self._expected = None
        if self._expected is None and MANIFEST in small:
            self._expected = _expected_layers(small)
        diff_id = (self._expected or {}).get(member, "")
        return bool(diff_id) and self._intake.use_layer(diff_id)

    def finish(self, contents: Contents, *, name: str, references: Mapping[str, str]) -> list[Loaded]:
        """Make images of what was read."""
        small, mapped = contents.small, bool(name or references)
        if LAYOUT in small and (mapped or MANIFEST not in small):
            ready = self._layout(contents, name=name, references=references)
        elif MANIFEST in small:
            ready = self._docker(contents)
        elif LEGACY in small:
            ready = self._legacy(contents)
        else:
            raise InvalidInput(
                "this is not an archive of images",
                details=f"it has neither {LAYOUT} nor {MANIFEST} nor {LEGACY}",
                resolution="use what save writes; a root file system can be imported",
            )
        if not ready:
            raise InvalidInput("there is no image in the archive")
        images = [self._add(image) for image in ready]
        failpoint("image.load.images_added")
        for image in images:
            for one in image.names:
                self._sink(ImageLoaded(image_id=image.id, name=one))
            if not image.names:
                self._sink(ImageLoaded(image_id=image.id))
        return images

    def _add(self, image: _Ready) -> Loaded:
        image_id, taken = self._intake.add_image(
            image.config, image.layers, blob=image.blob, tags=image.names, manifest=image.manifest
        )
        for reference, old in taken:
            self._sink(NameMoved(name=reference.familiar, image_id=old))
        return Loaded(image_id, tuple(name.familiar for name in image.names))

    def _docker(self, contents: Contents) -> list[_Ready]:
        images = []
        for entry in _entries(contents.small[MANIFEST]):
            blob = contents.document(_text(entry, "Config"), "a configuration")
            config = manifests.load(blob)
            paths = _texts(entry, "Layers")
            diff_ids = manifests.diff_ids(config, len(paths))
            layers = [self._layer(contents, path, diff_id) for path, diff_id in zip(paths, diff_ids, strict=True)]
            names = [self._name(text) for text in _texts(entry, "RepoTags")]
            images.append(_Ready(config=config, layers=layers, names=names, blob=blob))
        return images

    def _layer(self, contents: Contents, path: str, diff_id: str) -> NewLayer:
        added = contents.layer(path)
        if added is not None and added.diff_id != diff_id:
            raise InvalidInput(
                "a layer is not what the image's configuration says", details=f"want {diff_id}, got {added.diff_id}"
            )
        if added is None and not self._intake.use_layer(diff_id):
            raise InvalidInput("an archive of images lacks a layer", details=repr(path[:200]))
        return self._provenance.origin(diff_id)

    def _name(self, text: str) -> Reference:
        """Read a name as it is meant everywhere: without a registry it is Docker's."""
        reference = Reference.parse(text, default_domain=DOCKER_DOMAIN)
        if reference.digest:
            raise InvalidInput("an archive of images has a name with a digest", details=text[:200])
        default = self._catalog.parse("x").default_domain
        return replace(reference, default_domain=default).with_default_tag()

    def _layout(self, contents: Contents, *, name: str, references: Mapping[str, str]) -> list[_Ready]:
        wanted = {reference: self._catalog.parse(image) for image, reference in references.items()}
        found: dict[str, tuple[RawManifest, list[Reference]]] = {}
        described = _descriptors(contents)
        for item in described:
            manifest = _image_manifest(contents, item)
            names = found.setdefault(manifest.digest, (manifest, []))[1]
            names += self._names(item, name=name, wanted=wanted, single=len(described) == 1)
        if references and (missing := set(wanted) - {_annotation(item, REF_NAME) for item in described}):
            raise InvalidInput("the OCI layout has no such reference", details=", ".join(sorted(missing))[:200])
        chosen = [pair for pair in found.values() if pair[1] or not references]
        return [self._oci_image(contents, manifest, names) for manifest, names in chosen]

    def _names(
        self, item: Mapping[str, Any], *, name: str, wanted: Mapping[str, Reference], single: bool
    ) -> list[Reference]:
        reference = _annotation(item, REF_NAME)
        if wanted:
            return [wanted[reference].with_default_tag()] if reference in wanted else []
        if name:
            own = self._catalog.parse(name)
            if own.digest or (own.tag and not single):
                raise InvalidInput("one name with a tag is for a layout with one image", details=name[:200])
            try:
                return [own if own.tag else own.with_tag(reference or "latest")]
            except InvalidInput:
                return [own.with_default_tag()]
        for text in (_annotation(item, IMAGE_NAME), reference):
            # A reference is mostly a tag only, which names nothing; a whole name there is what the image is called.
            if "/" in text or ":" in text:
                try:
                    return [self._name(text)]
                except InvalidInput as exc:
                    log.info("layout-name-ignored", error=str(exc))
        return []

    def _oci_image(self, contents: Contents, raw: RawManifest, names: Sequence[Reference]) -> _Ready:
        manifest = manifests.parse_manifest(manifests.load(raw.body))
        blob = _blob(contents, manifest.config, "a configuration")
        config = manifests.load(blob)
        layers, kept = [], True
        for diff_id, layer in zip(manifests.diff_ids(config, len(manifest.layers)), manifest.layers, strict=True):
            self._layer(contents, _path(layer.digest), diff_id)
            stored = self._catalog.blob_layer(layer.digest) == diff_id
            kept = kept and stored
            blob_name = layer.digest if stored else ""
            layers.append(NewLayer(diff_id=diff_id, blob=blob_name, media_type=layer.media_type if stored else ""))
        return _Ready(config=config, layers=layers, names=names, blob=blob, manifest=raw if kept else None)

    def _legacy(self, contents: Contents) -> list[_Ready]:
        names: dict[str, list[Reference]] = {}
        for repository, tags in manifests.load(contents.small[LEGACY]).items():
            if not isinstance(tags, dict):
                raise InvalidInput(f"an archive of images has a bad file {LEGACY}")
            for tag, v1_id in tags.items():
                names.setdefault(str(v1_id), []).append(self._name(repository).with_tag(str(tag)))
        if len(names) > MAX_IMAGES:
            raise TooLarge(f"an archive has more than {MAX_IMAGES} images")
        return [self._legacy_image(contents, v1_id, given) for v1_id, given in names.items()]

    def _legacy_image(self, contents: Contents, v1_id: str, names: Sequence[Reference]) -> _Ready:
        chain: list[tuple[dict[str, Any], str]] = []
        while v1_id:
            if not _V1_ID.fullmatch(v1_id) or len(chain) >= manifests.MAX_LAYERS:
                raise InvalidInput("an archive of images has a bad chain of layers", details=v1_id[:100])
            data = manifests.load(contents.document(f"{v1_id}/json", "the description of a layer"))
            added = contents.layer(f"{v1_id}/layer.tar")
            if added is None:
                raise InvalidInput("an archive of images lacks a layer", details=v1_id)
            chain.insert(0, (data, added.diff_id))
            v1_id = str(data.get("parent") or "")
        history = [{"created": data.get("created") or "1970-01-01T00:00:00Z", **_created_by(data)} for data, _ in chain]
        config = {key: chain[-1][0][key] for key in _V1_KEYS if chain[-1][0].get(key)}
        layers = [NewLayer(diff_id=diff_id) for _, diff_id in chain]
        return _Ready(config={**config, "history": history}, layers=layers, names=names)


def _expected_layers(small: Mapping[str, bytes]) -> dict[str, str]:
    """Return the diff_ids of members that a manifest at the archive's head promises; nothing when it is unclear."""
    found: dict[str, str] = {}
    try:
        for entry in _entries(small[MANIFEST]):
            paths = _texts(entry, "Layers")
            config = manifests.load(small[_text(entry, "Config")])
            found |= dict(zip(paths, manifests.diff_ids(config, len(paths)), strict=True))
    except (HyperError, KeyError):
        return {}
    return found


def _entries(body: bytes) -> list[dict[str, Any]]:
    try:
        entries = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"an archive of images has a bad file {MANIFEST}", details=str(exc)[:200]) from exc
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidInput(f"an archive of images has a bad file {MANIFEST}")
    if len(entries) > MAX_IMAGES:
        raise TooLarge(f"an archive has more than {MAX_IMAGES} images")
    return entries


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key)
    if not isinstance(value, str) or not value:
        raise InvalidInput(f"an archive of images has a bad file {MANIFEST}", details=key)
    return value


def _texts(entry: Mapping[str, Any], key: str) -> list[str]:
    value = entry.get(key)
    value = [] if value is None else value
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise InvalidInput(f"an archive of images has a bad file {MANIFEST}", details=key)
    return value


def _descriptors(contents: Contents) -> list[dict[str, Any]]:
    """Return the entries of a layout's index; before version 1.0 each was a file below ``refs``."""
    if INDEX in contents.small:
        found = manifests.load(contents.small[INDEX]).get("manifests")
        items = found if isinstance(found, list) else []
    else:
        items = []
        for name, body in contents.small.items():
            if name.startswith(_OLD_REFS):
                annotations = {"annotations": {REF_NAME: name.removeprefix(_OLD_REFS)}}
                items.append({**manifests.load(body), **annotations})
    if len(items) > MAX_IMAGES:
        raise TooLarge(f"an archive has more than {MAX_IMAGES} images")
    if not all(isinstance(item, dict) for item in items):
        raise InvalidInput("an OCI layout has a bad index")
    return [item for item in items if not _annotation(item, _REFERENCE_TYPE)]


def _annotation(item: Mapping[str, Any], key: str) -> str:
    annotations = item.get("annotations")
    value = annotations.get(key) if isinstance(annotations, dict) else ""
    return value if isinstance(value, str) else ""


def _image_manifest(contents: Contents, item: Mapping[str, Any]) -> RawManifest:
    described = manifests.descriptor(item)
    for _ in range(3):
        body = _blob(contents, described, "a manifest")
        data = manifests.load(body)
        kind = manifests.kind_of(data, described.media_type)
        if kind in {manifests.OCI_MANIFEST, manifests.DOCKER_MANIFEST}:
            return RawManifest(body, kind, described.digest)
        described = manifests.choose_platform(data)
    raise InvalidInput("the OCI layout's index leads nowhere")


def _blob(contents: Contents, described: Descriptor, what: str) -> bytes:
    body = contents.document(_path(described.digest), what)
    if described.digest != "sha256:" + sha256(body).hexdigest():
        raise InvalidInput("a blob is not what its digest says", details=described.digest)
    return body


def _path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _created_by(data: Mapping[str, Any]) -> dict[str, str]:
    ran = data.get("container_config")
    command = ran.get("Cmd") if isinstance(ran, dict) else None
    return {"created_by": " ".join(map(str, command))} if isinstance(command, list) else {}
