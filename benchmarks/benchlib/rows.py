"""The lines of the table: what each figure is, what stands beside it, and what issue and design ask for."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line.

    Args:
        key: of the samples.
        title: for people.
        unit: ``ms``, ``s``, ``MiB``, ``%``, ``MB/s`` or ``1/s``; samples of times are in seconds.
        peers: (key, title) of what it is compared with.
        goal: what is wanted, in words.
        limit: the same as a number, of the ratio to the first peer when ``relative``, else of the value in ``unit``.
        more: more is better.
        reason: why the goal is missed, as profiling has found, shown only when it is: a few words, and the heading in
            docs/performance.md below which the whole stands.

    """

    key: str
    title: str
    unit: str
    peers: tuple[tuple[str, str], ...] = ()
    goal: str = ""
    limit: float | None = None
    relative: bool = False
    more: bool = False
    reason: tuple[str, str] | None = None


_COLD = (
    "what a pod's devices add to the kernel's boot, libvirt, and guest code that runs for the first time",
    "Where a cold start's time goes",
)
_ATTACH = (
    "every line is written to the log on the way: the log's writer, the relay and the emulated guest share two CPUs",
    "Throughput",
)
_LOGS = (
    "the daemon reads and frames 200 MB in a second of its own CPU; what the kernel and the client take comes on top",
    "Throughput",
)
_DAEMON = (
    "a third is clean pages of shared libraries, the rest mostly interpreter, SQLAlchemy and Flask; a pod adds 0.24",
    "The daemon's memory",
)
_QEMU = (
    "QEMU's translated code, its heap, and the part of the guest's memory that is no longer the template's",
    "Idle",
)

_FLOOR = ("boot.microvm", "raw microvm")
_FLOOR_CPU = ("boot.microvm.cpu", "raw microvm")

