"""Starting VMs: from a kernel, or from a template of a guest that has booted."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from hyperd.agent.client import AgentClient
from hyperd.agent.frames import Method
from hyperd.agent.plan import Plan
from hyperd.config.model import Config
from hyperd.errors import AgentError, Forbidden, HyperError, NotSupported, Timeout
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.stream.relay import Relay
from hyperd.vm.driver import SHARED_TAG, NicSpec, ShareSpec, Template, VmDriver, VmSpec
from hyperd.vm.hotplug import disk_of
from hyperd.vm.model import CLONE_TIMEOUT, NO_FILES, SCRATCH_LUN, BootFiles, HostFiles, Restored, Vm, last_words
from hyperd.vm.pool import templates
from hyperd.vm.pool.templates import Templates, UnfitTemplate
from hyperd.vm.scratch import check_space, copy_disk, make_scratch
from hyperd.vm.shares import SharedTrees

log = structlog.get_logger(__name__)


class Starter:
    """Starts VMs that the service has made, and keeps their templates.

    Args:
        boot_files: gives kernel and initramfs; asked at every start, so that a guest built later is used.

    """

    def __init__(
        self,
        *,
        config: Config,
        driver: VmDriver,
        relay: Relay,
        boot_files: Callable[[], BootFiles],
        events: EventBus,
        trees: SharedTrees,
    ) -> None:
        self._trees = trees
        self._config = config
        self._driver = driver
        self._relay = relay
        self._boot_files = boot_files
        self._events = events
        self.scratch_size = config.scratch_size
        shape = config.hypervisor
        self.templates = Templates(
            driver,
            shape.template_dir or config.root / templates.DIRECTORY,
            run=config.run,
            bridge=config.network.bridge,
            dress=self._dress_template,
            prove=self._prove_template,
            enabled=shape.templates,
        )

    def power_on(
        self, vm: Vm, nics: Sequence[NicSpec], files: HostFiles = NO_FILES, scratch: Path | None = None
    ) -> None:
        """Start a VM whose row is written, and wait for its agent.

        Args:
            vm: the VM. nics: attached at once.
            files: of the host, for volumes.
            scratch: the writable disk among its disks; made if it is missing.

        On failure the VM may run. Errors: UnfitTemplate (it would have booted), DriverError, AgentError, Timeout,
        OutOfSpace, HostFault.

        """
        with self._shared(vm) as shares:
            self._power_on(vm, replace(self._spec(vm, nics, files), shares=(*files.shares, *shares)), scratch)

    def go_on_from(self, vm: Vm, nics: Sequence[NicSpec], wanted: Restored) -> None:
        """Let a VM whose row is written go on from a saved state, and meet its agent, which has processes.

        On failure the VM may run. Errors: DriverError, AgentError, Timeout, NotSupported, Forbidden, HostFault.
        """
        if os.geteuid() == 0 and not vm.uid:
            raise Forbidden(
                "a saved VM is not restored by a QEMU that is root",
                details="what it is told to be comes from the archive",
                resolution="set hypervisor.uid_range, see docs/security.md",
            )
        started = time.monotonic()
        with self._shared(vm) as offered:
            if wanted.saved.machine.shared and not offered:
                raise NotSupported("the saved VM could be given directories of the host, and VMs of this host cannot")
            vm.shared = wanted.saved.machine.shared
            shares = offered if vm.shared else ()
            vm.rundir.mkdir(mode=0o700)
            spec = self._spec(vm, nics, NO_FILES)
            disks = tuple(disk_of(path, lun, scratch=path == wanted.scratch) for path, lun in vm.disks.items())
            self._driver.create(replace(spec, disks=disks, shares=shares, saved=wanted.saved))
        vm.agent.reach()
        self._driver.resume(vm.id)
        vm.agent.connect(fresh=False, timeout=self._config.hypervisor.boot_timeout)
        ready = round((time.monotonic() - started) * 1e3)
        log.info("vm.restored", vm=vm.id, ready_ms=ready)
        self._events.publish("vm", "restore", vm.id, vm.pod_id or "", ready_ms=ready)

    @contextlib.contextmanager
    def _shared(self, vm: Vm) -> Iterator[tuple[ShareSpec, ...]]:
        """Make the directory in which host directories appear later; it is held open in the block."""
        vm.shared = self._trees.available and self._boot_files().has_9p and (vm.mapped or not vm.uid)
        if not vm.shared:
            yield ()
            return
        root = self._trees.make(vm.id)
        try:
            yield (ShareSpec(tag=SHARED_TAG, descriptor=root),)
        finally:
            os.close(root)

    def _power_on(self, vm: Vm, spec: VmSpec, scratch: Path | None) -> None:
        vm.rundir.mkdir(mode=0o700)
        failpoint("vm.start.directory_made")
        started = time.monotonic()
        blank = scratch if scratch is not None and not scratch.exists() else None
        size = self.scratch_size if blank else 0
        # For the pool, where nobody waits, one is made first.
        template = self.templates.make(spec, size) if vm.pooled else self.templates.find(spec, size)
        if template is None:
            if blank is not None:
                make_scratch(blank, size)
                failpoint("vm.start.disk_made")
            created = self._boot_kernel(vm, spec)
        else:
            created = self._go_on(vm, spec, template, blank)
        ready = time.monotonic()
        times = {"create_ms": round((created - started) * 1e3), "ready_ms": round((ready - started) * 1e3)}
        log.info("vm.booted", vm=vm.id, template=template is not None, **times)
        self._events.publish("vm", "boot", vm.id, vm.pod_id or "", **times)
        if template is None:
            self.templates.want(spec, size)

    def _spec(self, vm: Vm, nics: Sequence[NicSpec], files: HostFiles) -> VmSpec:
        boot = self._boot_files()
        return VmSpec(
            vm_id=vm.id,
            vcpu=vm.vcpu,
            memory=vm.memory,
            kernel=boot.kernel,
            initrd=boot.initrd,
            rundir=vm.rundir,
            disks=tuple(disk_of(path, lun, files.cache, scratch=lun == SCRATCH_LUN) for path, lun in vm.disks.items()),
            nics=tuple(nics),
            foreign_files=files.foreign or vm.shared,
            uid=vm.uid,
            mapped=vm.mapped,
            group=vm.group,
        )

    def _create(self, vm: Vm, spec: VmSpec) -> float:
        self._driver.create(spec)
        failpoint("vm.start.domain_started")
        if vm.pooled:
            self._driver.yield_cpu(vm.id, yields=True)
        return time.monotonic()

    def _boot_kernel(self, vm: Vm, spec: VmSpec) -> float:
        created = self._create(vm, spec)
        try:
            vm.agent.connect(fresh=True, timeout=self._config.hypervisor.boot_timeout)
        except HyperError as error:
            raise AgentError(
                f"the VM {vm.id} did not come up",
                details=f"{error}; last words: {last_words(spec.console_log)}",
                resolution="see the VM's console log; is the guest built for this host?",
            ) from error
        return created

    def _go_on(self, vm: Vm, spec: VmSpec, template: Template, blank: Path | None) -> float:
        if blank is not None:
            check_space(blank)  # which is not the template's fault
        try:
            if blank is not None:
                copy_disk(template.disk, blank)
                failpoint("vm.start.disk_copied")
            created = self._create(vm, replace(spec, template=template))
            _renew(vm.agent, spec)
        except (HyperError, OSError) as error:  # its files may go at any time: daemons share them
            if blank is not None:
                blank.unlink(missing_ok=True)
            if template.state.exists():
                self.templates.reject(template, late=isinstance(error, Timeout))
            raise UnfitTemplate(f"the VM {vm.id} did not start from its template", details=str(error)) from error
        vm.mounted = blank is not None
        self.templates.accept()
        return created

    def _dress_template(self, spec: VmSpec) -> None:
        """Mount the disk of a VM that a template is made of. Errors: HyperError."""
        with self._nobodys_agent(spec) as agent:
            agent.connect(fresh=True, timeout=self._config.hypervisor.boot_timeout)
            agent.run(layout.mount_scratch(Plan()))
            agent.request(Method.QUIESCE)

    @contextlib.contextmanager
    def _nobodys_agent(self, spec: VmSpec) -> Iterator[AgentClient]:
        agent = AgentClient(
            self._relay,
            name=spec.vm_id,
            control=spec.control_socket,
            stream=spec.stream_socket,
            on_exit=lambda _process, _code: None,
            on_lost=lambda: None,
        )
        try:
            yield agent
        finally:
            agent.close()

    def _prove_template(self, spec: VmSpec, template: Template) -> None:
        """Let a VM go on from a template and end; an agent that is too old, for one, cannot. Errors: HyperError."""
        copy = spec.rundir / "disk"
        if spec.disks:
            copy_disk(template.disk, copy)
        disks = tuple(replace(disk, path=copy) for disk in spec.disks)
        with self._nobodys_agent(spec) as agent:
            try:
                self._driver.create(replace(spec, disks=disks, template=template))
                _renew(agent, spec)
            finally:
                self._driver.destroy(spec.vm_id)


def _renew(agent: AgentClient, spec: VmSpec) -> None:
    """Meet the agent of a VM that went on from a template, and make it one of its own. Errors: AgentError, Timeout."""
    agent.connect(fresh=True, timeout=CLONE_TIMEOUT)
    agent.run(templates.renew(spec.nics), timeout=CLONE_TIMEOUT)
