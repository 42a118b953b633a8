"""The errors of hyperd: what failed, details, what to do; the class decides the HTTP status.

HyperError                    500
+-- InvalidInput              400
+-- Unauthorized              401
+-- Forbidden                 403
+-- NotFound                  404
|   +-- ImageNotFound         404   the only 404 of /pod/create and /container/create
+-- Conflict                  409
+-- NotAlive                  412
+-- TooLarge                  413
+-- HostFault                 500
|   +-- DriverError           500
|   +-- AgentError            500
|   +-- OutOfSpace            507
+-- Cancelled                 499
+-- NotSupported              501
+-- RegistryError             502
+-- Busy                      503
+-- Timeout                   504
"""

from __future__ import annotations


class HyperError(Exception):
    """Base of every error that is meant for the caller.

    Args:
        brief: what failed, one sentence without a full stop.
        details: what was seen (a command's output, the offending value).
        resolution: what the caller can do about it.

    """

    status = 500

    def __init__(self, brief: str, *, details: str = "", resolution: str = "") -> None:
        super().__init__(brief)
        self.brief = brief
        self.details = details
        self.resolution = resolution

    def __str__(self) -> str:
        text = self.brief
        if self.details:
            text += f": {self.details}"
        if self.resolution:
            text += f" ({self.resolution})"
        return text


class InvalidInput(HyperError):
    """The request cannot be right whatever the state of the daemon."""

    status = 400


class Unauthorized(HyperError):
    """Credentials are missing or wrong."""

    status = 401


class Forbidden(HyperError):
    """The caller is known but may not do this."""

    status = 403


class NotFound(HyperError):
    """A named object does not exist."""

    status = 404


class ImageNotFound(NotFound):
    """An image is not in the store (or the registry does not have it)."""


class Conflict(HyperError):
    """The state of the object or another object forbids the operation."""

    status = 409


class NotAlive(HyperError):
    """The operation needs a running pod or container."""

    status = 412


class TooLarge(HyperError):
    """Input over a documented bound."""

    status = 413


class HostFault(HyperError):
    """The host (not the caller) is at fault."""


class DriverError(HostFault):
    """The hypervisor or libvirt refused or failed."""


class AgentError(HostFault):
    """The guest's agent refused, failed or stayed silent.

    Args:
        errno: the guest's errno, 0 when there was none.

    """

    def __init__(self, brief: str, *, errno: int = 0, details: str = "", resolution: str = "") -> None:
        super().__init__(brief, details=details, resolution=resolution)
        self.errno = errno


class OutOfSpace(HostFault):
    """No room on the host's disk."""

    status = 507


class Cancelled(HyperError):
    """The caller left or asked to stop; nobody reads the answer."""

    status = 499


class NotSupported(HyperError):
    """Asked for something that this version or host cannot do."""

    status = 501


class RegistryError(HyperError):
    """A registry is unreachable, answers nonsense or sends wrong data."""

    status = 502


class Busy(HyperError):
    """A limit of concurrent work is reached; try again."""

    status = 503


class Timeout(HyperError):
    """Something did not happen in time."""

    status = 504
