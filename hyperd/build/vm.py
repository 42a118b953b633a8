"""The VM of a build: made when the first step needs it, the same for all stages, gone with the build.

Every step writes into an upper directory of its own on the build's disk; the upper directories of a stage are lower
directories of its later steps, above the image's layers. So no step waits for a boot, and no layer has to come back
into the guest.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import structlog

from hyperd.agent.client import AgentClient
from hyperd.agent.plan import Op, Plan
from hyperd.agent.programs import STDERR, GuestTool, new_name
from hyperd.build import guest
from hyperd.build.order import GATEWAY, NO_NETWORK, BuildOrder
from hyperd.config.model import Config
from hyperd.container.plan import GuestProgram, Program, RootFs, container_plan
from hyperd.container.process import exit_code_of
from hyperd.container.states import SETUP_FAILED
from hyperd.container.volumes import Mounted
from hyperd.errors import AgentError
from hyperd.failpoint import failpoint
from hyperd.guest import layout
from hyperd.image.service import ImageService
from hyperd.network.driver import NetworkDriver
from hyperd.network.model import Lease, NicWish
from hyperd.spec.model import ContainerSpec
from hyperd.vm.driver import NicSpec
from hyperd.vm.model import Vm
from hyperd.vm.service import VmService

log = structlog.get_logger(__name__)


class Output(Protocol):
    """Takes what a program says."""

    def __call__(self, data: bytes, *, stderr: bool = False) -> None:
        """Take bytes of stdout or of stderr."""


_UPPERS = "/run/u"  # short names of upper directories: overlayfs takes one page of options


@dataclass(frozen=True, kw_only=True)
class Services:
    """What builds use."""

    config: Config
    images: ImageService
    network: NetworkDriver
    vms: VmService


@dataclass(frozen=True, kw_only=True)
class Below:
    """A layer below a step: in the store by ``diff_id``; in the build's guest as ``upper`` when it was made there.

    ``hidden``: the image has it, its containers do not (``Image.diff_ids``). ``local``: the other way round.
    """

    diff_id: str
    upper: str = ""
    hidden: bool = False
    local: bool = False


class Workshop:
    """See the module's docstring.

    Args:
        build: the build's id; names its disk and its address.
        vcpu, memory: of the VM; memory in MiB.
        order: says how steps run: network, hosts, limits.
        cancelled: asked while something is waited for.

    """

    def __init__(
        self,
        services: Services,
        *,
        build: str,
        vcpu: int,
        memory: int,
        order: BuildOrder,
        cancelled: Callable[[], bool],
    ) -> None:
        self._services = services
        self._order = order
        self._build = build
        self._shape = (vcpu, memory)
        self._cancelled = cancelled
        self._vm: Vm | None = None
        self._steps = 0
        self.caches: dict[str, str] = {}  # of RUN --mount=type=cache: name to directory

    def close(self) -> None:
        """Take everything away."""
        if self._vm is not None:
            self._services.vms.destroy(self._vm)
        self._services.network.release(self._build)
        shutil.rmtree(self._directory, ignore_errors=True)

    @property
    def _directory(self) -> Path:
        return self._services.config.root / "pods" / self._build

    @property
    def agent(self) -> AgentClient:
        """The agent of the VM, which is booted now at the latest. Errors: those of a pod's start."""
        if self._vm is None:
            self._vm = self._boot()
        return self._vm.agent

    def begin(self) -> str:
        """Return the directory of a new step: what it does first makes the upper and the work directory there."""
        self._steps += 1
        work = layout.container_dir(f"s{self._steps}")
        plan = Plan().mkdir(work).mkdir(_UPPERS)
        self.agent.run(plan.add(Op.SYMLINK, f"{work}/upper", f"{_UPPERS}/{self._steps}"))
        return work

    def upper(self) -> str:
        """Return the short name of the last step's upper directory."""
        return f"{_UPPERS}/{self._steps}"

    def lower(self, layers: Sequence[Below]) -> list[str]:
        """Return the directories of layers in the guest, bottom first. Errors: DriverError, AgentError."""
        agent = self.agent
        vm = self._vm
        if vm is None:
            raise AgentError(f"the VM of {self._build} is gone")
        layers = [below for below in layers if not below.hidden]
        paths = {below.diff_id: self._path(below.diff_id) for below in layers if not below.upper}
        self._services.vms.plugs.plug(vm, layers=list(paths.values()))
        mounted = dict(zip(paths, self._services.vms.plugs.mount_layers(vm, list(paths.values())), strict=True))
        log.debug("build.layers", vm=agent.name, layers=len(layers))
        return [below.upper or mounted[below.diff_id] for below in layers]

    def make_directory(self, path: str, layers: Sequence[Below], work: str, *, owner: str) -> None:
        """Make a directory of the image, and those above it, if they are missing.

        Args:
            path: absolute. layers: bottom first. work: from ``begin``.
            owner: ``user[:group]`` of what is made, empty = root.

        Raises:
            AgentError: something else is there, or there is no such user. Cancelled.

        """
        guest.unpack(
            self.agent,
            (bytes(guest.EMPTY_TAR),),
            lower=self.lower(layers),
            work=work,
            target=path if path == "/" else f"{path}/",
            owner=owner or "-",
            copy=True,
            cancelled=self._cancelled,
        )

    def run(
        self,
        program: Program,
        layers: Sequence[Below],
        work: str,
        say: Output,
        *,
        volumes: Sequence[Mounted] = (),
        files: Sequence[GuestProgram] = (),
    ) -> int:
        """Run a program over layers; give its exit code (126 and 127 as a shell has them).

        Args:
            program: what is run.
            layers: bottom first.
            work: from ``begin``.
            say: takes its output as it comes, and ``stderr``: which one it is.
            volumes, files: what is mounted besides.

        Raises:
            AgentError: it could not be set up, or the guest is gone. Cancelled.

        """
        ident, base = new_name(), self.agent.new_base()
        rootfs = RootFs(container_id=work.rpartition("/")[2], layers=self.lower(layers), volumes=volumes)
        plan = container_plan(
            process=ident,
            base=base,
            spec=ContainerSpec(name=ident, image="", ulimits=tuple(self._order.ulimits)),
            program=program,
            rootfs=rootfs,
            files=files,
        )
        with GuestTool(self.agent, ident=ident, base=base, merged=True, cancelled=self._cancelled) as tool:
            try:
                tool.start(plan)
            except AgentError as error:
                code = exit_code_of(error)
                if code == SETUP_FAILED:
                    raise
                say(f"{error}\n".encode(), stderr=True)
                return code
            tool.feed(())
            for stream, piece in tool.pieces():
                say(piece, stderr=stream == STDERR)
            code = tool.wait()
        self._remove_points(work, [*(volume.path for volume in volumes), *(file.target for file in files)])
        return code

    def _remove_points(self, work: str, points: Sequence[str]) -> None:
        """Take away what was made only to mount something on it: it is no part of the step, and nothing is in it."""
        if points:
            plan = Plan().add(Op.OPENROOT, f"{work}/upper")
            for point in points:
                plan.add(Op.REMOVE, point)
            self.agent.run(plan)

    def _path(self, diff_id: str) -> Path:
        return self._services.images.layer_path(diff_id)

    def _lease(self) -> Lease | None:
        network, name = self._services.network, self._order.network
        if name == NO_NETWORK:
            return None
        return network.reserve(self._build, [NicWish(network=name)])[0] if name else network.allocate(self._build)

    def _boot(self) -> Vm:
        services, (vcpu, memory) = self._services, self._shape
        disk = self._directory / "scratch.img"
        lease = self._lease()
        failpoint("build.run.address_taken")
        nics = [] if lease is None else [NicSpec(mac=lease.mac, tap=lease.tap, bridge=lease.bridge, mtu=lease.mtu)]
        vm = services.vms.boot(vcpu=vcpu, memory=memory, pod_id=self._build, scratch=disk, nics=nics, hidden=True)
        try:
            failpoint("build.run.vm_booted")
            setup = layout.GuestSetup(hostname=self._build, nics=[], dns=[])
            if lease is not None:
                services.network.plugged(self._build)
                inside = layout.GuestNic(
                    name=layout.nic_name(0), mac=lease.mac, cidrs=lease.cidrs, gateway=lease.gateway, mtu=lease.mtu
                )
                setup = layout.GuestSetup(hostname=self._build, nics=[inside], dns=lease.dns)
            plan = layout.enter(setup, mounted=vm.mounted)
            for name, address in self._order.hosts:
                where = (lease.gateway if lease is not None else "") if address == GATEWAY else address
                if where:
                    plan.add(Op.APPEND, f"{layout.ETC}/hosts", f"{where}\t{name}\n")
            vm.agent.run(plan)
        except BaseException:
            services.vms.destroy(vm)
            raise
        return vm
