"""How this dialect uses pods: a container of Docker's is a pod of its own with the same id.

``network_mode: container:X`` joins X's pod. The pod goes with its last container. Containers of other APIs' pods can be
looked at, started, stopped and removed here as well; their pods stay.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from hyperd.api.context import engine, may_fetch
from hyperd.api.docker import params, words
from hyperd.api.docker.container_views import labels
from hyperd.api.docker.create import DEFAULT_NETWORKS, Order
from hyperd.api.docker.errors import NotModified
from hyperd.api.docker.lookup import Lookup, container, network_names
from hyperd.api.docker.mounts import Mounts, NewVolume
from hyperd.container.model import Container, ContainerUpdate
from hyperd.container.signals import find_signal
from hyperd.errors import Conflict, HyperError, InvalidInput, NotAlive, NotFound, NotSupported
from hyperd.spec.model import Limits, Resource
from hyperd.volume.hostpath import MISSING
from hyperd.volume.model import NamedVolumeSpec

_KILL_WAIT = 10.0  # seconds for an end by SIGKILL
_NAMES_TRIED = 6  # names that are made up before the id is one, as in Docker
_KEPT = (
    "AttachStdin",
    "AttachStdout",
    "AttachStderr",
    "ExposedPorts",
    "Volumes",
)
_KEPT_HOST = (
    "Binds",
    "ConsoleSize",
    "ContainerIDFile",
    "Isolation",
    "Mounts",
    "NetworkMode",
    "PortBindings",
    "PublishAllPorts",
    "Runtime",
    "SecurityOpt",
    "Tmpfs",
    "VolumeDriver",
    "VolumesFrom",
)


def kept(body: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a request that no specification says: the client's own words, for ``inspect``."""
    found: dict[str, Any] = {key: body[key] for key in _KEPT if body.get(key)}
    host = body.get("HostConfig") or {}
    of_host = {key: host[key] for key in _KEPT_HOST if host.get(key)}
    return {**found, "HostConfig": of_host} if of_host else found


def annotated(order: Order, annotations: Mapping[str, str]) -> Order:
    """Return an order whose container has further annotations."""
    return _with(order, annotations={**order.container.annotations, **annotations})


def _with(order: Order, **changes: Any) -> Order:
    """Return an order whose container has these fields."""
    return replace(order, pod=replace(order.pod, containers=(replace(order.container, **changes),)))


def with_tag(name: str) -> str:
    """Return an image's name with ``:latest`` where it has no tag, as Docker's message has it."""
    last = name.rpartition("/")[2]
    return name if ":" in last or "@" in last or re.fullmatch(r"(sha256:)?[0-9a-f]{12,64}", name) else f"{name}:latest"


# -- creating and removing


def create(order: Order) -> None:
    """Create the container and what it needs; after a failure nothing of it is left.

    Errors: Conflict (the name is taken), NotFound, InvalidInput, NotSupported, Busy.
    """
    running = engine()
    if not order.joins:
        running.system.check_size(order.pod.resource)
    _check_name(order.container.name)
    known = network_names()
    for wish in order.pod.networks:  # no 404: clients would take it for a missing image
        if wish.network not in known:
            raise InvalidInput(f"network {wish.network[:200]} not found")
        if wish.network in DEFAULT_NETWORKS:
            check_links(wish.links)
    with _sources_told(), provided(order.mounts):
        if order.joins:
            other = joined(order)
            spec = replace(order.container, pid_namespace=_processes_of(order, other))
            running.containers.create(other.pod_id, spec, may_fetch=may_fetch())
        else:
            running.pods.create(order.pod, may_fetch=may_fetch())


@contextlib.contextmanager
def _sources_told() -> Iterator[None]:
    """Tell in Docker's words that a directory of the host is missing. Errors: InvalidInput."""
    try:
        yield
    except Conflict as error:
        if error.kind != MISSING:
            raise
        text = f'invalid mount config for type "bind": bind source path does not exist: {error.name}'
        raise InvalidInput(text) from error


def check_links(links: Sequence[tuple[str, str]]) -> None:
    """Check that the containers of links on the default network exist. Errors: InvalidInput."""
    for target, _ in links:
        try:
            container(target)
        except NotFound as error:  # no 404: clients would take it for a missing image
            raise InvalidInput(f"could not get container for {target[:200]}: {error.brief}") from error


def _check_linked(found: Container) -> None:
    """Check that the containers that a start needs run: variables tell where they are. Errors: Conflict."""
    running = engine()
    for target, alias in running.containers.queries.links.of_default_network(
        running.containers.records.pod_spec(found.pod_id)
    ):
        try:
            other = container(target)
        except NotFound:
            continue  # removed since; Docker drops such a link
        if not other.live:
            raise Conflict(f"Cannot link to a non running container: /{other.name} AS /{found.name}/{alias}")


