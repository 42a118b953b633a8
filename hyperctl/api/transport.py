"""HTTP/1.1 (RFC 9112) over a unix or TCP socket, as little of it as hyperctl needs.

Why not a library: `import http.client` alone takes as long as the rest of `hyperctl list` together, and every
attached command needs the socket itself afterwards (half-close, poll), with the bytes that came glued to the head.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterable, Iterator, Mapping

from hyperctl.api.errors import CannotConnect, ConnectionLost, ProtocolError, UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from hyperctl.api.tls import TlsOptions, TlsSocket

    Socket = socket.socket | TlsSocket

DEFAULT_HOST = "unix:///var/run/hyper.sock"
DEFAULT_PORT = 2375
DEFAULT_TLS_PORT = 2376
CONNECT_TIMEOUT = 32.0  # seconds, as the original client's
_HEAD_LIMIT = 65536
_LINE_LIMIT = 4096
_PIECE = 65536
_TLS_ALERT = b"\x15\x03"  # what a TLS server says to plain HTTP (RFC 8446, 5.1: type alert, version 3.x)


class Endpoint:
    """Where a daemon listens.

    Args:
        path: of a unix socket; empty for TCP.
        host: name or address.
        port: of TCP.
        tls: speak TLS over TCP, this way.

    """

    def __init__(self, *, path: str = "", host: str = "", port: int = 0, tls: TlsOptions | None = None) -> None:
        self.path = path
        self.host = host
        self.port = port
        self.tls = tls

    def __str__(self) -> str:
        return f"unix://{self.path}" if self.path else f"tcp://{self.host}:{self.port}"

    @property
    def local(self) -> bool:
        """Say whether the daemon is certainly on this machine."""
        return bool(self.path)

    @property
    def authority(self) -> str:
        """Return the value of the Host header."""
        if self.path:
            return "localhost"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def connect(self) -> Socket:
        """Open a connection.

        Raises:
            CannotConnect: nobody listens there, or it may not be opened.
            UsageProblem: a file that TLS needs is missing.

        """
        sock = None
        try:
            if not self.path:
                sock = socket.create_connection((self.host, self.port), timeout=CONNECT_TIMEOUT)
                return _blocking(sock if self.tls is None else self._secure(self.tls, sock))
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            sock.settimeout(CONNECT_TIMEOUT)
            sock.connect(self.path)
            return _blocking(sock)
        except OSError as error:
            if sock is not None:
                sock.close()
            raise CannotConnect(_why_not(self, error)) from error

    def _secure(self, tls: TlsOptions, sock: socket.socket) -> TlsSocket:
        from hyperctl.api.tls import TlsSocket

        try:
            context = tls.context()
        except UsageProblem:
            sock.close()
            raise
        return TlsSocket(sock, context, self.host)


def default_host() -> str:
    """Return where the daemon is when nobody says: HYPER_HOST, the system's, or an ordinary user's own one.

    The user's own one counts when it is there.
    """
    said = os.environ.get("HYPER_HOST")
    if said:
        return said
    own = os.environ.get("XDG_RUNTIME_DIR", "")
    if own and os.geteuid() != 0 and os.path.exists(os.path.join(own, "hyper.sock")):
        return f"unix://{os.path.join(own, 'hyper.sock')}"
    return DEFAULT_HOST


def parse_host(text: str, tls: TlsOptions | None = None) -> Endpoint:
    """Read `unix:///path`, `/path`, `tcp://host[:port]` or `tcp://[v6]:port`; the port is 2375, 2376 with TLS.

    Raises:
        UsageProblem: it is none of these.

    """
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = ("unix", text) if text.startswith("/") else ("tcp", text)
    if scheme == "unix" and rest.startswith("/"):
        return Endpoint(path=rest)
    if scheme == "tcp":
        rest = rest.rstrip("/")
        host, colon, port = rest.rpartition(":")
        if not colon or rest.endswith("]"):
            host, port = rest, str(DEFAULT_PORT if tls is None else DEFAULT_TLS_PORT)
        host = host.removeprefix("[").removesuffix("]") or "localhost"
        if port.isascii() and port.isdecimal() and 0 < int(port) < 65536 and "/" not in host:
            return Endpoint(host=host, port=int(port), tls=tls)
    raise UsageProblem(f"'{text}' is not an address of a daemon: use unix:///path or tcp://host:port")


def _blocking(sock: Socket) -> Socket:
    """Take the time limit of the connect away: a pull or a wait for an exit code may last for hours."""
    sock.settimeout(None)
    return sock


def _why_not(endpoint: Endpoint, error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"Cannot connect to the Hyper daemon: no permission to open {endpoint}"
    if isinstance(error, (ConnectionRefusedError, FileNotFoundError)):
        where = "this host" if endpoint.local else endpoint.host
        return f"Cannot connect to the Hyper daemon at {endpoint}. Is 'hyperd' running on {where}?"
    if isinstance(error, socket.gaierror):
        return f"Cannot connect to the Hyper daemon at {endpoint}: there is no host {endpoint.host}"
    return f"Cannot connect to the Hyper daemon at {endpoint}: {error.strerror or error}"


class Reader:
    """Buffered reading of one socket; nothing is read beyond what `read` can give back."""

    def __init__(self, sock: Socket) -> None:
        self._sock = sock
        self._buffer = b""
        self.silent = True  # nothing has been received yet

    def take(self) -> bytes:
        """Return what has been received and not used yet, and forget it."""
        rest, self._buffer = self._buffer, b""
        return rest

    def some(self, limit: int = _PIECE) -> bytes:
        """Return 1 to `limit` bytes, as soon as there are any; nothing at the end of the stream."""
        data = self._buffer or self._receive()
        self._buffer = data[limit:]
        return data[:limit]

    def until(self, mark: bytes, limit: int) -> bytes:
        """Return the bytes before `mark` and drop the mark.

        Raises:
            ConnectionLost: the stream ended first.
            ProtocolError: more than `limit` bytes came without it.

        """
        data = self._buffer
        while mark not in data:
            if data.startswith(_TLS_ALERT):
                raise ProtocolError("the daemon speaks TLS: use --tlsverify, or HYPER_TLS_VERIFY=1")
            if len(data) > limit:
                raise ProtocolError("the daemon's answer is not HTTP")
            piece = self._receive()
            if not piece:
                raise ConnectionLost("the connection to the daemon ended in the middle of an answer")
            data += piece
        head, _, self._buffer = data.partition(mark)
        return head

    def _receive(self) -> bytes:
        try:
            data = self._sock.recv(_PIECE)
        except ConnectionError:
            return b""
        self.silent = self.silent and not data
        return data


class Response:
    """An answer whose head has been read; the body is read from the connection when asked for.

    Args:
        status: HTTP status code.
        reason: the words beside it.
        headers: names in lower case.
        reader: where the body comes from.
        length: bytes of the body; None when chunked or up to the end of the connection.

    """

    def __init__(
        self, *, status: int, reason: str, headers: Mapping[str, str], reader: Reader, length: int | None
    ) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.length = length
        self.complete = length == 0
        self._reader = reader

    def pieces(self) -> Iterator[bytes]:
        """Yield the body as it arrives.

        Raises:
            ConnectionLost: it ended before the length or the last chunk said so.
            ProtocolError: the chunk sizes are not readable.

        """
        if self.length is not None:
            yield from self._counted(self.length)
        elif "chunked" in self.headers.get("transfer-encoding", "").lower():
            while size := self._chunk_size():
                yield from self._counted(size)
                self._reader.until(b"\r\n", _LINE_LIMIT)
            while self._reader.until(b"\r\n", _HEAD_LIMIT):  # trailers
                pass
        else:
            while piece := self._reader.some():
                yield piece
            return  # the connection is used up, so never `complete`
        self.complete = True

    def read(self) -> bytes:
        """Return the whole body."""
        return b"".join(self.pieces())

    def _counted(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self._reader.some(min(size, _PIECE))
            if not piece:
                raise ConnectionLost("the connection to the daemon ended in the middle of an answer")
            size -= len(piece)
            yield piece

    def _chunk_size(self) -> int:
        text = self._reader.until(b"\r\n", _LINE_LIMIT).partition(b";")[0].strip()
        try:
            return int(text, 16)
        except ValueError:
            raise ProtocolError("the daemon's answer has a broken chunk") from None


class Connection:
    """One connection to the daemon, kept open between requests and opened again when it went stale."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._sock: Socket | None = None
        self._reader: Reader | None = None
        self._last: Response | None = None

    def close(self) -> None:
        """Close the connection; a later request opens a new one."""
        sock, self._sock, self._reader, self._last = self._sock, None, None, None
        if sock is not None:
            sock.close()

    def request(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        body: bytes | Iterable[bytes] = b"",
    ) -> Response:
        """Send a request and read the head of the answer.

        An iterable body goes out chunked unless the headers have a Content-Length.

        Raises:
            CannotConnect: nobody listens.
            ConnectionLost: no complete head came back.
            ProtocolError: what came back is not HTTP/1.x.

        """
        sock, reader = self._ready()
        self._last = None  # whatever interrupts this, the connection is not used again: its answer is still to come
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._endpoint.authority}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        chunked = not isinstance(body, bytes) and "Content-Length" not in headers
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")
        try:
            if isinstance(body, bytes):
                sock.sendall(head + body)
            else:
                sock.sendall(head)
                _send_pieces(sock, body, chunked=chunked)
        except ConnectionError:
            pass  # an early answer (too large, unauthorized) may be waiting all the same
        try:
            self._last = _read_head(reader)
        except ConnectionLost:
            if reader.silent and not self._endpoint.path and self._endpoint.tls is None:
                raise ConnectionLost(
                    f"the daemon at {self._endpoint} ended the connection without a word; "
                    "if it speaks TLS, use --tlsverify, or HYPER_TLS_VERIFY=1"
                ) from None
            raise
        return self._last

    def take_over(self) -> tuple[Socket, bytes]:
        """Give the socket away, with the bytes that arrived behind the last answer's head."""
        sock, reader = self._sock, self._reader
        if sock is None or reader is None:
            raise ProtocolError("there is no connection to take over")
        self._sock = self._reader = self._last = None
        return sock, reader.take()

    def _ready(self) -> tuple[Socket, Reader]:
        if self._sock is not None and self._reader is not None and self._reusable(self._sock):
            return self._sock, self._reader
        self.close()
        self._sock = self._endpoint.connect()
        self._reader = Reader(self._sock)
        return self._sock, self._reader

    def _reusable(self, sock: Socket) -> bool:
        """Say whether the last request has its whole answer, and the daemon has not closed the connection since."""
        last = self._last
        if last is None or not last.complete or last.headers.get("connection", "").lower() == "close":
            return False
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        return not poll.poll(0)


