"""What a build is asked for, and what it tells while it runs."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hyperd.image.progress import ImageEvent
from hyperd.registry.auth import AuthConfig
from hyperd.spec.model import Ulimit

NO_NETWORK = "none"
GATEWAY = "host-gateway"  # instead of a host's address: the way out of the build's network


@dataclass(frozen=True, kw_only=True)
class BuildText:
    """Text of a build: the step it is at, or what a program said (``stderr``: there)."""

    text: str
    stderr: bool = False


@dataclass(frozen=True, kw_only=True)
class ImageBuilt:
    """A build has made its image."""

    image_id: str


BuildEvent = BuildText | ImageBuilt | ImageEvent


@dataclass(frozen=True, kw_only=True)
class BuildOrder:
    """Parameters of ``POST /image/build``.

    Args:
        dockerfile: its path in the context. tags: names of the image. remote: a URL instead of a body.
        quiet: say only the image's id. no_cache: make every step anew. pull: ask the registry for base images.
        remove: tell that intermediate containers are removed.
        target: the stage to stop at, empty = the last.
        arguments: values of ARGs. labels: further labels.
        memory: bytes of the VM, 0 = default. vcpu: CPUs, 0 = default.
        auth: credentials by registry.
        network: empty = the pods' network, name or id of another one, or ``NO_NETWORK``.
        hosts: further names and their addresses (or ``GATEWAY``), for RUN.
        shm_size: bytes of ``/dev/shm`` of RUN, 0 = half of the VM's memory. ulimits: of RUN.
        cache_from: images whose steps may be used again, beside what was built here.
        classic: as Docker's classic builder has it: images of ``cache_from`` are the only cache, and steps that change
            no file are told as cached, too.
        platform: what is built for, empty = this host's.
        may_fetch: whether the caller may let this host fetch files: ``remote``, and ADD of a URL.
        notes: what the caller is told first, one line each.

    """

    dockerfile: str = "Dockerfile"
    tags: Sequence[str] = ()
    remote: str = ""
    quiet: bool = False
    no_cache: bool = False
    pull: bool = False
    remove: bool = True
    target: str = ""
    arguments: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    memory: int = 0
    vcpu: int = 0
    auth: Mapping[str, AuthConfig] = field(default_factory=dict)
    network: str = ""
    hosts: Sequence[tuple[str, str]] = ()
    shm_size: int = 0
    ulimits: Sequence[Ulimit] = ()
    cache_from: Sequence[str] = ()
    classic: bool = False
    platform: str = ""
    may_fetch: bool = False
    notes: Sequence[str] = ()


class Reporter:
    """Progress of one build.

    Args:
        sink: takes events.
        quiet: only what is said by ``last`` goes out.

    """

    def __init__(self, sink: Callable[[BuildEvent], None], *, quiet: bool) -> None:
        self._sink = sink
        self._quiet = quiet
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stderr: make("replace") for stderr in (False, True)}

    def say(self, text: str) -> None:
        """Send a line of text."""
        if not self._quiet:
            self._sink(BuildText(text=f"{text}\n"))

    def output(self, data: bytes, *, stderr: bool = False) -> None:
        """Send what a program said, on stdout or on stderr."""
        text = self._decoders[stderr].decode(data)
        if text and not self._quiet:
            self._sink(BuildText(text=text, stderr=stderr))

    def pass_on(self, event: ImageEvent) -> None:
        """Send an event of a pull."""
        if not self._quiet:
            self._sink(event)

    def last(self, image_id: str) -> None:
        """Send the image's id, in the form that is asked for."""
        if self._quiet:
            self._sink(BuildText(text=f"{image_id}\n"))
        else:
            self._sink(ImageBuilt(image_id=image_id))
