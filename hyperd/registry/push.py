"""Sending blobs and manifests to a repository (OCI distribution specification v1.1, push)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

import structlog

from hyperd.errors import HyperError, ImageNotFound, RegistryError, Timeout
from hyperd.registry.client import ATTEMPTS, FinalError, RangeRefused, RawManifest, RegistryClient, TransientError

log = structlog.get_logger(__name__)

OpenAt = Callable[[int], Iterator[bytes]]
Progress = Callable[[int], object]

AT_ONCE = 4 * 2**20  # bytes of a blob that is sent in one request; a larger one is worth resuming
_SLOW_DISK = 20 * 2**20  # bytes a second that a registry hashes at least, before it answers
_OCTETS = "application/octet-stream"
_RANGE = re.compile(r"(?:bytes=)?0-(\d{1,18})")


@dataclass
class Upload:
    """An upload that has begun: where it goes on."""

    url: str


@dataclass(frozen=True, kw_only=True)
class Outgoing:
    """A blob to be sent.

    Args:
        digest: ``sha256:<hex>``.
        size: bytes.
        open_at: gives the data from an offset on; may be called several times.
        progress: gets the number of bytes sent so far.

    """

    digest: str
    size: int
    open_at: OpenAt
    progress: Progress


class PushClient(RegistryClient):
    """A repository that is written to.

    Args:
        sources: repositories of the same registry that blobs may be mounted from.
        more: as for ``RegistryClient``.

    """

    def __init__(self, *, sources: Sequence[str] = (), **more: Any) -> None:
        super().__init__(**more)
        self._sources = tuple(sources)

    def has_blob(self, digest: str) -> bool:
        """Tell whether the repository has a blob.

        Raises:
            Unauthorized, Forbidden, RegistryError, Timeout, Cancelled: as ``manifest``.

        """

        def once() -> bool:
            with self._request(f"/v2/{self.path}/blobs/{digest}", {}, method="HEAD"):
                return True

        try:
            return self._patiently(once)
        except ImageNotFound:
            return False

    def begin(self, digest: str, *, source: str = "") -> Upload | None:
        """Begin an upload, or let the registry take the blob from another of its repositories.

        Args:
            digest: of the blob.
            source: the other repository's path, empty for none.

        Returns:
            None when the blob was mounted: there is nothing to upload.

        Raises:
            As ``has_blob``.

        """
        query = f"?mount={quote(digest)}&from={quote(source)}" if source else ""

        def once() -> Upload | None:
            url = f"/v2/{self.path}/blobs/uploads/{query}"
            with self._request(url, {"Content-Length": "0"}, method="POST") as response:
                if response.status == 201 and source:
                    return None
                return Upload(self._location(url, response.headers))

        return self._patiently(once)

    def abandon(self, upload: Upload) -> None:
        """Tell the registry that an upload will not be finished; whether it listens does not matter."""
        try:
            with self._request(upload.url, {}, method="DELETE"):
                pass
        except (HyperError, ValueError) as exc:
            log.debug("upload-not-abandoned", host=self.host, error=str(exc))

    def send_blob(self, upload: Upload, blob: Outgoing) -> None:
        """Send a blob; a broken transfer goes on where the registry says it has stopped.

        Args:
            upload: from ``begin``.
            blob: what is sent.

        Raises:
            RegistryError: the registry keeps failing or has received something else.
            Unauthorized, Forbidden, Timeout, Cancelled: as ``manifest``.

        """
        position, failures, broken = 0, 0, False
        while True:
            try:
                if broken:
                    before, broken = position, False
                    upload, position = self._resume(upload, blob)
                    failures = 1 if position > before else failures
                    blob.progress(position)
                if blob.size > AT_ONCE and position < blob.size:
                    self._patch(upload, blob, position)
                    position = blob.size
                self._complete(upload, blob, position)
                return
            except (RegistryError, Timeout, ImageNotFound) as exc:
                failures, broken = failures + 1, True
                if failures >= ATTEMPTS or isinstance(exc, FinalError):
                    raise
                log.info("upload-interrupted", host=self.host, digest=blob.digest, error=str(exc))
                self._pause(failures, exc)

    def put_manifest(self, target: str, manifest: RawManifest) -> str:
        """Write a manifest under a tag or its digest; give the digest.

        Raises:
            RegistryError: the registry refuses it or claims another digest.
            Unauthorized, Forbidden, Timeout, Cancelled: as ``manifest``.

        """

        def once() -> str:
            headers = {"Content-Type": manifest.media_type}
            url = f"/v2/{self.path}/manifests/{target}"
            with self._request(url, headers, method="PUT", body=manifest.body) as response:
                return str(response.headers.get("Docker-Content-Digest", ""))

        claimed = self._patiently(once)
        digest = "sha256:" + hashlib.sha256(manifest.body).hexdigest()
        if claimed.startswith("sha256:") and claimed != digest:
            raise RegistryError(
                f"{self.host} has stored another manifest than it was sent", details=f"want {digest}, got {claimed}"
            )
        return digest

    def _patch(self, upload: Upload, blob: Outgoing, position: int) -> None:
        headers = {"Content-Type": _OCTETS, "Content-Length": str(blob.size - position)}
        if position:
            headers["Content-Range"] = f"{position}-{blob.size - 1}"
        body, seconds = self._body(blob, position), self._time_for(blob.size)
        with self._request(upload.url, headers, method="PATCH", body=body, timeout=seconds) as response:
            upload.url = self._location(upload.url, response.headers)

    def _complete(self, upload: Upload, blob: Outgoing, position: int) -> None:
        parts = urlsplit(upload.url)
        query = f"{parts.query}&" if parts.query else ""
        url = urlunsplit(parts._replace(query=f"{query}digest={quote(blob.digest)}"))
        headers = {"Content-Type": _OCTETS, "Content-Length": str(blob.size - position)}
        body = self._body(blob, position) if position < blob.size else b""
        with self._request(url, headers, method="PUT", body=body, timeout=self._time_for(blob.size)) as response:
            stored = str(response.headers.get("Docker-Content-Digest", ""))
        if stored.startswith("sha256:") and stored != blob.digest:
            raise FinalError(
                f"{self.host} has stored another blob than it was sent", details=f"want {blob.digest}, got {stored}"
            )

    def _body(self, blob: Outgoing, position: int) -> Callable[[], Iterator[bytes]]:
        def pieces() -> Iterator[bytes]:
            sent, pace = position, self._pace()
            for piece in blob.open_at(position):
                self._stop.check()
                with pace.waiting(len(piece)):
                    yield piece
                sent += len(piece)
                blob.progress(sent)

        return pieces

    def _resume(self, upload: Upload, blob: Outgoing) -> tuple[Upload, int]:
        """Ask how much has arrived; an upload that the registry has forgotten begins anew."""
        try:
            with self._request(upload.url, {}) as response:
                found = _RANGE.fullmatch(response.headers.get("Range", "").strip())
                # What says 0-0 has one byte or none: that is worth no guess.
                if found is not None and 0 < int(found[1]) < blob.size:
                    return Upload(self._location(upload.url, response.headers)), int(found[1]) + 1
        except TransientError:
            raise
        except (FinalError, ImageNotFound, RangeRefused) as exc:
            log.info("upload-begins-anew", host=self.host, digest=blob.digest, error=str(exc))
        return self.begin(blob.digest) or upload, 0

    def _location(self, url: str, headers: Mapping[str, str]) -> str:
        location = headers.get("Location", "")
        if not location:
            if "://" in url or not url.endswith("/uploads/"):
                return url
            raise RegistryError(f"{self.host} does not say where to upload to")
        base = f"{self._transport.scheme(self.host, self._stop)}://{self.host}"
        target = urlsplit(urljoin(base + url if url.startswith("/") else url, location))
        if target.scheme not in {"http", "https"} or not target.hostname:
            raise FinalError(f"{self.host} wants uploads at a URL of another kind", details=location[:200])
        own = urlsplit(base)
        if target.hostname == own.hostname and target.scheme == "http" and own.scheme == "https":
            # A registry behind a proxy that ends TLS does not know how it is spoken to.
            target = target._replace(scheme="https", netloc=own.netloc)
        if target.scheme == "http" and own.scheme == "https" and not self._transport.is_insecure(target.netloc):
            raise FinalError(f"{self.host} wants uploads without TLS", details=location[:200])
        return urlunsplit(target)

    def _time_for(self, size: int) -> float:
        return self._transport.config.timeout + size / _SLOW_DISK

    def _scopes(self) -> tuple[str, ...]:
        more = (f"repository:{source}:pull" for source in self._sources)
        return (f"repository:{self.path}:pull,push", *more) if self.path else ()
