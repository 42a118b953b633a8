"""hypercloud: Shipyard's and Docker Cloud's APIs, and a web page, over one or many Docker-API engines."""

from __future__ import annotations

from importlib.metadata import version

__version__ = version("hyperd")  # one distribution, one version
