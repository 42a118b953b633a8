"""Opens the log of a container's run, and removes what a log has left on this host."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable

from hyperd.config.model import Config
from hyperd.container.logconf import LogSettings, check_receiver
from hyperd.container.process import GuestProcess
from hyperd.db.models import ContainerRow
from hyperd.errors import HostFault, NotSupported
from hyperd.stream import logformats
from hyperd.stream.linelog import LineLog
from hyperd.stream.logread import JSON, LINES_OF_TEXT, LogQuery, LogSession, log_files
from hyperd.stream.logs import JsonFileLog, LogWriter
from hyperd.stream.relay import Relay
from hyperd.stream.remotelog import RemoteLog

FORMS = {"json-file": JSON, "cri": LINES_OF_TEXT}  # of the drivers that keep a file
DROPPED = {"lines": 0}  # of all remote logs of this daemon; for its metrics


def open_log(relay: Relay, settings: LogSettings, row: ContainerRow, *, run: int) -> LogWriter | None:
    """Open the log of a run; None when nothing is kept. From a service's thread.

    Errors: OSError (json-file, cri), NotSupported (a local receiver that is not there).
    """
    if settings.driver == "none":
        return None
    check_receiver(settings)
    return relay.call(_open(relay, settings, row, run), timeout=30)


def log_session(
    relay: Relay,
    settings: LogSettings,
    query: LogQuery,
    *,
    tty: bool,
    current: Callable[[], GuestProcess | None],
) -> LogSession:
    """Return the session that sends a container's log; it goes on over restarts.

    Args:
        current: gives the container's present run, if it has one.

    Errors: NotSupported when the log cannot be read.

    """
    form = FORMS.get(settings.driver)
    if form is None:
        raise NotSupported(f"the log driver {settings.driver} cannot be read", resolution="read it where it goes")

    def live() -> LogWriter | None:
        process = current()
        if process is None or (process.hub.ended and not process.hub.keeping):
            return None
        return process.hub.log

    return LogSession(relay, settings.path, query, tty=tty, max_file=settings.max_file, live=live, form=form)


def reopen_log(relay: Relay, writer: LogWriter | None) -> None:
    """Go on in a new file where the one that is written to was moved away. Errors: NotSupported, HostFault."""
    if not isinstance(writer, LineLog):
        raise NotSupported("this log is rotated by hyperd, or has no file")
    try:
        relay.call(_reopen(writer), timeout=30)
    except OSError as error:
        raise HostFault(f"the log {writer} cannot be opened again", details=str(error)) from error


def remove_log(config: Config, settings: LogSettings) -> None:
    """Remove the files of a log, and the directory that was made for its pod when it is empty then.

    A file that others rotate is theirs to remove.
    """
    if settings.mark is not None:
        settings.mark.unlink(missing_ok=True)
    if settings.driver != "json-file":
        return
    for path in log_files(settings.path, settings.max_file):
        path.unlink(missing_ok=True)
    if config.log.directory is not None and settings.path.parent.parent == config.log.directory:
        with contextlib.suppress(OSError):
            settings.path.parent.rmdir()


async def _open(relay: Relay, settings: LogSettings, row: ContainerRow, run: int) -> LogWriter:
    address = settings.address
    if settings.mark is not None:
        settings.mark.parent.mkdir(parents=True, exist_ok=True)
        return LineLog(settings.path, mark=settings.mark, run=run)
    if address is None:
        return JsonFileLog(settings.path, run=run, max_size=settings.max_size, max_file=settings.max_file)
    origin = logformats.Origin(
        container_id=row.id,
        name=row.name,
        pod_id=row.pod_id,
        image=row.image_name,
        image_id=row.image_id,
        host=platform.node(),
    )
    tag = logformats.expand_tag(settings.tag, origin.words())
    if settings.driver == "journald":
        encode = logformats.journal(origin, tag=tag)
    elif settings.form == "rfc3164":
        local = address.kind == "unix"
        encode = logformats.syslog_3164(origin, tag=tag, facility=settings.facility, local=local)
    else:
        micro = settings.form == "rfc5424micro"
        encode = logformats.syslog_5424(origin, tag=tag, facility=settings.facility, micro=micro)
    return RemoteLog(relay, address, encode, on_dropped=_count)


async def _reopen(writer: LineLog) -> None:
    writer.reopen()


def _count(lines: int) -> None:
    DROPPED["lines"] += lines
