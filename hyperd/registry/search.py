"""Searching a registry: Docker Hub's own way, else the list of repositories (distribution specification, catalog)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from hyperd.errors import Forbidden, ImageNotFound, NotSupported, RegistryError, Unauthorized
from hyperd.registry.client import FinalError, RegistryClient

MAX_ANSWER = 4 * 2**20
MAX_RESULTS = 100
_PAGE, _PAGES = 1000, 20
_MAX_TEXT = 512


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """A repository that a search found."""

    name: str
    description: str = ""
    stars: int = 0
    official: bool = False
    automated: bool = False


class SearchClient(RegistryClient):
    """A registry that is searched; its ``path`` is empty."""

    def search(self, term: str, *, limit: int = 25) -> list[SearchResult]:
        """Find repositories.

        Args:
            term: what their name (or description) contains.
            limit: most results, at most ``MAX_RESULTS``.

        Raises:
            NotSupported: the registry knows no way to search.
            RegistryError, Timeout, Cancelled: as ``Transport.request``.

        """
        limit = min(limit, MAX_RESULTS)
        for way in (self._index, self._catalog):
            try:
                return way(term, limit)
            except (ImageNotFound, Unauthorized, Forbidden, FinalError):
                continue
        raise NotSupported(f"{self.host} cannot be searched", resolution="ask for the image by its name")

    def _index(self, term: str, limit: int) -> list[SearchResult]:
        data = self._json("/v1/search?" + urlencode({"q": term, "n": limit}))
        found = data.get("results")
        rows = [row for row in found if isinstance(row, dict)] if isinstance(found, list) else []
        return [
            _result(
                str(row.get("name", "")),
                description=str(row.get("description") or ""),
                stars=row.get("star_count"),
                official=bool(row.get("is_official")),
                automated=bool(row.get("is_automated")),
            )
            for row in rows[:limit]
        ]

    def _catalog(self, term: str, limit: int) -> list[SearchResult]:
        names: list[str] = []
        last = ""
        for _ in range(_PAGES):
            query = {"n": _PAGE} | ({"last": last} if last else {})
            found = self._json("/v2/_catalog?" + urlencode(query)).get("repositories")
            page = [name for name in found if isinstance(name, str)] if isinstance(found, list) else []
            names += [name for name in page if term.lower() in name.lower()]
            if len(page) < _PAGE or len(names) >= limit:
                break
            last = page[-1]
        return [_result(name) for name in names[:limit]]

    def _json(self, url: str) -> dict[str, Any]:
        body, _ = self._fetch(url, {}, limit=MAX_ANSWER)
        try:
            data = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise RegistryError(f"{self.host} sent nonsense for a search", details=str(exc)[:200]) from exc
        if not isinstance(data, dict):
            raise RegistryError(f"{self.host} sent nonsense for a search")
        return data

    def _scopes(self) -> tuple[str, ...]:
        return ("registry:catalog:*",)


def _result(
    name: str, *, description: str = "", stars: object = 0, official: bool = False, automated: bool = False
) -> SearchResult:
    return SearchResult(
        name=name[:_MAX_TEXT],
        description=description[:_MAX_TEXT],
        stars=stars if isinstance(stars, int) else 0,
        official=official,
        automated=automated,
    )
