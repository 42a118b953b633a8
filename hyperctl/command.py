"""How commands are described, and the quick parser for command lines that are plainly right.

`import click` takes longer than all the rest of `hyperctl list`. So a command is described by data; a command line
made of whole options and arguments is understood here, and anything else (help, completion, mistakes, clusters of
short options, abbreviations) goes to click, which is given the same description (`hyperctl.full`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

TYPE_CHECKING = False  # what typing exports under this name, without loading typing
if TYPE_CHECKING:
    from typing import Any

    from hyperctl.api.client import Client
    from hyperctl.api.tls import TlsOptions

DEFAULT_HOST = "unix:///var/run/hyper.sock"
HOST_OPTIONS = ("-H", "--host")


class App:
    """One invocation of hyperctl; the connection is made at its first use.

    Args:
        host: address of the daemon as typed; empty takes HYPER_HOST, or the default.
        tls: what was typed of `tls`, `tlsverify`, `tlscacert`, `tlscert` and `tlskey`.

    """

    def __init__(self, host: str = "", tls: Mapping[str, Any] | None = None) -> None:
        self._host = host
        self._tls = tls or {}
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Return the daemon.

        Raises:
            UsageProblem: the address has no known form.

        """
        if self._client is None:
            from hyperctl.api.client import Client

            self._client = Client(self._host, tls=self._tls_options())
        return self._client

    def _tls_options(self) -> TlsOptions | None:
        """Return how to speak TLS, None for not at all."""
        verify = bool(self._tls.get("tlsverify") or os.environ.get("HYPER_TLS_VERIFY"))
        if not (verify or self._tls.get("tls")):
            return None
        from hyperctl.api.tls import TlsOptions

        directory = os.environ.get("HYPER_CERT_PATH") or os.path.join(os.path.expanduser("~"), ".hyper")
        ca, cert, key = (self._tls.get(name) or "" for name in ("tlscacert", "tlscert", "tlskey"))
        return TlsOptions(verify=verify, directory=directory, ca=ca, cert=cert, key=key)

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.close()


class Option:
    """An option of a command.

    Args:
        names: as typed, `-x` and `--long`.
        text: one line of help.
        field: name of the function's argument; the long name with underscores when empty.
        metavar: what stands for the value in the help.
        flag: it takes no value and gives True.
        many: it may be repeated and gives a tuple.
        default: value when it is not typed; an int makes it a number, None tells "not typed" from an empty text.
        shown: what the help calls the default, where `default` does not say it.
        minimum: smallest number.
        choices: the only values allowed.
        complete: what shells offer for the value (`hyperctl.offers`).

    """

    def __init__(
        self,
        *names: str,
        text: str,
        field: str = "",
        metavar: str = "",
        flag: bool = False,
        many: bool = False,
        default: str | int | None = "",
        shown: str = "",
        minimum: int = 1,
        choices: Sequence[str] = (),
        complete: str = "",
    ) -> None:
        self.names = names
        self.text = text
        self.field = field or names[-1].lstrip("-").replace("-", "_")
        self.metavar = metavar
        self.flag = flag
        self.many = many
        self.default: Any = False if flag else () if many else default
        self.shown = shown
        self.minimum = minimum
        self.choices = choices
        self.complete = complete

    def convert(self, text: str) -> Any:
        """Return the value of a typed text; None when it is not allowed."""
        if self.choices and text not in self.choices:
            return None
        if not isinstance(self.default, int) or self.flag:
            return text
        good = text.isascii() and text.isdecimal() and len(text) < 10 and int(text) >= self.minimum
        return int(text) if good else None


class Argument:
    """An argument of a command.

    Args:
        field: name of the function's argument.
        metavar: what stands for it in the help.
        default: value when it is not given; None makes it required.
        many: takes all that is left, as a tuple.
        complete: what shells offer for it (`hyperctl.offers`).

    """

    def __init__(
        self, field: str, metavar: str, *, default: str | None = None, many: bool = False, complete: str = ""
    ) -> None:
        self.field = field
        self.metavar = metavar
        self.default = default
        self.many = many
        self.complete = complete


class Command:
    """A verb: what it takes and the function that does it.

    Args:
        name: the verb.
        function: called with an App and the values by name; gives the exit status, None is 0.
        parts: its options and arguments.
        examples: lines for the end of its help.
        own_options_first: options end at the first argument; what follows belongs to the container's command.
        surplus: arguments beyond those it takes are no mistake: they do not count, as in the original, and are named.

    """

    def __init__(
        self,
        name: str,
        function: Callable[..., int | None],
        parts: Sequence[Option | Argument],
        *,
        examples: Sequence[str] = (),
        own_options_first: bool = False,
        surplus: bool = False,
    ) -> None:
        self.name = name
        self.function = function
        self.options = [part for part in parts if isinstance(part, Option)]
        self.arguments = [part for part in parts if isinstance(part, Argument)]
        self.examples = examples
        self.own_options_first = own_options_first
        self.surplus = surplus

    @property
    def text(self) -> str:
        """Return the help, which is the function's docstring."""
        return self.function.__doc__ or ""


