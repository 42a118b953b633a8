"""Where things lie inside a guest, and the plans that put them there."""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from hyperd.agent.plan import MNT_DETACH, MS_NOATIME, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, Op, Plan

SCRATCH = "/run/scratch"
ETC = "/run/etc"
EMPTY = "/run/empty"
SHARED = "/run/shared"  # what of the host the VM has: its names
ROOTFS = "/run/rootfs"
SHM = "/dev/shm"  # noqa: S108 - of the pod: at most a quarter of its memory

_HOSTS = """127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
ff00::0\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
"""


@dataclass(frozen=True, kw_only=True)
class GuestNic:
    """A NIC as the guest configures it: ``cidrs`` its addresses, ``gateway`` may be empty, ``mtu`` 0 = leave.

    ``routes``: further ones, destination and gateway, which may be empty. ``gateway6``: of IPv6, may be empty.
    """

    name: str
    mac: str
    cidrs: Sequence[str]
    gateway: str
    mtu: int
    routes: Sequence[tuple[str, str]] = ()
    gateway6: str = ""


@dataclass(frozen=True, kw_only=True)
class GuestSetup:
    """What all containers of a pod share."""

    hostname: str
    nics: Sequence[GuestNic]
    dns: Sequence[str]
    dns_search: Sequence[str] = ()
    dns_options: Sequence[str] = ()
    domainname: str = ""
    hosts: Sequence[tuple[str, str]] = ()  # further lines of /etc/hosts: address, names


def nic_name(slot: int) -> str:
    """Return the name of a NIC in the guest."""
    return f"eth{slot}"


def layer_path(lun: int) -> str:
    """Return the mount point of a layer."""
    return f"/run/l/{lun}"


def mount_layer(plan: Plan, lun: int) -> None:
    """Mount the squashfs image on a LUN."""
    plan.mkdir(layer_path(lun))
    plan.mount(f"lun:{lun}", layer_path(lun), "squashfs", MS_RDONLY)


def container_dir(container_id: str) -> str:
    """Return the directory of a container on the pod's writable disk."""
    return f"{SCRATCH}/containers/{container_id}"


def make_upper(plan: Plan, work: str, lower: Sequence[str]) -> Plan:
    """Make the upper and the work directory of an overlay, unless they are there.

    overlayfs shows the upper directory's own attributes as those of the root: they are taken from the layer below.

    Args:
        plan: gets the steps.
        work: directory that holds both.
        lower: the layers below, bottom first.

    """
    plan.mkdir(f"{work}/work", 0o700)
    return plan.add(Op.LIKE, f"{work}/upper", lower[-1]) if lower else plan.mkdir(f"{work}/upper")


def volume_dir(name: str) -> str:
    """Return the directory of an unnamed volume on the pod's writable disk."""
    return f"{SCRATCH}/volumes/{name}"


def enter(setup: GuestSetup, *, mounted: bool) -> Plan:
    """Return the plan that turns a booted VM into a pod: clock, name, network, writable disk, /etc files.

    ``mounted``: the disk is mounted already (``Vm.mounted``).
    """
    return furnish(identify(setup), setup.nics, mounted=mounted)


def identify(setup: GuestSetup) -> Plan:
    """Return the part of ``enter`` that nobody can do before the pod is known. The clock is set as of now."""
    now = time.time_ns()
    plan = Plan()
    plan.add(Op.TIME, now // 10**9, now % 10**9)
    plan.add(Op.ENTROPY, os.urandom(32))  # a VM of the pool has waited since long before
    plan.add(Op.HOSTNAME, setup.hostname)
    plan.mount("shm", SHM, "tmpfs", MS_REMOUNT | MS_NOSUID | MS_NODEV, "size=25%")
    plan.write(f"{ETC}/hostname", setup.hostname + "\n")
    return _write_names(plan, setup)


def exchange(plan: Plan, nics: Sequence[GuestNic]) -> Plan:
    """Let the NIC that is set up already be another, the first of ``nics``, and set up the others, which are new.

    It has this MAC address, these addresses and routes then, and nothing else.
    """
    plan.add(Op.LINKDOWN, nic_name(0))
    plan.add(Op.MAC, nic_name(0), nics[0].mac)
    for nic in nics:
        _set_up(plan, nic)
    return plan


def rewire(setup: GuestSetup, fresh: Collection[str]) -> Plan:
    """Return the plan that makes a running pod's network what ``setup`` says; ``fresh``: MACs of its new NICs."""
    plan = Plan()
    for nic in setup.nics:
        if nic.mac in fresh:
            _set_up(plan, nic)
        else:
            _set_default(plan, nic)
    return _write_names(plan, setup)


def _write_names(plan: Plan, setup: GuestSetup) -> Plan:
    """Write what containers see as /etc/hosts and /etc/resolv.conf."""
    cidrs = setup.nics[0].cidrs if setup.nics else ("127.0.1.1",)
    own = [cidrs[0], *[cidr for cidr in cidrs[1:] if ":" in cidr][:1]]
    names = f"{setup.hostname}.{setup.domainname} {setup.hostname}" if setup.domainname else setup.hostname
    lines = [
        f"{address}\t{name}\n" for address, name in (*((one.partition("/")[0], names) for one in own), *setup.hosts)
    ]
    plan.write(f"{ETC}/hosts", _HOSTS + "".join(lines))
    return plan.write(f"{ETC}/resolv.conf", _resolv_conf(setup))


def _set_up(plan: Plan, nic: GuestNic) -> None:
    plan.add(Op.LINK, nic.mac, nic.name, nic.mtu)
    for cidr in nic.cidrs:
        plan.add(Op.ADDR, nic.name, cidr)
    _set_default(plan, nic)
    for target, gateway in nic.routes:
        plan.add(Op.ROUTE, target, gateway, nic.name)


def _set_default(plan: Plan, nic: GuestNic) -> None:
    if nic.gateway:
        plan.add(Op.ROUTE, "default", nic.gateway, nic.name)
    if nic.gateway6:
        plan.add(Op.ROUTE, "::/0", nic.gateway6, nic.name)


def mount_scratch(plan: Plan, lun: int = 0) -> Plan:
    """Mount the pod's writable disk."""
    plan.mkdir(SCRATCH).mount(f"lun:{lun}", SCRATCH, "ext4", MS_NOATIME)
    return plan.mkdir(f"{SCRATCH}/containers", 0o700).mkdir(f"{SCRATCH}/volumes", 0o711).mkdir(EMPTY)


def furnish(plan: Plan, nics: Sequence[GuestNic], *, mounted: bool) -> Plan:
    """Add the part of ``enter`` that a VM of the pool gets ahead of time: writable disk and network."""
    if not mounted:
        mount_scratch(plan)
    for nic in nics:
        _set_up(plan, nic)
    return plan


def leave(layers: Iterable[int], *, scratch: bool) -> Plan:
    """Return the plan that makes the guest let go of disks, so that they can be taken out."""
    plan = Plan()
    for lun in layers:
        plan.add(Op.UMOUNT, layer_path(lun), MNT_DETACH)
    if scratch:
        plan.add(Op.UMOUNT, SCRATCH, 0)
    return plan


def leave_volumes(paths: Iterable[str]) -> Plan:
    """Return the plan that unmounts volumes; an image's directory ``_data`` may lie on top of its root."""
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
