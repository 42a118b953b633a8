"""Progress of work on images and of builds as lines of JSON in Docker's form (jsonmessage)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hyperd.api.sizes import bar
from hyperd.build.order import BuildEvent, BuildText, ImageBuilt
from hyperd.image.progress import (
    ImageImported,
    ImageLoaded,
    ImportProgress,
    ImportStarted,
    LayerPull,
    LayerPush,
    NameMoved,
    PullFinished,
    PullPhase,
    PullSigned,
    PullStarted,
    PushFinished,
    PushPhase,
    PushStarted,
)

Line = dict[str, Any]
_RED, _PLAIN = "\x1b[91m", "\x1b[0m"  # ECMA-48, select graphic rendition

_PULL = {
    PullPhase.PULLING: "Pulling fs layer",
    PullPhase.EXISTS: "Already exists",
    PullPhase.WAITING: "Waiting",
    PullPhase.DOWNLOADING: "Downloading",
    PullPhase.VERIFYING: "Verifying Checksum",
    PullPhase.DOWNLOADED: "Download complete",
    PullPhase.EXTRACTING: "Extracting",
    PullPhase.COMPLETE: "Pull complete",
}
_PUSH = {
    PushPhase.PREPARING: "Preparing",
    PushPhase.WAITING: "Waiting",
    PushPhase.COMPRESSING: "Compressing",
    PushPhase.PUSHING: "Pushing",
    PushPhase.EXISTS: "Layer already exists",
    PushPhase.MOUNTED: "Mounted from",
    PushPhase.PUSHED: "Pushed",
}
_TRANSFERS = {PullPhase.DOWNLOADING, PullPhase.EXTRACTING, PushPhase.COMPRESSING, PushPhase.PUSHING}


def as_lines(sink: Callable[[Line], None], *, coloured: bool = False) -> Callable[[BuildEvent], None]:
    """Return a function that takes events and sends their lines to ``sink``; ``coloured``: stderr is red."""

    def take(event: BuildEvent) -> None:
        if coloured and isinstance(event, BuildText) and event.stderr:
            event = BuildText(text=f"{_RED}{event.text}{_PLAIN}")
        for line in lines_of(event):
            sink(line)

    return take


def lines_of(event: BuildEvent) -> list[Line]:
    """Return the lines that tell of an event."""
    if isinstance(event, LayerPull | LayerPush):
        return [_layer(event)]
    if isinstance(event, PullFinished):
        what = "Downloaded newer image" if event.newer else "Image is up to date"
        return [{"status": f"Digest: {event.digest}"}, {"status": f"Status: {what} for {event.name}"}]
    if isinstance(event, PushFinished):
        aux = {"Tag": event.tag, "Digest": event.digest, "Size": event.size}
        status = f"{event.tag}: digest: {event.digest} size: {event.size}"
        return [{"status": status}, {"progressDetail": {}, "aux": aux}]
    return [_single(event)]


def _single(event: object) -> Line:
    match event:
        case BuildText(text=text):
            return {"stream": text}
        case ImageBuilt(image_id=image_id):
            return {"aux": {"ID": image_id}}
        case PullStarted(repository=repository, target=target):
            return {"status": f"Pulling from {repository}", "id": target}
        case PullSigned(key=key):
            return {"status": f"Signature: by {key}"}
        case PushStarted(repository=repository):
            return {"status": f"The push refers to a repository [{repository}]"}
        case NameMoved(name=name, image_id=image_id):
            text = f"The image {name} already exists, renaming the old one with ID {image_id} to empty string"
            return {"stream": f"{text}\n"}
        case ImageLoaded(image_id=image_id, name=name):
            return {"stream": f"Loaded image: {name}\n" if name else f"Loaded image ID: {image_id}\n"}
        case ImportStarted(source=source):
            return {"status": f"Downloading from {source[:1000]}"}
        case ImportProgress(current=current, total=total):
            detail = {"current": current, "total": max(total, current)}
            return {"status": "Importing", "progressDetail": detail, "progress": bar(current, total)}
        case ImageImported(image_id=image_id):
            return {"status": image_id}
        case _:
            raise TypeError(f"no line for {type(event).__name__}")


def _layer(event: LayerPull | LayerPush) -> Line:
    status = _PULL[event.phase] if isinstance(event, LayerPull) else _PUSH[event.phase]
    if isinstance(event, LayerPush) and event.source:
        status = f"{status} {event.source}"
    name = event.layer.partition(":")[2][:12]
    if event.phase not in _TRANSFERS:
        return {"status": status, "progressDetail": {}, "id": name}
    detail = {"current": event.current, "total": event.total}
    return {"status": status, "progressDetail": detail, "progress": bar(event.current, event.total), "id": name}
