"""The errors of hyperd: what failed, details, what to do. What a class means to a client decides the API's dialect.

HyperError
+-- InvalidInput
+-- Unauthorized
+-- Forbidden
+-- NotFound
|   +-- ImageNotFound
+-- Conflict
+-- NotAlive
+-- TooLarge
+-- HostFault
|   +-- DriverError
|   +-- AgentError
|   +-- OutOfSpace
+-- Cancelled
+-- NotSupported
+-- RegistryError
+-- Busy
+-- Timeout
+-- ProgramFailed
"""

from __future__ import annotations


class HyperError(Exception):
    """Base of every error that is meant for the caller.

    Args:
        brief: what failed, one sentence without a full stop.
        details: what was seen (a command's output, the offending value).
        resolution: what the caller can do about it.
        kind, name: the object that it is about, such as ``container`` and ``web-1``; empty where there is none.

    """

    def __init__(self, brief: str, *, details: str = "", resolution: str = "", kind: str = "", name: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution
        self.kind = kind
        self.name = name

    def __str__(self) -> str:
        text = self.brief
        if self.details:
            text += f": {self.details}"
        if self.resolution:
            text += f" ({self.resolution})"
        return text


class InvalidInput(HyperError):
    """The request cannot be right whatever the state of the daemon."""


class Unauthorized(HyperError):
    """Credentials are missing or wrong."""


class Forbidden(HyperError):
    """The caller is known but may not do this."""


class NotFound(HyperError):
    """A named object does not exist."""


class ImageNotFound(NotFound):
    """An image is not in the store (or the registry does not have it)."""


class Conflict(HyperError):
    """The state of the object or another object forbids the operation."""


class NotAlive(HyperError):
    """The operation needs a running pod or container."""


class TooLarge(HyperError):
    """Input over a documented bound."""


class HostFault(HyperError):
    """The host (not the caller) is at fault."""


class DriverError(HostFault):
    """The hypervisor or libvirt refused or failed."""


class AgentError(HostFault):
    """The guest's agent refused, failed or stayed silent.

    Args:
        errno: the guest's errno, 0 when there was none.

    """

    def __init__(self, brief: str, *, errno: int = 0, **more: str) -> None:
        super().__init__(brief, **more)
        self.errno = errno


class OutOfSpace(HostFault):
    """No room on the host's disk."""


class Cancelled(HyperError):
    """The caller left or asked to stop; nobody reads the answer."""


class NotSupported(HyperError):
    """Asked for something that this version or host cannot do."""


class RegistryError(HyperError):
    """A registry is unreachable, answers nonsense or sends wrong data."""


class Busy(HyperError):
    """A limit of concurrent work is reached; try again."""


class Timeout(HyperError):
    """Something did not happen in time."""


class ProgramFailed(HyperError):
    """A program that was run for the caller has ended with another code than 0.

    Args:
        code: its exit code.

    """

    def __init__(self, brief: str, *, code: int = 1, **more: str) -> None:
        super().__init__(brief, **more)
        self.code = code
