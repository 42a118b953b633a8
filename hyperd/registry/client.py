"""One repository of one registry: manifests and blobs by the OCI distribution specification, with authentication."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import structlog
from urllib3.response import BaseHTTPResponse

from hyperd.errors import Cancelled, Forbidden, HyperError, ImageNotFound, RegistryError, Timeout, Unauthorized
from hyperd.registry.auth import DEFAULT_LIFETIME, AuthConfig, Challenge, TokenCache, parse_challenges
from hyperd.registry.pace import Pace, TooSlow
from hyperd.registry.transport import MAX_ERROR_BODY, Body, Stop, Transport

log = structlog.get_logger(__name__)

MAX_MANIFEST = 4 * 2**20
MAX_TOKEN_ANSWER = 2**20
TAGS_OF_PAGE, TAG_PAGES, MAX_TAGS = 1000, 400, 20_000
_MAX_LINK = 8192
_LINK = re.compile(r"<([!-;=?-~]*)>((?:\s*;\s*[^,;<]*)*)")  # RFC 8288
_NEXT = re.compile(r';\s*rel\s*=\s*(?:next\b|"(?:[^"]*\s)?next(?:\s[^"]*)?")', re.IGNORECASE)
CHUNK = 256 * 1024
ATTEMPTS = 5  # requests without a byte of progress before a transfer is given up
SLOW_ATTEMPTS = 2  # of a transfer that is too slow: another connection may lead to another server
_BACKOFF = 0.25  # seconds before the second attempt; doubles
_MAX_WAIT = 30.0  # seconds a Retry-After may ask for
_RETRY = frozenset({408, 429, 500, 502, 503, 504})

_T = TypeVar("_T")


@dataclass(frozen=True)
class RawManifest:
    """A manifest as a registry sent it, its digest checked."""

    body: bytes
    media_type: str
    digest: str


class RegistryClient:
    """A repository as one user sees it.

    Args:
        transport: the daemon's connections.
        tokens: the daemon's bearer tokens.
        host: ``host[:port]`` of the registry's API.
        path: the repository, ``library/busybox``.
        auth: credentials, None for anonymous.
        headers: further request headers (``X-Meta-*``).
        stop: ends every request.

    """

    def __init__(
        self,
        *,
        transport: Transport,
        tokens: TokenCache,
        host: str,
        path: str,
        stop: Stop,
        auth: AuthConfig | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.host = host
        self.path = path
        self._transport = transport
        self._tokens = tokens
        self._auth = auth
        self._headers = dict(headers or {})
        self._stop = stop
        self._challenge: Challenge | None = None

    def manifest(self, target: str, accept: tuple[str, ...]) -> RawManifest:
        """Fetch a manifest.

        Args:
            target: a tag or a digest.
            accept: media types, preferred first.

        Raises:
            ImageNotFound: the registry has no such repository, tag or digest.
            Unauthorized, Forbidden: credentials are needed, wrong or not enough.
            RegistryError: also a body whose digest is not the one asked for.
            Timeout, Cancelled: as ``Transport.request``.

        """
        url = f"/v2/{self.path}/manifests/{target}"
        body, headers = self._fetch(url, {"Accept": ", ".join(accept)}, limit=MAX_MANIFEST)
        digest = "sha256:" + hashlib.sha256(body).hexdigest()
        claimed = headers.get("Docker-Content-Digest", "")
        wanted = target if ":" in target else claimed
        if wanted.startswith("sha256:") and wanted != digest:
            raise RegistryError(
                f"the manifest of {self.path} from {self.host} is not what its digest says",
                details=f"want {wanted}, got {digest}",
            )
        media_type = headers.get("Content-Type", "").partition(";")[0].strip()
        return RawManifest(body, media_type, digest)

    def tags(self) -> list[str]:
        """Fetch the names of all tags (OCI distribution-spec, "Listing Tags").

        Raises:
            ImageNotFound: there is no such repository.
            Unauthorized, Forbidden, RegistryError, Timeout, Cancelled: as ``manifest``.

        """
        found: list[str] = []
        query = urlencode({"n": TAGS_OF_PAGE})
        for _ in range(TAG_PAGES):
            body, headers = self._fetch(f"/v2/{self.path}/tags/list?{query}", {}, limit=MAX_MANIFEST)
            try:
                data = json.loads(body)
                page = data.get("tags") if isinstance(data, dict) else None
            except (ValueError, RecursionError) as exc:
                raise RegistryError(f"{self.host} sent nonsense for a list of tags", details=str(exc)[:200]) from exc
            names = [name for name in page if isinstance(name, str)] if isinstance(page, list) else []
            found += names
            query = _next_query(headers.get("Link", ""))
            if not query and len(names) >= TAGS_OF_PAGE:  # of a registry that tells nothing of further pages
                query = urlencode({"n": TAGS_OF_PAGE, "last": names[-1]})
            if not query:
                return list(dict.fromkeys(found))
            if len(found) >= MAX_TAGS:
                break
        raise RegistryError(f"{self.path} has more tags than can be listed", details=f"over {len(found)}")

    def referrers(self, digest: str) -> bytes:
        """Fetch the index of the manifests that refer to one (OCI distribution-spec v1.1, "Listing Referrers").

        Raises:
            ImageNotFound, FinalError: the registry does not know the request.
            Unauthorized, Forbidden, RegistryError, Timeout, Cancelled: as ``manifest``.

        """
        url = f"/v2/{self.path}/referrers/{digest}"
        return self._fetch(url, {"Accept": "application/vnd.oci.image.index.v1+json"}, limit=MAX_MANIFEST)[0]

    def blob(self, digest: str, *, size: int, offset: int = 0) -> Iterator[bytes]:
        """Yield a blob's bytes from an offset on; broken transfers go on where they stopped (RFC 9110 section 14).

        The caller checks the digest. A registry that ignores ranges sends everything; what is known is then left out.

        Raises:
            RegistryError: the registry does not have it, sends more or less than ``size``, or keeps failing.
            Unauthorized, Forbidden, Timeout, Cancelled: as ``manifest``.

        """
        position, failures, slow = offset, 0, 0
        while position < size:
            try:
                for chunk in self._blob_once(digest, position, size):
                    position += len(chunk)
                    failures = 0
                    yield chunk
            except (RegistryError, Timeout) as exc:
                failures, slow = failures + 1, slow + isinstance(exc, TooSlow)
                if failures >= ATTEMPTS or slow >= SLOW_ATTEMPTS or isinstance(exc, FinalError):
                    raise
                log.info("blob-interrupted", host=self.host, digest=digest, position=position, error=str(exc))
                self._pause(failures, exc)

    def small_blob(self, digest: str, *, size: int) -> bytes:
        """Fetch a whole blob into memory and check its digest; the caller bounds ``size``.

        Raises:
            RegistryError: the digest is wrong; and as ``blob``.

        """
        body = b"".join(self.blob(digest, size=size))
        if digest != "sha256:" + hashlib.sha256(body).hexdigest():
            raise RegistryError(f"{self.host} sent wrong data for {digest}")
        return body

    def check_login(self) -> None:
        """Show the credentials to the registry's API root.

        Raises:
            Unauthorized: they are wrong.
            RegistryError, Timeout, Cancelled: as ``Transport.request``.

        """
        self._fetch("/v2/", {}, limit=MAX_TOKEN_ANSWER)

    def _fetch(self, url: str, headers: Mapping[str, str], *, limit: int) -> tuple[bytes, Mapping[str, str]]:
        def once() -> tuple[bytes, Mapping[str, str]]:
            with self._request(url, headers) as response:
                return self._read(response, limit), response.headers

        return self._patiently(once)

    def _patiently(self, once: Callable[[], _T]) -> _T:
        """Try a request again while the registry says that it is busy or down for the moment."""
        failures = 0
        while True:
            try:
                return once()
            except TransientError as exc:
                failures += 1
                if failures >= ATTEMPTS:
                    raise
                self._pause(failures, exc)

    def _pause(self, failures: int, error: HyperError) -> None:
        """Wait before the next attempt, as long as the registry asked for."""
        asked = error.wait if isinstance(error, TransientError) else 0.0
        self._stop.wait(max(asked, _BACKOFF * 2 ** (failures - 1)))

    def _blob_once(self, digest: str, position: int, size: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={position}-"} if position else {}
        with self._blob_request(digest, headers) as response:
            skip = _check_range(response, position, size, self.host)
            left, pace = size - position, self._pace()
            while chunk := pace.read(response, CHUNK):
                if skip:
                    dropped = min(skip, len(chunk))
                    skip -= dropped
                    chunk = chunk[dropped:]
                left -= len(chunk)
                if left < 0:
                    raise FinalError(f"{self.host} sent too much of {digest}", details=f"more than {size} bytes")
                if chunk:
                    yield chunk
            self._stop.check()
        if left:
            raise RegistryError(f"{self.host} sent too little of {digest}", details=f"{left} of {size} bytes missing")

    def _pace(self) -> Pace:
        return Pace(self._transport.config, self.host)

    @contextmanager
    def _blob_request(self, digest: str, headers: Mapping[str, str]) -> Iterator[BaseHTTPResponse]:
        try:
            with self._request(f"/v2/{self.path}/blobs/{digest}", headers) as response:
                yield response
        except ImageNotFound as exc:  # the manifest names it: the registry is at fault, not the name
            raise FinalError(f"{self.host} does not have {digest}", details=exc.details) from exc

    @contextmanager
    def _request(
        self,
        url: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        body: Body = None,
        timeout: float | None = None,
    ) -> Iterator[BaseHTTPResponse]:
        """Send a request; a challenge is answered once.

        Args:
            url: a path of the registry, or a whole URL that the registry named; credentials go to the registry only.
            headers: of this request.
            method: HTTP's.
            body: made anew for a second try.
            timeout: seconds, None for the configured ones.

        """
        base = f"{self._transport.scheme(self.host, self._stop)}://{self.host}"
        target = url if "://" in url else base + url
        own = target.startswith(base + "/")
        sent = {**self._headers, **headers, **(self._authorization(base) if own else {})}
        more: dict[str, Any] = {"body": body, "timeout": timeout, "stop": self._stop}
        with self._transport.request(method, target, headers=sent, **more) as response:
            if response.status != 401 or not own:
                self._check_status(response)
                yield response
                return
            self._pace().head(response, MAX_ERROR_BODY)
            challenges = parse_challenges(", ".join(response.headers.getlist("WWW-Authenticate")))
        self._challenge = self._choose(challenges)
        sent.update(self._authorization(base, again=True))
        with self._transport.request(method, target, headers=sent, **more) as response:
            self._check_status(response)
            yield response

    def _choose(self, challenges: list[Challenge]) -> Challenge:
        for challenge in challenges:
            if challenge.scheme == "bearer" and challenge.parameters.get("realm"):
                return challenge
            if challenge.scheme == "basic":
                if self._auth is None or not self._auth.basic:
                    raise self._unauthorized("no basic auth credentials")
                return challenge
        raise self._unauthorized("no challenge this client can answer")

    def _authorization(self, base: str, *, again: bool = False) -> dict[str, str]:
        if self._auth is not None and self._auth.registrytoken:
            return {"Authorization": f"Bearer {self._auth.registrytoken}"}
        if self._challenge is None:
            return {}
        if self._challenge.scheme == "basic":
            return {"Authorization": self._auth.basic} if self._auth is not None else {}
        return {"Authorization": f"Bearer {self._token(self._challenge, base, again=again)}"}

    def _token(self, challenge: Challenge, base: str, *, again: bool) -> str:
        realm = challenge.parameters["realm"]
        service = challenge.parameters.get("service", "")
        scope = " ".join(self._scopes())
        who = hashlib.sha256(repr(self._auth_secret()).encode()).hexdigest()
        key = (realm, service, scope, who)
        if again:
            self._tokens.drop(key)
        token = self._tokens.get(key)
        if not token:
            token, lifetime = self._fetch_token(realm, service, scope, base)
            self._tokens.put(key, token, lifetime)
        return token

    def _scopes(self) -> tuple[str, ...]:
        """Return what tokens are asked for.

        Not what the challenge says: a registry shall not choose what the user's credentials are good for.
        """
        return (f"repository:{self.path}:pull",) if self.path else ()

    def _auth_secret(self) -> tuple[str, ...]:
        auth = self._auth or AuthConfig()
        return (auth.username, auth.password, auth.identitytoken)

    def _fetch_token(self, realm: str, service: str, scope: str, base: str) -> tuple[str, float]:
        parts = urlsplit(realm)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise RegistryError(f"{self.host} names a token server of another kind", details=realm[:200])
        if parts.scheme == "http" and base.startswith("https:") and not self._transport.is_insecure(parts.netloc):
            raise RegistryError(f"{self.host} names a token server without TLS", details=realm[:200])
        query = {"service": service} | ({"scope": scope} if scope else {})
        headers: dict[str, str] = {}
        method, body, url = "GET", None, realm
        if self._auth is not None and self._auth.identitytoken:
            method = "POST"
            form = {"grant_type": "refresh_token", "refresh_token": self._auth.identitytoken, "client_id": "hyperd"}
            body = urlencode(form | query).encode()
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        else:
            if self._auth is not None and self._auth.basic:
                headers["Authorization"] = self._auth.basic
                query |= {"account": self._auth.username}
            scopes = [("scope", one) for one in scope.split()]
            query.pop("scope", None)
            url += ("&" if parts.query else "?") + urlencode([*query.items(), *scopes])
        with self._transport.request(method, url, headers=headers, body=body, stop=self._stop) as response:
            self._check_status(response)
            return _parse_token(self._read(response, MAX_TOKEN_ANSWER), self.host)

    def _read(self, response: BaseHTTPResponse, limit: int) -> bytes:
        body = self._pace().head(response, limit + 1)
        if len(body) > limit:
            raise FinalError(f"{self.host} sent an answer of more than {limit} bytes")
        return body

    def _check_status(self, response: BaseHTTPResponse) -> None:
        status = response.status
        if 200 <= status < 300:
            return
        details = f"status code {status}"
        if message := _error_text(self._pace().head(response, MAX_ERROR_BODY)):
            details += f", {message}"
        if status == 401:
            raise self._unauthorized(details)
        if status == 403:
            raise Forbidden(f"{self.host} denies access to {self.path or 'its API'}", details=details)
        if status == 404:
            raise ImageNotFound(f"{self.path} not found on {self.host}", details=details)
        brief = f"registry {self.host} failed"
        if status in _RETRY:
            raise TransientError(brief, details=details, wait=_retry_after(response))
        raise (RangeRefused if status == 416 else FinalError)(brief, details=details)

    def _unauthorized(self, details: str) -> HyperError:
        who = "wrong login/password for" if self._auth is not None else "Authentication is required for"
        return Unauthorized(f"{who} {self.host}", details=details, resolution="log in to the registry")


def watched(response: BaseHTTPResponse, cancelled: Callable[[], bool], pace: Pace) -> Iterator[bytes]:
    """Yield the bytes of an answer.

    Raises:
        Cancelled: ``cancelled`` said yes between two pieces.
        TooSlow: they come too slowly.

    """
    while chunk := pace.read(response, CHUNK):
        if cancelled():
            raise Cancelled("the transfer was cancelled")
        yield chunk


def _next_query(link: str) -> str:
    """Return the query of the next page that a ``Link`` header names, empty when there is none.

    Only the query: whatever host and path a registry writes there, the next page is of the same list.
    """
    if len(link) > _MAX_LINK:
        return ""
    for target, parameters in _LINK.findall(link):
        if _NEXT.search(parameters):
            return str(target).partition("#")[0].partition("?")[2]
    return ""


class FinalError(RegistryError):
    """Trying again cannot help."""


class RangeRefused(RegistryError):
    """The registry does not have the part that was asked for, or has another part than a transfer goes on from."""


class TransientError(RegistryError):
    """The registry is busy or down for the moment.

    Args:
        wait: seconds it asked to wait.

    """

    def __init__(self, brief: str, *, details: str = "", wait: float = 0.0) -> None:
        super().__init__(brief, details=details)
        self.wait = wait


def _check_range(response: BaseHTTPResponse, position: int, size: int, host: str) -> int:
    """Return the number of bytes to leave out."""
    if not position or response.status == 200:
        length = response.headers.get("Content-Length", str(size))
        if response.status == 200 and length != str(size):
            raise FinalError(f"{host} has a blob of another size than its manifest says", details=f"{length} bytes")
        return position
    sent = response.headers.get("Content-Range", "")
    if not sent.startswith(f"bytes {position}-") or sent.rpartition("/")[2] not in {str(size), "*"}:
        raise FinalError(f"{host} sent another range than asked for", details=sent[:100])
    return 0


def _parse_token(body: bytes, host: str) -> tuple[str, float]:
    try:
        data = json.loads(body)
        token = data.get("token") or data.get("access_token")
        lifetime = float(data.get("expires_in") or DEFAULT_LIFETIME)
    except (ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise RegistryError(f"the token server of {host} sent nonsense") from exc
    if not isinstance(token, str) or not token:
        raise RegistryError(f"the token server of {host} sent no token")
    return token, lifetime


def _retry_after(response: BaseHTTPResponse) -> float:
    text = response.headers.get("Retry-After", "")
    return min(float(text), _MAX_WAIT) if text.isdigit() else 0.0


def _error_text(body: bytes) -> str:
    """Read the messages of an error answer (distribution specification, error codes); bounded, one line."""
    try:
        errors = json.loads(body)["errors"]
        texts = [f"{str(e.get('code', ''))[:64]}: {str(e.get('message', ''))[:200]}" for e in errors[:3]]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return ""
    return "; ".join(texts)
