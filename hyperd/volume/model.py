"""Values of named volumes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum


class VolumeKind(StrEnum):
    """Where a volume's files are."""

    DIRECTORY = "directory"  # in a directory of its own below the daemon's root
    BIND = "bind"  # in a directory of the host that the caller named
    TMPFS = "tmpfs"  # in the host's memory
    NFS = "nfs"  # on a server, mounted by the guests


@dataclass(frozen=True, kw_only=True)
class NamedVolumeSpec:
    """A volume to be made.

    Args:
        name: empty = an anonymous one, whose name is chosen.
        driver: only ``local`` can be made.
        labels: of any meaning.
        options: of the driver: ``type``, ``device``, ``o``, as mount(8) takes them.
        anonymous: nobody named it, though it has a name.

    """

    name: str = ""
    driver: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False


@dataclass(frozen=True, kw_only=True)
class NamedVolume:
    """A volume of this host.

    Args:
        mountpoint: where its files are on the host; of ``NFS`` an empty directory.
        anonymous: it has no name of its own and goes with its container if asked to.
        created_at: UTC.
        used_by: ids of the containers that use it, running or not.

    """

    name: str
    driver: str
    kind: VolumeKind
    mountpoint: str
    anonymous: bool
    created_at: datetime
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    used_by: tuple[str, ...] = ()
