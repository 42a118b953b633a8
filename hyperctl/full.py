"""The command line by click: help, completion, and whatever `hyperctl.command.understand` leaves to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from click.shell_completion import CompletionItem

from hyperctl import __version__, hints, output, verbs
from hyperctl.api.errors import HyperctlError
from hyperctl.command import DEFAULT_HOST, HOST_OPTIONS, App, Argument, Command, Group, Option, spelled_out


class UnknownCommand(click.UsageError):
    """There is no such verb."""


class _ClickCommand(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, described: Command) -> None:
        super().__init__(
            described.name,
            callback=click.pass_obj(described.function),
            params=[*map(_argument, described.arguments), *map(_option, described.options)],
            help=described.text,
            context_settings={
                "allow_interspersed_args": not described.own_options_first,
                "allow_extra_args": described.surplus,
            },
        )
        self.described = described
        self.examples = described.examples
        self.fields = [argument.field for argument in described.arguments]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse what `spelled_out` makes of the words; an unknown option is refused with what is known like it."""
        try:
            left = super().parse_args(ctx, spelled_out(self.described, args))
        except click.NoSuchOption as error:
            raise hints.unknown_option(self.described, error.option_name, ctx) from None
        if left and self.described.surplus and not ctx.resilient_parsing:
            words = "does" if len(left) == 1 else "do"
            output.complain(f"hyperctl WARNING: {output.clean(' '.join(left))} {words} not count, as in the original")
        return left

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer the options, unless the rest of the line belongs to the container's command."""
        if not ctx.allow_interspersed_args and any(ctx.params.get(field) for field in self.fields):
            return []
        return super().shell_complete(ctx, incomplete)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        """Write the examples, one on a line, never wrapped."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"  {example}\n")


class _Number(click.IntRange):
    """A number; click's own name for it reads badly in messages."""

    name = "number"


def _option(option: Option) -> click.Option:
    more: dict[str, Any] = {}
    if option.flag:
        more["is_flag"] = True
    else:
        more.update(multiple=option.many, default=option.default, metavar=option.metavar or None)
        more["show_default"] = option.shown or option.default not in {"", (), None}
    if option.choices:
        more.update(type=click.Choice(option.choices), metavar=None)
    elif isinstance(option.default, int) and not option.flag:
        more["type"] = _Number(min=option.minimum)
    return click.Option([*option.names, option.field], help=option.text, shell_complete=_offers(option), **more)


def _offers(part: Option | Argument) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]] | None:
    """Return the function that completes a part's value; None leaves it to click."""
    if not part.complete:
        return None

    def offer(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from hyperctl import offers

        return offers.offers(part.complete, ctx, incomplete)

    return offer


def _argument(argument: Argument) -> click.Argument:
    more: dict[str, Any] = {"metavar": argument.metavar, "shell_complete": _offers(argument)}
    if argument.many:
        more.update(nargs=-1, required=argument.default is None, type=click.UNPROCESSED)
    elif argument.default is not None:
        more["default"] = argument.default
    return click.Argument([argument.field], **more)


class _Inner(click.Group):
    """A verb's own verbs, in any case of their letters, as the verbs are."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, cmd_name.lower())

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and not ctx.resilient_parsing and not self.get_command(ctx, args[0]):
            output.complain(self.get_help(ctx))
            raise HyperctlError(f"'{args[0]}' is not a command of {ctx.command_path}: see above")
        return super().resolve_command(ctx, args)


class _Verbs(click.Group):
    """All commands, each loaded when it is called and not before."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return sorted(verbs.VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        found = verbs.load(cmd_name)
        if isinstance(found, Group):
            inner: dict[str, click.Command] = {name: _ClickCommand(one) for name, one in found.commands.items()}
            return _Inner(found.name, inner, help=found.text)
        return _ClickCommand(found) if found is not None else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0].lower() not in verbs.VERBS:
            if ctx.resilient_parsing:  # completion: nothing is offered behind it
                return args[0], click.Command(args[0]), args[1:]
            raise UnknownCommand(hints.unknown_command(args[0]))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, verbs.VERBS[verb][1]) for verb in self.list_commands(ctx)])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        if incomplete.startswith("-"):
            return super().shell_complete(ctx, incomplete)
        found = [verb for verb in self.list_commands(ctx) if verb.startswith(incomplete)]
        return [CompletionItem(verb, help=verbs.VERBS[verb][1]) for verb in found]


@click.group(
    "hyperctl",
    cls=_Verbs,
    invoke_without_command=True,
    no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="See 'hyperctl COMMAND --help' for the options of a command, with examples.",
)
@click.option(
    *HOST_OPTIONS,
    default="",
    metavar="ADDRESS",
    help=f"The daemon: unix:///path or tcp://host:port; else HYPER_HOST, else {DEFAULT_HOST}.",
)
@click.option("--tls", is_flag=True, help="Speak TLS with a daemon on tcp://.")
@click.option("--tlsverify", is_flag=True, help="TLS, and check the daemon's certificate; or HYPER_TLS_VERIFY=1.")
@click.option("--tlscacert", metavar="FILE", help="Authority of the daemon's certificate.")
@click.option("--tlscert", metavar="FILE", help="Our certificate.")
@click.option("--tlskey", metavar="FILE", help="Its key. These three are in HYPER_CERT_PATH or ~/.hyper/ by default.")
@click.version_option(__version__, "-v", "--version", message="The hyperctl version is %(version)s")
@click.pass_context
def cli(ctx: click.Context, /, host: str, **tls: Any) -> None:
    """Run pods of containers, every pod in its own virtual machine."""
    ctx.obj = App(host, tls)
    ctx.call_on_close(ctx.obj.close)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: list[str]) -> int | None:
    """Run a command line and give its exit status.

    Raises:
        HyperctlError: the command failed.
        KeyboardInterrupt: ctrl-C.

    """
    try:
        result = cli.main(args=arguments, prog_name="hyperctl", standalone_mode=False)
    except UnknownCommand as error:
        output.complain(error.message)
        return 1
    except click.exceptions.NoArgsIsHelpError as error:  # a group without the rest
        output.say(error.format_message())
        return 0
    except click.ClickException as error:
        output.error(error.format_message())
        if isinstance(error, click.UsageError) and error.ctx:
            output.complain(f"See '{error.ctx.command_path} --help'.")
        return HyperctlError.exit_status
    except click.Abort:
        raise KeyboardInterrupt from None
    return result if isinstance(result, int) else 0
