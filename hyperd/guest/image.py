"""Makes what a guest boots from: the agent, the initramfs images and the distribution's kernel.

In the output directory afterwards::

    kernel-distro   initrd-distro    the distribution's cloud kernel, modules in the initramfs
    kernel-minimal  initrd-minimal   our own kernel (made by ``hyperd.guest.kernel``), no modules

Beside each initramfs lies ``<name>.inputs``, the hash of everything it was made from; the same is never built twice.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from hyperd.errors import HostFault, InvalidInput, NotFound
from hyperd.guest import cpio
from hyperd.guest.kernel import KERNEL_NAME as MINIMAL_KERNEL
from hyperd.guest.modules import ModuleTree

log = structlog.get_logger(__name__)

DISTRO_KERNEL = "kernel-distro"
DISTRO_INITRD = "initrd-distro"
MINIMAL_INITRD = "initrd-minimal"
META_PACKAGE = "linux-image-cloud-amd64"
FLAVOURS = ("auto", "distro", "minimal")
# Part of the hash: raise it when the steps below change the result.
RECIPE = "1"

# Needed before the agent can answer; everything else is loaded while the host is already talking to it.
_EARLY = ("virtio_pci", "virtio_console")
_LATE = ("virtio_scsi", "sd_mod", "virtio_net", "squashfs", "overlay", "ext4")
# Loaded when a pod needs them (op MODULES), by the name of their list.
_ON_DEMAND = {"services": ("ip_vs", "ip_vs_rr"), "nfs": ("nfsv4", "nfsv3")}
_OPTIONAL = ("virtiofs", "9p", "9pnet_virtio", "virtio_balloon", "virtio_rng")
# Disks are looked for when a plan names one (the driver tells a kernel that has this built in on its command line).
_PARAMETERS = {"scsi_mod": "scan=manual"}
# Names by which busybox can be called directly; its shell knows all its others.
_APPLETS = (
    "ash cat chmod chown cp date dd df dmesg du echo env false find free grep head hostname id ifconfig ip kill ln ls "
    "mkdir mount mv netstat nslookup ping ps pwd rm rmdir route sed sh sleep sync tail tar top touch true umount uname "
    "uptime vi wc wget"
)
_PASSWD = b"root:x:0:0:root:/:/bin/sh\n"
_GROUP = b"root:x:0:\ntty:x:5:\n"


@dataclass(frozen=True, kw_only=True)
class GuestFiles:
    """What a VM boots from.

    Args:
        kernel: path of the kernel image.
        initrd: path of the initramfs.
        flavour: ``minimal`` or ``distro``.

    """

    kernel: Path
    initrd: Path
    flavour: str


def find_guest(directory: Path) -> GuestFiles:
    """Return what to boot from, the minimal flavour when both its files exist. Errors: NotFound."""
    for flavour, kernel, initrd in (
        ("minimal", MINIMAL_KERNEL, MINIMAL_INITRD),
        ("distro", DISTRO_KERNEL, DISTRO_INITRD),
    ):
        files = GuestFiles(kernel=directory / kernel, initrd=directory / initrd, flavour=flavour)
        if files.kernel.is_file() and files.initrd.is_file():
            return files
    raise NotFound(f"no guest in {directory}", resolution="run hyperd build-guest")


def agent_sources() -> Path:
    """Return the directory of the agent's source."""
    return Path(__file__).resolve().parent / "agent"


def build_agent(output: Path, *, compiler: str = "gcc") -> Path:
    """Compile the agent into ``output`` (made when missing); only what changed is compiled.

    Returns the binary. Errors: HostFault when the compiler is missing or refuses.
    """
    output.mkdir(parents=True, exist_ok=True)
    _run(
        ["make", "-s", "-C", str(agent_sources()), f"BUILD={output}", f"CC={compiler}"],
        what="compiling the guest's agent",
    )
    return output / "hyper-agent"


