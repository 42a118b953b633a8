"""Binds, mounts, tmpfs and volumes of Docker's clients as volumes of a pod."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import Tmpfs, VolumeRef, VolumeSpec

HOST_DIRECTORY, NAMED = "vfs", "volume"
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
_PROPAGATION = ("private", "rprivate", "slave", "rslave", "shared", "rshared")
_SHARED = ("shared", "rshared")
_SIZE = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30}


@dataclass(frozen=True, kw_only=True)
class NewVolume:
    """A named volume that is made with the container, unless it is there."""

    name: str
    driver: str = "local"
    labels: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)
    anonymous: bool = False


@dataclass(frozen=True, kw_only=True)
class Mounts:
    """What a container mounts: ``refs`` in its specification, ``tmpfs``, and the named volumes that this takes.

    ``new_sources``: directories of the host that are made unless they are there: those of binds, and of mounts that say
    so.
    """

    refs: tuple[VolumeRef, ...] = ()
    tmpfs: tuple[Tmpfs, ...] = ()
    volumes: tuple[NewVolume, ...] = ()
    new_sources: tuple[str, ...] = ()


def read_mounts(
    given: Mapping[str, Any],
    host: Mapping[str, Any],
    *,
    ident: str,
    volumes_of: Callable[[str], Mounts],
) -> Mounts:
    """Collect everything that a container mounts; of two for one place the more explicit one wins, as in Docker.

    Errors: InvalidInput, NotSupported.
    """
    taking = _Collector(ident)
    for entry in host["VolumesFrom"]:
        taking.volumes_from(entry, volumes_of)
    for path in given["Volumes"]:
        taking.anonymous(path)
    for text in host["Binds"]:
        taking.bind(text, driver=host["VolumeDriver"])
    for mount in host["Mounts"]:
        taking.mount(mount)
    for path, options in host["Tmpfs"].items():
        taking.tmpfs(path, options)
    return taking.result()


class _Collector:
    def __init__(self, ident: str) -> None:
        self._ident = ident
        self._refs: dict[str, VolumeRef] = {}
        self._tmpfs: dict[str, Tmpfs] = {}
        self._volumes: dict[str, NewVolume] = {}
        self._new_sources: dict[str, None] = {}
        self._explicit: set[str] = set()

    def result(self) -> Mounts:
        used = {ref.detail.source for ref in self._refs.values() if ref.detail and ref.detail.format == NAMED}
        return Mounts(
            refs=tuple(self._refs.values()),
            tmpfs=tuple(self._tmpfs.values()),
            volumes=tuple(volume for name, volume in self._volumes.items() if name in used),
            new_sources=tuple(self._new_sources),
        )

    def volumes_from(self, entry: str, volumes_of: Callable[[str], Mounts]) -> None:
        name, _, mode = entry.partition(":")
        if mode not in ("", "ro", "rw", "z", "Z"):
            raise InvalidInput(f"invalid mode for volumes-from: {mode[:40]}")
        for ref in volumes_of(name).refs:
            detail = ref.detail
            if detail is None:
                continue
            self._put(
                ref.path,
                detail,
                read_only=mode == "ro" or ref.read_only,
                nocopy=True,
            )

    def anonymous(self, path: str) -> None:
        path = _target(path)
        name = secrets.token_hex(32)
        self._volumes[name] = NewVolume(name=name, anonymous=True)
        self._put(path, VolumeSpec(name=name, source=name, format=NAMED), read_only=False)

    def bind(self, text: str, *, driver: str) -> None:
        parts = text.split(":")
        if len(parts) == 1:
            self.anonymous(text)
            return
        if len(parts) > 3 or not parts[0]:
            raise InvalidInput(f"invalid volume specification: '{text[:300]}'")
        source, path = parts[0], _target(parts[1])
        options = _bind_options(parts[2] if len(parts) == 3 else "", text)
        if source.startswith("/"):
            self._new_sources[source] = None
            spec = VolumeSpec(name=self._name(source), source=source, format=HOST_DIRECTORY)
        else:
            check_volume_name(source)
            check_driver(driver)
            self._volumes.setdefault(source, NewVolume(name=source, driver=driver or "local"))
            spec = VolumeSpec(name=source, source=source, format=NAMED)
        self._claim(path)
        self._put(path, spec, **options)

    def mount(self, mount: Mapping[str, Any]) -> None:
        kind, path = mount["Type"], _target(mount["Target"])
        if kind == "tmpfs":
            if mount["Source"]:
                raise InvalidInput('invalid mount config for type "tmpfs": field Source must not be specified')
            options = mount["TmpfsOptions"]
            self._claim(path)
            flags = ("ro",) if mount["ReadOnly"] else ()
            mode = options["Mode"] or 0o1777
            self._tmpfs[path] = Tmpfs(path=path, size=options["SizeBytes"], mode=mode, options=flags)
            return
        if kind == "bind":
            self._bind_mount(mount, path)
        elif kind == "volume":
            self._volume_mount(mount, path)
        else:
            raise NotSupported(f"invalid mount config for type {kind[:40]!r}: mount type unknown or not supported")

    def _bind_mount(self, mount: Mapping[str, Any], path: str) -> None:
        source, options = mount["Source"], mount["BindOptions"]
        if not source.startswith("/"):
            message = "field Source must not be empty" if not source else "mount path must be absolute"
            raise InvalidInput(f'invalid mount config for type "bind": {message}')
        _check_propagation(options["Propagation"])
        for key in ("NonRecursive", "ReadOnlyNonRecursive", "ReadOnlyForceRecursive"):
            if options[key]:
                raise NotSupported(f"BindOptions.{key} is not supported", details="what is mounted below goes along")
        if options["CreateMountpoint"]:
            self._new_sources[source] = None
        self._claim(path)
        self._put(
            path,
            VolumeSpec(name=self._name(source), source=source, format=HOST_DIRECTORY),
            read_only=mount["ReadOnly"],
            propagation=options["Propagation"],
        )

    def _volume_mount(self, mount: Mapping[str, Any], path: str) -> None:
        options = mount["VolumeOptions"]
        driver = options["DriverConfig"]
        check_driver(driver["Name"])
        name = mount["Source"] or secrets.token_hex(32)
        check_volume_name(name)
        self._volumes[name] = NewVolume(
            name=name,
            driver=driver["Name"] or "local",
            labels=options["Labels"],
            options=driver["Options"],
            anonymous=not mount["Source"],
        )
        self._claim(path)
        self._put(
            path,
            VolumeSpec(name=name, source=name, format=NAMED),
            read_only=mount["ReadOnly"],
            nocopy=options["NoCopy"],
            subpath=options["Subpath"],
        )

    def tmpfs(self, path: str, text: str) -> None:
        path = _target(path)
        size, mode, flags = 0, 0o1777, []
        for option in filter(None, text.split(",")):
            key, _, value = option.partition("=")
            if key == "size":
                size = read_size(value)
            elif key == "mode":
                mode = _octal(value)
            elif key in ("ro", "rw", "noexec", "exec", "nosuid", "suid", "nodev", "dev", "noatime", "relatime"):
                flags.append(key)
            elif key in ("uid", "gid", "nr_inodes"):
                flags.append(option)
            else:
                raise InvalidInput(f"invalid tmpfs option {option[:60]!r}")
        self._claim(path)
        self._tmpfs[path] = Tmpfs(path=path, size=size, mode=mode, options=tuple(flags))

    def _claim(self, path: str) -> None:
        if path in self._explicit:
            raise InvalidInput(f"Duplicate mount point: {path[:300]}")
        self._explicit.add(path)
        self._refs.pop(path, None)

    def _put(
        self,
        path: str,
        spec: VolumeSpec,
        *,
        read_only: bool,
        nocopy: bool = False,
        subpath: str = "",
        propagation: str = "",
    ) -> None:
        self._refs[path] = VolumeRef(
            path=path,
            volume=spec.name,
            read_only=read_only,
            detail=spec,
            nocopy=nocopy,
            subpath=subpath,
            propagation=propagation,
        )

    def _name(self, source: str) -> str:
        """Return the pod's own name of a directory of the host."""
        known = [ref.volume for ref in self._refs.values() if ref.detail and ref.detail.source == source]
        return known[0] if known else f"{self._ident[:12]}-bind-{len(self._refs)}"


