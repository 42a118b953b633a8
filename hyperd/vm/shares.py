"""One shared directory for each VM from its boot, in which directories and files of the host appear when needed.

QEMU's 9p server opens the directory once, when the VM is made. Bind mounts that are put into it later are seen by the
guest at once, since a path that QEMU walks from an open directory crosses mounts as any path does.

All of it lives in a mount namespace of its own, whose root is an empty file system in memory: no mount table of the
host shows the mounts, so nothing on the host (a clean-up, ``rm -r``) can reach through them what a user has mounted.
A thread of the daemon is in that namespace and makes every change there. A file below /run keeps the namespace for the
next daemon; it goes with the last VM.

The guest sees the directory read-only: only what is mounted in it can be written to, where that was asked for. So a
guest cannot exchange a name in which the daemon is about to mount something.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import stat
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import structlog

from hyperd.errors import HostFault
from hyperd.vm import mounts

log = structlog.get_logger(__name__)

T = TypeVar("T")
RETRY = 10.0  # seconds between two tries to make the namespace
_RUN = Path("/run")
_AT_FDCWD = -100
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 0x40000
_MNT_DETACH = 2
_CLONE_FS, _CLONE_NEWNS = 0x200, 0x20000
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}


class SharedTrees:
    """See the module's docstring.

    Args:
        root: the daemon's directory, which names the namespace.
        enabled: False: there are none (``available`` says so).

    """

    def __init__(self, root: Path, *, enabled: bool) -> None:
        digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
        self._file = _RUN / f"hyperd-shares-{digest}"
        self._stage = root / "run"
        self._enabled = enabled and os.geteuid() == 0 and os.uname().machine in _PIVOT_ROOT
        self._thread: ThreadPoolExecutor | None = None
        self._opening = threading.Lock()
        self._tried_at = 0.0

    @property
    def available(self) -> bool:
        """Whether VMs get a shared directory; where that failed, it is tried again after some time."""
        if self._thread is None and self._enabled and time.monotonic() - self._tried_at >= RETRY:
            self._open()
        return self._thread is not None

    def open(self, keep: Collection[str]) -> None:
        """Find the namespace of an earlier daemon again, or make one; forget all VMs but those to keep.

        A host that cannot do it is no error: VMs then get host directories when they boot, or not at all.
        """
        if self._enabled and self._open():
            for vm_id in self._ask(_everyone):
                if vm_id not in keep:
                    self.remove(vm_id)

    def _open(self) -> bool:
        with self._opening:
            if self._thread is not None:
                return True
            cpus = os.sched_getaffinity(0)
            # A namespace can be kept only in one that is older, and newer kernels tell that by numbers which each CPU
            # gives from a range of its own. So one CPU can, if the daemon is in a mount namespace of its own.
            for tried in (cpus, *({cpu} for cpu in range(os.cpu_count() or 1))):
                thread = ThreadPoolExecutor(1, thread_name_prefix="shares")
                try:
                    thread.submit(os.sched_setaffinity, 0, tried).result()
                    thread.submit(self._enter).result()
                    thread.submit(os.sched_setaffinity, 0, cpus).result()
                    self._keep(thread)
                    thread.submit(_everyone).result()
                except OSError as error:
                    thread.shutdown()
                    failure = error
                    if error.errno != errno.EINVAL:
                        break
                else:
                    self._thread = thread
                    return True
            self._tried_at = time.monotonic()
            log.warning("shares.unavailable", error=str(failure), retry_in=RETRY)
            return False

    def close(self) -> None:
        """Let go of the namespace; with no VM left it ends."""
        self._enabled = False
        if self._thread is None:
            return
        if not self._ask(_everyone):
            mounts.libc().umount2(os.fsencode(self._file), _MNT_DETACH)
            self._file.unlink(missing_ok=True)
        self._thread.shutdown()
        self._thread = None

    def make(self, vm_id: str) -> int:
        """Make a VM's directory and return it open (O_PATH); the caller closes it. Errors: HostFault."""

        def work() -> int:
            _remove(vm_id)
            for path in (f"/{vm_id}", f"/{vm_id}/names", f"/{vm_id}/seen"):
                os.mkdir(path)  # noqa: PTH102 - in another namespace
                os.chmod(path, 0o755)  # noqa: PTH101, S103 - whatever the umask is: QEMU may be another user
            tree = mounts.clone(_AT_FDCWD, f"/{vm_id}/names", recursive=False, readonly=True)
            try:
                mounts.move(tree, f"/{vm_id}/seen")
            finally:
                os.close(tree)
            return os.open(f"/{vm_id}/seen", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)

        return self._told(work, "a VM's shared directory cannot be made")

    def remove(self, vm_id: str) -> None:
        """Take all mounts of a VM away, and its directory. Errors: HostFault."""
        if self._thread is not None:
            self._told(lambda: _remove(vm_id), "a VM's shared directory cannot be removed")

    def bind(self, vm_id: str, name: str, source: int, *, readonly: bool, namespace: int = -1) -> None:
        """Let a directory or file appear in a VM's directory; what had the name before goes.

        Args:
            vm_id: the VM. name: one part of a path.
            source: the object, open with O_PATH in this process.
            readonly: the host's kernel refuses every change.
            namespace: descriptor of the VM's user namespace, whose ids the owners of files become; -1 = it has none.

        On failure nothing has the name. Errors: HostFault.

        """

        def work() -> None:
            _unbind(vm_id, name)
            where = f"/{vm_id}/names/{name}"
            if stat.S_ISDIR(os.fstat(source).st_mode):
                os.mkdir(where, 0o755)  # noqa: PTH102
            else:
                os.close(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644))
            try:
                mounts.move(tree, f"/{vm_id}/seen/{name}")
            except OSError:
                _unbind(vm_id, name)
                raise

        # The clone is made here: its source is in this namespace.
        tree = self._tried(
            lambda: mounts.clone(source, "", recursive=True, readonly=readonly, namespace=namespace),
            "a volume cannot be shared",
        )
        try:
            self._told(work, "a volume cannot be shared")
        finally:
            with contextlib.suppress(OSError):
                os.close(tree)

    def unbind(self, vm_id: str, name: str) -> None:
        """Take a name away; one that is not there is fine. Errors: HostFault."""
        self._told(lambda: _unbind(vm_id, name), "a volume cannot be taken away")

    def names(self, vm_id: str) -> list[str]:
        """Return what appears in a VM's directory, for tests and audits."""
        return sorted(self._told(lambda: _list(f"/{vm_id}/names"), "a VM has no shared directory"))

    # -- inside

    def _ask(self, work: Callable[[], T]) -> T:
        if self._thread is None:
            raise HostFault("this host shares no directories with VMs that run")
        return self._thread.submit(work).result()

    def _told(self, work: Callable[[], T], what: str) -> T:
        return self._tried(lambda: self._ask(work), what)

    def _tried(self, work: Callable[[], T], what: str) -> T:
        try:
            return work()
        except OSError as error:
            raise HostFault(what, details=error.strerror or str(error)) from error

    def _enter(self) -> None:
        """Put this thread, for good, into the namespace."""
        libc = mounts.libc()
        if self._file.exists():
            fd = os.open(self._file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                mounts.check(libc.unshare(_CLONE_FS), "unshare")
                if libc.setns(fd, _CLONE_NEWNS) == 0:
                    return
            finally:
                os.close(fd)
            self._file.unlink()  # of a host that has restarted since: a plain file
        self._stage.mkdir(parents=True, exist_ok=True, mode=0o700)
        mounts.check(libc.unshare(_CLONE_NEWNS), "unshare")
        mounts.check(libc.mount(None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None), "private mounts")
        flags = ctypes.c_ulong(_NOSUID | _NODEV | _NOEXEC)
        mounts.check(libc.mount(b"hyperd", os.fsencode(self._stage), b"tmpfs", flags, b"size=4m,mode=0700"), "tmpfs")
        os.chdir(self._stage)
        mounts.check(libc.syscall(_PIVOT_ROOT[os.uname().machine], b".", b"."), "pivot_root")
        mounts.check(libc.umount2(b".", _MNT_DETACH), "umount")
        os.chdir("/")

    def _keep(self, thread: ThreadPoolExecutor) -> None:
        """Let the namespace outlive this daemon."""
        if self._file.exists():
            return
        number = thread.submit(threading.get_native_id).result()
        self._file.touch(mode=0o600)
        source = f"/proc/self/task/{number}/ns/mnt".encode()
        if mounts.libc().mount(source, os.fsencode(self._file), None, ctypes.c_ulong(_MS_BIND), None) != 0:
            error = mounts.error("bind of the namespace")
            self._file.unlink()
            raise error


def _list(path: str) -> list[str]:
    return [entry.name for entry in Path(path).iterdir()]


def _everyone() -> list[str]:
    return _list("/")


def _remove(vm_id: str) -> None:
    for path in (f"/{vm_id}/names", f"/{vm_id}"):
        with contextlib.suppress(FileNotFoundError):
            for name in _list(path):
                if path.endswith("names"):
                    _unbind(vm_id, name)
    mounts.libc().umount2(os.fsencode(f"/{vm_id}/seen"), _MNT_DETACH)
    for path in (f"/{vm_id}/seen", f"/{vm_id}/names", f"/{vm_id}"):
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(path)  # noqa: PTH106 - never what is not empty: nothing of a user is removed here


def _unbind(vm_id: str, name: str) -> None:
    mounts.libc().umount2(os.fsencode(f"/{vm_id}/seen/{name}"), _MNT_DETACH)
    path = f"/{vm_id}/names/{name}"  # here nothing is mounted: this is the empty place
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            os.rmdir(path)  # noqa: PTH106
        else:
            os.unlink(path)  # noqa: PTH108