def build_guest(directory: Path, *, kernel: str = "auto", force: bool = False) -> GuestFiles:
    """Make or refresh the guest in ``directory``.

    Args:
        directory: made when missing; several processes may build into it at the same time.
        kernel: ``distro`` (kernel and initramfs of the distribution), ``minimal`` (only the initramfs for the minimal
            kernel) or ``auto`` (the minimal initramfs, and the distribution's kernel unless a minimal one is there).
        force: build although nothing changed.

    Returns what ``find_guest`` prefers now. On failure the files of an earlier build stay as they were.
    Errors: InvalidInput, HostFault (a tool failed), NotFound (no busybox, or ``minimal`` without its kernel).

    """
    if kernel not in FLAVOURS:
        raise InvalidInput(f"unknown kernel {kernel}", resolution=f"use one of {', '.join(FLAVOURS)}")
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory):
        if kernel in {"auto", "minimal"}:
            _build_minimal(directory, force=force)
        if kernel == "distro" or (kernel == "auto" and not (directory / MINIMAL_KERNEL).is_file()):
            _build_distro(directory, force=force)
    return find_guest(directory)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    with (directory / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _run(command: Sequence[str], *, what: str, cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            command, cwd=cwd, check=True, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"}
        )
    except FileNotFoundError as error:
        raise HostFault(f"{what} failed", details=str(error), resolution=f"install {command[0]}") from error
    except subprocess.CalledProcessError as error:
        raise HostFault(f"{what} failed", details=f"{command[0]}: {error.stderr.strip()[-2000:]}") from error
    return done.stdout


def _busybox() -> Path:
    for name in ("/bin/busybox", "/usr/bin/busybox"):
        path = Path(name)
        if path.is_file():
            return path
    raise NotFound("no busybox on this host", resolution="install the package busybox-static")


def _common_inputs() -> list[bytes]:
    sources = sorted(p for p in agent_sources().rglob("*") if p.suffix in {".c", ".h"} or p.name == "Makefile")
    sources = [path for path in sources if path.parent.name != "fuzz"]
    here = Path(__file__).parent
    sources += [here / name for name in ("image.py", "cpio.py", "modules.py")]
    return [RECIPE.encode(), _busybox().read_bytes(), *(p.name.encode() + b"\0" + p.read_bytes() for p in sources)]


def _hash(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def _fresh(directory: Path, names: Sequence[str], inputs: str) -> bool:
    stamp = directory / f"{names[-1]}.inputs"
    return stamp.exists() and stamp.read_text() == inputs and all((directory / name).is_file() for name in names)


def _store(path: Path, data: bytes) -> None:
    """Write a file so that it is there whole or not at all."""
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(data)
    draft.replace(path)


def _base_entries(agent: Path) -> list[cpio.Entry]:
    names = ("bin", "dev", "etc", "lib", "lib/modules", "proc", "root", "run", "sbin", "sys", "tmp")
    entries = [cpio.directory(name) for name in names]
    entries.append(cpio.character_device("dev/console", major=5, minor=1))
    entries.append(cpio.file("init", agent.read_bytes(), 0o755))
    entries.append(cpio.symlink("sbin/hyper-agent", "/init"))  # its tools
    entries.append(cpio.file("sbin/busybox", _busybox().read_bytes(), 0o755))
    entries += [cpio.symlink(f"bin/{name}", "/sbin/busybox") for name in _APPLETS.split()]
    entries += [cpio.file("etc/passwd", _PASSWD), cpio.file("etc/group", _GROUP)]
    return entries


def _build_minimal(directory: Path, *, force: bool) -> None:
    inputs = _hash(_common_inputs())
    if not force and _fresh(directory, [MINIMAL_INITRD], inputs):
        return
    agent = build_agent(directory / "agent")
    _store(directory / MINIMAL_INITRD, cpio.archive(_base_entries(agent)))
    _store(directory / f"{MINIMAL_INITRD}.inputs", inputs.encode())
    log.info("guest.built", flavour="minimal", directory=str(directory))


def _kernel_package() -> tuple[str, str]:
    """Return name and version of the kernel package that the meta package stands for now."""
    text = _run(["apt-cache", "show", "--no-all-versions", META_PACKAGE], what="asking for the kernel package")
    fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and not line.startswith(" "))
    names = [
        word.split()[0] for word in fields.get("Depends", "").split(",") if word.strip().startswith("linux-image-")
    ]
    if not names:
        raise NotFound(f"no package {META_PACKAGE}", resolution="run apt-get update")
    return names[0], fields.get("Version", "")


def _build_distro(directory: Path, *, force: bool) -> None:
    package, version = _kernel_package()
    inputs = _hash([package.encode(), version.encode(), *_common_inputs()])
    if not force and _fresh(directory, [DISTRO_KERNEL, DISTRO_INITRD], inputs):
        return
    agent = build_agent(directory / "agent")
    with tempfile.TemporaryDirectory(dir=directory, prefix=".kernel-") as name:
        scratch = Path(name)
        _run(["apt-get", "download", "-q", package], what=f"downloading {package}", cwd=scratch)
        (archive,) = scratch.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), str(scratch / "tree")], what=f"unpacking {package}")
        (kernel,) = (scratch / "tree" / "boot").glob("vmlinuz-*")
        (tree,) = (scratch / "tree" / "lib" / "modules").iterdir()
        _store(directory / DISTRO_INITRD, cpio.archive([*_base_entries(agent), *_module_entries(ModuleTree(tree))]))
        shutil.copyfile(kernel, scratch / "kernel")
        (scratch / "kernel").replace(directory / DISTRO_KERNEL)
    _store(directory / f"{DISTRO_INITRD}.inputs", inputs.encode())
    log.info("guest.built", flavour="distro", package=package, version=version, directory=str(directory))


def _module_entries(tree: ModuleTree) -> list[cpio.Entry]:
    early = tree.load_order(_EARLY)
    late = [name for name in tree.load_order(_LATE, optional=_OPTIONAL) if name not in early]
    lists = {"etc/modules": early, "etc/modules.late": late}
    for demand, wanted in _ON_DEMAND.items():
        lists[f"etc/modules.{demand}"] = [name for name in tree.load_order(wanted) if name not in early + late]
    every = dict.fromkeys(name for names in lists.values() for name in names)
    entries = [cpio.file(f"lib/modules/{name}.ko", tree.path(name).read_bytes()) for name in every]
    for path, names in lists.items():
        entries.append(cpio.file(path, "".join(map(_module_line, names)).encode()))
    return entries


def _module_line(name: str) -> str:
    return f"/lib/modules/{name}.ko {_PARAMETERS.get(name, '')}".rstrip() + "\n"
