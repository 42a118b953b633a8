"""A network of real plugins (Debian's containernetworking-plugins) for one test, and what is left of it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PLUGINS = Path("/usr/lib/cni")
NAMESPACES = Path("/run/netns")


class CniSite:
    """A configuration directory with bridge, host-local and portmap.

    Args:
        directory: for everything. number: of the test's daemon, which is in names and addresses. more: plugins that
            come behind those.

    """

    def __init__(self, directory: Path, number: int, more: tuple[dict[str, Any], ...] = ()) -> None:
        self.conf = directory / "net.d"
        self.conf.mkdir(parents=True)
        self.bin = directory / "bin"
        self.bin.mkdir()
        self.bridge = f"hcb{number}"
        self.subnet, self.subnet6 = f"10.214.{number}.0/24", f"fd00:214:{number}::/64"
        self.gateway = f"10.214.{number}.1"
        self._data = directory / "ipam"
        ranges = [[{"subnet": self.subnet}], [{"subnet": self.subnet6}]]
        routes = [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]
        bridge = {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "mtu": 1400,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": str(self._data)},
        }
        portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
        self.write("10-test.conflist", {"cniVersion": "1.0.0", "name": "test", "plugins": [bridge, portmap, *more]})

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a configuration."""
        (self.conf / name).write_text(json.dumps(content))

    def plugin(self, name: str, script: str) -> None:
        """Write a plugin of the test's own, a shell script."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def toml(self) -> str:
        """Return what the daemon's configuration needs."""
        return f'[cri]\ncni_conf_dir = "{self.conf}"\ncni_bin_dirs = ["{self.bin}", "{PLUGINS}"]\n'

    def problems(self, root: Path) -> list[str]:
        """Return what does not agree with the pods that a daemon has on the network; ``root``: its directory."""
        kept = [json.loads(path.read_bytes()) for path in (root / "cni").glob("*.json")]
        wanted = sorted(cidr.partition("/")[0] for one in kept for cidr in (one["found"] or {}).get("addresses", ()))
        left = self.left()
        found = [f"half way on a network of plugins: {one['pod']}" for one in kept if not one["found"]]
        if left["addresses"] != wanted:
            found.append(f"addresses of plugins: {left['addresses']}, of pods: {wanted}")
        if len(left["links"]) != len(kept):
            found.append(f"{len(kept)} pods on the plugins' bridge: {left['links']}")
        stray = [rule for rule in left["rules"] if not any(f"{address}/" in rule or f"{address}:" in rule
                 for address in wanted)]  # fmt: skip
        spaces = [one["pod"] for one in kept if not (NAMESPACES / f"hyperd-{one['pod'][:32]}").exists()]
        return [
            *found,
            *(f"rule of plugins: {rule}" for rule in stray),
            *(f"no network namespace of pod {pod}" for pod in spaces),
        ]

    def addresses(self) -> list[str]:
        """Return the addresses that are given."""
        names = (path.name for path in (self._data / "test").glob("*"))
        return sorted(name for name in names if name[0].isdigit() or name.startswith("fd"))

    def left(self) -> dict[str, list[str]]:
        """Return what there is of pods on the host."""
        listed = subprocess.run(["ip", "-j", "link", "show", "master", self.bridge], capture_output=True, check=False)
        links = json.loads(listed.stdout or "[]")  # nothing where the bridge was never made
        words = ["iptables", "-t", "nat", "-S"]
        rules = subprocess.run(words, capture_output=True, check=True, text=True).stdout.splitlines()
        prefix = self.gateway.removesuffix("1")
        return {
            "addresses": self.addresses(),
            "links": [one["ifname"] for one in links if one],
            "rules": [rule for rule in rules if prefix in rule],
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["ip", "link", "del", self.bridge], capture_output=True, check=False)
