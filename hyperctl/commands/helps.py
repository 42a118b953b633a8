"""`help` and `completion`: both come from click's view of the commands."""

from __future__ import annotations

from hyperctl import output
from hyperctl.command import App, Argument, command


@command(
    "help",
    Argument("words", "[COMMAND]", default="", many=True, complete="verb"),
    examples=("hyperctl help ports add",),
)
def help_command(app: App, *, words: tuple[str, ...]) -> int:  # noqa: ARG001
    """Show the help of hyperctl, or of a command."""
    from hyperctl import full

    return full.run([*words, "--help"]) or 0


@command(
    "completion",
    Argument("shell", "bash|zsh|fish", complete="shell"),
    examples=(
        'eval "$(hyperctl completion bash)"',
        "hyperctl completion zsh > ~/.zfunc/_hyperctl",
        "hyperctl completion fish > ~/.config/fish/completions/hyperctl.fish",
    ),
)
def completion_command(app: App, *, shell: str) -> None:  # noqa: ARG001
    """Print a script that completes commands, options, and names of pods, containers and images in your shell."""
    from hyperctl import completion

    output.write(completion.script(shell))
