"""Runs plugins: JSON to their input, settings in their environment, JSON of their output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from hyperd.errors import Busy, HostFault, Timeout
from hyperd.failpoint import failpoint
from hyperd.network.cni.conf import NetworkList, missing

log = structlog.get_logger(__name__)

TIMEOUT = 60.0  # seconds of one plugin
MAX_OUTPUT = 1 << 20  # bytes
_ENDS_WITHIN = 10.0  # seconds for a killed process
TRY_AGAIN = 11  # an error's code
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Result = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Target:
    """What plugins work on.

    Args:
        container: an id. namespace: path of the network namespace; empty = it is gone. interface: name in it.
        args: what is told by CNI_ARGS. runtime: what plugins with the capability of a key are told.

    """

    container: str
    namespace: str
    interface: str
    args: Mapping[str, str]
    runtime: Mapping[str, Any]


class Plugins:
    """The plugins in some directories.

    Args:
        directories: where they are looked for, the first that has one wins.
        timeout: seconds after which one is killed.

    """

    def __init__(self, directories: Sequence[Path], *, timeout: float = TIMEOUT) -> None:
        self._directories = tuple(directories)
        self._timeout = timeout

    def missing(self, network: NetworkList) -> list[str]:
        """Return the plugins of a list that are in none of the directories."""
        return missing(network, self._directories)

    def add(self, network: NetworkList, target: Target) -> Result:
        """Run the plugins of a list; give the result of the last. Errors: HostFault, Busy (try again), Timeout."""
        result: Result | None = None
        for plugin in network.plugins:
            result = self._run("ADD", plugin, network, target, result)
            failpoint("cni.add.plugin_done")
        if result is None:
            raise HostFault(f"the plugins of the network {network.name} gave no result")
        return result

    def check(self, network: NetworkList, target: Target, result: Result) -> None:
        """Have the plugins look whether all is as it should be; nothing for lists that forbid it. Errors: as add."""
        if network.check and network.version not in ("0.3.0", "0.3.1"):
            for plugin in network.plugins:
                self._run("CHECK", plugin, network, target, result)

    def delete(self, network: NetworkList, target: Target, result: Result | None) -> None:
        """Undo ``add``, in the opposite order; can be repeated. Errors: as for ``add``."""
        known = None if network.version in ("0.3.0", "0.3.1") else result
        for plugin in reversed(network.plugins):
            self._run("DEL", plugin, network, target, known)
            failpoint("cni.delete.plugin_done")

    def _run(
        self, command: str, plugin: Mapping[str, Any], network: NetworkList, target: Target, result: Result | None
    ) -> Result | None:
        kind = str(plugin["type"])
        given = {key: value for key, value in plugin.items() if key != "capabilities"}
        given |= {"name": network.name, "cniVersion": network.version}
        able = plugin.get("capabilities", {})
        runtime = {key: value for key, value in target.runtime.items() if able.get(key) is True}
        if runtime:
            given["runtimeConfig"] = runtime
        if result is not None:
            given["prevResult"] = result
        environment = {
            "PATH": os.environ.get("PATH", _PATH),
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": target.container,
            "CNI_NETNS": target.namespace,
            "CNI_IFNAME": target.interface,
            "CNI_ARGS": ";".join(f"{key}={value}" for key, value in target.args.items()),
            "CNI_PATH": ":".join(str(directory) for directory in self._directories),
        }
        path, data = self._find(kind), json.dumps(given).encode()
        code, output, errors = self._execute(path, data, environment, f"{kind} {command}")
        if code != 0:
            raise _failure(f"the network plugin {kind} failed ({command})", output, errors)
        if command != "ADD":
            return None
        try:
            found = json.loads(output)
        except ValueError as error:
            raise HostFault(f"the network plugin {kind} gave no JSON", details=_text(output)) from error
        if not isinstance(found, dict):
            raise HostFault(f"the network plugin {kind} gave no result", details=_text(output))
        return found

    def _find(self, kind: str) -> Path:
        for directory in self._directories:
            if (directory / kind).is_file():
                return directory / kind
        places = ", ".join(str(directory) for directory in self._directories)
        raise HostFault(
            f"there is no network plugin {kind}",
            details=f"looked for in {places}",
            resolution="install it (Debian: containernetworking-plugins), or set [cri] cni_bin_dirs",
        )

    def _execute(self, path: Path, given: bytes, environment: Mapping[str, str], what: str) -> tuple[int, bytes, bytes]:
        """Run a program with all that it starts; give exit code and outputs. Errors: HostFault, Timeout."""
        try:
            process = subprocess.Popen(
                [path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                start_new_session=True,
            )
        except OSError as error:
            raise HostFault(f"the network plugin {path} cannot be run", details=str(error)) from error
        try:
            output, errors = process.communicate(given, timeout=self._timeout)
        except subprocess.TimeoutExpired as error:
            raise Timeout(f"the network plugin {what} did not end in {self._timeout:g} s and was killed") from error
        finally:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:  # not read to its end: something that has left the session may have it open
                    with suppress(OSError):
                        pipe.close()
        if len(output) > MAX_OUTPUT:
            raise HostFault(f"the network plugin {what} gave more than {MAX_OUTPUT} bytes")
        return process.returncode, output, errors


def end(container: str) -> None:
    """Kill what plugins of an earlier daemon still do for a container, with what they have started; wait for the end.

    Errors: Timeout.
    """
    until = time.monotonic() + _ENDS_WITHIN
    while found := _at_work(container):
        if time.monotonic() > until:
            raise Timeout(f"network plugins of container {container} do not end", details=f"processes {found}")
        for pid in found:
            log.warning("cni.plugin_ended", container=container, pid=pid)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)  # they are not our children: nobody tells when they have ended


def _at_work(container: str) -> list[int]:
    """Return the processes that have been told to work for a container; those that have ended have no environment."""
    found, word = [], f"CNI_CONTAINERID={container}".encode()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                if word in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
    return found


def _failure(brief: str, output: bytes, errors: bytes) -> HostFault | Busy:
    """Return the error that a plugin's output describes."""
    try:
        found = json.loads(output)
        message = " ".join(str(found[key]) for key in ("msg", "details") if found.get(key))
        code = found.get("code")
    except (ValueError, AttributeError):
        message, code = _text(output) or _text(errors), None
    kind = Busy if code == TRY_AGAIN else HostFault
    return kind(brief, details=message[:1000])


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").strip()[:500]
