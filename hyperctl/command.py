"""What all commands share: the base class with examples, and the state of one invocation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from hyperctl.api.client import Client


class App:
    """One invocation of hyperctl; the connection is made at its first use.

    Args:
        host: address of the daemon, as typed.

    """

    def __init__(self, host: str) -> None:
        self._host = host
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Give the daemon.

        Raises:
            UsageProblem: the address has no known form.

        """
        if self._client is None:
            from hyperctl.api.client import Client
            from hyperctl.api.transport import parse_host

            self._client = Client(parse_host(self._host))
        return self._client

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


class Command(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **more: Any) -> None:
        super().__init__(*args, **more)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """Write the examples, one on a line, never wrapped."""
        if self.examples:
            with formatter.section("Examples"):
                for example in self.examples:
                    formatter.write(f"  {example}\n")


def command(name: str, *examples: str, own_options_first: bool = False) -> Callable[[Callable[..., Any]], Command]:
    """Make a command.

    Args:
        name: the verb.
        examples: lines for the end of its help.
        own_options_first: options end at the first argument; what follows belongs to the container's command.

    """
    settings = {"allow_interspersed_args": not own_options_first}

    def decorate(function: Callable[..., Any]) -> Command:
        return click.command(name, cls=Command, examples=examples, context_settings=settings)(function)

    return decorate
