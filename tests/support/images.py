"""Image services for tests, without a daemon."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import count
from pathlib import Path

from hyperd.config.model import Config
from hyperd.db.session import Database
from hyperd.image.service import ImageService


@contextmanager
def image_service(root: Path, config: Config | None = None) -> Iterator[ImageService]:
    """Make an image service with its database and its store in ``root``."""
    with closing(Database(root / "db")) as database:
        database.create_all()
        place = root / "images"
        service = ImageService(config=config or Config(), database=database, root=place, in_use=lambda _image: [])
        with closing(service):
            yield service


@contextmanager
def image_services(root: Path) -> Iterator[Callable[[Config], ImageService]]:
    """Yield a function that makes image services, each in a directory of its own: 0, 1, and so on."""
    numbers = count()
    with ExitStack() as stack:

        def start(config: Config) -> ImageService:
            place = root / str(next(numbers))
            place.mkdir()
            return stack.enter_context(image_service(place, config))

        yield start


def stored(root: Path) -> set[Path]:
    """Return the files of the image store below a daemon's root, without the copies of rows, which follow later."""
    return {path for path in (root / "images").rglob("*") if "rows" not in path.parts}
