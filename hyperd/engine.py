"""Wires the services together; alone in knowing all of them."""

from __future__ import annotations

import os
import socket
import stat
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import structlog

from hyperd.build.commit import CommitService
from hyperd.build.importer import Importer
from hyperd.build.service import BuildService
from hyperd.build.vm import Services as BuildTools
from hyperd.config.model import Config
from hyperd.container.execs import ExecService
from hyperd.container.health import HealthChecks
from hyperd.container.locks import PodLocks
from hyperd.container.records import ContainerRecords
from hyperd.container.service import ContainerService
from hyperd.container.volumes import PodVolumes
from hyperd.db import guard
from hyperd.db.copies import Copies
from hyperd.db.migrate import HEAD, migrate_apart
from hyperd.db.session import Database
from hyperd.errors import HostFault, HyperError, InvalidInput, NotAlive
from hyperd.event.bus import EventBus
from hyperd.failpoint import failpoint
from hyperd.guest.image import DISTRO_KERNEL, find_guest
from hyperd.image.service import ImageService
from hyperd.network.bridged import BridgeDriver
from hyperd.network.cni.attachments import Attachments
from hyperd.network.cni.driver import CniDriver
from hyperd.network.cni.plugins import Plugins
from hyperd.network.driver import NetworkDriver
from hyperd.network.ports import PortMapping
from hyperd.network.service import NetworkService
from hyperd.network.usernet import UserDriver
from hyperd.pod.autoremove import AutoRemove
from hyperd.pod.checkpoint import Checkpoints, Services
from hyperd.pod.lifetime import PodLifetime
from hyperd.pod.records import PodRecords
from hyperd.pod.recovery import Recovery
from hyperd.pod.restoring import Restorer
from hyperd.pod.service import PodService
from hyperd.pod.states import WITH_VM
from hyperd.pod.stats import StatsService
from hyperd.stream.relay import Relay
from hyperd.system import SystemService
from hyperd.vm.driver import VmDriver
from hyperd.vm.model import BootFiles, Vm
from hyperd.vm.observer import VmObserver
from hyperd.vm.service import VmService
from hyperd.volume.service import VolumeService

log = structlog.get_logger(__name__)

STOP_THREADS = 16


