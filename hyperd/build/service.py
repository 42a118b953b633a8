"""Builds: a Dockerfile and its context become an image; everything that runs, runs in one VM of the build's own."""

from __future__ import annotations

import random
import shutil
import string
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import structlog

from hyperd.build.cache import StepCache
from hyperd.build.closing import Closing
from hyperd.build.order import BuildEvent, BuildOrder, Reporter
from hyperd.build.vm import Services, Workshop
from hyperd.container.fetch import check_allowed
from hyperd.errors import Cancelled, HyperError
from hyperd.failpoint import failpoint
from hyperd.image.layer.convert import disk_errors

if TYPE_CHECKING:
    # What reads contexts and Dockerfiles is imported by the first build: half a megabyte that most daemons never need.
    from hyperd.build.context import Context

log = structlog.get_logger(__name__)

MAX_CONTEXT = 16 * 2**30  # bytes of all files
DEFAULT_MEMORY = 512  # MiB of a build's VM
_MIB = 2**20


class BuildService:
    """See the module's docstring.

    Args:
        services: what builds use.

    Files of a build that runs lie below ``<root>/builds/<id>``; its disk and its VM have the names of a pod that does
    not exist, so what a crash leaves is removed like what a pod's removal leaves.

    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._root = services.config.root / "builds"
        self._cache = StepCache(self._root / "cache")
        self._closing = Closing()

    def close(self) -> None:
        """End the builds that run; they leave nothing."""
        self._closing.close()

    def recover(self) -> None:
        """Remove what an earlier daemon's builds left."""
        for directory in self._root.glob("build-*"):
            shutil.rmtree(directory, ignore_errors=True)
        self._cache.prune()

    def forget_steps(self) -> None:
        """Make every step of later builds anew."""
        self._cache.clear()

    def prepare(self, order: BuildOrder, body: Iterator[bytes]) -> PreparedBuild:
        """Take a build's context; what it gives must be run or closed.

        Args:
            order: what is asked for.
            body: the context's tar, not read with ``remote``.

        Raises:
            InvalidInput, NotSupported, TooLarge, OutOfSpace, Timeout: the names or the context; nothing stays.
            Forbidden: ``remote`` of a caller who may not let this host fetch.

        """
        from hyperd.build.context import Context
        from hyperd.build.remote import load_remote

        if order.remote:
            check_allowed("remote", may_fetch=order.may_fetch, instead="send the context itself")
        for tag in order.tags:
            self._services.images.taggable(tag)
        name = "build-" + "".join(random.choices(string.ascii_lowercase, k=10))
        directory = self._root / name
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            with disk_errors():
                directory.mkdir(parents=True, mode=0o700)
            failpoint("build.run.directory_made")
            context = Context(directory / "context", max_bytes=MAX_CONTEXT)
            stack.callback(context.close)
            if order.remote:
                load_remote(order.remote, context, directory)
            else:
                context.load(body)
                failpoint("build.run.context_read")
            held = stack.pop_all()
            return PreparedBuild(
                self._services,
                cache=self._cache,
                order=order,
                name=name,
                context=context,
                held=held,
                closing=self._closing,
            )


class PreparedBuild:
    """A build whose context has come."""

    def __init__(
        self,
        services: Services,
        *,
        cache: StepCache,
        order: BuildOrder,
        name: str,
        context: Context,
        held: ExitStack,
        closing: Closing,
    ) -> None:
        self._services = services
        self._cache = cache
        self._order = order
        self._name = name
        self._context = context
        self._held = held
        self._closing = closing

    def close(self) -> None:
        """Remove the context. Calling it twice is fine."""
        self._held.close()

    def run(self, *, progress: Callable[[BuildEvent], None], cancelled: Callable[[], bool]) -> str:
        """Build the image and close; give its id.

        Args:
            progress: takes what the build tells.
            cancelled: asked often; True ends the build.

        Raises:
            InvalidInput, NotSupported, TooLarge: the Dockerfile.
            Forbidden: ADD of a URL, for a caller who may not let this host fetch.
            HyperError: a RUN step failed.
            ImageNotFound, RegistryError, Unauthorized: a base image.
            AgentError, DriverError, OutOfSpace, Timeout: the guest's or the host's part.
            Cancelled: the client left, or the daemon ends. Nothing stays then; after other failures the steps that were
                done stay cached.
            Busy: the daemon is ending.

        """
        with self._held, self._closing.during(cancelled) as ended:
            return self._run(progress, ended)

    def _run(self, progress: Callable[[BuildEvent], None], cancelled: Callable[[], bool]) -> str:
        from hyperd.build.build import Build

        failure: HyperError | None = None
        with ExitStack() as stack:
            workshop = self._workshop(cancelled)
            intake = stack.enter_context(self._services.images.adding(keep_unused=True))
            stack.callback(workshop.close)
            try:
                image = Build(
                    services=self._services,
                    order=self._order,
                    context=self._context,
                    workshop=workshop,
                    intake=intake,
                    cache=self._cache,
                    reporter=Reporter(progress, quiet=self._order.quiet),
                    cancelled=cancelled,
                ).run()
                log.info("build.done", build=self._name, image=image)
                return image
            except Cancelled:
                raise
            except HyperError as error:
                if cancelled():
                    raise
                failure = error
        # Raised outside of the intake's block: the layers of the steps before stay, for the next try.
        raise failure

    def _workshop(self, cancelled: Callable[[], bool]) -> Workshop:
        order, shape = self._order, self._services.config.hypervisor
        memory = max(128, order.memory // _MIB) if order.memory else max(DEFAULT_MEMORY, shape.default_memory)
        return Workshop(
            self._services,
            build=self._name,
            vcpu=order.vcpu or shape.default_vcpu,
            memory=memory,
            order=order,
            cancelled=cancelled,
        )
