"""Looking at all containers as Shipyard shows them, whichever back end they are on."""

from __future__ import annotations

from hypercloud.engine.machines import Machines
from hypercloud.engine.model import Engine, EngineContainer
from hypercloud.engine.service import capacity
from hypercloud.fleet import translate
from hypercloud.fleet.model import ClusterInfo, Container


class FleetView:
    """All containers of all machines.

    Args:
        machines: where they run.

    """

    def __init__(self, machines: Machines) -> None:
        self._machines = machines

    def containers(self) -> list[Container]:
        """Return every container, newest first."""
        engines = {one.spec.id: one for one in self._machines.engines()}
        seen = sorted(self._machines.containers(), key=lambda one: (one.created, one.id), reverse=True)
        return [described(one, engines[one.engine]) for one in seen if one.engine in engines]

    def container(self, prefix: str) -> Container:
        """Return a container by the beginning of its id, or its name. Errors: NotFound, Conflict."""
        seen = self._machines.container(prefix)
        return described(seen, self._machines.engine(seen.engine))

    def info(self) -> ClusterInfo:
        """Return the sums over all engines that answer; every registered one is counted."""
        engines = self._machines.engines()
        up = [one for one in engines if one.up]
        running = [one for one in self._machines.containers() if one.running]
        cpus = {one.spec.id: capacity(one)[0] for one in up}
        return ClusterInfo(
            cpus=sum(cpus.values()),
            memory=sum(capacity(one)[1] for one in up),
            reserved_cpus=sum(translate.cpus_of(one, cpus.get(one.engine, 0.0)) for one in running),
            reserved_memory=sum(translate.memory_of(one) for one in running),
            container_count=len(running),
            image_count=sum(one.facts.images for one in up),
            engine_count=len(engines),
        )

    def logs(self, prefix: str) -> bytes:
        """Return what a container has written so far. Errors: NotFound, EngineError."""
        return self._machines.logs(self._machines.container(prefix))


def described(seen: EngineContainer, engine: Engine) -> Container:
    """Return a container with its machine and what it was made from."""
    return Container(engine=engine, seen=seen, image=translate.image_of(seen, capacity(engine)[0]))
