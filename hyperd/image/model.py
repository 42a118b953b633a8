"""Images as values: what the image services take and give.

Sizes are bytes, times are seconds since the epoch. ``config`` is an image's configuration as the OCI image-spec
(config.md) has it. Names are familiar: without the default registry.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from hyperd.spec.model import Healthcheck

_NANOSECOND = 1e-9


@dataclass(frozen=True)
class LayerRef:
    """A layer that can be attached read-only.

    Args:
        diff_id: ``sha256:`` of its uncompressed tar.
        path: its squashfs file.

    """

    diff_id: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class ContainerDefaults:
    """What an image says for its containers (the part ``config`` of its configuration)."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    env: tuple[str, ...] = ()  # NAME=value
    workdir: str = ""
    user: str = ""
    exposed_ports: tuple[str, ...] = ()  # 80/tcp
    volumes: tuple[str, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict)
    stop_signal: str = ""
    shell: tuple[str, ...] = ()
    triggers: tuple[str, ...] = ()  # of ONBUILD
    healthcheck: Healthcheck | None = None


@dataclass(frozen=True)
class Image:
    """An image.

    Args:
        id: ``sha256:<hex>``.
        config: its whole configuration.
        layers: what a container gets, bottom first.
        created_at: 0 when the image does not say.
        size: of the uncompressed layers.
        tags: ``repository:tag``.
        digests: ``repository@sha256:...``.
        parent: id of the image it was built from here.
        diff_ids: of all its layers, bottom first, as its configuration names them. ``layers`` can have fewer (an opaque
            root hides the others) and one more on top, which this host made (``hyperd.image.layer.overlay_fixup``).

    """

    id: str
    config: Mapping[str, Any]
    layers: tuple[LayerRef, ...]
    created_at: float
    size: int
    tags: tuple[str, ...]
    digests: tuple[str, ...] = ()
    parent: str = ""
    diff_ids: tuple[str, ...] = ()

    @property
    def defaults(self) -> ContainerDefaults:
        """What it says for its containers; what is of a wrong type counts as absent."""
        return container_defaults(self.config)

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return dict(self.defaults.labels)


@dataclass(frozen=True, kw_only=True)
class ImageDetails:
    """An image and what is known of its origin. ``disk_size``: what its layers take on this host."""

    image: Image
    disk_size: int = 0
    created: str = ""  # RFC 3339, as the configuration says
    comment: str = ""
    author: str = ""
    architecture: str = ""
    variant: str = ""
    os: str = "linux"
    builder: str = ""  # the program that made it, and its version


@dataclass(frozen=True, kw_only=True)
class HistoryStep:
    """One step an image was made in.

    Args:
        image_id: of the image that ends with this step, empty when there is none.
        created_by: the command.
        size: of the layer it made, 0 for none.
        tags: of ``image_id``.

    """

    image_id: str = ""
    created_at: float = 0.0
    created_by: str = ""
    comment: str = ""
    size: int = 0
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ImageUsage:
    """What an image takes of the disk: of its ``disk_size``, ``shared`` is used by other images, too."""

    image: Image
    disk_size: int
    shared: int
    containers: int  # how many use it

    @property
    def unique(self) -> int:
        """What would be free without this image."""
        return self.disk_size - self.shared


@dataclass(frozen=True, kw_only=True)
class StoreTotals:
    """Counts, and sizes on this host's disk: layers as squashfs, blobs as they are pushed and saved."""

    images: int = 0
    layers: int = 0
    layer_bytes: int = 0
    blobs: int = 0
    blob_bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class StoreUsage:
    """What all images take of the disk."""

    totals: StoreTotals
    images: tuple[ImageUsage, ...]

    @property
    def reclaimable(self) -> int:
        """What would be free without the images that no container uses."""
        return sum(one.unique for one in self.images if not one.containers)