class Group:
    """A verb with verbs of its own.

    Args:
        name: the verb.
        text: its help.
        commands: its verbs.

    """

    def __init__(self, name: str, text: str, commands: Sequence[Command]) -> None:
        self.name = name
        self.text = text
        self.commands: Mapping[str, Command] = {command.name: command for command in commands}


def command(
    name: str,
    *parts: Option | Argument,
    examples: Sequence[str] = (),
    own_options_first: bool = False,
    surplus: bool = False,
) -> Callable[[Callable[..., int | None]], Command]:
    """Make a Command of the function below."""

    def decorate(function: Callable[..., int | None]) -> Command:
        return Command(name, function, parts, examples=examples, own_options_first=own_options_first, surplus=surplus)

    return decorate


_TRUE, _FALSE = {"1", "t", "true", "yes"}, {"0", "f", "false", "no"}


def spelled_out(one: Command, words: Sequence[str]) -> list[str]:
    """Return the words of a command line with every short option on its own and every value in a word of its own.

    `-itd` is `-i -t -d`, `-pFILE` and `-p=FILE` are `-p FILE` as go-flags and docker read them, `--rm=true` is `--rm`.
    Words that are not understood stay as they are.
    """
    named = {name: option for option in one.options for name in option.names}
    out: list[str] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--" or len(word) < 2 or word[0] != "-":
            out.append(word)
            if word == "--" or one.own_options_first:
                break
            continue
        pieces = _long(named, word) if word.startswith("--") else _cluster(named, word[1:])
        out += [word] if pieces is None else pieces
        wants = named.get(out[-1]) if pieces else None
        if wants is not None and not wants.flag and rest:
            out.append(rest.pop())
    return [*out, *reversed(rest)]


def _long(named: Mapping[str, Option], word: str) -> list[str] | None:
    """Return the words that mean a long option, None when that is left to others."""
    name, equals, value = word.partition("=")
    option = named.get(name)
    if not equals:
        return [word]
    if option is None or not option.flag:
        return None
    return _flag(name, value)


def _flag(name: str, value: str) -> list[str] | None:
    if value.lower() in _TRUE:
        return [name]
    return [] if value.lower() in _FALSE else None


def _cluster(named: Mapping[str, Option], letters: str) -> list[str] | None:
    """Split short options that share a dash; None when one of them is not known."""
    out: list[str] = []
    while letters:
        name, letters = f"-{letters[0]}", letters[1:]
        option = named.get(name)
        if option is None:
            return None
        if not option.flag:
            return [*out, name, *([letters.removeprefix("=")] if letters else [])]
        if letters.startswith("="):
            last = _flag(name, letters[1:])
            return None if last is None else [*out, *last]
        out.append(name)
    return out


def understand(one: Command, words: Sequence[str]) -> dict[str, Any] | None:
    """Return the values of a command line, by field; None when it takes more than this to understand it.

    What this gives, click gives too; a test holds both against each other.
    """
    named = {name: option for option in one.options for name in option.names}
    values = {option.field: option.default for option in one.options}
    free: list[str] = []
    rest = list(reversed(spelled_out(one, words)))
    while rest:
        word = rest.pop()
        if free and one.own_options_first:
            free += [word, *reversed(rest)]
            break
        if word == "--":
            free += reversed(rest)
            break
        if len(word) < 2 or word[0] != "-":
            free.append(word)
            continue
        name, equals, value = word.partition("=")
        option = named.get(name)
        if option is None or (equals and (option.flag or not name.startswith("--"))):
            return None
        if option.flag:
            values[option.field] = True
            continue
        if not equals:
            if not rest:
                return None
            value = rest.pop()
        converted = option.convert(value)
        if converted is None:
            return None
        values[option.field] = (*values[option.field], converted) if option.many else converted
    return _with_arguments(one, values, free)


def _with_arguments(one: Command, values: dict[str, Any], free: list[str]) -> dict[str, Any] | None:
    for argument in one.arguments:
        if argument.many:
            if not free and argument.default is None:
                return None
            values[argument.field], free = tuple(free), []
        elif free:
            values[argument.field] = free.pop(0)
        elif argument.default is None:
            return None
        else:
            values[argument.field] = argument.default
    return None if free else values  # too many are a mistake, or do not count: click says so
