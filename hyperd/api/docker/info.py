"""``/info``: what ``docker info`` shows of the host, the daemon and what it runs."""

from __future__ import annotations

import hashlib
import os
import platform
import socket
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from flask import Response

from hyperd import __version__
from hyperd.api.context import engine
from hyperd.api.docker import answers, container_views, versions
from hyperd.api.docker.lookup import STORAGE_DRIVER
from hyperd.api.docker.refusals import RUNTIME
from hyperd.api.docker.routes import blueprint
from hyperd.system import host_memory, operating_system

LOG_DRIVERS = ("journald", "json-file", "none", "syslog")
INDEX_SERVER = "https://index.docker.io/v1/"
_NO_SWARM = {
    "NodeID": "",
    "NodeAddr": "",
    "LocalNodeState": "inactive",
    "ControlAvailable": False,
    "Error": "",
    "RemoteManagers": None,
}
_NO_COMMIT = {"ID": "", "Expected": ""}


@blueprint.get("/info")
def info() -> Response:
    """Tell about the host, the daemon and what it runs."""
    if versions.is_legacy():
        return answers.as_json(_of_old())
    return answers.as_json({**_counts(), **_storage(), **_abilities(), **_host(), **_daemon()})


def _of_old() -> dict[str, Any]:
    """Return what API 1.8 had."""
    counts = _counts()
    return {
        "Containers": counts["Containers"],
        "Images": counts["Images"],
        "Debug": False,
        "NFd": _descriptors(),
        "NGoroutines": 0,
        "MemoryLimit": True,
        "SwapLimit": True,
        "IPv4Forwarding": True,
        "Driver": STORAGE_DRIVER,
        "DriverStatus": _storage()["DriverStatus"],
        "ExecutionDriver": "hyper-vm",
        "KernelVersion": platform.release(),
        "OperatingSystem": operating_system(),
        "IndexServerAddress": INDEX_SERVER,
        "Name": socket.gethostname(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": host_memory(),
        "ID": _identity(),
    }


def _counts() -> dict[str, Any]:
    words = [container_views.state_word(one) for one in engine().containers.queries.all()]
    alive, paused = words.count("running") + words.count("restarting"), words.count("paused")
    return {
        "Containers": len(words),
        "ContainersRunning": alive,
        "ContainersPaused": paused,
        "ContainersStopped": len(words) - alive - paused,
        "Images": engine().images.count(),
    }


def _storage() -> dict[str, Any]:
    found = engine().system.hypervisor
    return {
        "Driver": STORAGE_DRIVER,
        "DriverStatus": [
            ["Hypervisor", f"{found.driver} {found.version}"],
            ["Accelerator", found.accelerator],
            ["Accelerator Reason", found.reason],
            *([["Limits of VMs", found.limits]] if found.limits else []),
        ],
        "SystemStatus": None,
        "DockerRootDir": str(engine().config.root),
    }


def _abilities() -> dict[str, Any]:
    return {
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": None,
            "Log": list(LOG_DRIVERS),
        },
        "MemoryLimit": True,
        "SwapLimit": True,
        "CpuCfsPeriod": True,
        "CpuCfsQuota": True,
        "CPUShares": True,
        "CPUSet": True,
        "PidsLimit": True,
        "IPv4Forwarding": True,
        "BridgeNfIptables": False,
        "BridgeNfIp6tables": False,
        "OomKillDisable": False,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": "2",
        "SecurityOptions": ["name=seccomp,profile=builtin"],
        "Runtimes": {RUNTIME: {"path": "qemu"}},
        "DefaultRuntime": RUNTIME,
        "Isolation": "hypervisor",
        "InitBinary": "",
        "ContainerdCommit": _NO_COMMIT,
        "RuncCommit": _NO_COMMIT,
        "InitCommit": _NO_COMMIT,
        "Swarm": _NO_SWARM,
        "GenericResources": None,
        "DefaultAddressPools": None,
        "CDISpecDirs": [],
    }


def _host() -> dict[str, Any]:
    return {
        "Name": socket.gethostname(),
        "KernelVersion": platform.release(),
        "OperatingSystem": operating_system(),
        "OSVersion": "",
        "OSType": "linux",
        "Architecture": platform.machine(),
        "NCPU": len(os.sched_getaffinity(0)),
        "MemTotal": host_memory(),
        "SystemTime": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
        "HttpProxy": os.environ.get("HTTP_PROXY", ""),
        "HttpsProxy": os.environ.get("HTTPS_PROXY", ""),
        "NoProxy": os.environ.get("NO_PROXY", ""),
    }


def _daemon() -> dict[str, Any]:
    running = engine()
    registry = running.config.registry
    return {
        "ID": _identity(),
        "ServerVersion": __version__,
        "LoggingDriver": running.config.log.driver,
        "IndexServerAddress": INDEX_SERVER,
        "RegistryConfig": {
            "AllowNondistributableArtifactsCIDRs": None,
            "AllowNondistributableArtifactsHostnames": None,
            "InsecureRegistryCIDRs": ["127.0.0.0/8", *(one for one in registry.insecure if "/" in one)],
            "IndexConfigs": {
                "docker.io": {
                    "Name": "docker.io",
                    "Mirrors": list(registry.mirrors),
                    "Secure": True,
                    "Official": True,
                }
            },
            "Mirrors": list(registry.mirrors),
        },
        "Debug": False,
        "NFd": _descriptors(),
        "NGoroutines": 0,
        "NEventsListener": running.events.listeners,
        "Labels": [],
        "ExperimentalBuild": False,
        "LiveRestoreEnabled": True,
        "ProductLicense": "",
        "Warnings": None,
    }


def _identity() -> str:
    """Return an id that stays the same for this root directory on this host."""
    return hashlib.sha256(f"{socket.gethostname()}:{engine().config.root}".encode()).hexdigest()[:36]


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
