"""Names on the networks that somebody has made: answered by dnsmasq, one process for each network.

A pod on several networks needs the names of all of them from one server: such a set of networks gets a server of its
own, as do pods with name servers of their own. The processes listen on 127.0.0.1 and the tables lead a pod's questions
to its server, so nobody else can ask it. They outlive the daemon; the next one finds them by their command lines.

dnsmasq gives up root's rights, and must read its files again later: it runs in a mount namespace in which its directory
is ``/mnt``, so nothing above that directory has to be open for its user.
"""

from __future__ import annotations

import contextlib
import grp
import hashlib
import os
import pwd
import select
import shutil
import signal
import socket
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from hyperd.errors import HostFault

log = structlog.get_logger(__name__)

PROGRAM = "dnsmasq"
USERS = ("dnsmasq", "nobody")  # the first that this host knows
INSIDE = "/mnt"  # the server's directory, in its own mount namespace
_START_TIMEOUT = 10.0  # seconds
_STEP = 0.005
_AGAIN, _AGAIN_MOST = 15.0, 900.0  # seconds after which a server that could not be started is tried again
_START = f'mount --bind "$1" {INSIDE} && exec {PROGRAM} --conf-file={INSIDE}/conf --pid-file="$1/pid"'


@dataclass(frozen=True, kw_only=True, order=True)
class ServerKey:
    """What makes a server different from others.

    Args:
        networks: ids of the networks whose names it knows, in order.
        upstream: whom it asks for other names; empty = the daemon's or the host's servers.
        closed: it asks nobody.
        links: names of one pod's own: network, container and alias.

    """

    networks: tuple[str, ...]
    upstream: tuple[str, ...] = ()
    closed: bool = False
    links: tuple[tuple[str, str, str], ...] = field(default=(), repr=False)

    @property
    def directory(self) -> str:
        """The name of its directory."""
        text = f"{self!r}{self.links!r}" if self.links else repr(self)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """Names of a pod's address on a network."""

    address: str
    names: tuple[str, ...]