class Engine:
    """All services of one daemon.

    Between ``open`` and ``close`` the attributes are usable: ``pods containers execs images vms network networks
    volumes stats system relay database``; ``events`` is from the beginning.
    """

    pods: PodService
    containers: ContainerService
    execs: ExecService
    checkpoints: Checkpoints
    restorer: Restorer
    images: ImageService
    imports: Importer
    vms: VmService
    network: NetworkDriver
    networks: NetworkService
    volumes: VolumeService
    stats: StatsService
    cni: Attachments
    system: SystemService
    relay: Relay
    database: Database

    def __init__(self, config: Config) -> None:
        self.config = config
        self.events = EventBus()
        self._stack = ExitStack()
        self._undo = ExitStack()  # of what a start that fails must not leave on the host

    def open(self) -> None:
        """Start everything and bring database and host together.

        On failure everything is closed again. Errors: DriverError, HostFault, InvalidInput.
        """
        try:
            self._open()
        except BaseException:
            try:
                self._undo.close()
            except HyperError as error:
                log.error("engine.not_undone", error=str(error))
            self.close()
            raise
        self._undo.pop_all()

    def close(self) -> None:
        """Stop the services; VMs run on. Calling it twice is fine."""
        self._stack.close()

    def reconfigure(self, config: Config) -> None:
        """Go on with other settings, of which only those of ``hyperd.config.reload`` may differ from before."""
        self.config = config
        self.images.reconfigure(config)
        self.network.reconfigure(config.network)
        self.containers.reconfigure(config)
        self.pods.reconfigure(config)
        self.vms.reconfigure(config)

    def stop_pods(self) -> None:
        """Stop every pod that runs, several at the same time; what cannot be stopped is logged and left."""

        def stop(pod_id: str) -> None:
            try:
                self.pods.stop(pod_id)
            except HyperError as error:
                log.error("pod.not_stopped", pod=pod_id, error=str(error))

        running = [pod.id for pod in self.pods.summaries() if pod.state in WITH_VM]
        # Also those that their policy would start again: by the next daemon.
        names = {*running, *(row.pod_id for row in self.containers.records.awaiting_restart())}
        with ThreadPoolExecutor(STOP_THREADS, thread_name_prefix="stop-all") as pool:
            list(pool.map(stop, names))

    def _open(self) -> None:
        config, stack = self.config, self._stack
        config.root.mkdir(parents=True, exist_ok=True)
        guard.check(config.root)
        for part in config.root.glob(f"{guard.NAME}.part*"):
            part.unlink(missing_ok=True)  # of a recovery that was killed
        tighten(config)
        self.database = database = Database(config.root / guard.NAME)
        stack.callback(database.close)
        migrate_apart(database)
        copies = Copies(database, config.root, version=HEAD)
        stack.callback(copies.close)
        copies.open()
        failpoint("restore.run.copies_written")
        self.relay = Relay()
        stack.callback(self.relay.stop)
        self.relay.start()
        driver = make_driver(config)
        stack.callback(driver.close)
        hypervisor = driver.open()
        records, pod_records = ContainerRecords(database), PodRecords(database)
        self.images = ImageService(
            config=config,
            database=database,
            root=config.root / "images",
            in_use=records.using_image,
            events=self.events,
        )
        self.images.recover()
        failpoint("restore.run.images_recovered")
        self.imports = Importer(self.images)
        self.cni = Attachments(config.root / "cni", config.cri.cni_conf_dir, Plugins(config.cri.cni_bin_dirs))
        self.network = self._make_network(database, driver)
        stack.callback(self.network.close)
        if not _interface_exists(config.network.bridge):
            self._undo.callback(self.network.destroy)
        self.network.open()
        failpoint("restore.run.network_opened")
        self.networks = NetworkService(driver=self.network, database=database, events=self.events)
        self.vms = VmService(
            config=config,
            database=database,
            driver=driver,
            relay=self.relay,
            boot_files=lambda: boot_files(config),
            events=self.events,
        )
        self._make_pods(database, records, pod_records)
        self.stats = StatsService(pods=pod_records, containers=records, vms=self.vms, counters=driver.stats)
        self._recover(pod_records)
        self.system = SystemService(
            config=config,
            images=self.images,
            pods=pod_records,
            containers=records,
            hypervisor=hypervisor,
            guest=guest_name(config),
        )
        log.info("engine.open", root=str(config.root), accelerator=hypervisor.accelerator, reason=hypervisor.reason)

    def _make_network(self, database: Database, driver: VmDriver) -> NetworkDriver:
        """Return what carries the pods' networks: bridges, or without one what ordinary users can have."""
        config, events = self.config.network, self.events
        if not config.bridge:
            return UserDriver(config=config, database=database, forwarder=_Forwarder(driver, self), events=events)
        return CniDriver(
            BridgeDriver(config=config, database=database, events=events),
            self.cni,
            makes_taps=driver.makes_taps,
            events=events,
        )

    def _make_pods(self, database: Database, records: ContainerRecords, pod_records: PodRecords) -> None:
        locks = PodLocks()
        self.volumes = VolumeService(directory=self.config.root / "volumes", database=database, events=self.events)
        volumes = PodVolumes(config=self.config, database=database, records=records, vms=self.vms, named=self.volumes)
        volumes.recover()
        self.volumes.recover()
        failpoint("restore.run.volumes_recovered")
        self.containers = ContainerService(
            config=self.config,
            records=records,
            relay=self.relay,
            images=self.images,
            network=self.network,
            vms=self.vms,
            locks=locks,
            events=self.events,
            volumes=volumes,
        )
        self.commits = CommitService(
            config=self.config, containers=self.containers, images=self.images, vms=self.vms, locks=locks
        )
        self.builds = BuildService(
            BuildTools(config=self.config, images=self.images, network=self.network, vms=self.vms)
        )
        self.execs = ExecService(database=database, relay=self.relay, containers=self.containers, vms=self.vms)
        self.pods = PodService(
            config=self.config,
            records=pod_records,
            containers=self.containers,
            execs=self.execs,
            images=self.images,
            network=self.network,
            networks=self.networks,
            vms=self.vms,
            locks=locks,
            events=self.events,
        )
        self._make_checkpoints(locks)
        self.health = HealthChecks(
            records=records, containers=self.containers, execs=self.execs, images=self.images, relay=self.relay
        )
        self.auto_remove = AutoRemove(pods=self.pods, records=records, locks=locks, relay=self.relay)
        self.containers.observers.add(self.auto_remove)
        self.lifetime = PodLifetime(
            pods=self.pods,
            records=pod_records,
            containers=records,
            locks=locks,
            events=self.events,
            relay=self.relay,
        )

    def _make_checkpoints(self, locks: PodLocks) -> None:
        services = Services(
            config=self.config,
            pods=self.pods,
            containers=self.containers,
            images=self.images,
            network=self.network,
            vms=self.vms,
            locks=locks,
            events=self.events,
        )
        self.checkpoints, self.restorer = Checkpoints(services), Restorer(services)

    def _recover(self, pod_records: PodRecords) -> None:
        """Find the VMs of an earlier daemon and bring rows and host together."""
        self._stack.callback(self.execs.close)
        self._stack.callback(self.containers.close)
        self._stack.callback(self.pods.net.attachments.close)
        self._stack.callback(self.vms.close)
        self._stack.callback(self.commits.close)
        self._stack.callback(self.builds.close)
        self._stack.callback(self.lifetime.close)
        self._stack.callback(self.auto_remove.close)
        self._stack.callback(self.health.close)
        self.vms.open(observer=_GuestNews(self.pods, self.containers, self.execs), outfitter=self.pods.ready)
        failpoint("restore.run.vms_found")
        self.checkpoints.recover()
        Recovery(
            root=self.config.root,
            pods=self.pods,
            records=pod_records,
            containers=self.containers,
            execs=self.execs,
            network=self.network,
            vms=self.vms,
        ).run()
        self.builds.recover()
        failpoint("restore.run.builds_removed")
        self.containers.restarts.open()
        self.health.open()
        self.auto_remove.open()
        self.lifetime.open()
        self.vms.pool.start()


