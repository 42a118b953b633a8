"""A service of hypercloud that is scaled, beside as many ``docker run -d``: one engine, ours, with real VMs.

Both take their VMs from the engine's pool, which is full before either begins. They take turns, round after round, so
that whatever else the machine does meets both.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from pathlib import Path

from benchlib import dockersides
from benchlib.dockerwork import IMAGE
from tests.support.cloud import CloudProcess

COUNT = 20
RATIO = 1.3  # of the time of as many runs, at most
PROGRAM = ("sleep", "100000")
SERVICES = "/api/app/v1/service/"


class Scale:
    """The engine, and a hypercloud over it; ``stack`` ends both.

    Args:
        stack: of what is to be ended. guest: directory of kernel and initramfs. directory: for hypercloud's files.
        network: runs are on a network that somebody has made, as services' containers are.

    """

    def __init__(self, stack: ExitStack, *, guest: Path, directory: Path, network: bool) -> None:
        self._side = dockersides.hyperd(stack, guest, pool=COUNT)
        self._side.import_image()
        self._options = ("--network", "bench") if network else ()
        self._side.must("network", "create", "bench")
        self._cloud = CloudProcess(directory)
        text = self._cloud.config.read_text(encoding="utf-8")  # of tests, which ping an engine five times a second
        mine = f'health_interval = 10.0\nsockets = ["{self._side.socket}"]'
        self._cloud.config.write_text(text.replace("health_interval = 0.2", mine), encoding="utf-8")
        self._cloud.start()
        stack.callback(self._cloud.stop)
        made = self._cloud.add_engine("local", f"unix://{self._side.socket}", cpus=1000, memory=1_000_000)
        if made.status != 201:
            raise RuntimeError(f"the engine cannot be added: {made.text}")
        self.runs(1)  # whatever is done once is done

    def runs(self, count: int = COUNT) -> float:
        """Return the seconds that so many ``docker run -d`` take, one after the other."""
        self._side.rest()
        began = time.monotonic()
        for number in range(count):
            self._side.must("run", "-d", "--name", f"run{number}", *self._options, IMAGE, *PROGRAM)
        took = time.monotonic() - began
        self._side.must("rm", "-f", *(f"run{number}" for number in range(count)))
        return took

    def scaled(self) -> float:
        """Return the seconds from the request to scale a service from one container until the others run, too."""
        body = {"name": "bench", "image": IMAGE, "run_command": " ".join(PROGRAM)}
        uri = self._cloud.dc("POST", SERVICES, body).json["resource_uri"]
        self._cloud.action(self._cloud.dc("POST", f"{uri}start/"))
        self._side.rest()
        began = time.monotonic()
        self._cloud.dc("PATCH", uri, {"target_num_containers": COUNT})
        while (found := self._cloud.dc("GET", uri).json)["state"] == "Scaling" or found["synchronized"] is False:
            time.sleep(0.1)  # the API tells no end of a change; a look costs hypercloud CPU time itself
        took = time.monotonic() - began
        self._cloud.action(self._cloud.dc("DELETE", uri))
        if found["running_num_containers"] != COUNT:
            raise RuntimeError(f"{found['running_num_containers']} containers run, not {COUNT}")
        return took


def measure(*, guest: Path, directory: Path, rounds: int, network: bool) -> bool:
    """Do both in turn; tell the medians, and return whether scaling takes no longer than it may."""
    with ExitStack() as stack:
        scale = Scale(stack, guest=guest, directory=directory, network=network)
        pairs = [(scale.runs(), scale.scaled()) for _ in range(rounds)]
    runs, scaled = (statistics.median(one) for one in zip(*pairs, strict=True))
    told = "; ".join(f"{scaled:.2f} and {runs:.2f}" for runs, scaled in pairs)
    where = " on a network of their own" if network else ""
    print(f"scale 1 -> {COUNT}: {scaled:.2f} s, {COUNT} docker run -d{where} {runs:.2f} s:", end=" ")
    print(f"ratio {scaled / runs:.2f} (at most {RATIO:g}); rounds: {told}")
    return scaled <= RATIO * runs