@dataclass(frozen=True, kw_only=True)
class ImageFilter:
    """Which images are listed. What is empty or None does not count; all that is given must fit.

    Args:
        dangling: only images without (True) or with (False) a tag.
        references: shell patterns for ``repository`` or ``repository:tag``; one of them must fit, and only names that
            fit are given.
        labels: ``key`` or ``key=value`` that an image must have. without_labels: that it must not have.
        before, since: names of images; only older ones, only newer ones.
        until: only images created before.

    """

    dangling: bool | None = None
    references: Sequence[str] = ()
    labels: Sequence[str] = ()
    without_labels: Sequence[str] = ()
    before: Sequence[str] = ()
    since: Sequence[str] = ()
    until: float | None = None


class RemovalKind(StrEnum):
    """What happened to a name or an image."""

    UNTAGGED = "untagged"
    DELETED = "deleted"


class Removal(NamedTuple):
    """A step of a removal: a name that was taken away, or the id of an image that is gone."""

    kind: RemovalKind
    name: str


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """What a clean-up did: ``freed`` bytes of the host's disk."""

    removed: tuple[Removal, ...] = ()
    freed: int = 0


@dataclass(frozen=True, kw_only=True)
class Tagged:
    """A name that an image got; ``taken_from``: id of the image that had it before, or empty."""

    image_id: str
    name: str
    taken_from: str = ""


@dataclass(frozen=True)
class Loaded:
    """An image that was loaded and the names it got."""

    id: str
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Platform:
    """What an image is made for."""

    os: str = ""
    architecture: str = ""
    variant: str = ""


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """What a registry has under a name: the descriptor of its manifest or index, and the platforms in it."""

    media_type: str
    digest: str
    size: int
    platforms: tuple[Platform, ...] = ()


def container_defaults(config: Mapping[str, Any]) -> ContainerDefaults:
    """Read what a whole configuration says for containers; what is of a wrong type counts as absent."""
    found = config.get("config")
    own: Mapping[str, Any] = found if isinstance(found, dict) else {}
    return ContainerDefaults(
        entrypoint=_texts(own, "Entrypoint"),
        command=_texts(own, "Cmd"),
        env=_texts(own, "Env"),
        workdir=text_of(own, "WorkingDir"),
        user=text_of(own, "User"),
        exposed_ports=_keys(own, "ExposedPorts"),
        volumes=_keys(own, "Volumes"),
        labels={str(key): str(value) for key, value in mapping_of(own, "Labels").items()},
        stop_signal=text_of(own, "StopSignal"),
        shell=_texts(own, "Shell"),
        triggers=_texts(own, "OnBuild"),
        healthcheck=_healthcheck(mapping_of(own, "Healthcheck")),
    )


def _healthcheck(data: Mapping[str, Any]) -> Healthcheck | None:
    kind, *argv = _texts(data, "Test") or ("",)
    if kind not in ("NONE", "CMD", "CMD-SHELL") or (kind != "NONE" and not argv):
        return None
    retries = data.get("Retries")
    return Healthcheck(
        argv=tuple(argv),
        shell=kind == "CMD-SHELL",
        disabled=kind == "NONE",
        interval=_seconds(data, "Interval"),
        timeout=_seconds(data, "Timeout"),
        start_period=_seconds(data, "StartPeriod"),
        start_interval=_seconds(data, "StartInterval"),
        retries=retries if isinstance(retries, int) and retries > 0 else 0,
    )


def _seconds(data: Mapping[str, Any], key: str) -> float:
    value = data.get(key)
    return value * _NANOSECOND if isinstance(value, int | float) and value > 0 else 0.0


def text_of(data: Mapping[str, Any], key: str) -> str:
    """Return a text of a configuration, empty when there is none."""
    value = data.get(key)
    return value if isinstance(value, str) else ""


def mapping_of(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return an object of a configuration, empty when there is none."""
    value = data.get(key)
    return value if isinstance(value, dict) else {}


def _texts(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = data.get(key)
    return tuple(str(item) for item in value) if isinstance(value, list | tuple) else ()


def _keys(data: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return tuple(str(item) for item in mapping_of(data, key))
