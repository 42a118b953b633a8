"""Which volumes a pod has, and where they lie in its guest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hyperd.errors import Conflict, InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, VolumeOption, VolumeRef, VolumeSpec

NAMED = "volume"  # a volume of this host, which has a name
BLOCK_FORMATS = ("raw", "qcow2", "vdi")
OF_THE_HOST = (*BLOCK_FORMATS, "vfs", "rbd", NAMED)  # QEMU opens them with the rights of the daemon's user
CEPH_PORT = 6789
_HOST = re.compile(r"[A-Za-z0-9.:_-]{1,255}")
# libvirt's names of cache modes; "off" is QEMU's old name of "none".
_CACHE = {"": "writeback", "off": "none"}
# From the fastest to the most careful, for disks that several containers ask a mode for.
_CARE = ("unsafe", "writeback", "none", "writethrough", "directsync")


def ceph(volume: VolumeSpec) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Return ``pool/image`` and the monitors (host, port) of an rbd volume.

    Errors: InvalidInput, NotSupported (a user or key of its own: libvirt's embedded driver has nowhere to keep it).
    """
    name = volume.source.removeprefix("rbd:")
    parts = name.split("/")
    if len(parts) < 2 or not all(parts) or any(letter in name for letter in ":@\\"):
        raise InvalidInput(f"volume {volume.name}: the source of an rbd volume is pool/image", details=repr(name[:80]))
    option = volume.option or VolumeOption()
    if option.user or option.keyring:
        raise NotSupported(
            f"volume {volume.name}: a Ceph user or keyring in the specification is not supported",
            resolution="leave them out; the user admin of this host's /etc/ceph is used",
        )
    return name, tuple(_monitor(text, volume.name) for text in option.monitors)


def _monitor(text: str, name: str) -> tuple[str, int]:
    host, mark, port = text.rpartition(":")
    if not mark or host.endswith(":") or (":" in host and not host.startswith("[")):
        host, port = text, str(CEPH_PORT)
    host = host.strip("[]")
    if not _HOST.fullmatch(host) or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        raise InvalidInput(f"volume {name}: {text[:80]!r} is no monitor", resolution="give host or host:port")
    return host, int(port)


def volumes_of(volumes: Iterable[VolumeSpec], containers: Iterable[ContainerSpec]) -> dict[str, VolumeSpec]:
    """Return every volume of a pod by its name: its own, and those that containers define in place.

    Errors: Conflict when two definitions of one name differ.
    """
    found = {volume.name: volume for volume in volumes}
    for container in containers:
        for ref in container.volumes:
            if ref.detail is None:
                continue
            # What a container names first is the pod's volume, if the pod has one.
            detail = replace(ref.detail, name=ref.volume)
            if found.setdefault(ref.volume, detail) != detail and not _plain(detail):
                raise Conflict(
                    f"two different volumes are called {ref.volume}",
                    details=f"one of them in container {container.name}",
                    resolution="give them different names",
                )
    return found


def _plain(volume: VolumeSpec) -> bool:
    return not volume.source and not volume.format


def has_source(volume: VolumeSpec) -> bool:
    """Whether a volume is more than a new directory on the pod's own disk."""
    return bool(volume.source) and volume.format != ""


def is_writable(name: str, containers: Iterable[ContainerSpec]) -> bool:
    """Whether any container may write to a volume."""
    return any(ref.volume == name and not ref.read_only for container in containers for ref in container.volumes)


def used(containers: Iterable[ContainerSpec]) -> set[str]:
    """Return the names of the volumes that containers mount."""
    return {ref.volume for container in containers for ref in container.volumes}


def key(name: str) -> str:
    """Return a short name of a volume for tags and directories: at most 31 characters of [a-z0-9]."""
    return "v" + hashlib.sha256(name.encode()).hexdigest()[:24]


def shared_name(name: str, *, readonly: bool) -> str:
    """Return the name of a host directory or file in a VM's shared directory."""
    return key(name) + ("r" if readonly else "w")


def guest_path(name: str) -> str:
    """Return the directory where a volume with a source is mounted in the guest."""
    return f"/run/v/{key(name)}"


def cache_mode(cache: str) -> str:
    """Return libvirt's name of a cache mode."""
    return _CACHE.get(cache, cache)


def most_careful(caches: Iterable[str]) -> str:
    """Return libvirt's cache mode of a disk that several containers share: the most careful one that was asked for."""
    asked = [cache_mode(cache) for cache in caches if cache]
    return max(asked, key=_CARE.index, default=cache_mode(""))


def image_volumes(spec: ContainerSpec, image_config: Mapping[str, object], container_id: str) -> tuple[VolumeRef, ...]:
    """Return the new volumes that an image's ``VOLUME`` paths become, unless something is mounted there (OCI image).

    They are the container's own; its id is in their names.
    """
    config = image_config.get("config")
    paths = config.get("Volumes") if isinstance(config, Mapping) else None
    taken = {ref.path.rstrip("/") for ref in spec.volumes} | {file.target for file in spec.files}
    found = []
    for text in sorted(map(str, paths if isinstance(paths, Mapping) else ())):
        parts = [part for part in text.split("/") if part not in ("", ".")]
        path = "/" + "/".join(parts)
        if not parts or ".." in parts or "\0" in path or len(path) > 4096 or path in taken:
            continue
        taken.add(path)
        found.append(VolumeRef(path=path, volume=f"{container_id[:12]}-{key(path)[1:13]}"))
    return tuple(found)
