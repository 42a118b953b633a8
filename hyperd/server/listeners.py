"""The daemon's listening sockets: ``unix://PATH``, ``tcp://HOST:PORT``, ``fd://`` (from systemd)."""

from __future__ import annotations

import contextlib
import grp
import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path

import structlog

from hyperd.errors import Conflict, HostFault, InvalidInput

log = structlog.get_logger(__name__)

BACKLOG = 2048
FIRST_FD = 3  # sd_listen_fds(3)
DEFAULT_TCP, DEFAULT_TLS = ("localhost", 2375), ("localhost", 2376)
DEFAULT_GROUP = "hyper"
MAX_PATH = 107  # bytes of sun_path without its NUL, unix(7)


class Listeners:
    """Sockets that are bound and listening; unix ones are removed from the file system again by ``close``.

    ``sockets`` are for the HTTP server, ``tls_sockets`` for the TLS front when there is one.
    """

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.tls_sockets: list[socket.socket] = []
        self._paths: list[tuple[Path, int]] = []

    def open(self, hosts: Sequence[str], *, mode: int, group: str, inner: Path | None = None) -> None:
        """Bind every address.

        Args:
            hosts: the addresses.
            mode, group: permission bits and owning group of unix sockets; an empty group is ``hyper`` if there is one.
            inner: the unix socket that connects the TLS front with the HTTP server: TCP is TLS then. None = plain.

        Errors: InvalidInput (bad address), Conflict (somebody answers there), HostFault. Nothing stays bound then.

        """
        try:
            if inner is not None:
                self._open_unix(inner, mode=0o600, group="")
            for host in hosts:
                self._open(host, mode=mode, group=group, tls=inner is not None)
        except OSError as error:
            self.close()
            raise HostFault(f"cannot listen on {inner}", details=str(error)) from error
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close everything and remove the socket files that are still ours."""
        for sock in (*self.sockets, *self.tls_sockets):
            sock.close()
        self.sockets.clear()
        self.tls_sockets.clear()
        for path, inode in self._paths:
            with contextlib.suppress(OSError):
                if path.lstat().st_ino == inode:
                    path.unlink()
        self._paths.clear()

    def _open(self, host: str, *, mode: int, group: str, tls: bool) -> None:
        scheme, mark, rest = host.partition("://")
        if not mark:
            raise InvalidInput(f"bad host {host!r}", resolution="use unix:///path, tcp://address:port or fd://")
        try:
            if scheme == "unix":
                self._open_unix(Path(rest), mode=mode, group=group)
            elif scheme == "tcp":
                self._open_tcp(*parse_tcp(rest, tls=tls), tls=tls)
            elif scheme == "fd":
                self._open_inherited(tls=tls)
            else:
                raise InvalidInput(f"bad host {host!r}", resolution="use unix:///path, tcp://address:port or fd://")
        except OSError as error:
            raise HostFault(f"cannot listen on {host}", details=str(error)) from error

    def _open_unix(self, path: Path, *, mode: int, group: str) -> None:
        if not path.is_absolute() or len(os.fsencode(path)) > MAX_PATH:
            raise InvalidInput(f"{path} must be an absolute path of at most {MAX_PATH} bytes")
        gid = _group_id(group)
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sockets.append(sock)
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
        log.info("server.listening", address=f"unix://{path}")

    def _open_tcp(self, host: str, port: int, *, tls: bool) -> None:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[:1]:
            sock = socket.socket(family, kind, protocol)
            self._add(sock, tls=tls)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.bind(address)
            sock.listen(BACKLOG)
            _announce(sock, tls=tls)

    def _open_inherited(self, *, tls: bool) -> None:
        count = os.environ.pop("LISTEN_FDS", "0")
        owner = os.environ.pop("LISTEN_PID", "")
        os.environ.pop("LISTEN_FDNAMES", None)
        if owner != str(os.getpid()) or not count.isdigit() or count == "0":
            raise InvalidInput("fd:// was asked for, but no socket was passed", resolution="start hyperd by systemd")
        for fd in range(FIRST_FD, FIRST_FD + int(count)):
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
            on_network = sock.family != socket.AF_UNIX
            self._add(sock, tls=tls and on_network)
            if on_network:
                _announce(sock, tls=tls)
            else:
                log.info("server.listening", address=f"fd://{fd}")

    def _add(self, sock: socket.socket, *, tls: bool) -> None:
        (self.tls_sockets if tls else self.sockets).append(sock)


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


def _group_id(name: str) -> int | None:
    """Give a group's number; without a name that of ``hyper`` where root's daemon finds it. None = leave it."""
    if not name:
        with contextlib.suppress(KeyError):
            return grp.getgrnam(DEFAULT_GROUP).gr_gid if os.geteuid() == 0 else None
        return None
    try:
        return int(name) if name.isdigit() else grp.getgrnam(name).gr_gid
    except KeyError:
        raise InvalidInput(f"socket_group: there is no group {name!r}") from None