def read_size(text: str) -> int:
    """Read ``64m``: bytes, or with k, m or g behind them. Errors: InvalidInput."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidInput(f"invalid size: {text[:40]!r}")
    return int(match[1]) * _UNITS[match[2].lower()]


def _bind_options(text: str, whole: str) -> dict[str, Any]:
    found: dict[str, Any] = {"read_only": False}
    for option in filter(None, text.split(",")):
        if option in ("ro", "rw"):
            found["read_only"] = option == "ro"
        elif option == "nocopy":
            found["nocopy"] = True
        elif option in _PROPAGATION:
            _check_propagation(option)
            found["propagation"] = option
        elif option not in ("z", "Z", "cached", "delegated", "consistent"):  # labels and hints have no meaning here
            raise InvalidInput(f"invalid mode: {option[:60]}", details=f"in {whole[:300]!r}")
    return found


def _check_propagation(word: str) -> None:
    if word and word not in _PROPAGATION:
        raise InvalidInput(f"invalid propagation mode: {word[:40]}")
    if word in _SHARED:
        raise NotSupported(
            "mounts of a container cannot propagate to the host",
            details=f"propagation {word}: the container has a kernel of its own",
            resolution="use rslave or rprivate",
        )


def check_volume_name(name: str) -> None:
    """Refuse what cannot be the name of a volume. Errors: InvalidInput."""
    if not _VOLUME_NAME.fullmatch(name):
        raise InvalidInput(
            f'create {name[:100]}: "{name[:100]}" includes invalid characters for a local volume name, only '
            '"[a-zA-Z0-9][a-zA-Z0-9_.-]" are allowed. If you intended to pass a host directory, use absolute path'
        )


def check_driver(name: str) -> None:
    """Refuse drivers of volumes but the local one. Errors: NotSupported."""
    if name not in ("", "local"):
        raise NotSupported(f"Error looking up volume plugin {name[:60]}: plugin not found")


def _octal(text: str) -> int:
    try:
        return int(text, 8) & 0o7777
    except ValueError:
        raise InvalidInput(f"invalid mode {text[:20]!r}") from None


def _target(path: str) -> str:
    if not path.startswith("/"):
        raise InvalidInput(f"invalid mount path: '{path[:300]}' mount path must be absolute")
    clean = re.sub(r"/+", "/", path)
    if ".." in clean.split("/"):
        raise InvalidInput(f"invalid mount path: '{path[:300]}'")
    clean = clean.rstrip("/")
    if not clean:
        raise InvalidInput("invalid specification: destination can't be '/'")
    return clean
