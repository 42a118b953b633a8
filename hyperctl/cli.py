"""The entry point: finds the command, loads only its module, turns errors into messages and exit statuses.

Start-up time is a feature: nothing here, and nothing `list` needs, may import an HTTP library, rich or yaml.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any, TextIO

import click

from hyperctl import __version__
from hyperctl.command import App

_DEFAULT_HOST = "unix:///var/run/hyper.sock"
_BROKEN_PIPE = 141
_INTERRUPTED = 130

# verb: (module under hyperctl.commands, one line of help); the function is `<verb>_command`.
COMMANDS = {
    "attach": ("execs", "Attach to a running container"),
    "commit": ("archives", "Make an image of a container"),
    "completion": ("completion", "Print a script that completes commands in your shell"),
    "create": ("create", "Create a pod, or a container in a pod"),
    "exec": ("execs", "Run a command in a container"),
    "help": ("system", "Show the help of a command"),
    "images": ("images", "List images"),
    "info": ("system", "Show what the daemon says about itself"),
    "kill": ("lifecycle", "Send a signal to containers or pods"),
    "list": ("lists", "List pods, containers or VMs"),
    "load": ("archives", "Load images from a tar"),
    "login": ("registry", "Keep credentials for a registry"),
    "logout": ("registry", "Forget credentials for a registry"),
    "logs": ("logs", "Show the output of a container"),
    "pause": ("lifecycle", "Pause a pod"),
    "ports": ("ports", "List, add or delete published ports of a pod"),
    "pull": ("images", "Pull an image from a registry"),
    "push": ("archives", "Push an image to a registry"),
    "rm": ("lifecycle", "Remove pods or containers"),
    "rmi": ("images", "Remove images"),
    "run": ("run", "Create and start a pod"),
    "save": ("archives", "Save images as a tar"),
    "start": ("lifecycle", "Start a pod or a container"),
    "stop": ("lifecycle", "Stop pods or containers"),
    "unpause": ("lifecycle", "Resume a paused pod"),
    "version": ("system", "Show the version of hyperctl"),
    "vm": ("vms", "Create or remove idle VMs"),
}


class UnknownCommand(click.UsageError):
    """There is no such verb."""


class _Verbs(click.Group):
    """All commands, each loaded when it is called and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        verb = cmd_name.lower()
        if verb not in COMMANDS:
            return None
        module = import_module(f"hyperctl.commands.{COMMANDS[verb][0]}")
        found: click.Command = getattr(module, f"{verb}_command")
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0].lower() not in COMMANDS and not ctx.resilient_parsing:
            raise UnknownCommand(f"hyperctl: '{args[0]}' is not a hyperctl command. See 'hyperctl --help'.")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, COMMANDS[verb][1]) for verb in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[Any]:
        from click.shell_completion import CompletionItem

        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        verbs = [verb for verb in self.list_commands(ctx) if verb.startswith(incomplete)]
        return [CompletionItem(verb, help=COMMANDS[verb][1]) for verb in verbs]


@click.group(
    "hyperctl",
    cls=_Verbs,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="See 'hyperctl COMMAND --help' for the options of a command, with examples.",
)
@click.option(
    "-H",
    "--host",
    envvar="HYPER_HOST",
    default=_DEFAULT_HOST,
    show_default=True,
    show_envvar=True,
    metavar="ADDRESS",
    help="The daemon: unix:///path or tcp://host:port.",
)
@click.version_option(__version__, "--version", message="The hyperctl version is %(version)s")
@click.pass_context
def cli(ctx: click.Context, host: str) -> None:
    """Run pods of containers, every pod in its own virtual machine."""
    ctx.obj = App(host)
    ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(arguments: list[str] | None = None) -> int:
    """Run hyperctl and give its exit status.

    Args:
        arguments: the command line without the program's name; that of the process when None.

    """
    _open_standard_streams()
    try:
        status = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read our output has gone: nothing to say, and nothing may be flushed at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _BROKEN_PIPE
    return status


def _run(arguments: list[str] | None) -> int:
    from hyperctl import output
    from hyperctl.api.errors import HyperctlError, Left

    try:
        result = cli.main(args=arguments, prog_name="hyperctl", standalone_mode=False)
    except HyperctlError as error:
        output.error(str(error))
        return error.exit_status
    except UnknownCommand as error:
        output.complain(error.message)
        return 1
    except click.ClickException as error:
        output.error(error.format_message())
        where = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        if where:
            output.complain(f"See '{where} --help'.")
        return HyperctlError.exit_status
    except (click.Abort, KeyboardInterrupt):
        return _INTERRUPTED
    except Left as error:
        return error.exit_status
    return result if isinstance(result, int) else 0


def _open_standard_streams() -> None:
    """Open the descriptors 0, 1 and 2 that the caller closed, lest a socket of ours becomes one of them."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = _nowhere()
    if sys.stderr is None:
        sys.stderr = _nowhere()


def _nowhere() -> TextIO:
    return open(os.devnull, "w", encoding="utf-8")
