"""What plugins have made for pods: done, undone, and written down so that it can be undone after any end of the daemon.

A file for each pod, as only what the plugins were told can undo what they did: it is written before they begin, and
goes when they have undone everything. It is no row: a database that is lost must not lose addresses of a network.
"""

from __future__ import annotations

import dataclasses
import json
import os
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hyperd.errors import HostFault, HyperError
from hyperd.failpoint import failpoint
from hyperd.network.cni import conf, plugins
from hyperd.network.cni.conf import NetworkList
from hyperd.network.cni.namespace import Found, Namespace
from hyperd.network.cni.plugins import Plugins, Result, Target

log = structlog.get_logger(__name__)

INTERFACE = "eth0"  # what kubelet and plugins expect
_PREFIX = "hyperd-"  # of namespaces


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """A pod on a network of plugins.

    Args:
        pod: its id. network: as it was when the pod came. args, runtime: see ``Target``.
        result: of the plugins; None while they have not ended. found: the interface; None as well.

    """

    pod: str
    network: NetworkList
    args: Mapping[str, str]
    runtime: Mapping[str, Any]
    result: Result | None = None
    found: Found | None = None

    @property
    def namespace(self) -> Namespace:
        """The network namespace that the plugins work in."""
        return Namespace(_PREFIX + self.pod[:32])

    @property
    def interface(self) -> Found:
        """What the plugins have made. Errors: HostFault when they have not ended."""
        if self.found is None:
            raise HostFault(f"the network of pod {self.pod} is not made yet")
        return self.found

    @property
    def tap(self) -> str:
        """Name of the VM's tap."""
        return f"hc{self.pod[:12]}"

    def target(self) -> Target:
        """Return what plugins are told."""
        space = self.namespace
        return Target(
            container=self.pod,
            namespace=str(space.path) if space.exists() else "",
            interface=INTERFACE,
            args=self.args,
            runtime=self.runtime,
        )

    def dump(self) -> bytes:
        """Return what the file has."""
        return json.dumps(
            {
                "pod": self.pod,
                "network": _described(self.network),
                "args": dict(self.args),
                "runtime": dict(self.runtime),
                "result": self.result,
                "found": dataclasses.asdict(self.found) if self.found else None,
            }
        ).encode()


def _described(network: NetworkList) -> dict[str, Any]:
    return {
        "name": network.name,
        "cniVersion": network.version,
        "disableCheck": not network.check,
        "plugins": list(network.plugins),
    }


def load(data: bytes) -> Attachment:
    """Read what a file has. Errors: ValueError, KeyError, TypeError, HostFault."""
    kept = json.loads(data)
    found = kept["found"]
    return Attachment(
        pod=kept["pod"],
        network=conf.parse(kept["network"]),
        args=kept["args"],
        runtime=kept["runtime"],
        result=kept["result"],
        found=found
        and Found(
            mac=found["mac"],
            mtu=found["mtu"],
            addresses=tuple(found["addresses"]),
            routes=tuple((to, gateway) for to, gateway in found["routes"]),
        ),
    )


