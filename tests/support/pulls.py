"""What tests of pulls share: an image store, layers of noise, registries that fail on blobs."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperd.config.model import Config, RegistryConfig
from hyperd.db.session import Database
from hyperd.image.service import ImageService
from tests.support.faulty import FaultyRegistry
from tests.support.registry import Layer, layer_tar, member

NAME = "some/image"


class Host:
    """A store and its service."""

    def __init__(self, root: Path, **settings: Any) -> None:
        self.root = root
        root.mkdir(exist_ok=True)
        self.database = Database(root / "db")
        self.database.create_all()
        self.service = self.open(**settings)

    def open(self, **settings: Any) -> ImageService:
        config = Config(registry=RegistryConfig(**{"timeout": 30.0, **settings}))
        return ImageService(config=config, database=self.database, root=self.root / "images", in_use=lambda _image: [])

    def close(self) -> None:
        self.service.close()
        self.database.close()

    def files(self) -> list[str]:
        return sorted(str(p.relative_to(self.root / "images")) for p in self.root.glob("images/**/*") if p.is_file())

    def partials(self) -> list[Path]:
        return list((self.root / "images/tmp").glob("*.partial"))

    def pull(self, registry: FaultyRegistry, tag: str = "t", **options: Any) -> Any:
        options = {"auth": None, "progress": lambda _line: None, **options}
        return self.service.pull(f"{registry.host}/{NAME}:{tag}", **options)


def noise(size: int, seed: int = 0) -> Layer:
    return Layer(layer_tar([member(f"noise-{seed}", random.Random(seed).randbytes(size))]))


def on_blobs(fault: Callable[[Any, bytes], None], registry: FaultyRegistry, only: str | list[str] = "") -> None:
    def answer(handler: Any, path: str) -> bool:
        digest = path.rpartition("/")[2]
        if "/blobs/" not in path or (only and digest not in only):
            return False
        fault(handler, registry.blobs[digest])
        return True

    registry.fault = answer
