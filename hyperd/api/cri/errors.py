"""Errors of services as status codes of gRPC (numbers and meanings: grpc's ``StatusCode``)."""

from __future__ import annotations

from hyperd import errors

# By class; the nearest class of an error counts.
CODES: dict[type[errors.HyperError], str] = {
    errors.InvalidInput: "INVALID_ARGUMENT",
    errors.Unauthorized: "UNAUTHENTICATED",
    errors.Forbidden: "PERMISSION_DENIED",
    errors.NotFound: "NOT_FOUND",
    errors.Conflict: "FAILED_PRECONDITION",
    errors.NotAlive: "FAILED_PRECONDITION",
    errors.TooLarge: "RESOURCE_EXHAUSTED",
    errors.HostFault: "INTERNAL",
    errors.OutOfSpace: "RESOURCE_EXHAUSTED",
    errors.Cancelled: "CANCELLED",
    errors.NotSupported: "UNIMPLEMENTED",
    errors.RegistryError: "UNAVAILABLE",
    errors.Busy: "RESOURCE_EXHAUSTED",
    errors.Timeout: "DEADLINE_EXCEEDED",
    errors.ProgramFailed: "FAILED_PRECONDITION",
}


class AlreadyExists(errors.Conflict):
    """Another sandbox or container has this metadata."""


CODES[AlreadyExists] = "ALREADY_EXISTS"


def code_of(error: errors.HyperError) -> str:
    """Return the name of the status code of an error."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), "UNKNOWN")
