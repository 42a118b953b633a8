"""Running, scaling, stopping and redeploying containers over all engines."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import structlog

from hypercloud import placement
from hypercloud.engine.model import Engine, EngineContainer, EngineSpec, with_tag
from hypercloud.engine.monitor import EngineObserver
from hypercloud.engine.service import EngineService, capacity
from hypercloud.errors import CloudError, Forbidden, InvalidInput, NotFound
from hypercloud.event.bus import Record
from hypercloud.event.journal import Journal
from hypercloud.fleet import translate
from hypercloud.fleet.model import ClusterInfo, Container, Image
from hypercloud.fleet.view import FleetView, described

log = structlog.get_logger(__name__)

NEXT = ".hypercloud-next"  # ends the name of a container that is about to take another's place
REPLACES = "io.hypercloud.replaces"
SERVICES = "io.hypercloud.container"  # label of containers that belong to a service
LARGEST = 1000  # containers that one call may ask for
WORKERS = 8


class FleetService(EngineObserver):
    """All containers of all engines; see ``hypercloud.fleet.contract.Fleet``.

    Args:
        engines: where they run.
        journal: is told of deployments.

    """

    def __init__(self, engines: EngineService, journal: Journal) -> None:
        self._engines = engines
        self._view = FleetView(engines)
        self._journal = journal
        self._lock = threading.Lock()
        self._pending: dict[int, tuple[str, Image]] = {}  # placed, but not running yet
        self._numbers = itertools.count()
        engines.observe(self)

    # -- looking -----------------------------------------------------------------------------------------------------

    def containers(self) -> list[Container]:
        """Return every container, newest first."""
        return self._view.containers()

    def container(self, prefix: str) -> Container:
        """Return a container by the beginning of its id, or its name. Errors: NotFound, Conflict."""
        return self._view.container(prefix)

    def info(self) -> ClusterInfo:
        """Return the sums over all engines that answer; every registered one is counted."""
        return self._view.info()

    def logs(self, prefix: str) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""
        return self._view.logs(prefix)

    # -- running -----------------------------------------------------------------------------------------------------

    def deploy(self, image: Image, *, count: int = 1, pull: bool = False) -> list[Container]:
        """Run containers; with an error none of them stays.

        Args:
            image: what to run.
            count: how many.
            pull: ask the registry for a newer image even when the engine has one.

        Errors: InvalidInput, NoEngine, EngineError, Conflict for a name or port in use.

        """
        _check_count(count)
        if count > 1 and image.container_name:
            raise InvalidInput("container_name is for one container", details=f"count is {count}")
        with ThreadPoolExecutor(min(count, WORKERS)) as pool:
            jobs = [pool.submit(self._run, image, pull) for _ in range(count)]
        errors = [error for job in jobs if (error := job.exception()) is not None]
        made = [job.result() for job in jobs if job.exception() is None]
        if errors:
            for one in made:
                with contextlib.suppress(CloudError):
                    self._engines.client(one.engine.spec.id).remove(one.seen.id)
            raise errors[0]
        return made

    def run_labelled(self, image: Image, labels: dict[str, str]) -> Container:
        """Run one container with labels of ours. Errors: as deploy."""
        return self._run(image, False, labels)

    def _run(self, image: Image, pull: bool, labels: dict[str, str] | None = None) -> Container:
        with self._placed(image) as engine:
            if pull:
                _pull(self._engines, engine, image.name)
            created = self._create(engine, image, image.container_name or None, labels)
            try:
                self._engines.client(engine.spec.id).start(created)
                seen = self._engines.monitor(engine.spec.id).refresh(created)
            except CloudError:
                with contextlib.suppress(CloudError):
                    self._engines.client(engine.spec.id).remove(created)
                raise
        if seen is None:
            raise NotFound("the container is gone already", details=created)
        return described(seen, engine)

    def _create(self, engine: Engine, image: Image, name: str | None, labels: dict[str, str] | None = None) -> str:
        client = self._engines.client(engine.spec.id)
        body = translate.description(image, capacity(engine)[0], labels)
        try:
            return client.create(body, name)
        except NotFound:  # the image
            _pull(self._engines, engine, image.name)
            return client.create(body, name)

    @contextlib.contextmanager
    def _placed(self, image: Image) -> Iterator[Engine]:
        """Choose an engine, and count the container as running there from now on."""
        number = next(self._numbers)
        with self._lock:
            chosen = placement.choose_packed(
                self._candidates(image),
                kind=image.type,
                labels=image.labels,
                image=with_tag(image.name),
                cpus=image.cpus,
                memory=image.memory,
            )
            self._pending[number] = (chosen.id, image)
        try:
            yield self._engines.engine(chosen.id)
        finally:
            with self._lock:
                self._pending.pop(number, None)

    def _candidates(self, image: Image) -> list[placement.Candidate]:
        found = []
        containers = self._engines.containers()
        for engine in self._engines.engines():
            if not engine.up:
                continue
            cpus, memory = capacity(engine)
            here = [one for one in containers if one.engine == engine.spec.id]
            running = [one for one in here if one.running]
            coming = [what for where, what in self._pending.values() if where == engine.spec.id]
            names = {one.name for one in here} | {one.id for one in here}
            found.append(
                placement.Candidate(
                    id=engine.spec.id,
                    name=engine.spec.name,
                    labels=frozenset(engine.spec.labels),
                    cpus=cpus,
                    memory=memory,
                    used_cpus=sum(translate.cpus_of(one, cpus) for one in running) + sum(one.cpus for one in coming),
                    used_memory=sum(translate.memory_of(one) for one in running) + sum(one.memory for one in coming),
                    running=len(running) + len(coming),
                    images=frozenset(with_tag(one.image) for one in running) | {with_tag(one.name) for one in coming},
                    has_links=all(name in names for name in image.links),
                )
            )
        return found

    # -- changing ----------------------------------------------------------------------------------------------------

    def start(self, prefix: str) -> None:
        """Start a stopped container."""
        self._with(prefix, lambda engine, one: self._engines.client(engine).start(one))

    def stop(self, prefix: str) -> None:
        """Stop a container: 8 seconds between SIGTERM and SIGKILL, as the original."""
        self._with(prefix, lambda engine, one: self._engines.client(engine).stop(one, timeout=8))

    def restart(self, prefix: str) -> None:
        """Stop and start a container."""
        self._with(prefix, lambda engine, one: self._engines.client(engine).restart(one, timeout=10))

    def remove(self, prefix: str) -> None:
        """Kill and remove a container with its volumes."""
        self._with(prefix, lambda engine, one: self._engines.client(engine).remove(one))

    def _with(self, prefix: str, change: Callable[[str, str], None]) -> None:
        seen = self._engines.container(prefix)
        change(seen.engine, seen.id)
        self._engines.monitor(seen.engine).refresh(seen.id)

    def scale(self, prefix: str, count: int) -> None:
        """Have as many containers like this one: same image, memory, number of arguments and type.

        Errors: InvalidInput, NotFound; of running more: as deploy.
        """
        _check_count(count, least=0)
        model = self.container(prefix)
        same = [one for one in self.containers() if _like(one, model)]
        for one in same[: max(0, len(same) - count)]:
            self.remove(one.seen.id)
        missing = count - len(same)
        if missing <= 0:
            return
        image = dataclasses.replace(
            model.image,
            hostname="",
            container_name="",
            bind_ports=tuple(dataclasses.replace(port, port=0) for port in model.image.bind_ports),
        )
        if image.volumes or image.links:
            image = dataclasses.replace(image, type="host", labels=(f"host:{model.engine.spec.name}",))
        self.deploy(image, count=missing)

    def redeploy(self, image: str) -> list[str]:
        """Pull an image where containers of it run, and replace each of them on its engine; return their ids.

        Containers of services are left alone: those say themselves whether they follow their image.

        Errors: EngineError; containers that were not reached yet stay as they are.
        """
        wanted = [
            one
            for one in self.containers()
            if one.seen.running and image in one.seen.image and SERVICES not in one.seen.labels
        ]
        pulled: set[tuple[str, str]] = set()
        made = []
        for one in wanted:
            key = (one.engine.spec.id, one.seen.image)
            if key not in pulled:
                _pull(self._engines, one.engine, one.seen.image)
                pulled.add(key)
            made.append(self._replace(one))
        self._journal.add(Record(type="deploy", tags=("deploy",), image=image, message=f"{len(made)} containers"))
        return made

    def _replace(self, old: Container) -> str:
        """Make the successor first: if this process dies, on_inventory finishes what was begun."""
        client = self._engines.client(old.engine.spec.id)
        image = dataclasses.replace(
            old.image, hostname="" if old.image.hostname == old.seen.id[:12] else old.image.hostname
        )
        with contextlib.suppress(NotFound):
            client.remove(client.inspect(old.seen.name + NEXT).id)
        extra = {key: value for key, value in old.seen.labels.items() if key == translate.EXTENSION}
        successor = self._create(old.engine, image, old.seen.name + NEXT, {REPLACES: old.seen.id, **extra})
        self._finish(old.engine.spec.id, successor, old.seen.id, old.seen.name)
        return successor

    def _finish(self, engine: str, successor: str, old: str, name: str) -> None:
        client = self._engines.client(engine)
        client.remove(old)
        client.rename(successor, name)
        client.start(successor)
        for one in (old, successor):
            self._engines.monitor(engine).refresh(one)

    def on_inventory(
        self,
        engine: EngineSpec,
        containers: Mapping[str, EngineContainer],
        unknown: Collection[str],  # noqa: ARG002 - an EngineObserver
    ) -> None:
        """Finish replacements that were under way when this program ended."""
        unfinished = [one for one in containers.values() if one.name.endswith(NEXT) and REPLACES in one.labels]
        for one in unfinished:
            try:
                self._finish(engine.id, one.id, one.labels[REPLACES], one.name.removesuffix(NEXT))
            except CloudError as error:
                log.error("fleet.unfinished", container=one.id, error=str(error))


def _pull(engines: EngineService, engine: Engine, image: str) -> None:
    for _ in engines.client(engine.spec.id).pull(with_tag(image)):
        pass


def _like(one: Container, model: Container) -> bool:
    """Say whether scaling counts a container as another of the same kind."""
    return (
        with_tag(model.image.name) in with_tag(one.image.name)
        and one.image.memory == model.image.memory
        and len(one.image.args) == len(model.image.args)
        and one.image.type in {model.image.type, "host"}
    )


def check_host_access(image: Image) -> None:
    """Refuse what reaches into the engine's host: engines are shared by all accounts. Errors: Forbidden."""
    if any(":" in volume for volume in image.volumes) or image.network_mode not in {"", "default", "bridge", "none"}:
        raise Forbidden(
            "only administrators may give a container access to its engine's host",
            details="volumes of the host, or its network",
            resolution="[engines] user_host_access of the configuration allows it to everybody",
        )


def _check_count(count: int, least: int = 1) -> None:
    if not least <= count <= LARGEST:
        raise InvalidInput(f"count must be from {least} to {LARGEST}", details=f"it is {count}")
