"""HTTP to registries: connection pools, TLS, proxies, redirects, time limits, cancelling. Knows nothing of images."""

from __future__ import annotations

import ipaddress
import os
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import urljoin, urlsplit

import structlog
import urllib3
from urllib3 import exceptions as http_errors
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.response import BaseHTTPResponse
from urllib3.util import make_headers

import hyperd
from hyperd.config.model import RegistryConfig
from hyperd.errors import Cancelled, InvalidInput, RegistryError, Timeout
from hyperd.registry.pace import Pace
from hyperd.registry.proxies import ProxySettings, is_loopback, parse_address, split_host

log = structlog.get_logger(__name__)

MAX_REDIRECTS = 5
PROBE_TIMEOUT = 5.0  # seconds to find out whether an insecure registry speaks TLS
MAX_ERROR_BODY = 64 * 1024
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Body = bytes | Callable[[], Iterable[bytes]] | None  # pieces are made anew whenever the request is sent again


class Stop:
    """A switch that ends all requests of one piece of work, also those that wait for a silent server."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._responses: set[BaseHTTPResponse] = set()

    def set(self) -> None:
        """Switch: every later ``check`` raises and every response that is being read ends."""
        self._event.set()
        with self._lock:
            for response in self._responses:
                _shut_down(response)

    def is_set(self) -> bool:
        """Whether it was switched."""
        return self._event.is_set()

    def check(self) -> None:
        """Raise when it was switched.

        Raises:
            Cancelled: it was.

        """
        if self._event.is_set():
            raise Cancelled("the transfer was cancelled")

    def wait(self, seconds: float) -> None:
        """Sleep, but not beyond the switch.

        Raises:
            Cancelled: it was switched.

        """
        self._event.wait(seconds)
        self.check()

    @contextmanager
    def watching(self, response: BaseHTTPResponse) -> Iterator[None]:
        """Let ``set`` end this response while the block runs."""
        with self._lock:
            self._responses.add(response)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._responses.discard(response)


def _shut_down(response: BaseHTTPResponse) -> None:
    try:
        response.shutdown()
    except (OSError, ValueError, RuntimeError) as exc:  # it ended by itself meanwhile
        log.debug("response-already-ended", error=str(exc))


class _QuietConnection(HTTPSConnection):
    """TLS without verification, which the administrator asked for: no warning on every request."""

    def connect(self) -> None:
        super().connect()
        self.is_verified = True


class _QuietPool(HTTPSConnectionPool):
    ConnectionCls = _QuietConnection


def _insecure(config: RegistryConfig) -> tuple[str, ...]:
    plain = tuple(urlsplit(mirror).netloc for mirror in config.mirrors if mirror.startswith("http://"))
    return config.insecure + plain


class Transport:
    """The connection pools of a daemon. Safe for threads.

    Args:
        config: time limits, certificate authorities, insecure registries.
        environ: where proxies are named, by default the process's environment.

    """

    def __init__(self, config: RegistryConfig, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self._insecure = _insecure(config)
        self._proxies = ProxySettings(os.environ if environ is None else environ)
        self._lock = threading.Lock()
        self._managers: dict[tuple[str, bool], urllib3.PoolManager] = {}
        self._schemes: dict[str, str] = {}
        self._closed = False

    def reconfigure(self, config: RegistryConfig) -> None:
        """Use other settings for connections from now on."""
        with self._lock:
            self.config = config
            self._insecure = _insecure(config)
            self._managers.clear()
            self._schemes.clear()

    def close(self) -> None:
        """Close all idle connections; those in use are closed when they are given back, new ones are refused."""
        with self._lock:
            self._closed = True
            managers = list(self._managers.values())
            self._managers.clear()
        for manager in managers:
            manager.clear()

    def is_insecure(self, host: str) -> bool:
        """Tell whether ``host[:port]`` may be spoken to over plain HTTP or unchecked TLS."""
        name, _ = split_host(host)
        address = parse_address(name)
        if is_loopback(name):
            return True
        for rule in self._insecure:
            if "/" in rule:
                if address is not None and _in_network(address, rule):
                    return True
            elif rule.lower() in {host.lower(), name.lower()}:
                return True
        return False

    def scheme(self, host: str, stop: Stop) -> str:
        """Find out how a registry is spoken to: https, or http for an insecure one that has no TLS.

        Raises:
            RegistryError, Timeout, Cancelled: as ``request``.

        """
        if not self.is_insecure(host):
            return "https"
        with self._lock:
            known = self._schemes.get(host)
        if known:
            return known
        try:
            # A server without TLS may wait in silence for the rest of what it takes for a request.
            with self.request("GET", f"https://{host}/v2/", stop=stop, timeout=PROBE_TIMEOUT):
                found = "https"
        except (RegistryError, Timeout):
            with self.request("GET", f"http://{host}/v2/", stop=stop):
                found = "http"
        with self._lock:
            self._schemes[host] = found
        return found

    @contextmanager
    def request(
        self,
        method: str,
        url: str,
        *,
        stop: Stop,
        headers: Mapping[str, str] | None = None,
        body: Body = None,
        timeout: float | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """Send one request and follow its redirects; the response's body is read by the caller.

        ``Authorization`` is left out when a redirect leaves the first host. The connection goes back to its pool when
        the body was read whole, else it is closed.

        Raises:
            RegistryError: no connection, no valid certificate, nonsense, too many redirects.
            Timeout: no connection or no answer within ``timeout`` (else ``RegistryConfig.timeout``) seconds.
            Cancelled: ``stop`` was switched.

        """
        sent = {"User-Agent": f"hyperd/{hyperd.__version__}", **(headers or {})}
        for _ in range(MAX_REDIRECTS + 1):
            stop.check()
            response = self._send(method, url, sent, body, timeout or self.config.timeout)
            try:
                with stop.watching(response), _translated(url, stop):
                    if response.status in _REDIRECTS and response.headers.get("Location"):
                        Pace(self.config, _host(url)).head(response, MAX_ERROR_BODY)
                        target = self._redirected(url, response.headers["Location"])
                        if _origin(target) != _origin(url):
                            sent.pop("Authorization", None)
                        url = target
                        continue
                    yield response
                    return
            finally:
                _give_back(response)
        raise RegistryError(f"too many redirects from {_host(url)}")

    def _send(self, method: str, url: str, headers: Mapping[str, str], body: Body, seconds: float) -> BaseHTTPResponse:
        timeout = urllib3.Timeout(connect=seconds, read=seconds)
        try:
            with _translated(url, None):
                return self._manager(url).request(
                    method,
                    url,
                    headers=dict(headers),
                    body=body() if callable(body) else body,
                    preload_content=False,
                    decode_content=False,
                    redirect=False,
                    retries=False,
                    timeout=timeout,
                )
        except (ValueError, UnicodeError) as exc:  # http.client refuses control characters in what a client sent
            raise InvalidInput("bad characters in a header for the registry", details=str(exc)) from exc

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        parts = urlsplit(target)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RegistryError(f"{_host(url)} redirects to a URL of another kind", details=location[:200])
        downgrade = parts.scheme == "http" and url.startswith("https:")
        if downgrade and not self.is_insecure(_host(url)) and not self.is_insecure(parts.netloc):
            raise RegistryError(f"{_host(url)} redirects from https to http", details=location[:200])
        return target

    def _manager(self, url: str) -> urllib3.PoolManager:
        proxy = self._proxies.proxy_for(url)
        insecure = self.is_insecure(_host(url))
        with self._lock:
            if self._closed:
                raise Cancelled("the daemon is going down")
            manager = self._managers.get((proxy, insecure))
            if manager is None:
                manager = self._managers[proxy, insecure] = self._make_manager(proxy, insecure=insecure)
        return manager

    def _make_manager(self, proxy: str, *, insecure: bool) -> urllib3.PoolManager:
        if insecure:  # without the host's authorities: nobody would ask them, and they are a megabyte
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context = ssl.create_default_context()
            if self.config.ca_file is not None:
                context.load_verify_locations(cafile=str(self.config.ca_file))
        size = self.config.parallel_layers + 2
        if proxy:
            parts = urlsplit(proxy)
            login = f"{parts.username}:{parts.password or ''}" if parts.username else None
            headers = make_headers(proxy_basic_auth=login) if login else None
            manager: urllib3.PoolManager = urllib3.ProxyManager(
                proxy, proxy_headers=headers, maxsize=size, ssl_context=context
            )
        else:
            manager = urllib3.PoolManager(maxsize=size, ssl_context=context)
        if insecure:
            manager.pool_classes_by_scheme = {"http": HTTPConnectionPool, "https": _QuietPool}
        return manager


@contextmanager
def _translated(url: str, stop: Stop | None) -> Iterator[None]:
    """Turn the HTTP library's errors into ours."""
    try:
        yield
    except (http_errors.HTTPError, OSError) as exc:
        if stop is not None:
            stop.check()
        refused = isinstance(exc, http_errors.NewConnectionError)  # which the library counts among the time-outs
        if isinstance(exc, (http_errors.TimeoutError, TimeoutError)) and not refused:
            raise Timeout(f"registry {_host(url)} does not answer", details=str(exc)) from exc
        raise _unreachable(url, exc) from exc


def _unreachable(url: str, error: Exception) -> RegistryError:
    """Return the error that says why a registry cannot be talked to, in few words where the reason is a usual one."""
    host = _host(url)
    if isinstance(error, http_errors.NameResolutionError):
        return RegistryError(f"cannot resolve {host}", resolution="check the name, and the host's name servers")
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, ConnectionRefusedError):
        return RegistryError(f"cannot talk to registry {host}", details="no server listens there (connection refused)")
    return RegistryError(
        f"cannot talk to registry {host}",
        details=str(error),
        resolution="check the name, the network, the proxy and the certificate",
    )


def _give_back(response: BaseHTTPResponse) -> None:
    remaining = getattr(response, "length_remaining", None)
    if remaining == 0:
        response.drain_conn()  # the connection takes no further request before it has seen the end of an empty body
    else:
        response.close()
    response.release_conn()


def _in_network(address: ipaddress.IPv4Address | ipaddress.IPv6Address, rule: str) -> bool:
    try:
        return address in ipaddress.ip_network(rule, strict=False)
    except ValueError:
        return False


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _origin(url: str) -> tuple[str, str]:
    parts = urlsplit(url)
    return parts.scheme, parts.netloc.lower()
