"""User namespaces of VMs, and which files of the host can be given to a VM that has one.

A VM's QEMU is root of a namespace whose ids 0-65535 are ids of the host that nobody else has (user_namespaces(7)). So
it may do with the files of its VM what root may, whoever owns them, and nothing with any other file. Files of the host
reach it through mounts in which the owners are ids of the namespace (mount_setattr(2), MOUNT_ATTR_IDMAP): what the
guest's user 999 writes is user 999's on the host. Not every file system can be mounted so.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import structlog

from hyperd.capabilities import Holder
from hyperd.config.model import IDS_PER_VM
from hyperd.errors import HostFault
from hyperd.vm import mounts

log = structlog.get_logger(__name__)

_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def tool(name: str) -> str:
    """Return the path of one of util-linux's programs. Errors: HostFault."""
    found = shutil.which(name, path=_PATH)
    if found is None:
        raise HostFault(f"{name} (util-linux) is missing")
    return found


@contextlib.contextmanager
def keeper(descriptors: Sequence[int], *, uid: int, namespace: int = -1) -> Iterator[Holder]:
    """Hold descriptors open for a QEMU in a user namespace, by a process in it that has no capability.

    Args:
        descriptors: to hold.
        uid: the id of the host that is the namespace's 0; the ids after it are the namespace's, too.
        namespace: descriptor of one that there is; -1 = a new one, which ends with the last process in it.

    Errors: HostFault.

    """
    held = list(descriptors)
    with contextlib.ExitStack() as stack:
        try:
            through = [tool("setpriv"), f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
            if namespace >= 0:
                held.append(namespace)
                through += ["--inh-caps=-all", "--"]
                through += [tool("nsenter"), f"--user=/proc/self/fd/{namespace}", "--preserve-credentials", "--"]
                through += [tool("setpriv"), "--inh-caps=-all", "--bounding-set=-all", "--"]
            else:
                # Its owner is that user, who may enter it; where not everybody may make one, the capability does it.
                through += ["--inh-caps=-all,+sys_admin", "--ambient-caps=-all,+sys_admin", "--"]
                through += [tool("unshare"), "--user", "--"]
            holder = stack.enter_context(Holder(held, through=through))
            if namespace < 0:  # it is given ids when it is what it shall be, so that it never had a capability there
                for name in ("uid_map", "gid_map"):
                    Path(f"/proc/{holder.pid}/{name}").write_text(f"0 {uid} {IDS_PER_VM}\n", encoding="ascii")
        except (OSError, HostFault) as error:
            raise HostFault("a VM cannot have a user namespace of its own", details=str(error)) from error
        yield holder


class Mappings:
    """Says which files of the host can be given to VMs that have namespaces of their own, by trying it.

    Args:
        uids: the ids of the namespace that it is tried with.
        root: the daemon's directory.

    """

    def __init__(self, uids: range, root: Path) -> None:
        self._uids = uids
        self._root = root
        self._lock = threading.Lock()
        self._namespace = -1
        self._anywhere: str | None = None

    def close(self) -> None:
        """Forget what was found out; twice is fine."""
        with self._lock:
            if self._namespace >= 0:
                os.close(self._namespace)
            self._namespace, self._anywhere = -1, None

    def obstacle(self, source: int) -> str:
        """Tell why a file or directory (a descriptor, O_PATH) cannot be given; empty when it can. Errors: HostFault."""
        info = os.fstat(source)
        for what, number in (("user", info.st_uid), ("group", info.st_gid)):
            if number >= IDS_PER_VM:
                return f"it belongs to the {what} {number}, and a VM has no ids above {IDS_PER_VM - 1}"
        try:
            os.close(mounts.clone(source, "", recursive=True, readonly=False, namespace=self._tried()))
        except OSError as error:
            return f"ids cannot be mapped in its file system ({self._culprit(source)}): {error.strerror}"
        return ""

    def obstacle_anywhere(self) -> str:
        """Tell why files of a pod that is not known yet may be such that cannot be given; empty for no reason.

        Looked for once: in the file system of the daemon's directory, and in memory, where secrets are.
        """
        if self._anywhere is None:
            try:
                namespace = self._tried()
            except HostFault as error:
                return str(error)
            self._anywhere = self._look(namespace)
            log.info("volumes.mapped", obstacle=self._anywhere or "none")
        return self._anywhere

    def _look(self, namespace: int) -> str:
        try:
            directory = os.open(self._root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                found = self.obstacle(directory)
            finally:
                os.close(directory)
            if found:
                return f"{self._root}: {found}"
            memory = mounts.new("tmpfs")
            try:
                mounts.set_namespace(memory, namespace)
            finally:
                os.close(memory)
        except OSError as error:
            return f"ids cannot be mapped in tmpfs: {error.strerror}"
        return ""

    def _tried(self) -> int:
        with self._lock:
            if self._namespace < 0:
                with keeper([], uid=self._uids.start) as holder:
                    self._namespace = os.open(holder.namespace, os.O_RDONLY | os.O_CLOEXEC)
            return self._namespace

    def _culprit(self, source: int) -> str:
        """Return the type of the first file system, at a source or below, whose ids cannot be mapped."""
        numbers = Path(f"/proc/self/fdinfo/{source}").read_text(encoding="ascii").split()
        top = numbers[numbers.index("mnt_id:") + 1]
        table = mounts.table()
        kinds = {mounted.number: mounted.kind for mounted in table}
        path = str(Path(f"/proc/self/fd/{source}").readlink()).rstrip("/")
        below = [(mounted.number, mounted.path) for mounted in table if mounted.path.startswith(f"{path}/")]
        for number, place in ((top, f"{path}/"), *below):
            try:
                fd = os.open(place if number != top else f"/proc/self/fd/{source}", os.O_PATH | os.O_CLOEXEC)
                try:
                    os.close(mounts.clone(fd, "", recursive=False, readonly=False, namespace=self._tried()))
                finally:
                    os.close(fd)
            except OSError:
                return kinds.get(number, "unknown") + (f" at {place}" if number != top else "")
        return kinds.get(top, "unknown")
