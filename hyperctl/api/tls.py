"""TLS to a daemon (RFC 8446, RFC 5246), with what plain sockets have and Python's TLS sockets lack: half-closes.

Loaded only when TLS is asked for: `import ssl` takes as long as half of `hyperctl list`.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
from contextlib import suppress

from hyperctl.api.errors import CannotConnect, UsageProblem

_PIECE = 65536
_RECORD = 16384


class TlsOptions:
    """How to speak TLS.

    Args:
        verify: check the daemon's certificate and name.
        directory: where `ca.pem`, `cert.pem` and `key.pem` are looked for.
        ca, cert, key: other places of these files; a default one of the client's certificate may be missing.

    """

    def __init__(self, *, verify: bool, directory: str, ca: str = "", cert: str = "", key: str = "") -> None:
        self.verify = verify
        self.ca = ca or os.path.join(directory, "ca.pem")
        self.cert = cert or os.path.join(directory, "cert.pem")
        self.key = key or os.path.join(directory, "key.pem")
        self._named = bool(cert or key)

    def context(self) -> ssl.SSLContext:
        """Make the settings of a connection.

        Raises:
            UsageProblem: a file is missing or not what it should be.

        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.verify:
            try:
                context.load_verify_locations(self.ca)
            except OSError as error:
                raise UsageProblem(f"cannot use the TLS authority {self.ca}: {error.strerror or error}") from error
        else:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        if self._named or (os.path.exists(self.cert) and os.path.exists(self.key)):
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as error:
                reason = error.strerror or str(error)
                raise UsageProblem(f"cannot use the TLS certificate {self.cert} with {self.key}: {reason}") from error
        return context


class TlsSocket:
    """A TLS connection with the methods of a socket that hyperctl uses; `poll` sees the socket below.

    Args:
        sock: connected and blocking; ours from now on, also when this fails.
        context: settings.
        name: the daemon's name, for its certificate.

    Raises:
        CannotConnect: no TLS, or not the daemon that was wanted.

    """

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, name: str) -> None:
        self._sock = sock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=name)
        self._unsent = b""  # encrypted, not yet taken by the socket
        self._accepted = 0  # bytes of the caller that _unsent stands for
        try:
            self._shake_hands()
        except ssl.SSLError as error:
            sock.close()
            raise _failed(error) from error
        except OSError:
            sock.close()
            raise

    def fileno(self) -> int:
        """Return the descriptor, for `poll`."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:
        """Do as socket.setblocking."""
        self._sock.setblocking(flag)

    def settimeout(self, seconds: float | None) -> None:
        """Do as socket.settimeout."""
        self._sock.settimeout(seconds)

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()

    def sendall(self, data: bytes) -> None:
        """Send everything; the socket blocks."""
        view = memoryview(data)
        while view:
            self._tls.write(view[:_RECORD])
            view = view[_RECORD:]
            self._sock.sendall(self._outgoing.read())

    def send(self, data: bytes) -> int:
        """Send some of it and say how much; after BlockingIOError call it with the same bytes (and more) again."""
        if not self._accepted:
            self._accepted = self._tls.write(data[:_RECORD])
            self._unsent += self._outgoing.read()
        while self._unsent:
            self._unsent = self._unsent[self._sock.send(self._unsent) :]
        sent, self._accepted = self._accepted, 0
        return sent

    def recv(self, _limit: int = _PIECE) -> bytes:
        """Return everything that has arrived, which may be more than the limit; nothing at the end.

        Nothing decrypted stays inside, so `poll` tells the truth.

        Raises:
            CannotConnect: the daemon ended TLS with an alert.

        """
        data = b""
        while True:
            try:
                piece = self._tls.read(_PIECE)
            except ssl.SSLWantReadError:
                self._flush()
                if data:
                    return data
                raw = self._sock.recv(_PIECE)
                if not raw:  # without close_notify: the connection was cut, as a plain one may be
                    return b""
                self._incoming.write(raw)
                continue
            except ssl.SSLZeroReturnError:
                piece = b""
            except ssl.SSLError as error:  # TLS 1.3: only now we learn that our certificate is not liked
                raise _failed(error) from error
            if not piece:
                return data
            data += piece

    def shutdown(self, how: int) -> None:
        """Say that nothing more comes from us (SHUT_WR), by close_notify; answers can still be read."""
        if how == socket.SHUT_RD:
            return
        with suppress(ssl.SSLError):  # the daemon's close_notify comes later
            self._tls.unwrap()
        self._flush()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                raw = self._sock.recv(_PIECE)
                if not raw:
                    raise ConnectionResetError("the daemon closed the connection") from None
                self._incoming.write(raw)
                continue
            self._flush()
            return

    def _flush(self) -> None:
        """Send what TLS itself has to say, a few bytes."""
        data = self._outgoing.read()
        while data:
            try:
                data = data[self._sock.send(data) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._sock, select.POLLOUT)
                poll.poll()


def _failed(error: ssl.SSLError) -> CannotConnect:
    if error.reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"}:
        return CannotConnect(
            "Cannot connect to the Hyper daemon: it does not speak TLS: leave --tls and --tlsverify away"
        )
    reason = getattr(error, "verify_message", "") or error.reason or str(error)
    return CannotConnect(f"Cannot connect to the Hyper daemon: TLS failed: {reason}")
