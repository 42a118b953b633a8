"""Services of a pod: load balancing by the guest's kernel (IPVS), which the host programs through plans.

The commands and structs are those of ``linux/ip_vs.h`` (the interface of setsockopt; IPv4). A connection from within
the pod to a service's address is sent on to the next of its hosts, in turn, before it leaves the guest; the pod's own
address is its source. So nothing of it needs the host, and it works on every bridge. The service's address leads to
the guest itself (a local route): only then can the hosts be in the same pod, too.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from hyperd.agent.plan import Op, Plan

MODULES = "services"  # the list in the initramfs of a kernel that has IPVS as modules
ADD, DELETE, FLUSH, ADD_HOST, DELETE_HOST = 2, 4, 5, 7, 8
_PROTOCOLS = {"tcp": 6, "udp": 17}
_SWITCHES = "/proc/sys/net/ipv4/vs"


@dataclass(frozen=True, kw_only=True)
class Balanced:
    """A service as the guest has it.

    Args:
        ip: the service's address. port: its port. protocol: tcp or udp.
        hosts: addresses and ports that take turns.
        source: the pod's address that connections come from: the one of the NIC that leads to the hosts.

    """

    ip: str
    port: int
    protocol: str
    hosts: tuple[tuple[str, int], ...]
    source: str

    @property
    def key(self) -> tuple[str, int, str]:
        """What two services of a pod must not share."""
        return (self.ip, self.port, self.protocol)

    def dump(self) -> dict[str, Any]:
        """Return a JSON-able object."""
        return {
            "ip": self.ip,
            "port": self.port,
            "protocol": self.protocol,
            "hosts": [list(host) for host in self.hosts],
            "source": self.source,
        }


def load(data: Mapping[str, Any]) -> Balanced:
    """Read what ``dump`` gave."""
    hosts = tuple((str(ip), int(port)) for ip, port in data["hosts"])
    return Balanced(ip=data["ip"], port=data["port"], protocol=data["protocol"], hosts=hosts, source=data["source"])


def change(old: Sequence[Balanced], new: Sequence[Balanced]) -> Plan:
    """Return the plan that makes a guest that has ``old`` have ``new``; connections of hosts that stay go on."""
    plan = Plan()
    before, after = {entry.key: entry for entry in old}, {entry.key: entry for entry in new}
    if after and not before:
        _prepare(plan)
    kept = {entry.ip for entry in new}
    for key, entry in before.items():
        if key not in after:
            plan.add(Op.IPVS, DELETE, _service(entry))
        if entry.ip not in kept:
            plan.add(Op.LOCAL, entry.ip, "")
    for key, entry in after.items():
        known = before.get(key)
        if known is None:
            plan.add(Op.IPVS, ADD, _service(entry))
        if known is None or known.source != entry.source:
            plan.add(Op.LOCAL, entry.ip, entry.source)
        hosts = known.hosts if known else ()
        for host in entry.hosts:
            if host not in hosts:
                plan.add(Op.IPVS, ADD_HOST, _service(entry) + _host(*host))
        for host in hosts:
            if host not in entry.hosts:
                plan.add(Op.IPVS, DELETE_HOST, _service(entry) + _host(*host))
    return plan


def renew(perhaps: Sequence[Balanced], new: Sequence[Balanced]) -> Plan:
    """Return the plan that makes a guest have ``new`` of which is only known that it may have ``perhaps``."""
    plan = Plan()
    _prepare(plan)
    plan.add(Op.IPVS, FLUSH, b"")
    for ip in dict.fromkeys(entry.ip for entry in perhaps):
        plan.add(Op.LOCAL, ip, "")
    plan.steps += change((), new).steps
    return plan


def _prepare(plan: Plan) -> None:
    plan.add(Op.MODULES, MODULES)
    # Connections to a host that was taken out end at once instead of leading nowhere.
    plan.write(f"{_SWITCHES}/expire_nodest_conn", "1", None)
    plan.write(f"{_SWITCHES}/expire_quiescent_template", "1", None)


def _service(entry: Balanced) -> bytes:
    """Struct ip_vs_service_user: round robin."""
    address = IPv4Address(entry.ip).packed
    port = struct.pack("!H", entry.port)
    netmask = 0xFFFFFFFF
    return struct.pack("=H2x4s2s2xI16sIII", _PROTOCOLS[entry.protocol], address, port, 0, b"rr", 0, 0, netmask)


def _host(ip: str, port: int) -> bytes:
    """Struct ip_vs_dest_user: weight 1, by address translation."""
    return struct.pack("=4s2s2xIiII", IPv4Address(ip).packed, struct.pack("!H", port), 0, 1, 0, 0)