class _Server:
    """One dnsmasq with its directory."""

    def __init__(self, key: ServerKey, directory: Path) -> None:
        self.key = key
        self.directory = directory
        self.pid = 0  # of a process that answers
        self.port = 0
        self._pidfd = -1
        self._starting = 0  # a process that does not answer yet
        self._upstream: tuple[str, ...] | None = None  # whom its process asks; None = something else than any setting
        self._told: tuple[Entry, ...] | None = None  # what its files say; None = not known
        self._failures = 0  # one after the other
        self._again = 0.0  # it is not started before that

    def alive(self) -> bool:
        """Return whether its process runs."""
        if self.pid and _ended(self._pidfd):
            _reaped(self.pid)
            self.forget()
        return self.pid != 0

    def due_in(self) -> float:
        """Return after how many seconds its process may be started: one that failed lately has to wait."""
        return max(self._again - time.monotonic(), 0.0)

    def configured(self, upstream: Sequence[str]) -> bool:
        """Return whether its process was started with these settings."""
        return self._upstream == tuple(upstream)

    def adopt(self, pid: int, upstream: Sequence[str]) -> bool:
        """Take over the process of an earlier daemon; return whether it is one. What is none of use is ended."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        conf = _text(self.directory / "conf")
        port = next((int(line[5:]) for line in conf.splitlines() if line.startswith("port=")), 0)
        if not port or not _is_ours(pid, self.directory):
            os.close(pidfd)
            _end(self.directory, pid)
            return False
        self.pid, self.port, self._pidfd, self._told = pid, port, pidfd, None
        self._upstream = tuple(upstream) if conf == _configuration(self.key, port, upstream) else None
        self._signal(signal.SIGHUP)  # names may have changed while no daemon ran
        log.info("dns.adopted", networks=[one[:12] for one in self.key.networks], port=port, pid=pid)
        return True

    def start(self, upstream: Sequence[str]) -> None:
        """Start its process, in place of the one that runs; ``wait`` has to follow. Errors: HostFault."""
        owner = _user()
        self.kill()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.chown(self.directory, owner.pw_uid, -1)
        self.port = _free_port(self.port)
        self._put("conf", _configuration(self.key, self.port, upstream))
        (self.directory / "pid").unlink(missing_ok=True)
        words = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _START, "hyperd", str(self.directory)]
        output = (1, str(self.directory / "log"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            # Not subprocess: it stays when this daemon ends.
            self._starting = os.posix_spawnp(
                words[0],
                words,
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, *output),
                    (os.POSIX_SPAWN_DUP2, 1, 2),
                ],
                setsid=True,
            )
        except OSError as error:
            raise HostFault("the name server could not be started", details=str(error)) from error
        self._upstream = tuple(upstream)

    def wait(self, end: float) -> None:
        """Wait until the process that was started answers. Errors: HostFault: it has ended, or it is too late."""
        pid, self._starting = self._starting, 0
        while _number(self.directory / "pid") != pid:
            gone = _reaped(pid)
            if gone or time.monotonic() > end:
                if not gone:
                    _kill(pid)
                reason = _text(self.directory / "log").strip()[-500:] or "no reason given"
                raise HostFault("the name server could not be started", details=reason)
            time.sleep(_STEP)
        self._pidfd = os.pidfd_open(pid)
        self.pid = pid
        self._failures = 0
        log.info("dns.started", networks=[one[:12] for one in self.key.networks], port=self.port, pid=pid)

    def failed(self, error: Exception) -> None:
        """Log that its process could not be started, and let it wait: the longer, the more often it has failed."""
        delay = min(_AGAIN * 2.0 ** min(self._failures, 10), _AGAIN_MOST)
        self._failures += 1
        self._again = time.monotonic() + delay
        networks = [one[:12] for one in self.key.networks]
        log.error("dns.not_started", networks=networks, error=str(error), again_after=delay)

    def tell(self, entries: Iterable[Entry]) -> None:
        """Let it answer for these names, and for none else. Errors: HostFault."""
        wanted = tuple(entries)
        if wanted == self._told:
            return
        self._told = None
        lines: list[str] = []
        dotted: set[str] = set()
        for entry in wanted:
            lines.append(f"{entry.address} {' '.join(entry.names)}\n")
            # Questions for other types (AAAA) of a name with a dot would be passed on otherwise.
            dotted.update(f"server=/{name}/\n" for name in entry.names if "." in name)
        changed = [self._put("hosts", "".join(sorted(lines))), self._put("servers", "".join(sorted(dotted)))]
        if any(changed) and self.pid:
            self._signal(signal.SIGHUP)
        self._told = wanted

    def kill(self) -> None:
        """End its process, if it runs."""
        if self.alive():
            self._signal(signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(self.pid, 0)
        self.forget()

    def stop(self) -> None:
        """End its process and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def forget(self) -> None:
        """Leave its process alone, if it runs; nothing is known of it then."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
        self.pid, self._pidfd, self._told = 0, -1, None

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)

    def _put(self, name: str, text: str) -> bool:
        """Write a file in one step; return whether it was different. Errors: HostFault."""
        path, draft = self.directory / name, self.directory / f".{name}"
        try:
            with contextlib.suppress(FileNotFoundError):
                if path.read_text(encoding="utf-8") == text:
                    return False
            draft.write_text(text, encoding="utf-8")
            draft.chmod(0o600)
            os.chown(draft, _user().pw_uid, -1)
            draft.rename(path)
        except OSError as error:
            raise HostFault("the names of a network could not be written", details=str(error)) from error
        return True


class NameServers:
    """The servers of one daemon. The caller sees to it that one thread at a time uses it.

    Args:
        directory: for their files.
        upstream: servers for other names; empty = those of the host's resolv.conf.

    """

    def __init__(self, directory: Path, upstream: Sequence[str] = ()) -> None:
        self._directory = directory
        self._upstream = tuple(upstream)
        self._servers: dict[ServerKey, _Server] = {}
        self._found: dict[str, int] | None = None  # processes of an earlier daemon by directory
        self._tidy = False  # there is no directory of another server

    def reconfigure(self, upstream: Sequence[str]) -> None:
        """Ask other servers for other names from the next ``settle`` on."""
        self._upstream = tuple(upstream)

    def require(self) -> None:
        """Check that servers can be started. Errors: HostFault."""
        if shutil.which(PROGRAM) is None:
            raise HostFault(
                f"{PROGRAM} is not installed: it answers for the names on a network",
                resolution="apt-get install dnsmasq-base",
            )

    def prepare(self) -> None:
        """Find the processes of an earlier daemon, once."""
        if self._found is None:
            self._found = {path.name: pid for pid, path in _processes(self._directory)}

    def tell(self, wanted: Mapping[ServerKey, Sequence[Entry]]) -> dict[ServerKey, int]:
        """Tell those servers that run their names, and return their ports. Nothing is started: it takes no time."""
        self.prepare()
        found = {}
        for key, entries in wanted.items():
            server = self._server(key)
            if server.alive() or self._adopt(server):
                with contextlib.suppress(HostFault):  # ``settle`` tries it again and logs it
                    server.tell(entries)
                    found[key] = server.port
        return found

    def settle(self, wanted: Mapping[ServerKey, Sequence[Entry]]) -> float:
        """Let these servers run with these names, and no other; ``tell`` gives the ports of those that do.

        A server that cannot be started is left out and logged: everything but names works without it. Returns after
        how many seconds to call again for those that do not run; 0 = all run.
        """
        self.prepare()
        self._leave_only(wanted)
        begun = []
        for key, entries in wanted.items():
            server = self._server(key)
            try:
                if self._begun(server, entries):
                    begun.append(server)
            except (HostFault, OSError) as error:
                server.failed(error)
        end = time.monotonic() + _START_TIMEOUT
        for server in begun:
            try:
                server.wait(end)
            except (HostFault, OSError) as error:
                server.failed(error)
        return min((self._server(key).due_in() for key in wanted if not self._server(key).alive()), default=0.0)

    def pids(self) -> list[int]:
        """Return the processes that run."""
        return [server.pid for server in tuple(self._servers.values()) if server.pid]

    def close(self) -> None:
        """Leave the processes to the next daemon."""
        for server in self._servers.values():
            server.forget()
        self._servers.clear()
        self._found, self._tidy = None, False

    def destroy(self) -> None:
        """End all servers, also those of an earlier daemon."""
        self.settle({})

    def _server(self, key: ServerKey) -> _Server:
        server = self._servers.get(key)
        if server is None:
            server = self._servers[key] = _Server(key, self._directory / key.directory)
        return server

    def _asked(self, server: _Server) -> Sequence[str]:
        """Return whom a server shall ask for names it does not know."""
        return server.key.upstream or self._upstream

    def _adopt(self, server: _Server) -> bool:
        pid = (self._found or {}).pop(server.directory.name, 0)
        return pid != 0 and server.adopt(pid, self._asked(server))

    def _begun(self, server: _Server, entries: Sequence[Entry]) -> bool:
        """Tell a server its names; return whether a process was started for it. Errors: HostFault, OSError."""
        runs = server.alive() or self._adopt(server)
        if not runs:
            if server.due_in():
                return False
            server.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        server.tell(entries)
        if runs and server.configured(self._asked(server)):
            return False
        server.start(self._asked(server))
        return True

    def _leave_only(self, wanted: Collection[ServerKey]) -> None:
        """End all other servers, those that an earlier daemon left too."""
        for key in self._servers.keys() - set(wanted):
            self._servers.pop(key).stop()
        if not self._tidy:
            for directory in self._strangers({key.directory for key in wanted}):
                _end(directory, (self._found or {}).get(directory.name, 0))
            self._tidy = True

    def _strangers(self, known: Collection[str]) -> Iterator[Path]:
        if self._directory.is_dir():
            yield from (path for path in self._directory.iterdir() if path.name not in known)


def _configuration(key: ServerKey, port: int, upstream: Sequence[str]) -> str:
    user = _user()
    lines = [
        f"port={port}",
        "listen-address=127.0.0.1",
        "bind-interfaces",
        "no-hosts",
        f"addn-hosts={INSIDE}/hosts",
        f"servers-file={INSIDE}/servers",
        "domain-needed",  # names without a dot belong to the network or do not exist
        "bogus-priv",
        "cache-size=1000",
        f"user={user.pw_name}",
        f"group={grp.getgrgid(user.pw_gid).gr_name}",
        "keep-in-foreground",
        "log-facility=-",
    ]
    if key.closed:
        lines += ["no-resolv", "local=/#/"]
    elif upstream:
        lines += ["no-resolv", *(f"server={address}" for address in upstream)]
    return "".join(f"{line}\n" for line in lines)


def _user() -> pwd.struct_passwd:
    for name in USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise HostFault("no user for the name server", details=f"none of {', '.join(USERS)} exists")


def _free_port(preferred: int) -> int:
    """Return a port of 127.0.0.1 that is free for TCP and UDP. Errors: HostFault."""
    for attempt in range(50):
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp, socket.socket() as tcp:
                udp.bind(("127.0.0.1", preferred if attempt == 0 else 0))
                port: int = udp.getsockname()[1]
                tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                tcp.bind(("127.0.0.1", port))
                return port
        except OSError:
            continue
    raise HostFault("no free port for the name server")


def _processes(below: Path) -> Iterator[tuple[int, Path]]:
    """Yield the servers whose directories lie below a directory."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            directory = _directory_of(int(entry.name))
            if directory is not None and directory.parent == below:
                yield int(entry.name), directory


def _directory_of(pid: int) -> Path | None:
    words = _text(Path(f"/proc/{pid}/cmdline")).split("\0")
    if Path(words[0]).name != PROGRAM:
        return None
    found = next((word for word in words if word.startswith("--pid-file=")), "")
    return Path(found.removeprefix("--pid-file=")).parent if found else None


def _ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _is_ours(pid: int, directory: Path) -> bool:
    return _directory_of(pid) == directory


def _reaped(pid: int) -> bool:
    """Return whether a child has ended; one of an earlier daemon is somebody else's child and is left alone."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def _end(directory: Path, pid: int) -> None:
    if pid and _is_ours(pid, directory):
        _kill(pid)
    shutil.rmtree(directory, ignore_errors=True)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0
