"""The errors of hypercloud: what failed, details, what to do. Each dialect has its own table of statuses by class.

CloudError
+-- InvalidInput       the request cannot be right whatever the state
+-- UnsupportedMedia   the body is no JSON, or another kind was asked for
+-- Unauthorized       credentials are missing or wrong
+-- Forbidden          the caller is known but may not do this
+-- NotFound           a named object does not exist
+-- Conflict           the state of the object or another object forbids the operation
+-- TooManyRequests    too many attempts; wait
+-- NotSupported       cannot be had here
+-- NoEngine           no engine can take the container
+-- EngineError        an engine refused or failed
|   +-- EngineUnreachable   it does not answer
+-- HostFault          this machine (not the caller) is at fault
"""

from __future__ import annotations


class CloudError(Exception):
    """Base of every error that is meant for the caller.

    Args:
        brief: what failed, one sentence without a full stop.
        details: what was seen (an engine's answer, the offending value).
        resolution: what the caller can do about it.

    """

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


class InvalidInput(CloudError):
    """The request cannot be right whatever the state."""


class UnsupportedMedia(CloudError):
    """The body is no JSON, or an answer of another kind is asked for."""


class Unauthorized(CloudError):
    """Credentials are missing or wrong."""


class Forbidden(CloudError):
    """The caller is known but may not do this."""


class NotFound(CloudError):
    """A named object does not exist."""


class Conflict(CloudError):
    """The state of the object or another object forbids the operation."""


class TooManyRequests(CloudError):
    """Too many attempts; the caller must wait.

    Args:
        after: seconds to wait.

    """

    def __init__(self, brief: str, *, after: float, details: str = "", resolution: str = "") -> None:
        super().__init__(brief, details=details, resolution=resolution)
        self.after = after


class NotSupported(CloudError):
    """Asked for something that cannot be had here."""


class NoEngine(CloudError):
    """No engine can take the container."""


class EngineError(CloudError):
    """An engine refused or failed."""


class EngineUnreachable(EngineError):
    """An engine does not answer."""


class HostFault(CloudError):
    """This machine (not the caller) is at fault."""
