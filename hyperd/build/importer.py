"""Import: a root file system in a tar becomes an image of one layer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from hyperd.errors import Cancelled, InvalidInput
from hyperd.image.progress import ImageImported, ImportProgress, ImportStarted, Sink
from hyperd.image.service import ImageService

if TYPE_CHECKING:
    from hyperd.build.config import ImageDraft  # with it come Dockerfiles: imported by the first import

log = structlog.get_logger(__name__)

FROM_BODY = "-"
_STEP = 2**20  # bytes between two events


@dataclass(frozen=True, kw_only=True)
class ImportOrder:
    """What is imported.

    Args:
        source: ``-`` for the body, else an http(s) URL.
        name: ``repository[:tag]``, empty for none.
        message: for the history, empty for a usual one.
        changes: instructions as of a Dockerfile.

    """

    source: str
    name: str = ""
    message: str = ""
    changes: Sequence[str] = ()


class Importer:
    """Imports root file systems. Safe for threads."""

    def __init__(self, images: ImageService) -> None:
        self._images = images

    def check(self, order: ImportOrder) -> ImageDraft:
        """See whether an order is right before its data is read; give the configuration.

        Raises:
            InvalidInput, TooLarge: a bad name or change.

        """
        from hyperd.build.config import ImageDraft, apply_changes

        if order.name:
            self._images.taggable(order.name)
        draft = ImageDraft()
        apply_changes(draft, order.changes)
        shown = order.message or f"Imported from {order.source[:200]}"
        draft.image["comment"] = shown
        draft.add_history("", comment=shown, empty=False)
        return draft

    def from_body(self, order: ImportOrder, chunks: Iterator[bytes]) -> str:
        """Import what a client sends; give the image's id.

        Raises:
            InvalidInput, TooLarge: a bad name or change; the tar is hostile or damaged.
            OutOfSpace, HostFault: this host's part.
            Whatever the chunks raise; nothing stays then.

        """
        return self._import(order, self.check(order), chunks)

    def from_url(self, order: ImportOrder, *, progress: Sink, cancelled: Callable[[], bool]) -> str:
        """Import what a URL names; give the image's id.

        Raises:
            RegistryError, Timeout: the server cannot be reached.
            Cancelled: the client has left.
            And as ``from_body``.

        """
        draft = self.check(order)
        with self._images.download(order.source, cancelled=cancelled) as (size, chunks):
            progress(ImportStarted(source=order.source))
            made = self._import(order, draft, _shown(chunks, size, progress))
        progress(ImageImported(image_id=made))
        return made

    def _import(self, order: ImportOrder, draft: ImageDraft, chunks: Iterator[bytes]) -> str:
        with self._images.adding() as intake:
            try:
                layer = intake.add_layer(lambda: chunks)
            except Cancelled:
                raise
            except InvalidInput as error:
                raise InvalidInput("this is not the tar of a file system", details=str(error)) from error
            if layer.size == 0:
                raise InvalidInput("this is not the tar of a file system", details="there is no data")
            names = [order.name] if order.name else []
            made = self._images.add_image(draft.finish(), [layer], tags=names)
        log.info("image.imported", image=made.id, name=order.name)
        return made.id


def _shown(chunks: Iterator[bytes], size: int, progress: Sink) -> Iterator[bytes]:
    done = told = 0
    for chunk in chunks:
        done += len(chunk)
        if done - told >= _STEP or done == size:
            told = done
            progress(ImportProgress(current=done, total=size))
        yield chunk
