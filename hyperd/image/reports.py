"""What is told of images: inspection, history, use of the disk, what registries have."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hyperd.errors import InvalidInput
from hyperd.image import describe
from hyperd.image.catalog import Catalog
from hyperd.image.transfer.pull import host_of
from hyperd.registry.auth import AuthConfig, TokenCache
from hyperd.registry.search import SearchClient
from hyperd.registry.transport import Stop, Transport

_HUB = "index.docker.io"  # which is searched; the registry itself is another host
_MAX_TERM = 256


class ImageReports:
    """Reports of a store. Safe for threads.

    Args:
        catalog: the rows.
        in_use: gives the names of the containers that use an image.
        transport: connections.

    """

    def __init__(self, *, catalog: Catalog, in_use: Callable[[str], Sequence[str]], transport: Transport) -> None:
        self._catalog = catalog
        self._in_use = in_use
        self._transport = transport

    def inspect(self, name: str) -> dict[str, Any]:
        """Give everything that is known of an image, with Docker's field names.

        Raises:
            ImageNotFound: there is none.

        """
        record = self._catalog.get(name)
        disk = self._catalog.disk_sizes()
        return describe.inspect(record, disk=sum(disk.get(diff_id, 0) for diff_id in set(record.diff_ids)))

    def history(self, name: str) -> list[dict[str, Any]]:
        """Give the steps an image was made in, the newest first.

        Raises:
            ImageNotFound: there is none.

        """
        record = self._catalog.get(name)
        return describe.history(record, [max(self._catalog.layer_size(diff_id), 0) for diff_id in record.diff_ids])

    def usage(self) -> dict[str, Any]:
        """Give what images take of the disk: totals, and what each has alone and shares."""
        records = self._catalog.images(all_images=True, dangling=None, pattern="")
        containers = {record.id: len(self._in_use(record.id)) for record in records}
        totals = self._catalog.totals()
        rows = describe.usage(records, self._catalog.disk_sizes(), containers)
        unused = sum(row["UniqueSize"] for row in rows if not row["Containers"])
        return {
            "LayersSize": totals["layer_bytes"],
            "BlobsSize": totals["blob_bytes"],
            "Reclaimable": unused,
            "Images": rows,
        }

    def search(self, term: str, *, limit: int = 25, auth: AuthConfig | None = None) -> list[dict[str, Any]]:
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