class _GuestNews(VmObserver):
    """Passes the news of VMs on to the services that have pods, containers and execs in them."""

    def __init__(self, pods: PodService, containers: ContainerService, execs: ExecService) -> None:
        self._pods = pods
        self._containers = containers
        self._execs = execs

    def process_ended(self, vm_id: str, process: str, code: int) -> None:
        if not self._containers.exited(vm_id, process, code) and not self._execs.exited(vm_id, process, code):
            log.debug("guest.unknown_exit", vm=vm_id, process=process, code=code)

    def out_of_memory(self, vm_id: str, process: str) -> None:
        self._containers.ran_out(vm_id, process)

    def gone(self, vm: Vm, *, by_itself: bool) -> None:
        self._pods.vm_gone(vm, by_itself)

    def silent(self, vm: Vm, *, silent: bool) -> None:
        self._pods.vm_silent(vm, silent)


class _Forwarder:
    """Opens ports in the QEMU of a pod's VM, for user-mode networking."""

    def __init__(self, driver: VmDriver, engine: Engine) -> None:
        self._driver = driver
        self._engine = engine  # its VMs come later than the network

    def _vm_of(self, pod_id: str) -> Vm | None:
        return self._engine.vms.of_pod(pod_id)

    def running(self, pod_id: str) -> bool:
        vm = self._vm_of(pod_id)
        return vm is not None and bool(vm.nics)

    def forward(self, pod_id: str, mapping: PortMapping, address: str) -> None:
        vm = self._vm_of(pod_id)
        if vm is None:
            raise NotAlive(f"the pod {pod_id} has no VM")
        self._driver.forward_port(
            vm.id,
            protocol=mapping.protocol,
            host_port=mapping.host_port,
            address=address,
            port=mapping.container_port,
        )

    def unforward(self, pod_id: str, mapping: PortMapping) -> None:
        vm = self._vm_of(pod_id)
        if vm is not None:
            self._driver.close_port(vm.id, protocol=mapping.protocol, host_port=mapping.host_port)


def _interface_exists(name: str) -> bool:
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def tighten(config: Config) -> None:
    """Take other users' access from what an earlier version made in the root; the API's own sockets keep theirs.

    The group of VMs that run goes on to pass through directories: their QEMUs open disks anew when they are saved.
    """
    sockets = [Path(host.removeprefix("unix://")) for host in (*config.hosts, *config.docker_hosts, config.cri.address)]
    for entry in os.scandir(config.root):
        path = Path(entry.path)
        if entry.is_symlink() or any(path == socket or path in socket.parents for socket in sockets):
            continue
        info = entry.stat()
        mode = stat.S_IMODE(info.st_mode)
        kept = mode & stat.S_IXGRP if entry.is_dir() and info.st_gid != os.getegid() else 0
        if mode & 0o077 != kept:
            path.chmod(mode & ~0o077 | kept)


def make_driver(config: Config) -> VmDriver:
    """Return the driver the configuration names. Errors: InvalidInput."""
    if config.hypervisor.driver == "fake":
        from hyperd.vm.fake import FakeDriver

        return FakeDriver()
    if config.hypervisor.driver == "libvirt":
        from hyperd.vm.libvirt.driver import LibvirtDriver

        return LibvirtDriver(config.hypervisor, config.root)
    raise InvalidInput(f"unknown hypervisor driver {config.hypervisor.driver}", resolution="use libvirt")


def boot_files(config: Config) -> BootFiles:
    """Return kernel and initramfs: the configured ones, else the best that are built. Errors: HostFault."""
    kernel, initrd = config.hypervisor.kernel, config.hypervisor.initrd
    if config.hypervisor.driver == "fake":
        return BootFiles(kernel=kernel or Path("/dev/null"), initrd=initrd or Path("/dev/null"))
    if kernel is None or initrd is None:
        found = find_guest(config.guest)
        if found is None:
            raise HostFault(
                "there is no guest to boot",
                details=f"neither kernel nor initramfs in {config.guest}",
                resolution=f"run hyperd build-guest --output {config.guest}",
            )
        kernel, initrd = kernel or found.kernel, initrd or found.initrd
    # The distribution's cloud kernel was built without 9p.
    return BootFiles(kernel=kernel, initrd=initrd, has_9p=kernel.name != DISTRO_KERNEL)


def guest_name(config: Config) -> str:
    """Return the name of the guest that would be booted now, for people."""
    try:
        return boot_files(config).kernel.name
    except HostFault:
        return "none"