ROWS = (
    Row(key="boot.microvm", title="raw QEMU `-M microvm`, boot to WELCOME: the floor", unit="ms"),
    Row(key="boot.microvm.cpu", title="… CPU time of QEMU", unit="ms"),
    Row(key="boot.q35", title="raw QEMU q35 with a pod's devices", unit="ms", peers=(_FLOOR,)),
    Row(key="boot.q35.cpu", title="… CPU time of QEMU", unit="ms", peers=(_FLOOR_CPU,)),
    Row(
        key="start.api", title="cold start at the API: pod create to container started", unit="ms",
        peers=(_FLOOR, ("boot.q35", "raw q35"), ("start.podman", "podman run -d")),
        goal="≤ 1.4 x floor", limit=1.4, relative=True, reason=_COLD,
    ),
    Row(key="start.cpu.qemu", title="… CPU time of QEMU until then", unit="ms", peers=(_FLOOR_CPU,)),
    Row(key="start.cpu.daemon", title="… CPU time of the daemon", unit="ms"),
    Row(key="start.api.create", title="… of it: pod create", unit="ms"),
    Row(key="start.phase.libvirt", title="… of it: libvirt makes the domain", unit="ms"),
    Row(key="start.phase.boot", title="… of it: until the guest's agent is ready", unit="ms", peers=(_FLOOR,)),
    Row(
        key="boots.api", title="cold start at the API where the kernel has to boot (`templates = false`)", unit="ms",
        peers=(_FLOOR, ("boot.q35", "raw q35"), ("start.podman", "podman run -d")),
        goal="≤ 1.4 x floor", limit=1.4, relative=True, reason=_COLD,
    ),
    Row(key="boots.cpu.qemu", title="… CPU time of QEMU until then", unit="ms", peers=(_FLOOR_CPU,)),
    Row(key="boots.phase.libvirt", title="… of it: libvirt makes the domain", unit="ms"),
    Row(key="boots.phase.boot", title="… of it: guest boots to WELCOME", unit="ms", peers=(_FLOOR,)),
    Row(
        key="start.ctl", title="`hyperctl run -d`, cold", unit="ms", peers=(_FLOOR, ("start.podman", "podman run -d")),
    ),
    Row(
        key="distro.ports", title="the distribution's kernel: raw QEMU q35 with the agent's ports alone", unit="ms",
        peers=(_FLOOR,),
    ),
    Row(
        key="distro.q35", title="… raw QEMU q35 with a pod's devices", unit="ms",
        peers=(("distro.ports", "with the ports alone"),),
    ),
    Row(
        key="distro.api", title="… cold start at the API", unit="ms",
        peers=(("distro.ports", "its raw boot"), ("distro.q35", "with a pod's devices")),
        goal="≤ 1.3 x its raw boot", limit=1.3, relative=True, reason=_COLD,
    ),
    Row(
        key="distro.boots.api", title="… the same where the kernel has to boot", unit="ms",
        peers=(("distro.ports", "its raw boot"), ("distro.q35", "with a pod's devices")),
        goal="≤ 1.3 x its raw boot", limit=1.3, relative=True, reason=_COLD,
    ),
    Row(
        key="distro.boots.cpu.qemu", title="… … CPU time of QEMU until then", unit="ms",
        peers=(("distro.ports.cpu", "its raw boot"), ("distro.q35.cpu", "with a pod's devices")),
    ),
    Row(
        key="warm.api", title="warm start at the API: pod create to container started, VM from the pool", unit="ms",
        peers=(("start.podman", "podman run -d"), _FLOOR),
    ),
    Row(
        key="warm.ctl", title="`hyperctl run -d`, warm", unit="ms", peers=(("start.podman", "podman run -d"),),
        goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="warm.run", title="`hyperctl run --rm IMAGE true`, warm", unit="ms",
        peers=(("run.podman", "podman run --rm"),),
        goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="run.ctl", title="`hyperctl run --rm IMAGE true`, cold", unit="ms",
        peers=(("run.podman", "podman run --rm"),),
    ),
    Row(key="exec.api", title="exec at the API: create, start, output, exit code", unit="ms", goal="≤ 25 ms", limit=25),
    Row(
        key="exec.ctl", title="`hyperctl exec POD true`", unit="ms", peers=(("exec.podman", "podman exec"),),
        goal="≤ 100 ms", limit=100,
    ),
    Row(key="stop.api", title="stop of a running pod", unit="ms"),
    Row(
        key="rm.api", title="rm of a running pod at the API", unit="ms", peers=(("rm.podman", "podman rm -f"),),
        goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="rm.ctl", title="`hyperctl rm` of a running pod", unit="ms", peers=(("rm.podman", "podman rm -f"),),
        goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="rm.left", title="… left of its VM, tap, disks and rules when rm answers", unit="",
        peers=(("rm.made", "things that were there"),), goal="nothing", limit=0,
    ),
    Row(key="rm.libvirt", title="… until libvirt's own notes of it are gone, too", unit="ms"),
    Row(
        key="list.ctl", title="`hyperctl list`", unit="ms", peers=(("list.python", "python3 -c pass"),),
        goal="≤ 3 x python", limit=3.0, relative=True,
    ),
    Row(
        key="list.p50", title="`GET /list?item=pod`, 50 pods, one client", unit="ms", peers=(("ping.p50", "`/_ping`"),),
        goal="≤ 1.5 ms", limit=1.5,
    ),
    Row(
        key="list.rate", title="… requests with 8 clients", unit="1/s", peers=(("ping.rate", "`/_ping`"),),
        goal="≥ 1,500/s", limit=1500, more=True,
    ),
    Row(key="ping.p50", title="`GET /_ping`, one client: the HTTP stack alone", unit="ms"),
    Row(
        key="throughput.exec.api", title="output of an exec, zeros, at the API", unit="MB/s",
        peers=(("throughput.guest", "same in the guest to /dev/null"), ("throughput.exec.podman", "podman exec")),
        goal="≥ 150 MB/s", limit=150, more=True,
    ),
    Row(
        key="throughput.exec.ctl", title="… through `hyperctl exec`", unit="MB/s",
        peers=(("throughput.exec.podman", "podman exec"),), more=True,
    ),
    Row(
        key="throughput.attach.api", title="attach to a container's text, logged, at the API", unit="MB/s",
        peers=(("throughput.attach.podman", "podman run, logged"),), goal="≥ 150 MB/s", limit=150, more=True,
        reason=_ATTACH,
    ),
    Row(
        key="throughput.logs.api", title="its log read back at the API", unit="MB/s",
        peers=(("throughput.logs.podman", "podman logs"),), goal="≥ 150 MB/s", limit=150, more=True, reason=_LOGS,
    ),
    Row(
        key="images.pull", title="pull of an image of 500 MB (120 MB with --quick), ready to run", unit="s",
        peers=(("images.pull.podman", "podman pull"), ("images.pull.skopeo", "skopeo copy to a directory")),
        goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="images.runnable", title="… and `run --rm IMAGE true` of it", unit="s",
        peers=(("images.runnable.podman", "podman pull and run --rm"),), goal="≤ podman", limit=1.0, relative=True,
    ),
    Row(
        key="images.push", title="its push to an empty registry", unit="s",
        peers=(("images.push.podman", "podman push"), ("images.copy.skopeo", "skopeo copy")),
    ),
    Row(key="images.save", title="save, Docker's archive", unit="s", peers=(("images.save.podman", "podman save"),)),
    Row(key="images.load", title="load of it", unit="s", peers=(("images.load.podman", "podman load"),)),
    Row(key="images.save.oci", title="save, OCI layout", unit="s", peers=(("images.save.oci.podman", "podman save"),)),
    Row(key="images.load.oci", title="load of it", unit="s", peers=(("images.load.oci.podman", "podman load"),)),
    Row(
        key="images.commit", title="commit of a running container with 48 MB of new data", unit="s",
        peers=(("images.commit.podman", "podman commit"),),
    ),
    Row(
        key="images.build", title="build: COPY of 48 MB, two RUNs", unit="s",
        peers=(("images.build.podman", "podman build"),),
    ),
    Row(
        key="images.daemon.peak", title="daemon, its most memory until then", unit="MiB",
        goal="≤ 150 MiB", limit=150,
    ),
    Row(
        key="together.wall", title="8 pods asked for at once, cold, until the last runs (4 with --quick)", unit="ms",
        peers=(("together.cpu", "CPU seconds / CPUs"),), goal="≤ 1.3 x that", limit=1.3, relative=True,
    ),
    Row(
        key="together.pool.wall", title="… the same with one VM in the pool", unit="ms",
        peers=(("together.wall", "no pool"),),
    ),
    Row(
        key="together.pool.waited", title="… pods that waited for the pool to refill", unit="", goal="nobody", limit=0,
    ),
    Row(
        key="attaches.memory", title="1,000 idle attaches: memory of the daemon", unit="MiB", goal="≤ 60 MiB",
        limit=60,
    ),
    Row(key="attaches.threads", title="… its threads", unit="", goal="not one each", limit=20),
    Row(key="attaches.word", title="… one line until all have it", unit="ms"),
    Row(
        key="density.daemon.rss", title="daemon with 20 pods (RSS; 2 with --quick)", unit="MiB",
        peers=(("density.daemon.none.rss", "before"), ("density.daemon.after.rss", "all 40 removed")),
        goal="≤ 110 MiB", limit=110, reason=_DAEMON,
    ),
    Row(
        key="density.cpu", title="40 idle pods: CPU of each (4 with --quick)", unit="%", goal="≤ 1 %", limit=1.0,
    ),
    Row(
        key="density.pss", title="… memory of each one's QEMU (PSS)", unit="MiB",
        peers=(("density.half.pss", "with 20"), ("density.one.pss", "with one")), goal="≤ 100 MiB", limit=100,
        reason=_QEMU,
    ),
    Row(key="density.host", title="… memory that the host has less for each (MemAvailable)", unit="MiB"),
    Row(key="density.daemon.cpu", title="… CPU of the daemon", unit="%"),
    Row(
        key="density.list", title="… `GET /list?item=pod`, one client", unit="ms", goal="≤ 1.5 ms", limit=1.5,
    ),
    Row(key="memory.daemon.idle.pss", title="daemon, no pod (PSS)", unit="MiB"),
    Row(
        key="memory.daemon.rss", title="daemon with the idle pods (RSS)", unit="MiB",
    ),
    Row(key="memory.daemon.pss", title="… (PSS)", unit="MiB"),
    Row(
        key="memory.qemu.rss", title="QEMU of an idle 128 MiB pod (RSS)", unit="MiB",
        peers=(("memory.raw.rss", "raw microvm"),),
    ),
    Row(
        key="memory.qemu.pss", title="… (PSS)", unit="MiB",
        peers=(("memory.raw.pss", "raw microvm"), ("memory.podman.pss", "podman: conmon and program")),
        goal="≤ 100 MiB", limit=100, reason=_QEMU,
    ),
    Row(
        key="idle.qemu.cpu", title="CPU of an idle pod", unit="%", peers=(("idle.raw.cpu", "raw microvm"),),
        goal="≤ 1 %", limit=1.0,
    ),
    Row(key="idle.daemon.cpu", title="CPU of the daemon meanwhile", unit="%"),
)  # fmt: skip
