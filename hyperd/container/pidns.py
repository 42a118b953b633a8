"""Process namespaces that containers of a pod share.

A container has one of its own, that of the pod, or that of another container. The pod's has a process 1 of ours, which
reaps what containers leave behind; it is started with the first container that wants it, and ends with the VM.
"""

from __future__ import annotations

import errno

from hyperd.agent.client import AgentClient
from hyperd.agent.plan import MS_BIND, MS_NODEV, MS_NOSUID, MS_RDONLY, MS_REMOUNT, Op, Plan
from hyperd.agent.programs import PROGRAM
from hyperd.container.plan import GuestProgram, cgroup
from hyperd.errors import AgentError
from hyperd.guest import layout

OF_POD = "pod"  # the word of a specification
PROCESS = "pod-processes"  # the agent's name of that process 1
_NAME = "/pause"  # what the containers see it run
_NOBODY = "65535:65535"
_TRIES = 3
_LAST = "-998"  # of oom_score_adj: with it everything would end


def of_pod(agent: AgentClient) -> str:
    """Return the agent's name of process 1 of the pod's namespace, which runs by now. Errors: AgentError."""
    for _ in range(_TRIES):
        try:
            agent.start(_plan())
            break
        except AgentError as error:
            if error.errno != errno.EEXIST:
                raise
        try:
            agent.signal(PROCESS, 0)
            break
        except AgentError as error:
            if error.errno != errno.ESRCH:
                raise
        agent.forget(PROCESS)
    return PROCESS


def _plan() -> Plan:
    """Return the plan of a process that sees nothing, may do nothing, and is seen by the containers."""
    plan = Plan().mkdir(layout.ROOTFS).add(Op.PROCESS, PROCESS).add(Op.CGROUP, cgroup(PROCESS))
    plan.write("/proc/self/oom_score_adj", _LAST, None)
    plan.add(Op.UNSHARE, "mnt", "pid", "cgroup").add(Op.FIRST)
    flags = MS_NOSUID | MS_NODEV
    plan.mount("tmpfs", layout.ROOTFS, "tmpfs", flags, "size=64k,mode=755")
    plan.add(Op.OPENROOT, layout.ROOTFS)
    GuestProgram(target=_NAME, source=PROGRAM).add_to(plan)
    plan.add(Op.OPENROOT, "")
    plan.mount("none", layout.ROOTFS, "", MS_REMOUNT | MS_BIND | MS_RDONLY | flags)
    plan.add(Op.PIVOT, layout.ROOTFS)
    plan.add(Op.USER, _NOBODY).add(Op.CAPS, "0", "0", "0", "0", "0").add(Op.NNP)
    return plan.env({}).argv([_NAME, "--stay"])
