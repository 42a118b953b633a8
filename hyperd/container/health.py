"""Health checks: a command runs in a container now and then and tells whether it is well.

The row of a container says how it is and when its next check is due, so checks go on after a restart of the daemon. A
check that cannot be made because the pod is paused is made later.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import structlog

from hyperd.container import healthstate
from hyperd.container.execs import ExecService
from hyperd.container.model import Health, HealthResult, HealthState
from hyperd.container.observers import ContainerObserver
from hyperd.container.records import ContainerRecords
from hyperd.container.service import ContainerService
from hyperd.container.states import LIVE
from hyperd.db.models import ContainerRow
from hyperd.errors import HyperError, NotAlive, NotFound
from hyperd.image.model import container_defaults
from hyperd.image.service import ImageService
from hyperd.spec.model import ExecSpec, Healthcheck
from hyperd.stream.relay import Relay

log = structlog.get_logger(__name__)

WORKERS = 16  # a check holds one as long as it runs
AGAIN = 5.0  # seconds until a check that failed by itself is made again
SHELL = ("/bin/sh", "-c")


class HealthChecks(ContainerObserver):
    """See the module's docstring."""

    def __init__(
        self,
        *,
        records: ContainerRecords,
        containers: ContainerService,
        execs: ExecService,
        images: ImageService,
        relay: Relay,
    ) -> None:
        self._records = records
        self._containers = containers
        self._execs = execs
        self._images = images
        self._relay = relay
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="health")
        self._closed = False
        containers.observers.add(self)

    def open(self) -> None:
        """Go on with the checks of the containers that run; after recovery."""
        for row in self._records.live():
            if row.health.get("run") != row.run_count:
                self.started(row)  # the last daemon did not come to it, or there is no check
            elif row.health.get("due") is not None:
                self._later(row.id, row.run_count, row.health["due"])

    def close(self) -> None:
        """Make no more checks. Those under way end with the connections to their guests; nobody waits for them."""
        self._closed = True
        self._workers.shutdown(wait=False, cancel_futures=True)

    def started(self, row: ContainerRow) -> None:
        """Begin to check a container that has just been started, if it has a check."""
        try:
            row = self._records.get(row.id)
            check = self._check_of(row)
        except NotFound:
            return
        if row.state not in LIVE:
            return
        if check is None:
            if row.health:
                self._records.update(row.id, health={})
            return
        health = Health(state=HealthState.STARTING)
        due = time.time() + healthstate.pause_before_next(check, health, running_for=0.0)
        self._records.update(row.id, health=healthstate.dump(health, run=row.run_count, due=due))
        self._later(row.id, row.run_count, due)

    def ended(self, row: ContainerRow) -> None:
        """A container that does not run is not well."""
        health = healthstate.load(row.health)
        if health is not None:
            ended = Health(state=HealthState.UNHEALTHY, failing_streak=health.failing_streak, log=health.log)
            self._records.update(row.id, health=healthstate.dump(ended, run=row.run_count, due=None))

    # -- inside

    def _check_of(self, row: ContainerRow) -> Healthcheck | None:
        image = container_defaults(self._images.get(row.image_id).config)
        check = healthstate.effective(self._records.spec(row).healthcheck, image.healthcheck)
        if check is not None and check.shell:
            shell = image.shell or SHELL
            return replace(check, argv=(*shell, *check.argv), shell=False)
        return check

    def _later(self, container_id: str, run: int, due: float) -> None:
        wait = max(0.0, due - time.time())
        self._relay.soon(self._relay.loop.call_later, wait, self._submit, container_id, run)

    def _submit(self, container_id: str, run: int) -> None:
        try:
            self._workers.submit(self._run, container_id, run)
        except RuntimeError:
            log.debug("health.checked_later", container=container_id)  # shutting down: the next daemon does it

    def _run(self, container_id: str, run: int) -> None:
        try:
            self._check(container_id, run)
        except NotFound:
            log.debug("health.too_late", container=container_id)
        except HyperError as error:
            self._again(container_id, run, str(error))
        except Exception:
            log.exception("health.check_broken", container=container_id)
            self._again(container_id, run, "see above")

    def _again(self, container_id: str, run: int, error: str) -> None:
        """Check later what could not be checked or noted now."""
        if not self._closed:
            log.warning("health.check_put_off", container=container_id, error=error)
            self._later(container_id, run, time.time() + AGAIN)

    def _check(self, container_id: str, run: int) -> None:
        row = self._records.get(container_id)
        check = self._check_of(row) if row.state in LIVE and row.run_count == run else None
        if check is None:
            return
        result = self._ask(row, check)
        if self._closed:
            return  # what the check said may be due to that; the next daemon makes it again
        row = self._records.get(container_id)
        health = healthstate.load(row.health)
        if row.state not in LIVE or row.run_count != run or health is None:
            return
        now, started = time.time(), row.started_at or 0.0
        before = health.state
        if result is not None:
            health = healthstate.after(health, result, check, started_at=started)
        due = now + healthstate.pause_before_next(check, health, running_for=now - started)
        self._records.update(container_id, health=healthstate.dump(health, run=run, due=due))
        if health.state != before:
            log.info("container.health_changed", container=container_id, name=row.name, health=str(health.state))
            self._containers.tell("health_status", row, healthStatus=str(health.state))
        self._later(container_id, run, due)

    def _ask(self, row: ContainerRow, check: Healthcheck) -> HealthResult | None:
        """Run a check; None when it cannot be run now and says nothing of the container."""
        begun = time.time()
        try:
            found = self._execs.run(
                row.id, ExecSpec(argv=check.argv), timeout=check.timeout, limit=healthstate.MAX_OUTPUT
            )
        except (NotAlive, NotFound):
            return None  # it has just ended, or its pod is paused
        except HyperError as error:
            return HealthResult(started_at=begun, finished_at=time.time(), exit_code=-1, output=str(error))
        output = (found.stdout + found.stderr)[: healthstate.MAX_OUTPUT].decode("utf-8", "replace")
        if found.timed_out:
            output = f"Health check exceeded timeout ({check.timeout:g}s)" + (f": {output}" if output else "")
        return HealthResult(started_at=begun, finished_at=time.time(), exit_code=found.exit_code, output=output)
