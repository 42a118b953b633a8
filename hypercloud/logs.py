"""Structured log: lines on standard error as logfmt, JSON or for people."""

from __future__ import annotations

import logging
import sys

import structlog


def setup(level: str, fmt: str = "logfmt") -> None:
    """Send everything at ``level`` and above to standard error; may be called again.

    Args:
        level: debug, info, warning or error.
        fmt: logfmt, json or console.

    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(fmt)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name in ("alembic", "urllib3", "docker", "sqlalchemy"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _renderers(fmt: str) -> list[structlog.typing.Processor]:
    if fmt == "json":
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
    if fmt == "console":
        return [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    return [structlog.processors.format_exc_info, _exception_last]


def _exception_last(logger: structlog.typing.WrappedLogger, name: str, event: structlog.typing.EventDict) -> str:
    """Write one line of key=value, and a traceback below it as it is."""
    trace = event.pop("exception", "")
    line = structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"], bool_as_flag=False)(
        logger, name, {key: value if value is not None else "" for key, value in event.items()}
    )
    return f"{line}\n{trace}" if trace else str(line)
