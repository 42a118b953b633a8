"""Which answers of a daemon whose VMs only pretend are its own faults."""

from __future__ import annotations

from hyperd.vm.fake import ASKED_FOR
from hyperd.vm.fake_agent import NO_TOOL

# The host's part: not supported here, a registry, a full host, a time that has passed, a full disk.
_NOT_OUR_FAULT = (501, 502, 503, 504, 507)
# What the pretended host was told to fail in, and what a pretended guest cannot do. Its other failures were not asked
# for: they are the daemon's, which has asked for something that cannot be.
_TOLD = (ASKED_FOR.encode(), NO_TOOL.encode())


def excused(answer: bytes) -> bool:
    """Tell whether an answer with 500 says what the pretended host was told to fail in."""
    return any(words in answer for words in _TOLD)


def is_failure(status: int) -> bool:
    """Tell whether a status says that the daemon has failed, or its host without a name for what is missing."""
    return status >= 500 and status not in _NOT_OUR_FAULT
