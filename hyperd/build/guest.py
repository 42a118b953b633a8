"""What builds and commits do in a guest: overlays of layers, packing what has changed, unpacking what comes in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain

from hyperd.agent.client import AgentClient
from hyperd.agent.plan import MS_RDONLY, Op, Plan
from hyperd.agent.programs import PROGRAM, GuestTool, new_name
from hyperd.guest import layout
from hyperd.image.transfer.ingest import AddedLayer, Intake

# What a container's start makes in its root only to mount something there.
MOUNT_POINTS = ("dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf")
EMPTY_TAR = 1024  # bytes: nothing but the end of an archive
Cancel = Callable[[], bool]


def overlay_of(lower: Sequence[str], *, work: str = "") -> str:
    """Return overlayfs's options.

    Args:
        lower: directories, bottom first.
        work: directory that holds ``upper`` and ``work``; empty = read-only.

    """
    stack = [*reversed(lower)]
    if not work and len(stack) < 2:
        stack = [*stack, *[layout.EMPTY, f"{layout.EMPTY}.2"][: 2 - len(stack)]]
    options = "lowerdir=" + ":".join(stack or [layout.EMPTY])
    return f"{options},upperdir={work}/upper,workdir={work}/work" if work else options


def _tool_plan(agent: AgentClient) -> tuple[Plan, str, int]:
    ident, base = new_name(), agent.new_base()
    plan = Plan().add(Op.PROCESS, ident).add(Op.STREAMS, base, "open")
    return plan.mkdir(layout.EMPTY).mkdir(f"{layout.EMPTY}.2").mkdir(layout.ROOTFS), ident, base


def _mounted(plan: Plan, lower: Sequence[str], work: str = "") -> Plan:
    plan.add(Op.UNSHARE, "mnt")
    return plan.mount("overlay", layout.ROOTFS, "overlay", 0 if work else MS_RDONLY, overlay_of(lower, work=work))


def packed(agent: AgentClient, *, upper: str, lower: Sequence[str], cancelled: Cancel) -> Iterator[bytes]:
    """Yield an upper directory as the tar of a layer.

    Args:
        agent: of the VM.
        upper: path in the guest.
        lower: the directories below it, bottom first.
        cancelled: asked while something is waited for.

    Raises:
        AgentError: the guest refuses or is gone. Cancelled: it was asked for.

    """
    plan, ident, base = _tool_plan(agent)
    _mounted(plan, lower).argv([PROGRAM, "--pack", upper, layout.ROOTFS, *MOUNT_POINTS])
    with GuestTool(agent, ident=ident, base=base, cancelled=cancelled) as tool:
        tool.start(plan)
        tool.feed(())
        yield from tool.output()
        tool.finish("packing the changed files")


def unpack(
    agent: AgentClient,
    chunks: Iterable[bytes],
    *,
    lower: Sequence[str],
    work: str,
    target: str,
    owner: str = "-",
    mode: str = "-",
    single: bool = False,
    copy: bool = False,
    cancelled: Cancel,
) -> None:
    """Unpack a tar over a stack of layers.

    Args:
        agent: of the VM.
        chunks: the archive.
        lower: the layers, bottom first. work: directory that holds upper and work directory.
        target: where the archive goes; with ``single``, possibly the new name of its only member.
        owner: ``user[:group]``, ``-`` = as the archive says. mode: as of chmod, or ``-``.
        copy: a directory and anything else never replace each other, as for COPY; else as for tar, but what is behind a
            link to a directory is kept.
        cancelled: asked while something is waited for.

    Raises:
        AgentError: the archive is damaged or does not fit. Cancelled; what the chunks raise.

    """
    plan, ident, base = _tool_plan(agent)
    layout.make_upper(plan, work, lower)
    words = [PROGRAM, "--unpack", layout.ROOTFS, target, owner, mode]
    _mounted(plan, lower, work).argv([*words, *(["single"] if single else []), *(["copy"] if copy else [])])
    with GuestTool(agent, ident=ident, base=base, cancelled=cancelled) as tool:
        tool.start(plan)
        tool.feed(chunks)
        tool.finish("unpacking files")


def copy_between(
    agent: AgentClient,
    *,
    source: Sequence[str],
    lower: Sequence[str],
    work: str,
    target: str,
    owner: str,
    mode: str,
    patterns: Sequence[str],
    cancelled: Cancel,
) -> None:
    """Copy files of one stack of layers (``source``, bottom first) over another.

    The rest is as for ``unpack``.
    """
    origin = f"{layout.ROOTFS}.from"
    plan, ident, base = _tool_plan(agent)
    layout.make_upper(plan.mkdir(origin), work, lower)
    _mounted(plan, lower, work).mount("overlay", origin, "overlay", MS_RDONLY, overlay_of(source))
    plan.argv([PROGRAM, "--copy", origin, layout.ROOTFS, target, owner, mode, *patterns])
    with GuestTool(agent, ident=ident, base=base, cancelled=cancelled) as tool:
        tool.start(plan)
        tool.feed(())
        tool.finish("copying files")


def add_layer(intake: Intake, stream: Iterator[bytes]) -> AddedLayer | None:
    """Add what was packed; None when it is empty. Errors: those of ``Intake.add_layer`` and of the stream."""
    head = b""
    for chunk in stream:
        head += chunk
        if len(head) > EMPTY_TAR:
            break
    if len(head) <= EMPTY_TAR and not head.strip(b"\0"):
        return None
    return intake.add_layer(lambda: chain((head,), stream))
