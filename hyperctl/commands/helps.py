"""`help` and `completion`: both come from click's view of the commands."""

from __future__ import annotations

from hyperctl import output
from hyperctl.command import App, Argument, Option, command


@command(
    "help",
    Argument("words", "[COMMAND]", default="", many=True, complete="verb"),
    Option("--man", flag=True, text="Print the man page."),
    Option("--man-pages", metavar="DIR", complete="dir", text="Write all man pages into a directory."),
    examples=(
        "hyperctl help ports add",
        "hyperctl help --man run | man -l -",
        "hyperctl help --man-pages /usr/local/share/man/man1",
    ),
)
def help_command(_app: App, *, words: tuple[str, ...], man: bool, man_pages: str) -> int:
    """Show the help of hyperctl, or of a command."""
    if man or man_pages:
        from hyperctl import manual

        if man_pages:
            manual.write(man_pages)
        else:
            output.write(manual.page("-".join(["hyperctl", *(word.lower() for word in words[:1])])))
        return 0
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
def completion_command(_app: App, *, shell: str) -> None:
    """Print a script that completes commands, options, and names of pods, containers and images in your shell."""
    from hyperctl import completion

    output.write(completion.script(shell))
