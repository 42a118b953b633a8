"""The errors of the client; every one ends hyperctl with status 255 unless it says otherwise.

HyperctlError
+-- UsageProblem       the command line or a file of the user cannot be right
+-- CannotConnect      nobody listens
+-- ConnectionLost     the daemon went away in the middle of an answer
+-- ProtocolError      what arrived is not what the protocol allows
+-- ApiError           an answer with status 400 or above
|   +-- NotFound       404
|   +-- Unauthorized   401
+-- ProgressError      an error line inside a progress stream of status 200
+-- OperationFailed    an answer of status 200 whose Code says that it failed
Left                   a signal told hyperctl to go (status 128 + its number)
"""

from __future__ import annotations


class HyperctlError(Exception):
    """Base of every error that is meant for the user; its text is the message."""

    exit_status = 255


class Left(BaseException):
    """A signal told hyperctl to go; not an Exception, so that only clean-up code sees it.

    Args:
        number: the signal.

    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_status = 128 + number


class UsageProblem(HyperctlError):
    """The command line, or a file it names, cannot be right whatever the daemon says."""


class CannotConnect(HyperctlError):
    """The daemon's socket does not answer."""


class ConnectionLost(HyperctlError):
    """The connection ended before the answer was complete."""


class ProtocolError(HyperctlError):
    """The other side does not speak HTTP/1.1, JSON or stdcopy frames where it must."""


class ApiError(HyperctlError):
    """An answer of the daemon with status 400 or above.

    Args:
        status: the HTTP status.
        reason: the words beside it in the status line.
        body: the text of the answer.
        target: path and query that were asked for.

    """

    def __init__(self, *, status: int, reason: str, body: str, target: str) -> None:
        self.status = status
        self.explanation = body.strip()
        if self.explanation:
            text = f"Error from daemon's response: {_in_words(self.explanation)}"
        else:
            text = (
                f"Error: request returned {reason or status} for API route and version {target}, "
                "check if the server supports the requested API version"
            )
        super().__init__(text)


# The daemon's words for what is not there, which are the original's, and what to do about it.
_MISSING = (
    ("The pod(", ") can not be found, please create it first", "no pod {}: 'hyperctl list' shows those there are"),
    ("Can not find container by name(", ")", "no container {}: 'hyperctl ps' shows those there are"),
)


def _in_words(explanation: str) -> str:
    """Return what the daemon says; of a pod or a container that is not there, what can be done."""
    for start, end, message in _MISSING:
        if explanation.startswith(start) and explanation.endswith(end):
            return message.format(explanation[len(start) : -len(end)])
    return explanation


class NotFound(ApiError):
    """Status 404."""


class Unauthorized(ApiError):
    """Status 401."""


class ProgressError(HyperctlError):
    """A pull, push, build or load that failed after its answer had begun.

    Args:
        message: the daemon's words.
        code: `errorDetail.code` of the line, 0 when it has none.

    """

    def __init__(self, message: str, *, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class OperationFailed(HyperctlError):
    """The daemon's `Code` is not zero.

    Args:
        code: the daemon's `Code`.
        cause: the daemon's `Cause`.

    """

    def __init__(self, *, code: int, cause: str) -> None:
        super().__init__(f"Error code is {code}, cause is {cause}")
        self.code = code
        self.cause = cause


def api_error(*, status: int, reason: str, body: str, target: str) -> ApiError:
    """Return the class of error that belongs to an HTTP status."""
    kind = {401: Unauthorized, 404: NotFound}.get(status, ApiError)
    return kind(status=status, reason=reason, body=body, target=target)
