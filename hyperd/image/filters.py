"""Which images a list or a clean-up means."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase

from hyperd.image.catalog import ImageRecord
from hyperd.image.model import ImageFilter, mapping_of


def chosen(
    records: Iterable[ImageRecord], wanted: ImageFilter, *, created: Callable[[str], float]
) -> list[ImageRecord]:
    """Return the images that a filter lets pass, in their order; with ``references`` only with names that fit.

    Args:
        records: all of them.
        wanted: the filter.
        created: gives the time of creation of an image by its name.

    Raises:
        ImageNotFound: ``before`` or ``since`` name no image.

    """
    before = [created(name) for name in wanted.before]
    since = [created(name) for name in wanted.since]
    found = []
    for record in records:
        when = record.created_at
        if not all(when < limit for limit in before) or not all(when > limit for limit in since):
            continue
        if wanted.until is not None and when >= wanted.until:
            continue
        if not _labels_fit(record, wanted):
            continue
        if wanted.references:
            record = _named(record, wanted.references)  # noqa: PLW2901
            if not (record.tags or record.digests):
                continue
        if wanted.dangling is None or wanted.dangling != bool(record.tags):
            found.append(record)
    return found


def _labels_fit(record: ImageRecord, wanted: ImageFilter) -> bool:
    if not wanted.labels and not wanted.without_labels:
        return True
    labels = mapping_of(mapping_of(record.config, "config"), "Labels")

    def has(text: str) -> bool:
        key, equals, value = text.partition("=")
        return key in labels and (not equals or labels[key] == value)

    return all(has(text) for text in wanted.labels) and not any(has(text) for text in wanted.without_labels)


def _named(record: ImageRecord, patterns: Sequence[str]) -> ImageRecord:
    tags = tuple(tag for tag in record.tags if _fits(tag, tag.rpartition(":")[0], patterns))
    digests = tuple(digest for digest in record.digests if _fits(digest, digest.partition("@")[0], patterns))
    return replace(record, tags=tags, digests=digests)


def _fits(name: str, repository: str, patterns: Sequence[str]) -> bool:
    return any(_path_fits(text, pattern) for pattern in patterns for text in (name, repository))


def _path_fits(text: str, pattern: str) -> bool:
    """Tell whether a pattern fits; a star stands for no slash (Go's ``path.Match``)."""
    names, wanted = text.split("/"), pattern.split("/")
    return len(names) == len(wanted) and all(fnmatchcase(name, part) for name, part in zip(names, wanted, strict=True))