def create_unnamed(order: Order) -> None:
    """Create a container under a name that nobody has: made up, in the end the beginning of its id.

    Errors: as for create.
    """
    names = [*map(words.made_up_name, range(_NAMES_TRIED)), order.container.id[:12]]
    for name in names:
        try:
            create(_with(order, name=name))
            return
        except Conflict:  # of the name, or of a port, an address
            if name == names[-1] or not _holder(name):
                raise


def _check_name(name: str) -> None:
    holder = _holder(name)
    if holder:
        raise Conflict(
            f'Conflict. The container name "/{name}" is already in use by container "{holder}". You have to '
            "remove (or rename) that container to be able to reuse that name."
        )


def _holder(name: str) -> str:
    """Return the id of the container that has this name, empty when none has."""
    with contextlib.suppress(NotFound):
        found = engine().containers.queries.inspect(name)
        return found.id if found.name == name else ""
    return ""


@contextlib.contextmanager
def provided(mounts: Mounts) -> Iterator[None]:
    """Make what mounts need, unless it is there: named volumes, directories of the host. If the block fails, it goes.

    Errors: NotSupported, InvalidInput, Conflict, HostFault.
    """
    running = engine()
    held = running.volumes.held([wanted.name for wanted in mounts.volumes])
    made = running.containers.volumes.made_sources(mounts.new_sources)
    with made, contextlib.ExitStack() as undo, held:  # what is undone is no longer held
        for wanted in mounts.volumes:
            if _make_volume(wanted):
                undo.callback(_drop_volume, wanted.name)
        yield
        undo.pop_all()


def _drop_volume(name: str) -> None:
    with contextlib.suppress(HyperError):
        engine().volumes.remove(name)


def _make_volume(wanted: NewVolume) -> bool:
    """Make a named volume; return whether it was not there."""
    volumes = engine().volumes
    with contextlib.suppress(NotFound):
        volumes.get(wanted.name)
        return False
    volumes.create(
        NamedVolumeSpec(
            name=wanted.name,
            driver=wanted.driver,
            labels=wanted.labels,
            options=wanted.options,
            anonymous=wanted.anonymous,
        )
    )
    return True


def removing(found: Container, *, force: bool, volumes: bool = False) -> Callable[[], None]:
    """Return what removes a container, and its pod with the last one; one that runs is killed.

    Errors: Conflict when it runs and is not forced.
    """
    if (found.live or found.restart_at is not None) and not force:
        word = "paused" if found.paused else "running" if found.live else "restarting"
        raise Conflict(
            f'cannot remove container "/{found.name}": container is {word}: stop the container before removing '
            "or force remove",
        )
    running = engine()

    def remove() -> None:
        if found.paused:
            running.pods.unpause(found.pod_id)
        if found.live:  # killed at once: a stop under way, which the removal waits for, may take long
            with contextlib.suppress(NotAlive):
                running.containers.kill(found.id, signal.SIGKILL)
        try:
            running.pods.remove_container(found.id, signal=signal.SIGKILL, volumes=volumes)
        except NotFound:
            if not found.live:
                raise  # else it was to be removed at its end

    return remove


def prune(filters: params.Filters) -> tuple[list[str], int]:
    """Remove containers that do not run; return their ids and the bytes that this freed. Errors: InvalidInput."""
    until = params.moment(filters["until"][0]) if "until" in filters else None
    removed, freed = [], 0
    for shown in Lookup(engine()).all():
        found = shown.container
        if found.live or found.restart_at is not None or (until is not None and found.created_at >= until):
            continue
        known = labels(shown)
        if not params.has_labels(known, filters.get("label", ())):
            continue
        if any(params.has_labels(known, (entry,)) for entry in filters.get("label!", ())):
            continue
        size = sizes(found)[0]
        with contextlib.suppress(NotFound, Conflict):  # somebody else was quicker
            removing(found, force=False)()
            removed.append(found.id)
            freed += size
    return removed, freed


# -- running


def start(found: Container) -> None:
    """Start a container, and its pod where that does not run. Errors: as the services'."""
    running = engine()
    _check_linked(found)
    try:
        running.pods.start_container(found.id)
    except HyperError:
        if found.spec.auto_remove:  # nobody else would remove it, and its client waits for that
            with contextlib.suppress(HyperError):
                running.pods.remove_container(found.id, volumes=True)
        raise


def stopping(found: Container, *, grace: float | None, name: str) -> Callable[[], None]:
    """Return what stops a container, with the signal of this name or its own. Errors: InvalidInput."""
    running, number = engine(), signal_number(name) if name else 0

    def stop() -> None:
        if found.paused:
            running.pods.unpause(found.pod_id)
        try:
            running.containers.stop(found.id, grace=grace, signal=number)
        except NotAlive as error:  # it has ended meanwhile, and its VM with it
            raise NotModified from error

    return stop


