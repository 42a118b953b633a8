"""Variables that tell a container where the containers are that it has links to.

They are those of Docker's links on the default network: ``DB_NAME``, ``DB_PORT_5432_TCP_ADDR``, ``DB_ENV_USER``... for
a link with the alias ``db``. On other networks names are asked for instead.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import structlog

from hyperd.container.plan import Program
from hyperd.container.records import ContainerRecords
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError, InvalidInput, NotFound
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import DEFAULT
from hyperd.spec.model import ContainerSpec, PodSpec, parse_ports

log = structlog.get_logger(__name__)

MAX_PORTS = 256  # of one container, in variables: each port has four of them
_NOT_PASSED_ON = ("HOME", "PATH")


class Links:
    """Looks up what links say."""

    def __init__(self, *, records: ContainerRecords, images: ImageService, network: NetworkDriver) -> None:
        self._records = records
        self._images = images
        self._network = network

    def of_default_network(self, pod: PodSpec) -> list[tuple[str, str]]:
        """Return the links of a pod that are told by variables: container and alias."""
        return [link for one in pod.networks if one.network == DEFAULT for link in one.links]

    def added(self, program: Program, pod: PodSpec, name: str) -> Program:
        """Return a program of the container ``name`` with the variables of its links; its own ones win."""
        variables = self.variables(pod, name)
        return replace(program, env={**variables, **program.env}) if variables else program

    def variables(self, pod: PodSpec, name: str) -> dict[str, str]:
        """Return the variables of a container called ``name``; a link to one without an address has none."""
        found: dict[str, str] = {}
        for target, alias in self.of_default_network(pod):
            with suppress(NotFound):
                row = self._records.find(target)
                address = self._address(row.pod_id)
                if address:
                    found |= dict(self._of_link(row, name, alias, address))
        return found

    def _address(self, pod_id: str) -> str:
        own = self._network.default().bridge
        lease = next((one for one in self._network.leases(pod_id) if not one.network and one.bridge == own), None)
        return lease.cidr.partition("/")[0] if lease else ""

    def _of_link(self, row: ContainerRow, name: str, alias: str, address: str) -> Iterator[tuple[str, str]]:
        spec, pod, defaults = self._records.spec(row), self._records.pod_spec(row.pod_id), None
        with suppress(HyperError):  # its image is gone
            defaults = self._images.get(row.image_id).defaults
        ports = _ports([*spec.exposed, *_published(pod), *(defaults.exposed_ports if defaults else ())])
        if len(ports) > MAX_PORTS:
            log.warning("container.link_ports_left_out", container=name, alias=alias, ports=len(ports) - MAX_PORTS)
        inherited = dict(entry.split("=", 1) for entry in defaults.env if "=" in entry) if defaults else {}
        yield from link_variables(
            alias,
            path=f"/{name}/{alias}",
            address=address,
            ports=ports[:MAX_PORTS],
            environment=_environment(inherited, spec),
        )


def link_variables(
    alias: str, *, path: str, address: str, ports: Iterable[tuple[int, str]], environment: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Yield names and values of the variables of one link.

    Args:
        alias: its name in the container that has the link. path: ``/container/alias``.
        address, ports, environment: of the container that it leads to; ports with protocols, the lowest first.

    """
    word = alias.upper().replace("-", "_")
    for number, (port, protocol) in enumerate(ports):
        url, place = f"{protocol}://{address}:{port}", f"{word}_PORT_{port}_{protocol.upper()}"
        if number == 0:
            yield f"{word}_PORT", url
        yield place, url
        yield f"{place}_ADDR", address
        yield f"{place}_PORT", str(port)
        yield f"{place}_PROTO", protocol
    yield f"{word}_NAME", path
    for key, value in environment.items():
        if key not in _NOT_PASSED_ON:
            yield f"{word}_ENV_{key}", value


def _environment(inherited: Mapping[str, str], spec: ContainerSpec) -> dict[str, str]:
    merged = {**inherited, **dict(spec.envs)}
    return {key: value for key, value in merged.items() if key not in spec.unset_envs or key in dict(spec.envs)}


def _published(pod: PodSpec) -> list[str]:
    return [f"{port.container_port}/{port.protocol}" for port in pod.portmappings]


def _ports(texts: Iterable[str]) -> list[tuple[int, str]]:
    """Return the ports of such as ``80/tcp``, each once, the lowest first; what is no port is left out."""
    found = set()
    for text in texts:
        numbers, _, protocol = text.partition("/")
        with suppress(InvalidInput):
            found |= {(number, (protocol or "tcp").lower()) for number in parse_ports(numbers)}
    return sorted(found)
