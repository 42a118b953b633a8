"""What a back end does for services: the half of it that carries out, beside ``hypercloud.engine.machines``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from hypercloud.workload.deployer import Job
from hypercloud.workload.model import ServiceSpec

Handler = Callable[[str, str, dict[str, Any], Job], None]  # verb, target, arguments, job


class Carrier(Protocol):
    """Carries out operations. Everything may be cut off at any point and begun again from the top."""

    def check(self, spec: ServiceSpec) -> None:
        """Refuse a service that this back end cannot have. Errors: Conflict, which says why."""

    def check_container(self, operation: str) -> None:
        """Refuse an operation on one container that this back end does not have. Errors: NotSupported."""

    def check_node(self, operation: str) -> None:
        """Refuse an operation on a node that this back end does not have. Errors: NotSupported."""

    def run(self, operation: str, target: str, arguments: dict[str, Any], job: Job) -> None:
        """Carry out an operation, such as ``service.start``, on an object. Errors: CloudError; Canceled."""

    def settle(self, action: str, operation: str, target: str, arguments: dict[str, Any]) -> None:
        """Let states follow from the parts again, however the operation of an action ended."""


def dispatch(handlers: Mapping[str, Handler], operation: str, target: str, arguments: dict[str, Any], job: Job) -> None:
    """Let the handler of a kind of object carry out an operation, such as ``service.start``. Errors: the handler's."""
    kind, _, verb = operation.partition(".")
    handlers[kind](verb, target, arguments, job)
