"""A cold start with the distribution's kernel, beside raw boots of the same kernel."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchlib.rawboot import RawVm
from benchlib.scenarios import Context, NotThere, Scenario, cold_start
from benchlib.target import HAS_TEMPLATES, Target
from hyperd.guest.image import DISTRO_INITRD, DISTRO_KERNEL


class DistroScenario(Scenario):
    """As ``BootScenario`` and ``StartScenario``, on daemons that have no other kernel.

    That kernel finds virtio devices on PCI only, so the least that it boots on is q35, not microvm.
    """

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._directory: Path | None = None
        self._targets: dict[str, Target] = {}

    def prepare(self) -> None:
        """Start the daemons. Errors: NotThere when that guest was not built."""
        names = (DISTRO_KERNEL, DISTRO_INITRD)
        guest = self.target.guest
        if not all((guest / name).is_file() for name in names):
            raise NotThere("the distribution's kernel (scripts/build-guest --kernel distro)")
        # hyperd takes the minimal kernel where there is one.
        self._directory = Path(tempfile.mkdtemp(prefix="hydis", dir="/tmp"))
        own = self._directory / "guest"
        own.mkdir()
        for name in names:
            (own / name).symlink_to(guest / name)
        for key, templates in (("distro", True), ("distro.boots", False)):
            if templates or HAS_TEMPLATES:
                self._targets[key] = Target(self.target.image, own, templates=templates)
                self._targets[key].warm_up()

    def round(self) -> None:
        for machine in ("ports", "q35"):
            with self._raw(machine) as raw:
                took = raw.boot()
            self.samples.add(f"distro.{machine}", took.wall)
            self.samples.add(f"distro.{machine}.cpu", took.cpu)
        for key, target in self._targets.items():
            name = self.context.name()
            cold_start(target, self.samples, name, key)
            target.remove(name)

    def finish(self) -> None:
        with ExitStack() as stack:
            if self._directory is not None:
                stack.callback(shutil.rmtree, self._directory)
            for target in self._targets.values():
                stack.callback(target.close)

    def _raw(self, machine: str) -> RawVm:
        guest = self.target.guest
        return RawVm(
            guest / DISTRO_KERNEL, guest / DISTRO_INITRD, machine=machine, accelerator=self.context.accelerator
        )