def _send_pieces(sock: Socket, pieces: Iterable[bytes], *, chunked: bool) -> None:
    for piece in pieces:
        if piece:
            sock.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
    if chunked:
        sock.sendall(b"0\r\n\r\n")


def _read_head(reader: Reader) -> Response:
    """Read one answer's head; interim answers other than 101 (RFC 9110, 15.2) are skipped."""
    while True:
        lines = reader.until(b"\r\n\r\n", _HEAD_LIMIT).decode("latin-1").split("\r\n")
        version, _, rest = lines[0].partition(" ")
        code, _, reason = rest.partition(" ")
        if not version.startswith("HTTP/1.") or not (code.isascii() and code.isdecimal()):
            raise ProtocolError("the daemon's answer is not HTTP")
        status = int(code)
        if status == 101 or status >= 200:
            break
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    length = _body_length(status, headers)
    return Response(status=status, reason=reason.strip(), headers=headers, reader=reader, length=length)


def _body_length(status: int, headers: Mapping[str, str]) -> int | None:
    """Return the length of the body by RFC 9112, 6.3; no request of ours is HEAD or CONNECT."""
    if status in {101, 204, 304}:
        return 0
    if "transfer-encoding" in headers:
        return None
    text = headers.get("content-length")
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal()):
        raise ProtocolError("the daemon's answer has a broken Content-Length")
    return int(text)
