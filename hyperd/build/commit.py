"""Commit: what a container has changed becomes a layer, and with its configuration an image.

The files are packed inside a guest: in the pod's own VM while it runs, else in a VM of its own that gets the pod's
disk for as long as it takes. The host mounts nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENODEV, ENOENT
from typing import TYPE_CHECKING, Any

import structlog

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method
from hyperd.agent.plan import MS_NOATIME, MS_RDONLY, Plan
from hyperd.build import guest
from hyperd.build.closing import Closing
from hyperd.config.model import Config
from hyperd.container.locks import PodLocks
from hyperd.container.plan import cgroup
from hyperd.container.service import ContainerService
from hyperd.container.states import ContainerState
from hyperd.db.models import ContainerRow
from hyperd.errors import AgentError, HyperError, InvalidInput, Timeout
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.image.model import Image
from hyperd.image.service import ImageService
from hyperd.image.transfer.ingest import AddedLayer
from hyperd.spec.model import ContainerSpec
from hyperd.vm.model import Vm, require_running
from hyperd.vm.service import VmService

if TYPE_CHECKING:
    from hyperd.build.config import ImageDraft  # with it come Dockerfiles: imported by the first commit

log = structlog.get_logger(__name__)

FREEZE_SECONDS = 10.0
_FREEZE_POLL = 0.02
# Keys of the body, all lower case, that are lists of strings, maps with empty objects, and plain strings.
_LISTS = {"cmd": "Cmd", "entrypoint": "Entrypoint", "onbuild": "OnBuild"}
_SETS = {"volumes": "Volumes", "exposedports": "ExposedPorts"}
_TEXTS = {"user": "User", "workingdir": "WorkingDir", "stopsignal": "StopSignal"}


@dataclass(frozen=True, kw_only=True)
class CommitOrder:
    """What a commit is asked for.

    Args:
        container: name, id or unique beginning of an id.
        repository: name of the image, may be empty. tag: empty = ``latest``.
        comment, author: for the history.
        pause: stop the container's processes meanwhile.
        changes: Dockerfile instructions.
        body: a container's configuration as the API takes it, merged over the container's own.

    """

    container: str
    repository: str = ""
    tag: str = ""
    comment: str = ""
    author: str = ""
    pause: bool = False
    changes: Sequence[str] = ()
    body: Mapping[str, Any] | None = None


class CommitService:
    """See the module's docstring."""

    def __init__(
        self, *, config: Config, containers: ContainerService, images: ImageService, vms: VmService, locks: PodLocks
    ) -> None:
        self._config = config
        self._containers = containers
        self._images = images
        self._vms = vms
        self._locks = locks
        self._closing = Closing()

    def close(self) -> None:
        """End the commits that run; they leave nothing."""
        self._closing.close()

    def commit(self, order: CommitOrder, *, cancelled: Callable[[], bool] = lambda: False) -> str:
        """Make an image of a container; give its id.

        Raises:
            NotFound: no such container.
            InvalidInput: a bad name, change or configuration.
            NotAlive: its pod is paused.
            AgentError, DriverError, Timeout, OutOfSpace, TooLarge: the guest's or the host's part; nothing stays.
            Cancelled: the caller left, or the daemon ends.
            Busy: the daemon is ending.

        """
        with self._closing.during(cancelled) as ended:
            return self._commit(order, ended)

    def _commit(self, order: CommitOrder, cancelled: Callable[[], bool]) -> str:
        row = self._containers.records.find(order.container)
        tags = [f"{order.repository}:{order.tag}" if order.tag else order.repository] if order.repository else []
        for tag in tags:
            self._images.taggable(tag)
        if order.tag and not tags:
            raise InvalidInput("a tag needs a repository")
        image = self._images.get(row.image_id)
        draft = self._draft(order, row, image)
        with self._locks.locked(row.pod_id, "commit a container"), self._images.adding() as intake:
            row = self._containers.records.get(row.id)
            with self._layer(row, image, pause=order.pause, cancelled=cancelled) as stream:
                layer = guest.add_layer(intake, stream) if stream is not None else None
                failpoint("commit.run.layer_added")
            draft.add_history(
                " ".join(self._argv(row)), comment=order.comment, author=order.author, empty=layer is None
            )
            layers: list[AddedLayer | str] = [*image.diff_ids, *([layer] if layer else [])]
            made = self._images.add_image(draft.finish(), layers, tags=tags, parent=image.id)
            failpoint("commit.run.image_added")
        self._containers.tell("commit", row, made=made.id)
        log.info("container.committed", container=row.id, made=made.id)
        return made.id

    def _draft(self, order: CommitOrder, row: ContainerRow, image: Image) -> ImageDraft:
        from hyperd.build.config import ImageDraft, apply_changes

        draft = ImageDraft(image.config)
        own_config(draft.config, self._containers.records.spec(row))
        merge_body(draft.config, order.body or {})
        apply_changes(draft, order.changes)
        if order.author:
            draft.image["author"] = order.author
        if order.comment:
            draft.image["comment"] = order.comment
        return draft

    def _argv(self, row: ContainerRow) -> Sequence[str]:
        try:
            return self._containers.queries.program(row).argv
        except HyperError:
            return ()

    @contextmanager
    def _layer(
        self, row: ContainerRow, image: Image, *, pause: bool, cancelled: Callable[[], bool]
    ) -> Iterator[Iterator[bytes] | None]:
        """Yield the container's changes as a tar; None when it never ran."""
        upper = f"{layout.container_dir(row.id)}/upper"
        if row.run_count == 0:
            yield None
            return
        with self._guest(row.pod_id, image) as vm:
            paths = [layer.path for layer in image.layers]
            self._vms.plugs.plug(vm, layers=paths)
            lower = self._vms.plugs.mount_layers(vm, paths)
            failpoint("commit.run.layers_plugged")
            with self._frozen(vm, row, pause=pause):
                yield guest.packed(vm.agent, upper=upper, lower=lower, cancelled=cancelled)

    @contextmanager
    def _guest(self, pod_id: str, image: Image) -> Iterator[Vm]:
        """Yield a VM that has the pod's disk mounted (the pod's lock is held)."""
        vm = self._vms.of_pod(pod_id)
        if vm is not None:
            yield require_running(vm, pod_id)
            return
        scratch = self._config.root / "pods" / pod_id / "scratch.img"
        shape = self._config.hypervisor
        vm = self._vms.boot(
            vcpu=1,
            memory=shape.default_memory,
            disks=[layer.path for layer in image.layers],
            scratch=scratch,
            hidden=True,
        )
        try:
            failpoint("commit.run.vm_booted")
            # The mount itself may bring the journal into the file system, as the pod's next start would.
            plan = Plan().mkdir(layout.SCRATCH)
            vm.agent.run(plan.mount("lun:0", layout.SCRATCH, "ext4", MS_NOATIME | MS_RDONLY))
            yield vm
        finally:
            self._vms.destroy(vm)

    @contextmanager
    def _frozen(self, vm: Vm, row: ContainerRow, *, pause: bool) -> Iterator[None]:
        """Stop a running container's processes (cgroup v2, ``cgroup.freeze``)."""
        if not pause or row.state != ContainerState.RUNNING:
            yield
            return
        group = f"/sys/fs/cgroup/{cgroup(self._containers.process_ident(row))}"
        try:
            freeze(vm.agent, group)
            failpoint("commit.run.frozen")
            yield
        finally:
            thaw(vm.agent, group)


