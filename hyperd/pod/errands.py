"""What is to be done for pods or containers soon, in threads; again later while a pod is in use or the host fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import structlog

from hyperd.errors import Busy, HostFault, HyperError, NotFound, Timeout
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

WORKERS = 4
FIRST_PAUSE = 1.0  # seconds
LONGEST_PAUSE = 60.0


class Errands:
    """See the module's docstring.

    Args:
        what: is done, for the log and the threads' names.
        work: does it for the pod or container of this id. It looks first whether it is still to be done.

    """

    def __init__(self, relay: Relay, what: str, work: Callable[[str], None]) -> None:
        self._relay = relay
        self._what = what
        self._work = work
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix=what)

    def close(self) -> None:
        """Finish what is under way; the rest is the next daemon's."""
        self._workers.shutdown(wait=True, cancel_futures=True)

    def submit(self, ident: str, pause: float = FIRST_PAUSE) -> None:
        """Do it soon; ``pause``: seconds until it is tried again when it cannot be done now."""
        with contextlib.suppress(RuntimeError):  # shutting down: the next daemon looks again
            self._workers.submit(self._run, ident, pause)

    def _run(self, ident: str, pause: float) -> None:
        try:
            self._work(ident)
        except NotFound:
            log.debug("errand.gone_already", what=self._what, id=ident)
        except (Busy, HostFault, Timeout) as error:  # a disk is full, a hypervisor or a guest does not answer
            log.warning("errand.put_off", what=self._what, id=ident, seconds=pause, error=str(error))
            later = min(2 * pause, LONGEST_PAUSE)
            self._relay.soon(self._relay.loop.call_later, pause, self.submit, ident, later)
        except HyperError as error:
            log.error("errand.failed", what=self._what, id=ident, error=str(error))
        except Exception:
            log.exception("errand.broken", what=self._what, id=ident)
