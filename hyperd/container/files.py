"""Files that a specification puts into containers: their content, from where it is, to the guest."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperd.agent.plan import Op, Plan
from hyperd.config.model import Config
from hyperd.container.fetch import MAX_SIZE, check_allowed, fetch
from hyperd.errors import HostFault, InvalidInput, TooLarge
from hyperd.guest import layout
from hyperd.spec.model import ContainerSpec, FileRef, FileSpec
from hyperd.vm.model import Vm

MAX_INLINE = 128 * 1024  # bytes of files that travel in the container's own START request
CHUNK = 192 * 1024  # bytes in one request: a frame's payload has 256 KiB
MAX_TOTAL = 4 * MAX_SIZE  # bytes of all files of a container


@dataclass(frozen=True, kw_only=True)
class PlannedFile:
    """A file as a container's plan writes it; ``staged`` is its path in the guest when it was sent before."""

    target: str
    mode: int
    user: str
    group: str
    content: bytes = b""
    staged: str = ""

    def add_to(self, plan: Plan) -> None:
        """Append the step."""
        owner = (self.user or "0", self.group or "0")
        if self.staged:
            plan.add(Op.FILE, self.staged, self.target, f"{self.mode:o}", *owner)
        else:
            plan.add(Op.WRITE, self.target, f"{self.mode:o}", *owner, self.content)


class Files:
    """Contents of files. What a URI named is fetched once, when pod or container is created, and kept with the pod."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def check(self, spec: ContainerSpec, pod_files: Sequence[FileSpec], *, may_fetch: bool) -> None:
        """Check a container's files, but for what only fetching them can tell.

        ``may_fetch``: whether the caller may let this host fetch files. Errors: InvalidInput, TooLarge, Forbidden.
        """
        total = 0
        for _, file in _each(spec, pod_files):
            if file.uri:
                check_allowed(f"file {file.name}", may_fetch=may_fetch, instead="give the content")
            else:
                total += len(_content(file))
        if total > MAX_TOTAL:
            raise TooLarge(f"the files of container {spec.name} are too large", details=f"at most {MAX_TOTAL} bytes")

    def fetch(self, pod_id: str, spec: ContainerSpec, pod_files: Sequence[FileSpec]) -> None:
        """Fetch what a container's files name by URI. Errors: as ``fetch.fetch``; HostFault."""
        total = 0
        for uri, name in {file.uri: file.name for _, file in _each(spec, pod_files) if file.uri}.items():
            path = self._fetched(pod_id, uri)
            try:
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                total += fetch(uri, path, what=f"file {name}")
            except OSError as error:
                raise HostFault(f"file {name} cannot be kept", details=error.strerror or str(error)) from error
            if total > MAX_TOTAL:
                raise TooLarge(f"the files of container {spec.name} are too large", details=f"over {MAX_TOTAL} bytes")

    def send(self, vm: Vm, pod_id: str, container_id: str, spec: ContainerSpec,
             pod_files: Sequence[FileSpec]) -> list[PlannedFile]:  # fmt: skip
        """Return a container's files for its plan; those that are too large for it are sent to the guest now.

        Errors: HostFault, AgentError.
        """
        directory = f"{layout.container_dir(container_id)}/files"
        planned, inline = [], 0
        for number, (ref, file) in enumerate(_each(spec, pod_files)):
            whole = self._fetched(pod_id, file.uri) if file.uri else _content(file)
            size = len(whole) if isinstance(whole, bytes) else _size(whole, file.name)
            staged, content = "", b""
            if inline + size > MAX_INLINE:
                staged = f"{directory}/{number}"
                _stage(vm, staged, whole)
            else:
                inline += size
                content = whole if isinstance(whole, bytes) else whole.read_bytes()
            planned.append(
                PlannedFile(
                    target=ref.target, mode=ref.mode, user=ref.user, group=ref.group, content=content, staged=staged
                )
            )
        return planned

    def forget(self, vm: Vm, container_id: str, files: Sequence[PlannedFile]) -> None:
        """Remove what was sent ahead. Errors: AgentError."""
        if any(file.staged for file in files):
            vm.agent.run(Plan().add(Op.REMOVE, f"{layout.container_dir(container_id)}/files"))

    def _fetched(self, pod_id: str, uri: str) -> Path:
        return self._config.root / "pods" / pod_id / "files" / hashlib.sha256(uri.encode()).hexdigest()


def _each(spec: ContainerSpec, pod_files: Sequence[FileSpec]) -> Iterator[tuple[FileRef, FileSpec]]:
    named: Mapping[str, FileSpec] = {file.name: file for file in pod_files}
    for ref in spec.files:
        file = ref.detail or named.get(ref.filename)
        if file is None:
            raise InvalidInput(f"file {ref.filename} does not exist in file list.")
        yield ref, file


def _content(file: FileSpec) -> bytes:
    if file.encoding != "base64":
        return file.content.encode("utf-8", "surrogateescape")
    try:
        return base64.b64decode("".join(file.content.split()), validate=True)
    except ValueError as error:
        raise InvalidInput(f"file {file.name}: the content is no base64", details=str(error)) from error


def _size(path: Path, name: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise HostFault(f"file {name}: what was fetched for it is gone", details=error.strerror or "") from error


def _stage(vm: Vm, path: str, whole: bytes | Path) -> None:
    vm.agent.run(Plan().write(path, b"", 0o600))
    for block in _blocks(whole):
        vm.agent.run(Plan().add(Op.APPEND, path, block))


def _blocks(whole: bytes | Path) -> Iterator[bytes]:
    if isinstance(whole, bytes):
        yield from (whole[at : at + CHUNK] for at in range(0, len(whole), CHUNK))
        return
    with whole.open("rb") as source:
        while block := source.read(CHUNK):
            yield block