def freeze(agent: AgentClient, group: str) -> None:
    """Stop the processes of a control group; returns when all stand still, or when the group has ended.

    Errors: AgentError, Timeout.
    """
    try:
        _freeze(agent, group)
    except AgentError as error:
        if error.errno not in (ENOENT, ENODEV):
            raise
        log.info("container.ended_meanwhile", group=group)


def _freeze(agent: AgentClient, group: str) -> None:
    agent.run(Plan().write(f"{group}/cgroup.freeze", "1", None))
    deadline = time.monotonic() + FREEZE_SECONDS
    while True:
        records = agent.request(Method.READFILE, [(0, ("", f"{group}/cgroup.events", 0, 4096))])
        if any(b"frozen 1" in arg for record in records for arg in record.args):
            return
        if time.monotonic() > deadline:
            raise Timeout(f"the container did not stand still within {FREEZE_SECONDS:g} s")
        time.sleep(_FREEZE_POLL)


def thaw(agent: AgentClient, group: str) -> None:
    """Let the processes of a control group go on; a guest that is gone or a group that has ended is fine."""
    try:
        agent.run(Plan().write(f"{group}/cgroup.freeze", "0", None))
    except HyperError as error:
        log.info("container.not_thawed", group=group, error=str(error))


def own_config(config: dict[str, Any], spec: ContainerSpec) -> None:
    """Write what a container's specification says over its image's configuration."""
    if spec.entrypoint:
        config["Entrypoint"] = [] if spec.entrypoint == ("",) else list(spec.entrypoint)
        config.pop("Cmd", None)
    if spec.command:
        config["Cmd"] = list(spec.command)
    _merge_env(config, [f"{key}={value}" for key, value in spec.envs])
    if spec.workdir:
        config["WorkingDir"] = spec.workdir
    if spec.user.name:
        config["User"] = spec.user.name + (f":{spec.user.group}" if spec.user.group else "")
    if spec.labels:
        config["Labels"] = {**(config.get("Labels") or {}), **spec.labels}
    if spec.stop_signal:
        config["StopSignal"] = spec.stop_signal


def merge_body(config: dict[str, Any], body: Mapping[str, Any]) -> None:
    """Write a commit's body over a configuration; what is empty changes nothing, unknown keys are ignored.

    Raises:
        InvalidInput: a value of the wrong kind.

    """
    for key, value in body.items():
        name = key.lower()
        if not value:
            continue
        if name == "env":
            _merge_env(config, _strings(key, value))
        elif name in _LISTS:
            config[_LISTS[name]] = _strings(key, value)
        elif name in _SETS:
            if not isinstance(value, dict):
                raise InvalidInput(f"{key}: must be an object")
            config[_SETS[name]] = {**(config.get(_SETS[name]) or {}), **dict.fromkeys(value, {})}  # noqa: RUF024
        elif name in _TEXTS:
            if not isinstance(value, str):
                raise InvalidInput(f"{key}: must be a string")
            config[_TEXTS[name]] = value
        elif name == "labels":
            if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
                raise InvalidInput(f"{key}: must be an object of strings")
            config["Labels"] = {**(config.get("Labels") or {}), **value}


def _merge_env(config: dict[str, Any], items: Sequence[str]) -> None:
    env = dict(str(item).partition("=")[::2] for item in config.get("Env") or ())
    env.update(item.partition("=")[::2] for item in items)
    if env:
        config["Env"] = [f"{key}={value}" for key, value in env.items()]


def _strings(key: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InvalidInput(f"{key}: must be an array of strings")
    return list(value)
