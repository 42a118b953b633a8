"""The running server: gunicorn with one worker process and many threads.

One worker, because the inventory, the reconciler and the bus live in the process. The process above it is gunicorn's
own: it restarts a worker that died, which is harmless, because everything that matters is in the database.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from hypercloud import __version__, logs
from hypercloud.config.model import Config
from hypercloud.errors import CloudError, Conflict, HostFault
from hypercloud.worker import Worker

if TYPE_CHECKING:
    from flask import Flask

    from hypercloud.cloud import Cloud

log = structlog.get_logger(__name__)

LOCK = "hypercloud.pid"


class _Log(Logger):
    """gunicorn's messages through our own log; requests are logged by the application."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers[:] = []
        self.error_log.propagate = True
        self.error_log.setLevel("WARNING")


class _Application(BaseApplication):
    """gunicorn around our application.

    Args:
        config: checked.
        first_start: the local engine is added then.

    """

    def __init__(self, config: Config, *, first_start: bool) -> None:
        self._config = config
        self._first_start = first_start
        self._cloud: Cloud | None = None
        super().__init__()

    def init(self, parser: Any, opts: Any, args: Any) -> None:
        """Have no command line of gunicorn's."""

    def load_config(self) -> None:
        tls = self._config.tls
        settings = {
            "bind": [_bind(host) for host in self._config.hosts],
            "worker_class": Worker,
            "workers": 1,
            "threads": self._config.threads,
            "worker_connections": 4096,
            "keepalive": 75,
            "timeout": 60,
            "graceful_timeout": 3,
            "umask": 0o117,
            "logger_class": _Log,
            "control_socket_disable": True,
            "limit_request_line": 8190,
            "worker_exit": lambda _server, _worker: self._leave(),
            "when_ready": lambda _server: log.info("server.ready", version=__version__, hosts=list(self._config.hosts)),
        }
        if tls.cert is not None and tls.key is not None:
            settings |= {"certfile": str(tls.cert), "keyfile": str(tls.key)}
        for key, value in settings.items():
            self.cfg.set(key, value)

    def load(self) -> Flask:
        """Make the application, in the worker."""
        from hypercloud.app import create_app
        from hypercloud.cloud import Cloud

        logs.setup(self._config.log_level, self._config.log_format)
        self._cloud = Cloud(self._config)
        self._cloud.open(first_start=self._first_start)
        return create_app(self._cloud)

    def _leave(self) -> None:
        if self._cloud is not None:
            self._cloud.close()


def _bind(host: str) -> str:
    return f"unix:{host.removeprefix('unix://')}" if host.startswith("unix://") else host.removeprefix("tcp://")


@contextlib.contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Hold the root directory; the kernel lets it go when all our processes are dead, however they died.

    Errors: Conflict that names the other server; HostFault when the directory cannot be had.
    """
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        file: IO[str] = (root / LOCK).open("a+")
    except OSError as error:
        raise HostFault(f"cannot use the root directory {root}", details=str(error)) from error
    with file:
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            raise Conflict(
                f"another hypercloud (process {owner}) uses the root directory {root}",
                resolution="stop it, or choose another --root",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.truncate(0)


def serve(config: Config) -> int:
    """Run the server until a signal ends it; return the exit code. Errors: CloudError when it cannot start."""
    with root_lock(config.root):
        first_start = _prepare(config)
        try:
            _Application(config, first_start=first_start).run()
        except SystemExit as stop:
            return stop.code if isinstance(stop.code, int) else 0
    return 0


def _prepare(config: Config) -> bool:
    """Bring the database up to date before there is a worker; say whether this is the first start.

    It is done by a child: what it imports would stay in the memory of gunicorn's own process, 30 MB for nothing.
    Errors: HostFault with the child's reason.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            found = _prepared(config)
        except BaseException as error:
            found = {"error": f"the database cannot be prepared: {type(error).__name__}: {error}"}
        with os.fdopen(writing, "w", encoding="utf-8") as pipe:
            json.dump(found, pipe)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, encoding="utf-8") as pipe:
        text = pipe.read()
    os.waitpid(child, 0)
    found = json.loads(text or '{"error": "the database cannot be prepared: the process for it died"}')
    if "error" in found:
        raise HostFault(str(found["error"]))
    if found["password"] is not None:
        click.echo(f"hypercloud: first start. Account admin, password {found['password']} (it is not shown again)")
    return found["password"] is not None


def _prepared(config: Config) -> dict[str, str | None]:
    """Prepare the database; return the new password, or the reason why not."""
    from hypercloud.cloud import Cloud

    try:
        cloud = Cloud(config)
        try:
            return {"password": cloud.prepare()}
        finally:
            cloud.database.close()
    except CloudError as error:
        return {"error": str(error)}