def restarting(found: Container, *, grace: float | None, name: str) -> Callable[[], None]:
    """Return what stops a container if it runs, as ``stopping``, and starts it. Errors: InvalidInput, Conflict."""
    running, number = engine(), signal_number(name) if name else 0
    _check_linked(found)  # here: the engine of a request is not known in the thread that does it

    def restart() -> None:
        if found.paused:
            running.pods.unpause(found.pod_id)
        running.pods.restart_container(found.id, grace=grace, signal=number)

    return restart


def killing(found: Container, name: str) -> Callable[[], None]:
    """Return what sends a signal; after SIGKILL it waits for the end. Errors: Conflict when it does not run."""
    if not found.live:
        raise Conflict(f"Cannot kill container: {found.name}: Container {found.id} is not running")
    running, number = engine(), signal_number(name)

    def kill() -> None:
        if number != signal.SIGKILL:
            running.containers.kill(found.id, number)
            return
        with contextlib.closing(running.containers.waits.register(found.id)) as wait:
            running.containers.kill(found.id, number)
            if wait.poll(_KILL_WAIT) is None:
                raise Conflict(
                    f"Cannot kill container: {found.name}: tried to kill container, but did not receive an exit event"
                )

    return kill


def signal_number(text: str) -> int:
    """Return the number of a signal. Errors: InvalidInput."""
    number = find_signal(text)
    if not number:
        raise InvalidInput(f"Invalid signal: {text[:40]}")
    return number


def pause(found: Container) -> None:
    """Stop the CPUs of its VM. Errors: Conflict when it does not run or shares its VM."""
    _check_alone(found, "pause")
    if not found.live:
        raise Conflict(f"Container {found.id} is not running")
    if found.paused:
        raise Conflict(f"Container {found.id} is already paused")
    engine().pods.pause(found.pod_id)


def unpause(found: Container) -> None:
    """Let it continue. Errors: Conflict when it is not paused."""
    if not found.paused:
        raise Conflict(f"Container {found.id} is not paused")
    engine().pods.unpause(found.pod_id)


def _check_alone(found: Container, verb: str) -> None:
    others = [one for one in engine().containers.queries.of_pod(found.pod_id) if one.id != found.id and one.live]
    if others:
        raise Conflict(
            f"cannot {verb} {found.name} alone: it shares its virtual machine",
            details=", ".join(one.name for one in others),
            resolution=f"hyperctl {verb} {found.pod_id} does it for all of them",
        )


def update(found: Container, *, limits: Limits, restart: str | None, restart_max: int) -> None:
    """Change limits, and the restart policy unless it is None."""
    names = [one.name for one in fields(Limits)]
    changed = {
        name: getattr(limits, name) for name in names if getattr(limits, name) != getattr(found.spec.limits, name)
    }
    most = restart_max if restart is not None else None
    engine().containers.update(found.id, ContainerUpdate(limits=changed, restart_policy=restart, restart_max=most))


def joined(order: Order) -> Container:
    """Return the container whose pod a new one joins.

    Errors: InvalidInput when it is not there: clients would take 404 for a missing image.
    """
    try:
        return container(order.joins)
    except NotFound as error:
        raise InvalidInput(error.brief) from error


def _processes_of(order: Order, other: Container) -> str:
    """Return the id of the container whose processes a new one sees, which must be in the pod that it joins.

    Errors: InvalidInput (it is not there), NotSupported (it is in another VM).
    """
    name = order.container.pid_namespace
    if not name:
        return ""
    try:
        found = container(name)
    except NotFound as error:  # no 404: clients would take it for a missing image
        raise InvalidInput(error.brief) from error
    if found.pod_id != other.pod_id:
        raise NotSupported(
            f"the processes of container {name[:200]} cannot be seen",
            details=f"it runs in another VM than {other.name}",
            resolution=f"use --network container:{name[:200]} as well",
        )
    return found.id


def vm_of(found: Container) -> Resource:
    """Return the size of a container's VM, which it has or will have."""
    running = engine()
    size, usual = running.containers.records.pod_spec(found.pod_id).resource, running.config.hypervisor
    return Resource(vcpu=size.vcpu or usual.default_vcpu, memory=size.memory or usual.default_memory)


def sizes(found: Container) -> tuple[int, int]:
    """Return the bytes that its pod's writable disk takes on this host, and those of its whole root file system."""
    running = engine()
    try:
        of_image = running.images.get(found.image_id).size
    except NotFound:
        of_image = 0
    try:
        written = running.pods.scratch(found.pod_id).stat().st_blocks * 512
    except OSError:
        written = 0  # it never ran
    return written, of_image + written
