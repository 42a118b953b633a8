"""What is told of images: inspection, history, use of the disk, what registries have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from hyperd.errors import InvalidInput
from hyperd.image.catalog import Catalog, ImageRecord
from hyperd.image.model import HistoryStep, Image, ImageDetails, ImageUsage, StoreUsage, text_of
from hyperd.image.transfer.pull import host_of
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.search import SearchClient, SearchResult
from hyperd.registry.transport import Stop, Transport

_HUB = "index.docker.io"  # which is searched; the registry itself is another host
_MAX_TERM = 256


class ImageReports:
    """Reports of a store. Safe for threads.

    Args:
        catalog: the rows.
        value: makes an image's value of its record.
        in_use: gives the names of the containers that use an image.
        transport: connections.

    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        value: Callable[[ImageRecord], Image],
        in_use: Callable[[str], Sequence[str]],
        transport: Transport,
    ) -> None:
        self._catalog = catalog
        self._value = value
        self._in_use = in_use
        self._transport = transport

    def inspect(self, name: str) -> ImageDetails:
        """Return everything that is known of an image.

        Raises:
            ImageNotFound: there is none.

        """
        record = self._catalog.get(name)
        config, disk = record.config, self._catalog.disk_sizes()
        return ImageDetails(
            image=self._value(record),
            disk_size=sum(disk.get(diff_id, 0) for diff_id in set(record.diff_ids)),
            created=text_of(config, "created"),
            comment=text_of(config, "comment"),
            author=text_of(config, "author"),
            architecture=text_of(config, "architecture"),
            variant=text_of(config, "variant"),
            os=text_of(config, "os") or "linux",
            builder=text_of(config, "docker_version"),
        )

    def history(self, name: str) -> list[HistoryStep]:
        """Return the steps an image was made in, the newest first.

        Raises:
            ImageNotFound: there is none.

        """
        record = self._catalog.get(name)
        sizes = [max(self._catalog.layer_size(diff_id), 0) for diff_id in record.diff_ids]
        return _history(record, sizes)

    def usage(self) -> StoreUsage:
        """Return what images take of the disk: totals, and what each has alone and shares."""
        records = self._catalog.images(all_images=True)
        disk = self._catalog.disk_sizes()
        users: dict[str, int] = {}
        for record in records:
            for diff_id in set(record.diff_ids):
                users[diff_id] = users.get(diff_id, 0) + 1
        rows = []
        for record in records:
            own = set(record.diff_ids)
            rows.append(
                ImageUsage(
                    image=self._value(record),
                    disk_size=sum(disk.get(diff_id, 0) for diff_id in own),
                    shared=sum(disk.get(diff_id, 0) for diff_id in own if users[diff_id] > 1),
                    containers=len(self._in_use(record.id)),
                )
            )
        return StoreUsage(totals=self._catalog.totals(), images=tuple(rows))

    def search(self, term: str, *, limit: int = 25, auth: AuthConfig | None = None) -> list[SearchResult]:
        """Find repositories of a registry.

        Args:
            term: ``[host[:port]/]text``; without a host the default registry is searched.
            limit: most results.
            auth: credentials, None for anonymous.

        Raises:
            InvalidInput: nothing to search for.
            NotSupported: the registry knows no way to search.
            RegistryError, Timeout: it cannot be asked.

        """
        host, slash, text = term.strip().partition("/")
        if not slash or not ("." in host or ":" in host or host == "localhost"):
            host, text = self._catalog.parse("x").default_domain, term.strip()
        if not text or len(text) > _MAX_TERM:
            raise InvalidInput("there is nothing to search for", details=repr(term[:100]))
        server = host_of(host)
        client = SearchClient(
            transport=self._transport,
            tokens=TokenCache(),
            host=_HUB if server == host_of("") else server,
            path="",
            auth=auth,
            stop=Stop(),
        )
        return client.search(text, limit=limit)


def _history(record: ImageRecord, sizes: Sequence[int]) -> list[HistoryStep]:
    entries = record.config.get("history")
    steps: list[dict[str, Any]] = []
    if isinstance(entries, list):
        steps = [entry for entry in entries if isinstance(entry, dict)]
    if sum(not step.get("empty_layer") for step in steps) != len(sizes):
        steps = [{} for _ in sizes]  # what does not fit the layers tells nothing of them
    left, found = list(sizes), []
    for number, step in enumerate(steps, 1):
        last = number == len(steps)
        found.append(
            HistoryStep(
                image_id=record.id if last else "",
                created_at=unix_time(step.get("created")),
                created_by=text_of(step, "created_by"),
                comment=text_of(step, "comment"),
                size=0 if step.get("empty_layer") else left.pop(0),
                tags=record.tags if last else (),
            )
        )
    found.reverse()
    return found


def unix_time(text: object) -> int:
    """Read an RFC 3339 time as seconds since the epoch; nonsense is 0."""
    try:
        when = datetime.fromisoformat(str(text))
        return max(int((when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()), 0)
    except (ValueError, OverflowError):
        return 0
