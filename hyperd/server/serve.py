"""The running daemon: lock, sockets, engine, and gunicorn's ``gthread`` worker in this very process.

There is no arbiter process above the worker. It would cost 25 MB, survive as a second thing to kill, and bring a daemon
whose engine cannot start back again for ever; restarting is the service manager's job (``Restart=always``), and every
state is made to survive it. So ``kill -9`` of the daemon is one kill, and libvirt, threads and children belong to the
process whose id was written into the lock file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import IO, TYPE_CHECKING, Any

import structlog
from gunicorn.config import Config as GunicornConfig
from gunicorn.http import message as gunicorn_message
from gunicorn.http import wsgi as gunicorn_wsgi

from hyperd import __version__
from hyperd.app import Dispatcher, create_cri
from hyperd.config.model import Config, TlsConfig
from hyperd.config.reload import merge
from hyperd.errors import Conflict, HostFault, HyperError
from hyperd.server import logging, memory, tls
from hyperd.server.limits import connection_limits, raise_file_limit
from hyperd.server.listeners import Dialect, Listeners, unix_place
from hyperd.server.notify import READY, STOPPING, Notifier
from hyperd.server.worker import Worker

if TYPE_CHECKING:
    from hyperd.engine import Engine

log = structlog.get_logger(__name__)

LOCK = "hyperd.pid"
# Names of the sockets behind TLS, below the directory of the VMs' sockets, which only the daemon may enter.
TLS_SOCKETS = {Dialect.HYPER: "tls.sock", Dialect.DOCKER: "tls-docker.sock"}
KEEPALIVE = 75  # seconds; clients keep one connection open between commands
GRACEFUL_TIMEOUT = 10  # seconds that requests under way have at SIGTERM; taken-over streams are not waited for
MAX_REQUEST_LINE = 2**20  # bytes: /pod/create?podArgs= carries a whole pod
HEAVY = {("vm", "gone"), ("image", "pull"), ("image", "push"), ("image", "load")}  # events; builds have VMs, too
MAX_HEADER = 2**16  # bytes: X-Registry-Config carries a table of credentials


def settings(config: Config) -> GunicornConfig:
    """Make gunicorn's settings; see design section 7 for the reasons."""
    cfg = GunicornConfig()
    for key, value in {
        "worker_class": "gthread",
        "workers": 1,
        "threads": config.threads,
        "keepalive": KEEPALIVE,
        "timeout": 0,
        "graceful_timeout": GRACEFUL_TIMEOUT,
        "max_requests": 0,
        "preload_app": False,
        "control_socket_disable": True,
        "limit_request_line": MAX_REQUEST_LINE,
        "limit_request_field_size": MAX_HEADER,
    }.items():
        cfg.set(key, value)
    # Two constants that gunicorn has no setting for.
    gunicorn_message.MAX_REQUEST_LINE = MAX_REQUEST_LINE
    gunicorn_wsgi.SERVER = f"hyperd/{__version__}"
    return cfg


