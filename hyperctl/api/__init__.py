"""The Python client of hyperd: ``from hyperctl.api import Client`` (docs/python.md).

What it needs is loaded when it is asked for: hyperctl imports this package with every command.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyperctl.api.client import Client
    from hyperctl.api.errors import (
        ApiError,
        CannotConnect,
        ConnectionLost,
        HyperctlError,
        NotFound,
        OperationFailed,
        ProgressError,
        ProtocolError,
        Unauthorized,
        UsageProblem,
    )
    from hyperctl.api.tls import TlsOptions

__all__ = [
    "ApiError",
    "CannotConnect",
    "Client",
    "ConnectionLost",
    "HyperctlError",
    "NotFound",
    "OperationFailed",
    "ProgressError",
    "ProtocolError",
    "TlsOptions",
    "Unauthorized",
    "UsageProblem",
]
_PLACES = {"Client": "client", "TlsOptions": "tls"}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES.get(name, 'errors')}"), name)
