"""Where things lie inside a guest, and the plans that put them there."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyperd.agent.plan import MNT_DETACH, MS_NOATIME, MS_RDONLY, Op, Plan

SCRATCH = "/run/scratch"
ETC = "/run/etc"
EMPTY = "/run/empty"
ROOTFS = "/run/rootfs"

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True, kw_only=True)
class GuestNic:
    """A NIC as the guest configures it: ``cidrs`` its addresses, ``gateway`` may be empty, ``mtu`` 0 = leave."""

    mac: str
    cidrs: Sequence[str]
    gateway: str
    mtu: int


@dataclass(frozen=True, kw_only=True)
class GuestSetup:
    """What all containers of a pod share."""

    hostname: str
    nics: Sequence[GuestNic]
    dns: Sequence[str]
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()


def warm_up() -> Plan:
    """Give a plan that walks the agent through code that every pod's start needs, before a VM waits in the pool."""
    plan = Plan().mkdir(EMPTY).mkdir(f"{ETC}/warm")
    plan.mount("tmpfs", f"{ETC}/warm", "tmpfs", 0, "size=64k").write(f"{ETC}/warm/a/b", "x")
    return plan.add(Op.UMOUNT, f"{ETC}/warm", MNT_DETACH).add(Op.REMOVE, f"{ETC}/warm")


def layer_path(lun: int) -> str:
    """Give the mount point of a layer."""
    return f"/run/l/{lun}"


def mount_layer(plan: Plan, lun: int) -> None:
    """Mount the squashfs image on a LUN."""
    plan.mkdir(layer_path(lun))
    plan.mount(f"lun:{lun}", layer_path(lun), "squashfs", MS_RDONLY)


def container_dir(container_id: str) -> str:
    """Give the directory of a container on the pod's writable disk."""
    return f"{SCRATCH}/containers/{container_id}"


def volume_dir(name: str) -> str:
    """Give the directory of an unnamed volume on the pod's writable disk."""
    return f"{SCRATCH}/volumes/{name}"


def enter(setup: GuestSetup) -> Plan:
    """Give the plan that turns a booted VM into a pod: clock, name, network, writable disk, /etc files."""
    now = time.time_ns()
    plan = Plan()
    plan.add(Op.TIME, now // 10**9, now % 10**9)
    plan.add(Op.ENTROPY, os.urandom(32))  # a VM of the pool has waited since long before
    plan.add(Op.HOSTNAME, setup.hostname)
    plan.mkdir(SCRATCH).mount("lun:0", SCRATCH, "ext4", MS_NOATIME)
    plan.mkdir(f"{SCRATCH}/containers", 0o700).mkdir(f"{SCRATCH}/volumes", 0o711).mkdir(EMPTY)
    for index, nic in enumerate(setup.nics):
        name = f"eth{index}"
        plan.add(Op.LINK, nic.mac, name, nic.mtu)
        for cidr in nic.cidrs:
            plan.add(Op.ADDR, name, cidr)
        if nic.gateway:
            plan.add(Op.ROUTE, "default", nic.gateway, name)
    own = setup.nics[0].cidrs[0].partition("/")[0] if setup.nics else "127.0.1.1"
    plan.write(f"{ETC}/hosts", f"{_HOSTS}{own}\t{setup.hostname}\n")
    plan.write(f"{ETC}/hostname", setup.hostname + "\n")
    plan.write(f"{ETC}/resolv.conf", _resolv_conf(setup))
    return plan


def leave(layers: Iterable[int], *, scratch: bool, nics: int) -> Plan:
    """Give the plan that undoes ``enter``, so that disks and NICs can be taken out."""
    plan = Plan()
    for lun in layers:
        plan.add(Op.UMOUNT, layer_path(lun), MNT_DETACH)
    if scratch:
        plan.add(Op.UMOUNT, SCRATCH, 0)
    for index in range(nics):
        plan.add(Op.LINKDOWN, f"eth{index}")
    return plan


def leave_volumes(paths: Iterable[str]) -> Plan:
    """Give the plan that unmounts volumes; an image's directory ``_data`` may lie on top of its root."""
    plan = Plan()
    for path in paths:
        plan.add(Op.UMOUNT, path, 0).add(Op.UMOUNT, path, 0)
    return plan


def _resolv_conf(setup: GuestSetup) -> str:
    lines = [f"nameserver {address}" for address in setup.dns]
    if setup.dns_search:
        lines.append("search " + " ".join(setup.dns_search))
    if setup.dns_options:
        lines.append("options " + " ".join(setup.dns_options))
    return "".join(line + "\n" for line in lines)