class Attachments:
    """Puts pods on the network of this host's plugins. One pod is worked on by one thread at a time.

    Args:
        directory: of the files. configuration: directory of the network's own; None = there is none.
        plugins: the programs.

    """

    def __init__(self, directory: Path, configuration: Path | None, plugins: Plugins) -> None:
        self._directory = directory
        self._configuration = configuration
        self._plugins = plugins
        self._lock = threading.Lock()
        self._known: dict[str, Attachment] = {}
        self._inherited: set[str] = set()  # pods of earlier daemons, which may have left plugins at work

    def open(self) -> None:
        """Read what earlier daemons have written. Errors: HostFault."""
        known = {}
        try:
            if self.configured:
                self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in sorted(self._directory.glob("*")):
                if path.suffix == ".part":
                    path.unlink()  # of a daemon that was killed before it began
                    continue
                try:
                    one = load(path.read_bytes())
                except (ValueError, KeyError, TypeError, HostFault) as error:
                    log.error("cni.unreadable", path=str(path), error=str(error))
                    continue
                known[one.pod] = one
        except OSError as error:
            raise HostFault("the files of networks (CNI) cannot be read", details=str(error)) from error
        with self._lock:
            self._known, self._inherited = known, set(known)

    def get(self, pod: str) -> Attachment | None:
        """Return the attachment of a pod that is complete."""
        with self._lock:
            one = self._known.get(pod)
        return one if one is not None and one.found is not None else None

    def knows(self, pod: str) -> bool:
        """Return whether anything of a pod has to be undone."""
        with self._lock:
            return pod in self._known

    def pods(self) -> list[str]:
        """Return the pods that have something to undo."""
        with self._lock:
            return list(self._known)

    def add(self, pod: str, args: Mapping[str, str], runtime: Mapping[str, Any]) -> Attachment:
        """Put a pod on the network; one that is on it already stays as it is. On failure nothing is left.

        Errors: HostFault (no configuration, plugins, the host), Busy, Timeout, NotSupported.
        """
        before = self.get(pod)
        if before is not None and before.namespace.exists():
            return before
        self.remove(pod)  # what a daemon that was killed has begun, or the host has lost
        one = Attachment(pod=pod, network=self._network(), args=args, runtime=runtime)
        self._keep(one)
        failpoint("cni.add.noted")
        try:
            one.namespace.make()
            failpoint("cni.add.namespace_made")
            one = dataclasses.replace(one, result=self._plugins.add(one.network, one.target()))
            self._keep(one)
            failpoint("cni.add.result_kept")
            found = one.namespace.find(INTERFACE)
            one = dataclasses.replace(one, found=found)
            self._keep(one)
            failpoint("cni.add.complete")
        except BaseException:
            try:
                self.remove(pod)
            except HyperError as error:
                log.error("cni.not_undone", pod=pod, error=str(error))
            raise
        log.info("cni.added", pod=pod, network=one.network.name, addresses=list(found.addresses))
        return one

    def check(self, pod: str) -> None:
        """Have the plugins look whether a pod is on its network. Errors: HostFault, Busy, Timeout."""
        one = self.get(pod)
        if one is not None and one.result is not None:
            self._plugins.check(one.network, one.target(), one.result)

    def plug(self, pod: str) -> None:
        """Join the VM's tap, which is there by now, to what the plugins made. Errors: HostFault."""
        one = self.get(pod)
        if one is not None:
            one.namespace.adopt(one.tap, INTERFACE)

    def remove(self, pod: str) -> None:
        """Take a pod off its network; none is fine. What could not be undone is tried again by the next call.

        Errors: HostFault, Busy, Timeout.
        """
        with self._lock:
            one = self._known.get(pod)
        if one is None:
            return
        if pod in self._inherited:
            plugins.end(pod)  # those of a daemon that was killed go on, and would add what has been deleted
        self._plugins.delete(one.network, one.target(), one.result)
        one.namespace.remove()
        failpoint("cni.delete.namespace_removed")
        try:
            self._path(pod).unlink(missing_ok=True)
        except OSError as error:
            raise HostFault("a file of networks (CNI) cannot be removed", details=str(error)) from error
        failpoint("cni.delete.file_removed")
        with self._lock:
            self._known.pop(pod, None)
            self._inherited.discard(pod)
        log.info("cni.removed", pod=pod, network=one.network.name)

    def reconcile(self, pods: Collection[str]) -> None:
        """Take pods that do not exist off their networks; what fails is logged and tried by the next daemon."""
        for pod in self.pods():
            if pod not in pods:
                try:
                    self.remove(pod)
                except HyperError as error:
                    log.error("cni.not_undone", pod=pod, error=str(error))

    def reason(self) -> str:
        """Return why no pod could be put on the network now; empty = it could."""
        try:
            network = self._network()
        except HostFault as error:
            return error.details or str(error)
        absent = self._plugins.missing(network)
        return f"network {network.name}: there is no plugin {', '.join(absent)}" if absent else ""

    @property
    def configured(self) -> bool:
        """Whether pods may ask for it."""
        return self._configuration is not None

    def _network(self) -> NetworkList:
        if self._configuration is None:
            raise HostFault("there is no network configuration (CNI)", resolution="set [cri] cni_conf_dir")
        return conf.find(self._configuration)

    def _path(self, pod: str) -> Path:
        return self._directory / f"{pod}.json"

    def _keep(self, one: Attachment) -> None:
        """Write the file, which is on the disk then. Errors: HostFault."""
        path = self._path(one.pod)
        part = path.with_suffix(".part")
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(one.dump())
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
            descriptor = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise HostFault("a file of networks (CNI) cannot be written", details=str(error)) from error
        with self._lock:
            self._known[one.pod] = one
