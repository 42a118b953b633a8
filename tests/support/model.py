"""What must be true of a daemon after any operations in any order: a model that says each answer beforehand.

A ``Model`` asks a daemon for something and knows what must come of it: the status of the answer, then the states of all
pods, containers and volumes, and that everything on the host agrees (``tests.support.audit``). ``scripts/soak --mixed``
goes on for as long as it is told; ``tests/functional/test_model.py`` lets hypothesis find short sequences that fail.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import audit
from tests.support.daemon import HyperdLauncher
from tests.support.processes import end_programs

PODS = ("red", "green", "blue")
VOLUMES = ("data", "more")
PROGRAM = "exec 2>&1; while :; do echo x; sleep 0.5; done"
SETTLES_WITHIN = 30.0


@dataclass
class _Pod:
    """A pod as it must be; ``program``: its container's state."""

    volume: str
    state: str = "pending"
    program: str = "pending"


class Model:
    """See the module's docstring.

    Args:
        daemon: it runs, has nothing, and has the image. image: with busybox. templates: the daemon's directory of them.
        real: its VMs outlive it; those that pretend end with it.

    """

    def __init__(self, daemon: HyperdLauncher, image: str, *, templates: Path, real: bool) -> None:
        self._daemon = daemon
        self._image = image
        self._templates = templates
        self._real = real
        self._pods: dict[str, _Pod] = {}
        self._volumes: set[str] = set()
        # What can be done, by name: with a pod, with a volume, with both, with nothing.
        self.with_pod: dict[str, Callable[[str], None]] = {
            "start": self.start, "stop": self.stop, "pause": self.pause, "unpause": self.unpause,
            "remove": self.remove, "end program": self.end_program, "begin program": self.begin_program,
        }  # fmt: skip
        self.with_volume: dict[str, Callable[[str], None]] = {
            "make volume": self.make_volume,
            "remove volume": self.remove_volume,
        }
        self.alone: dict[str, Callable[[], None]] = {"restart": self.restart, "kill": self.kill}

    # -- pods

    def create(self, pod: str, volume: str = "") -> None:
        """Create a pod; with a volume, which is made unless it is there."""
        container: dict[str, Any] = {"name": f"{pod}-c", "image": self._image, "command": ["sh", "-c", PROGRAM]}
        if volume:
            detail = {"name": "v", "source": volume, "format": "volume"}
            container["volumes"] = [{"volume": "v", "path": "/v", "detail": detail}]
        body = {"id": pod, "containers": [container]}
        self._ask("POST", "/pod/create", 409 if pod in self._pods else 201, body=body)
        if pod not in self._pods:
            self._pods[pod] = _Pod(volume)
            self._volumes |= {volume} - {""}

    def start(self, pod: str) -> None:
        """Start a pod; of one that runs, the container that has ended."""
        known = self._pods.get(pod)
        self._ask("POST", "/pod/start", 404 if known is None else 412 if known.state == "paused" else 200, podId=pod)
        if known is not None and known.state != "paused":
            known.state = known.program = "running"

    def stop(self, pod: str) -> None:
        """Stop a pod, at once."""
        known = self._pods.get(pod)
        expected = 404 if known is None else 200
        self._ask("POST", "/pod/stop", expected, podId=pod, t=0)
        if known is not None and known.state in ("running", "paused"):
            known.state = known.program = "failed"

    def pause(self, pod: str) -> None:
        """Pause a pod that runs."""
        self._turn(pod, "pause", "running", "paused")

    def unpause(self, pod: str) -> None:
        """Let a paused pod go on."""
        self._turn(pod, "unpause", "paused", "running")

    def remove(self, pod: str) -> None:
        """Remove a pod in any state."""
        self._ask("DELETE", "/pod", 200 if pod in self._pods else 404, podId=pod)
        self._pods.pop(pod, None)

    def end_program(self, pod: str) -> None:
        """Stop a pod's container: the pod runs on without it."""
        known = self._pods.get(pod)
        if known is not None and known.state == "running":
            self._ask("POST", "/container/stop", 200, container=f"{pod}-c", t=0)
            known.program = "failed"

    def begin_program(self, pod: str) -> None:
        """Start a container again that has ended."""
        known = self._pods.get(pod)
        if known is not None and (known.state, known.program) == ("running", "failed"):
            self._ask("POST", "/container/start", 200, container=f"{pod}-c")
            known.program = "running"

    def _turn(self, pod: str, word: str, before: str, after: str) -> None:
        known = self._pods.get(pod)
        fits = known is not None and known.state == before
        self._ask("POST", f"/pod/{word}", 204 if fits else 404 if known is None else 409, podId=pod)
        if known is not None and fits:
            known.state = after

    # -- volumes

    def make_volume(self, volume: str) -> None:
        """Make a volume; one that is there stays."""
        self._ask("POST", "/volume/create", 201, body={"name": volume})
        self._volumes.add(volume)

    def remove_volume(self, volume: str) -> None:
        """Remove a volume that no pod has."""
        used = any(pod.volume == volume for pod in self._pods.values())
        self._ask("DELETE", "/volume", 404 if volume not in self._volumes else 409 if used else 200, volume=volume)
        if not used:
            self._volumes.discard(volume)

    # -- the daemon

    def restart(self) -> None:
        """Let the daemon end as a service manager does, and start it again."""
        self._again(self._daemon.stop)

    def kill(self) -> None:
        """Kill the daemon and start it again."""
        self._again(self._daemon.kill)

    def _again(self, end: Callable[[], object]) -> None:
        end()
        if not self._real:
            end_programs(self._daemon.root, PROGRAM)
        self._daemon.start()
        for pod in self._pods.values():
            if not self._real and pod.state in ("running", "paused"):
                pod.state = pod.program = "failed"

    # -- looking

    def check(self) -> None:
        """Look whether all is as it must be. Errors: AssertionError."""
        deadline = time.monotonic() + SETTLES_WITHIN
        while True:
            found = self._differences()
            if not found:
                return
            assert time.monotonic() < deadline, found
            time.sleep(0.05)

    def clear(self) -> None:
        """Remove everything."""
        for pod in PODS:
            self.remove(pod)
        for volume in VOLUMES:
            self.remove_volume(volume)

    def _differences(self) -> list[str]:
        def listed(item: str, key: str, name: int) -> dict[str, str]:
            rows = self._daemon.json("GET", "/list", item=item)[key]
            return {row.split(":")[name]: row.split(":")[-1] for row in rows}

        pods = {name: pod.state for name, pod in self._pods.items()}
        programs = {f"{name}-c": pod.program for name, pod in self._pods.items()}
        volumes = {one["name"] for one in self._daemon.json("GET", "/volume/list")}
        seen = {
            "pods": (listed("pod", "podData", 0), pods),
            "containers": (listed("container", "cData", 1), programs),
            "volumes": (volumes, self._volumes),
        }
        found = [f"{what}: {has}, not {must}" for what, (has, must) in seen.items() if has != must]
        try:
            return [*found, *audit.problems(self._daemon, self._templates)]
        except FileNotFoundError as error:
            return [*found, f"went while it was looked at: {error.filename}"]

    def _ask(self, method: str, path: str, status: int, *, body: object = None, **query: Any) -> None:
        code, _, said = self._daemon.request(method, path, body=body, **query)
        assert code == status, (method, path, query, code, said, f"not {status}")
