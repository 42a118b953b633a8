"""The agent itself, run on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.agent import Host
from tests.support.hosted import HostedAgent, hosted_agent


@pytest.fixture(scope="module")
def agent() -> Iterator[HostedAgent]:
    """The agent of a module's tests."""
    with hosted_agent() as running:
        yield running


@pytest.fixture
def host(agent: HostedAgent) -> Iterator[Host]:
    """A connection to it; a test ends the processes that it starts."""
    with agent.connect() as link:
        yield link
        left = link.states()
        assert not left, f"the test left processes behind: {left}"
