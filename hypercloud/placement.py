"""Where a container goes. Pure functions over what is known of the engines; no fail-over, no moving later.

Two families, one for each of the old APIs:

- Shipyard's types (``choose_packed``): an engine that has room and the highest load wins, so engines fill up one after
  the other.
- Docker Cloud's strategies (``choose_spread``): among the engines with all tags, the one with the fewest containers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hypercloud.errors import InvalidInput, NoEngine

EMPTIEST_NODE = "EMPTIEST_NODE"
HIGH_AVAILABILITY = "HIGH_AVAILABILITY"
EVERY_NODE = "EVERY_NODE"
STRATEGIES = (EMPTIEST_NODE, HIGH_AVAILABILITY, EVERY_NODE)
TYPES = ("service", "unique", "multi", "host")


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What placement knows of an engine. Memory in MiB; ``used_*`` of what runs or is about to."""

    id: str
    name: str
    labels: frozenset[str]
    cpus: float
    memory: float
    used_cpus: float = 0.0
    used_memory: float = 0.0
    running: int = 0  # containers of anybody
    of_service: int = 0  # containers of the service in question
    images: frozenset[str] = frozenset()  # of the containers that run
    has_links: bool = True  # what it wants to be linked to can be reached from there


def choose_packed(
    engines: Iterable[Candidate], *, kind: str, labels: Sequence[str], image: str, cpus: float, memory: float
) -> Candidate:
    """Return the engine for a container of Shipyard.

    Args:
        engines: that answer.
        kind: service (all labels), unique (no second container of the image), multi (both), host (labels
            ``host:ENGINE``, any of them).
        labels: empty ones do not count.
        image: with its tag.
        cpus: wanted.
        memory: wanted, MiB.

    Errors: InvalidInput for another kind, NoEngine.

    """
    if kind not in TYPES:
        raise InvalidInput(f"no scheduler for type {kind[:40]}", resolution=f"types: {', '.join(TYPES)}")
    wanted = {label for label in labels if label}
    eligible = [one for one in engines if _accepts(one, kind, wanted, image)]
    if not eligible:
        raise NoEngine("no eligible engines to run image", details=f"{image}, type {kind}, labels {sorted(wanted)}")
    fitting = [one for one in eligible if one.has_links]
    if not fitting:
        raise NoEngine("no eligible engines to run image", details="the containers it is linked to are on none of them")
    best: tuple[float, Candidate] | None = None
    for one in fitting:
        score = load(one, cpus, memory)
        if score is not None and (best is None or score > best[0]):
            best = (score, one)
    if best is None:
        raise NoEngine(
            "no resources avaliable to schedule container",  # the original's spelling: clients look for it
            details=f"it wants {cpus:g} CPUs and {memory:g} MiB",
            resolution="remove containers, or add an engine",
        )
    return best[1]


def _accepts(engine: Candidate, kind: str, labels: set[str], image: str) -> bool:
    if kind == "host":
        return any(label in {f"host:{engine.name}", f"host:{engine.id}"} for label in labels)
    if kind in {"unique", "multi"} and image in engine.images:
        return False
    return kind == "unique" or labels <= engine.labels


def load(engine: Candidate, cpus: float, memory: float) -> float | None:
    """Return the percentage that an engine would be used; None when there is no room for it."""
    if engine.cpus < cpus or engine.memory < memory or not engine.cpus or not engine.memory:
        return None
    score = (
        (engine.used_cpus + cpus) / engine.cpus * 100.0 + (engine.used_memory + memory) / engine.memory * 100.0
    ) / 2
    return score if score <= 100.0 else None


def choose_spread(engines: Iterable[Candidate], *, strategy: str, tags: Iterable[str]) -> Candidate:
    """Return the engine for a container of a service.

    Args:
        engines: that answer.
        strategy: EMPTIEST_NODE or HIGH_AVAILABILITY; EVERY_NODE chooses by ``matching``.
        tags: the engine must have all of them.

    Errors: NoEngine.

    """
    found = matching(engines, tags)
    if not found:
        raise NoEngine(
            "no node has all tags of the service",
            details=", ".join(sorted(tags)) or "there is no node that answers",
            resolution="add the tags to a node, or take them off the service",
        )
    near = [one for one in found if one.has_links]
    if not near:
        raise NoEngine(
            "no node has both the tags of the service and the containers it is linked to",
            details="containers on other nodes are reached by published ports only",
            resolution="publish the linked service's ports, or give both services the same tags",
        )
    if strategy == HIGH_AVAILABILITY:
        return min(near, key=lambda one: (one.of_service, one.running, one.name))
    return min(near, key=lambda one: (one.running, one.of_service, one.name))


def with_one_more(engine: Candidate, *, running: int = 1, of_service: int = 1) -> Candidate:
    """Return an engine as it is when it has one container more, so that the next is placed by that."""
    return dataclasses.replace(engine, running=engine.running + running, of_service=engine.of_service + of_service)


def matching(engines: Iterable[Candidate], tags: Iterable[str]) -> list[Candidate]:
    """Return the engines that have all tags, by name."""
    wanted = set(tags)
    return sorted((one for one in engines if wanted <= one.labels), key=lambda one: one.name)