@contextlib.contextmanager
def root_lock(root: Path) -> Iterator[None]:
    """Hold the root directory for this process; the kernel lets it go when the process dies, however it dies.

    Errors: Conflict that names the other daemon; HostFault when the directory cannot be had.
    """
    try:
        if not root.is_dir():
            root.mkdir(parents=True, exist_ok=True)
            root.chmod(0o711)  # a socket may be configured to lie there
        file: IO[str] = (root / LOCK).open("a+")
    except OSError as error:
        raise HostFault(f"cannot use the root directory {root}", details=str(error)) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            raise Conflict(
                f"another hyperd (process {owner}) uses the root directory {root}",
                resolution="stop it, or choose another --root",
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
        file.truncate(0)


def serve(
    config: Config,
    make_engine: Callable[[Config], Engine],
    *,
    reload: Callable[[], tuple[Config, list[str]]] | None = None,
) -> None:
    """Run the daemon until a signal ends it; what happens to the VMs then says ``config.on_exit``.

    Args:
        config: checked.
        make_engine: makes the engine, which is opened and closed here.
        reload: reads the configuration again, at SIGHUP.

    Errors: HyperError when it cannot start; nothing stays then.

    """
    limits = connection_limits(raise_file_limit())
    notifier = Notifier()
    with root_lock(config.root), contextlib.ExitStack() as stack:
        asked_to_end = exit_on_signals()
        context = tls.make_context(config.tls) if config.tls.on else None
        if context is not None and not config.tls.verify:
            log.warning("server.unverified", reason="TLS without verify: no authentication of clients")
        listeners = Listeners()
        stack.callback(listeners.close)
        _listen(listeners, config)
        cri_place = unix_place(config.cri.address, group=config.socket_group) if config.cri.address else None
        engine = make_engine(config)
        stack.callback(engine.close)
        engine.open()
        _trim_after_bursts(engine, stack)
        front = tls.TlsFront(context, descriptors=limits.remote) if context is not None else None
        if front is not None:
            stack.callback(front.close)
            front.open(listeners.fronted)
        cfg = settings(config)
        app = Dispatcher(engine, docker=bool(config.docker_hosts))
        reloader = Reloader(engine, notifier, reload, front)
        worker = Worker(listeners.served, app, cfg, limits=limits, on_hangup=reloader.ask)
        cri = None
        if cri_place is not None:
            secure = _streams_by_tls(config, stack)
            cri = create_cri(engine, cri_place[0], mode=config.socket_mode, gid=cri_place[1], secure=secure)
            stack.callback(cri.close)
            cri.open()
        memory.settle()
        if asked_to_end.is_set():
            return
        log.info("server.ready", version=__version__, pid=os.getpid(), root=str(config.root))
        notifier.tell(READY)
        worker.init_process()
        notifier.tell(STOPPING)
        if cri is not None:
            cri.close()  # kubelet would start again what is stopped below
        log.info("server.stopping", threads=threading.active_count(), on_exit=engine.config.on_exit)
        if engine.config.on_exit == "stop":
            engine.stop_pods()


def _streams_by_tls(config: Config, stack: contextlib.ExitStack) -> Callable[[socket.socket, Path], None] | None:
    """Return what puts TLS before the CRI's streams; None = nothing does. Errors: InvalidInput."""
    if config.cri.stream_cert is None:
        return None
    front = tls.TlsFront(tls.make_context(TlsConfig(cert=config.cri.stream_cert, key=config.cri.stream_key)))
    stack.callback(front.close)
    return lambda sock, inner: front.open([(sock, inner)])


def _listen(listeners: Listeners, config: Config) -> None:
    """Bind the sockets of every dialect. Errors: as ``Listeners.open``."""
    for dialect, hosts in ((Dialect.HYPER, config.hosts), (Dialect.DOCKER, config.docker_hosts)):
        if hosts:
            inner = config.run / TLS_SOCKETS[dialect] if config.tls.on else None
            listeners.open(hosts, mode=config.socket_mode, group=config.socket_group, inner=inner, dialect=dialect)


def _trim_after_bursts(engine: Engine, stack: contextlib.ExitStack) -> None:
    """Give memory back to the kernel some seconds after something has ended that takes much of it."""
    trimmer = memory.Trimmer()
    stack.callback(trimmer.close)
    engine.events.subscribe(lambda event: trimmer.ask() if (event.type, event.action) in HEAVY else None)


class Reloader:
    """Reads the configuration again in a thread of its own, one time after the other.

    Args:
        engine: takes over what can be taken over.
        notifier: is told.
        load: reads the configuration; None = there is nothing to read.
        front: TLS, whose files are read again.

    """

    def __init__(
        self,
        engine: Engine,
        notifier: Notifier,
        load: Callable[[], tuple[Config, list[str]]] | None,
        front: tls.TlsFront | None,
    ) -> None:
        self._engine = engine
        self._notifier = notifier
        self._load = load
        self._front = front
        self._asked: SimpleQueue[None] = SimpleQueue()  # safe to use in a signal handler
        threading.Thread(target=self._run, name="reload", daemon=True).start()

    def ask(self) -> None:
        """Ask for a reload; returns at once."""
        self._asked.put(None)

    def _run(self) -> None:
        while True:
            self._asked.get()
            self._notifier.reloading()
            try:
                self.reload()
            except HyperError as error:
                log.error("config.refused", error=str(error), resolution="the old configuration stays")
            except Exception:
                log.exception("config.reload_failed")
            self._notifier.tell(READY)

    def reload(self) -> None:
        """Read the configuration and take over what can be. Errors: InvalidInput; then nothing has changed."""
        if self._load is None:
            return
        new, warnings = self._load()
        context = tls.make_context(self._engine.config.tls) if self._front is not None else None
        for warning in warnings:
            log.warning("config.ignored", reason=warning)
        config, changed, waiting = merge(self._engine.config, new)
        self._engine.reconfigure(config)
        if self._front is not None and context is not None:
            self._front.context = context
        logging.setup(config.log_level, config.log_format)
        log.info("config.reloaded", changed=changed)
        if waiting:
            log.warning("config.needs_restart", keys=waiting)


def exit_on_signals() -> threading.Event:
    """Let a signal during the start unwind it; the worker brings its own handlers.

    Return what is set when one came. Python drops an exception of a handler that runs while an object is finalized: who
    goes on must look.
    """
    asked = threading.Event()

    def leave(_number: int, _frame: Any) -> None:
        asked.set()
        raise SystemExit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # there is nothing to reload yet
    return asked
