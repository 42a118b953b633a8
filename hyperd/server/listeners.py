"""The daemon's listening sockets: ``unix://PATH``, ``tcp://HOST:PORT``, ``fd://`` (from systemd)."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import structlog

from hyperd.errors import Conflict, HostFault, InvalidInput

log = structlog.get_logger(__name__)

BACKLOG = 2048
FIRST_FD = 3  # sd_listen_fds(3)
DEFAULT_TCP, DEFAULT_TLS = ("localhost", 2375), ("localhost", 2376)
MAX_PATH = 107  # bytes of sun_path without its NUL, unix(7)


class Dialect(StrEnum):
    """The APIs that can be spoken on a socket."""

    HYPER = "hyper"
    DOCKER = "docker"


# The group that owns a dialect's unix sockets when the configuration names none.
DEFAULT_GROUPS = {Dialect.HYPER: "hyper", Dialect.DOCKER: "docker"}


@dataclass(frozen=True, eq=False)
class Listener:
    """A socket that the HTTP server accepts connections on.

    Args:
        sock: bound and listening.
        dialect: the API that answers on it.
        local: callers come over a unix socket, so they are users of this host whom its permissions let in.
        tls: callers come through the TLS front.

    """

    sock: socket.socket
    dialect: Dialect = Dialect.HYPER
    local: bool = True
    tls: bool = False


class Listeners:
    """Sockets that are bound and listening; unix ones are removed from the file system again by ``close``.

    ``served`` are for the HTTP server. ``fronted`` are for the TLS front: TCP sockets, each with the path of the
    unix socket of the HTTP server that its connections are passed on to.
    """

    def __init__(self) -> None:
        self.served: list[Listener] = []
        self.fronted: list[tuple[socket.socket, Path]] = []
        self._paths: list[tuple[Path, int]] = []

    def open(
        self,
        hosts: Sequence[str],
        *,
        mode: int,
        group: str,
        inner: Path | None = None,
        dialect: Dialect = Dialect.HYPER,
    ) -> None:
        """Bind every address; may be called once for each dialect.

        Args:
            hosts: the addresses.
            mode, group: permission bits and owning group of unix sockets; an empty group is the dialect's own
                (DEFAULT_GROUPS) if there is one.
            inner: the unix socket that connects the TLS front with the HTTP server: TCP is TLS then. None = plain.
            dialect: the API that answers there.

        Errors: InvalidInput (bad address), Conflict (somebody answers there), HostFault. Nothing stays bound then.

        """
        try:
            if inner is not None:
                inner.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                sock = self._open_unix(inner, mode=0o600, gid=None)
                self.served.append(Listener(sock, dialect, local=False, tls=True))
            for host in hosts:
                self._open(host, mode=mode, group=group, inner=inner, dialect=dialect)
        except OSError as error:
            self.close()
            raise HostFault(f"cannot listen on {inner}", details=str(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything and remove the socket files that are still ours."""
        for sock in (*(listener.sock for listener in self.served), *(sock for sock, _ in self.fronted)):
            sock.close()
        self.served.clear()
        self.fronted.clear()
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()
        self._paths.clear()

    def _open(self, host: str, *, mode: int, group: str, inner: Path | None, dialect: Dialect) -> None:
        scheme, mark, rest = host.partition("://")
        if not mark:
            raise InvalidInput(f"bad host {host!r}", resolution="use unix:///path, tcp://address:port or fd://")
        try:
            if scheme == "unix":
                gid = _group_id(group, DEFAULT_GROUPS[dialect])
                self.served.append(Listener(self._open_unix(Path(rest), mode=mode, gid=gid), dialect))
            elif scheme == "tcp":
                self._add_tcp(_open_tcp(*parse_tcp(rest, tls=inner is not None)), inner, dialect)
            elif scheme == "fd":
                for sock in _inherited():
                    if sock.family == socket.AF_UNIX:
                        self.served.append(Listener(sock, dialect))
                        log.info("server.listening", address=f"fd://{sock.fileno()}", api=dialect.value)
                    else:
                        self._add_tcp(sock, inner, dialect)
            else:
                raise InvalidInput(f"bad host {host!r}", resolution="use unix:///path, tcp://address:port or fd://")
        except OSError as error:
            raise HostFault(f"cannot listen on {host}", details=str(error)) from error

    def _open_unix(self, path: Path, *, mode: int, gid: int | None) -> socket.socket:
        _make_place(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            before = os.umask(0o777)  # nobody may connect before mode and group are right
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            self._paths.append((path, path.lstat().st_ino))
            if gid is not None:
                os.chown(path, -1, gid)
            path.chmod(mode)
            sock.listen(BACKLOG)
        except BaseException:
            sock.close()
            raise
        log.info("server.listening", address=f"unix://{path}")
        return sock

    def _add_tcp(self, sock: socket.socket, inner: Path | None, dialect: Dialect) -> None:
        if inner is None:
            self.served.append(Listener(sock, dialect, local=False))
        else:
            self.fronted.append((sock, inner))
        _announce(sock, tls=inner is not None)


def unix_place(host: str, *, group: str) -> tuple[Path, int | None]:
    """Make the place of a unix socket that somebody else binds; return its path and the number of its group.

    Args:
        host: ``unix:///path``. group: as for ``Listeners.open``; an empty one is ``hyper`` if there is one.

    Errors: InvalidInput, Conflict (somebody answers there), HostFault.

    """
    path = Path(host.removeprefix("unix://"))
    try:
        _make_place(path)
    except OSError as error:
        raise HostFault(f"cannot listen on {host}", details=str(error)) from error
    return path, _group_id(group, DEFAULT_GROUPS[Dialect.HYPER])


def _make_place(path: Path) -> None:
    if not path.is_absolute() or len(os.fsencode(path)) > MAX_PATH:
        raise InvalidInput(f"{path} must be an absolute path of at most {MAX_PATH} bytes")
    before = os.umask(0o022)  # the socket's group has to get there
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    finally:
        os.umask(before)
    remove_stale(path)


def _open_tcp(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _inherited() -> list[socket.socket]:
    """Return the sockets that the service manager has passed, once. Errors: InvalidInput when there are none."""
    count = os.environ.pop("LISTEN_FDS", "0")
    owner = os.environ.pop("LISTEN_PID", "")
    os.environ.pop("LISTEN_FDNAMES", None)
    if owner != str(os.getpid()) or not count.isdigit() or count == "0":
        raise InvalidInput("fd:// was asked for, but no socket was passed", resolution="start hyperd by systemd")
    found = []
    for fd in range(FIRST_FD, FIRST_FD + int(count)):
        os.set_inheritable(fd, False)
        found.append(socket.socket(fileno=fd))
    return found


def _announce(sock: socket.socket, *, tls: bool) -> None:
    host, port = sock.getsockname()[:2]
    address = f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
    if tls:
        log.info("server.listening", address=address, tls=True)
    else:
        log.warning("server.unprotected", address=address, reason="no TLS, no authentication")


def parse_tcp(text: str, *, tls: bool = False) -> tuple[str, int]:
    """Read ``host:port`` or ``[v6]:port``; empty = localhost:2375 (2376 with TLS). Errors: InvalidInput."""
    if not text:
        return DEFAULT_TLS if tls else DEFAULT_TCP
    host, mark, port = text.rpartition(":")
    if not mark or not (port.isascii() and port.isdigit() and int(port) < 65_536) or "/" in text:
        raise InvalidInput(f"bad address tcp://{text}", resolution="use tcp://address:port")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - "tcp://:PORT" says every address


def remove_stale(path: Path) -> None:
    """Remove a socket file that nobody listens on. Errors: Conflict if somebody does, or if it is no socket."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise Conflict(f"{path} exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise Conflict(f"{path} is in use", details=str(error)) from error
    raise Conflict(f"another process answers on {path}", resolution="stop it, or choose another host")


def _group_id(name: str, default: str) -> int | None:
    """Return a group's number; without a name that of ``default`` where root's daemon finds it. None = leave it."""
    if not name:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(default).gr_gid if os.geteuid() == 0 else None
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidInput(f"socket_group: there is no group {name!r}") from None
