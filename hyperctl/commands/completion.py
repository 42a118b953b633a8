"""`completion`."""

from __future__ import annotations

import click

from hyperctl import output
from hyperctl.command import command


@command(
    "completion",
    'eval "$(hyperctl completion bash)"',
    "hyperctl completion zsh > ~/.zfunc/_hyperctl",
    "hyperctl completion fish > ~/.config/fish/completions/hyperctl.fish",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion_command(ctx: click.Context, shell: str) -> None:
    """Print a script that completes hyperctl's commands and options in your shell."""
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    if kind is not None:
        script = kind(ctx.find_root().command, {}, "hyperctl", "_HYPERCTL_COMPLETE")
        output.say(script.source_template % script.source_vars())
