"""Archives of pods that were saved while they ran: a tar of three files, written and read piece by piece.

``checkpoint.json`` says what the pod is and what the other two are: ``memory``, the VM in the hypervisor's own format,
and ``disk``, the data of the pod's writable disk without its holes. An archive comes from outside: names, order, sizes
and digests of the files are checked before anything of it is used, and all that the manifest says is bounded.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from hyperd.container.states import ContainerState
from hyperd.db import spec_codec
from hyperd.errors import HostFault, InvalidInput, NotSupported, OutOfSpace, TooLarge
from hyperd.spec.model import PodSpec
from hyperd.vm.driver import Machine

FORMAT, VERSION = "hyperd.checkpoint", 1
MANIFEST, MEMORY, DISK = "checkpoint.json", "memory", "disk"
MAX_MANIFEST = 64 << 20  # bytes
MAX_EXTENTS = 1_000_000
MAX_CONTAINERS, MAX_DISKS, MAX_NICS = 1000, 255, 64
MAX_DISK = 16 << 40  # bytes that the guest sees
DEVICES = 256 << 20  # bytes of a saved VM beside its memory
PIECE = 1 << 20
STATES = (ContainerState.CREATED, ContainerState.RUNNING, ContainerState.EXITED)
_BLOCK = 512  # bytes; of a tar
# A hole of less is written as zeros: so the list of what is no hole stays short.
_SMALL_HOLE = 256 << 10

NO_MACHINE = Machine(accelerator="", version="", ports=0)  # until the VM is saved

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class SavedContainer:
    """A container of a saved pod: the columns of its row that tell what it has done. Times in epoch seconds."""

    id: str
    name: str
    image_id: str
    state: str
    created_at: float
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    killed: bool = False
    oom_killed: bool = False
    user_ids: tuple[int, ...] = ()
    stream_base: int = 0
    run_count: int = 0
    restart_count: int = 0
    restarts: bool = False  # it has ended, and its policy is about to start it again


@dataclass(frozen=True, kw_only=True)
class SavedLayer:
    """A layer that the guest has mounted: which one, and the digest (SHA-256) of its image on the host that saved it.

    What the guest remembers of a layer is true for these very bytes only.
    """

    diff_id: str
    sha256: str
    lun: int
    mounted: bool = True


@dataclass(frozen=True, kw_only=True)
class SavedNic:
    """A NIC as the guest has set it up: its MAC address, and its addresses with prefix lengths."""

    mac: str
    addresses: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Part:
    """A file of the archive: its size in bytes and its digest (SHA-256, hexadecimal)."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What ``checkpoint.json`` says.

    Args:
        pod: the specification. created_at, saved_at: of pod and archive, epoch seconds.
        machine, vcpu, memory: of the VM; MiB.
        disk_lun: of the writable disk. disk_size: bytes that the guest sees of it.
        extents: offset and length of what is in ``disk``, in this order.
        parts: of the archive, by name.

    """

    pod: PodSpec
    created_at: float
    saved_at: float
    machine: Machine
    vcpu: int
    memory: int
    containers: tuple[SavedContainer, ...]
    images: Mapping[str, str]  # names by id
    layers: tuple[SavedLayer, ...]
    nics: tuple[SavedNic, ...]
    disk_lun: int
    disk_size: int
    extents: tuple[tuple[int, int], ...]
    parts: Mapping[str, Part] = field(default_factory=dict)


# -- writing


def data_of(path: Path) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return the size of a disk's file, and where it has data, small holes included. Errors: OSError."""
    found: list[list[int]] = []
    with path.open("rb") as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        while at < size:
            try:
                start = os.lseek(file.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    break
                raise
            at = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            if found and start - sum(found[-1]) < _SMALL_HOLE:
                found[-1][1] = at - found[-1][0]
            else:
                found.append([start, at - start])
    return size, tuple((start, length) for start, length in found)


def blocks(path: Path, extents: Iterable[tuple[int, int]] | None = None) -> Iterator[bytes]:
    """Yield a file, or parts of it, piece by piece. Errors: HostFault (it is shorter by now)."""
    with path.open("rb") as file:
        for start, length in extents if extents is not None else [(0, os.fstat(file.fileno()).st_size)]:
            file.seek(start)
            left = length
            while left:
                piece = file.read(min(left, PIECE))
                if not piece:
                    raise HostFault(f"{path.name} got shorter while it was read")
                left -= len(piece)
                yield piece


def part_of(pieces: Iterable[bytes]) -> Part:
    """Return size and digest of what is yielded."""
    digest, size = hashlib.sha256(), 0
    for piece in pieces:
        digest.update(piece)
        size += len(piece)
    return Part(size=size, sha256=digest.hexdigest())


def dump(manifest: Manifest) -> bytes:
    """Return the manifest as it is written."""
    data = {**{one.name: getattr(manifest, one.name) for one in fields(manifest)}}
    for name in ("containers", "layers", "nics"):
        data[name] = [asdict(one) for one in data[name]]
    data |= {
        "format": FORMAT,
        "version": VERSION,
        "pod": spec_codec.dump(manifest.pod),
        "machine": asdict(manifest.machine),
        "parts": {name: asdict(part) for name, part in manifest.parts.items()},
    }
    return json.dumps(data, separators=(",", ":")).encode()


def written(manifest: Manifest, memory: Path, disk: Path) -> Iterator[bytes]:
    """Yield the archive. Errors: HostFault, OSError."""
    head = dump(manifest)
    members: tuple[tuple[str, int, Iterable[bytes]], ...] = (
        (MANIFEST, len(head), [head]),
        (MEMORY, manifest.parts[MEMORY].size, blocks(memory)),
        (DISK, manifest.parts[DISK].size, blocks(disk, manifest.extents)),
    )
    for name, size, pieces in members:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(manifest.saved_at)
        yield info.tobuf(tarfile.GNU_FORMAT)
        yield from pieces
        yield bytes(-size % _BLOCK)
    yield bytes(2 * _BLOCK)


# -- reading


class Source:
    """An archive that comes in pieces. Errors of all methods: InvalidInput, and what the pieces raise."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._rest = b""

    def take(self, size: int) -> Iterator[bytes]:
        """Yield so many bytes."""
        while size:
            piece = self._rest or next(self._pieces, b"")
            if not piece:
                raise InvalidInput("the archive ends in the middle")
            piece, self._rest = piece[:size], piece[size:]
            size -= len(piece)
            yield piece

    def member(self, name: str) -> int:
        """Read the head of the next file, which must have this name; return its size."""
        try:
            info = tarfile.TarInfo.frombuf(b"".join(self.take(_BLOCK)), "utf-8", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise InvalidInput("that is no archive of a pod", details=str(error)[:200]) from error
        if info.name != name or not info.isreg() or info.size < 0:
            raise InvalidInput(
                "that is no archive of a pod",
                details=f"{info.name[:100]!r} is where {name} should be",
                resolution="give a file that hyperctl checkpoint has made",
            )
        return info.size

    def skip_padding(self, size: int) -> None:
        """Go on behind a file of this size."""
        for _ in self.take(-size % _BLOCK):
            pass

    def drain(self) -> None:
        """Read to the end, which may be padded."""
        for _ in itertools.islice(self._pieces, 64):
            pass


def read_manifest(source: Source) -> Manifest:
    """Read the first file. Errors: InvalidInput, TooLarge, NotSupported (of another version)."""
    size = source.member(MANIFEST)
    if size > MAX_MANIFEST:
        raise TooLarge("the archive's manifest is too large", details=f"{size} bytes, at most {MAX_MANIFEST}")
    text = b"".join(source.take(size))
    source.skip_padding(size)
    return load(text)


def load(text: bytes) -> Manifest:
    """Read a manifest. Errors: InvalidInput, NotSupported (of another version)."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInput("the archive's manifest is no JSON", details=str(error)[:200]) from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise InvalidInput("that is no archive of a pod")
    if data.get("version") != VERSION:
        raise NotSupported(
            f"the archive has version {str(data.get('version'))[:20]}",
            details=f"this hyperd reads version {VERSION}",
            resolution="use the hyperd that wrote it",
        )
    try:
        manifest = _manifest(data)
    except HostFault as error:  # what the codec says of a row
        raise InvalidInput("the archive's manifest is damaged", details=error.details or error.brief) from error
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidInput("the archive's manifest is damaged", details=str(error)[:200]) from error
    _check(manifest)
    return manifest


def _manifest(data: dict[str, Any]) -> Manifest:
    pod = data["pod"]
    if not isinstance(pod, dict):
        raise TypeError("pod is no object")
    return Manifest(
        pod=spec_codec.load(PodSpec, pod),
        created_at=float(data["created_at"]),
        saved_at=float(data["saved_at"]),
        machine=_value(Machine, data["machine"]),
        vcpu=_number(data["vcpu"], 1024),
        memory=_number(data["memory"], 64 << 20),
        containers=_values(SavedContainer, data["containers"], MAX_CONTAINERS),
        images={_text(key): _text(value) for key, value in _object(data["images"]).items()},
        layers=_values(SavedLayer, data["layers"], MAX_DISKS),
        nics=_values(SavedNic, data["nics"], MAX_NICS),
        disk_lun=_number(data["disk_lun"], 254),
        disk_size=_number(data["disk_size"], MAX_DISK),
        extents=_extents(data["extents"]),
        parts={name: _value(Part, _object(data["parts"])[name]) for name in (MEMORY, DISK)},
    )


def _extents(items: object) -> tuple[tuple[int, int], ...]:
    if not isinstance(items, list) or len(items) > MAX_EXTENTS:
        raise ValueError("extents is no list, or too long")
    return tuple((_number(start, MAX_DISK), _number(length, MAX_DISK)) for start, length in items)


def _values(kind: type[T], items: object, most: int) -> tuple[T, ...]:
    if not isinstance(items, list) or len(items) > most:
        raise ValueError(f"a list of {kind.__name__} is none, or longer than {most}")
    return tuple(_value(kind, item) for item in items)


def _value(kind: type[T], item: object) -> T:
    """Make a value whose fields have the types that they are declared with."""
    given = _object(item)
    values = {}
    for one in fields(kind):  # type: ignore[arg-type]  # a dataclass; T has no bound that says so
        if one.name in given:
            values[one.name] = _READERS[str(one.type)](given[one.name])
    return kind(**values)


def _object(item: object) -> dict[str, Any]:
    if not isinstance(item, dict):
        raise TypeError(f"{str(item)[:60]!r} is no object")
    return item


def _number(item: object, most: int = 1 << 62) -> int:
    if type(item) is not int or not 0 <= item <= most:
        raise ValueError(f"{str(item)[:60]} is no number from 0 to {most}")
    return item


def _text(item: object) -> str:
    if not isinstance(item, str) or len(item) > 4096 or not item.isprintable():
        raise TypeError(f"{str(item)[:60]!r} is no short text")
    return item


def _flag(item: object) -> bool:
    if not isinstance(item, bool):
        raise TypeError(f"{str(item)[:60]!r} is neither true nor false")
    return item


def _many(read: Callable[[object], T]) -> Callable[[object], tuple[T, ...]]:
    def read_all(items: object) -> tuple[T, ...]:
        if not isinstance(items, list) or len(items) > MAX_CONTAINERS:
            raise TypeError(f"{str(items)[:60]!r} is no list, or too long")
        return tuple(read(item) for item in items)

    return read_all


def _or_none(read: Callable[[object], T]) -> Callable[[object], T | None]:
    return lambda item: None if item is None else read(item)


def _time(item: object) -> float:
    if isinstance(item, bool) or not isinstance(item, int | float) or not 0 <= item < 1 << 40:
        raise TypeError(f"{str(item)[:60]!r} is no time")
    return float(item)


_READERS: Mapping[str, Callable[[object], object]] = {
    "str": _text,
    "int": _number,
    "bool": _flag,
    "float": _time,
    "float | None": _or_none(_time),
    "int | None": _or_none(_number),
    "tuple[int, ...]": _many(_number),
    "tuple[str, ...]": _many(_text),
}


def _check(manifest: Manifest) -> None:
    """Check what parts of a manifest say of each other. Errors: InvalidInput."""
    problem = _contradiction(manifest)
    if problem:
        raise InvalidInput("the archive's manifest contradicts itself", details=problem)


def _contradiction(manifest: Manifest) -> str:
    at = 0
    for start, length in manifest.extents:
        if start < at or not length or start + length > manifest.disk_size:
            return f"the disk's data at {start} is out of order or out of bounds"
        at = start + length
    if sum(length for _, length in manifest.extents) != manifest.parts[DISK].size:
        return "the size of disk is not that of its extents"
    if manifest.parts[MEMORY].size > (manifest.memory << 20) + (manifest.memory << 14) + DEVICES:
        return "the size of memory is larger than the VM's memory"
    if not manifest.vcpu or not manifest.memory:
        return "the VM has no CPU or no memory"
    if (manifest.vcpu, manifest.memory) != (manifest.pod.resource.vcpu, manifest.pod.resource.memory):
        return "the VM's size is not that of the specification"
    if any(one.state not in STATES for one in manifest.containers):
        return "a container is in a state that cannot be saved"
    luns = [layer.lun for layer in manifest.layers] + [manifest.disk_lun]
    if len(set(luns)) != len(luns) or max(luns) >= MAX_DISKS:
        return "two disks have the same number, or one is out of bounds"
    machine = manifest.machine
    if len(machine.places) != len(manifest.nics) or len(set(machine.places)) != len(machine.places):
        return "the NICs are not where the VM has them"
    if not machine.ports <= MAX_NICS or any(not 1 <= place <= machine.ports for place in machine.places):
        return "a NIC is where the VM has no place"
    if [one.name for one in manifest.containers] != [one.name for one in manifest.pod.containers]:
        return "the containers are not those of the specification"
    return ""


def unpack(source: Source, manifest: Manifest, directory: Path) -> None:
    """Write the two files that follow the manifest into a directory, the disk with its holes.

    Errors: InvalidInput (another size or digest), OutOfSpace, HostFault.
    """
    try:
        _unpack(source, MEMORY, manifest.parts[MEMORY], directory / MEMORY, None)
        disk = directory / DISK
        with disk.open("xb") as file:
            os.truncate(file.fileno(), manifest.disk_size)
        _unpack(source, DISK, manifest.parts[DISK], disk, manifest.extents)
    except OSError as error:
        kind = OutOfSpace if error.errno in (errno.ENOSPC, errno.EDQUOT) else HostFault
        raise kind("the archive cannot be unpacked", details=str(error)) from error
    source.drain()


def _unpack(source: Source, name: str, part: Part, path: Path, extents: Sequence[tuple[int, int]] | None) -> None:
    size, digest = source.member(name), hashlib.sha256()
    if size != part.size:
        raise InvalidInput(f"{name} in the archive has another size", details=f"{size} bytes instead of {part.size}")
    with path.open("r+b" if extents is not None else "xb") as file:
        for start, length in extents if extents is not None else [(0, size)]:
            file.seek(start)
            for piece in source.take(length):
                digest.update(piece)
                file.write(piece)
    source.skip_padding(size)
    if digest.hexdigest() != part.sha256:
        raise InvalidInput(
            f"{name} in the archive is damaged",
            details="its digest is another one",
            resolution="copy the archive again",
        )
