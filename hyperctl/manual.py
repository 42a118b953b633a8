"""Man pages (roff, the macros of man(7)), made of the same descriptions as the help."""

from __future__ import annotations

import inspect
import os
import re

import click

from hyperctl import __version__, full, verbs
from hyperctl.api.errors import UsageProblem
from hyperctl.command import Command, Option

_ENVIRONMENT = (
    ("HYPER_HOST", "The daemon, where -H does not name one."),
    ("HYPER_TLS_VERIFY", "When not empty, as --tlsverify."),
    ("HYPER_CERT_PATH", "Directory of ca.pem, cert.pem and key.pem; ~/.hyper by default."),
    ("DOCKER_CONFIG", "Directory of config.json, where credentials for registries are; ~/.docker by default."),
    ("NO_COLOR", "When not empty, nothing has colours."),
)
_STATUSES = (
    ("0", "Done; for attached commands: the process ended with 0, or was left with ctrl-p ctrl-q."),
    ("1-254", "Exit code of the process, for run, exec and attach."),
    ("255", "An error, printed on stderr."),
    ("1", "There is no such command."),
    ("128 + N", "Signal N ended hyperctl itself."),
)


def names() -> list[str]:
    """Return the names of all pages, without their section."""
    return ["hyperctl", *(f"hyperctl-{verb}" for verb in sorted(verbs.VERBS))]


def page(name: str) -> str:
    """Return a page's text.

    Args:
        name: `hyperctl` or `hyperctl-VERB`.

    Raises:
        UsageProblem: there is no such verb.

    """
    if name == "hyperctl":
        return _front()
    verb = name.removeprefix("hyperctl-")
    commands = verbs.commands(verb)
    if not commands:
        raise UsageProblem(f"there is no command {verb}")
    lines = _head(f"hyperctl-{verb.lower()}", verbs.VERBS[verb.lower()][1])
    lines += [".SH SYNOPSIS"]
    for index, (words, command) in enumerate(commands.items()):
        lines += [*([".br"] if index else []), *_synopsis(words, command)]
    for words, command in commands.items():
        lines += [".SH DESCRIPTION" if len(commands) == 1 else f".SH {_text(f'hyperctl {words}').upper()}"]
        lines += _body(command, deep=len(commands) > 1)
    return "\n".join([*lines, ".SH SEE ALSO", r"\fBhyperctl\fR(1)", ""])


def write(directory: str) -> None:
    """Write all pages into a directory, which is made when it is missing.

    Raises:
        UsageProblem: it cannot be written to.

    """
    try:
        os.makedirs(directory, exist_ok=True)
        for name in names():
            with open(os.path.join(directory, f"{name}.1"), "w", encoding="utf-8") as file:
                file.write(page(name))
    except OSError as error:
        raise UsageProblem(f"cannot write to {directory}: {error.strerror}") from error


def _front() -> str:
    lines = _head("hyperctl", "run pods of containers, every pod in its own virtual machine")
    lines += [".SH SYNOPSIS", r"\fBhyperctl\fR [\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]", ".SH OPTIONS"]
    for option in full.cli.params:
        if isinstance(option, click.Option):
            lines += _entry(option.opts, option.metavar or "", option.help or "")
    lines += [".SH COMMANDS"]
    for verb in sorted(verbs.VERBS):
        lines += [".TP", rf"\fBhyperctl\-{_text(verb)}\fR(1)", _text(f"{verbs.VERBS[verb][1]}.")]
    for title, pairs in (("ENVIRONMENT", _ENVIRONMENT), ("EXIT STATUS", _STATUSES)):
        lines += [f".SH {title}"]
        for name, text in pairs:
            lines += [".TP", rf"\fB{_text(name)}\fR", _text(text)]
    return "\n".join([*lines, ""])


def _head(name: str, text: str) -> list[str]:
    title = f'.TH {_text(name).upper()} 1 "" "hyperctl {__version__}" "hyperctl"'
    return [title, ".ad l", ".SH NAME", rf"{_text(name)} \- {_text(text)}"]


def _synopsis(words: str, command: Command) -> list[str]:
    arguments = [rf"\fI{_text(argument.metavar)}\fR" for argument in command.arguments]
    options = [r"[\fIOPTIONS\fR]"] if command.options else []
    return [" ".join([rf"\fBhyperctl {_text(words)}\fR", *options, *arguments])]


def _body(command: Command, *, deep: bool) -> list[str]:
    """Return description, options and examples; `deep` makes headings of the second order."""
    heading = ".SS {}" if deep else ".SH {}"
    lines: list[str] = []
    for index, paragraph in enumerate(inspect.cleandoc(command.text).split("\n\n")):
        lines += [*([".PP"] if index else []), _text(" ".join(paragraph.split()))]
    if command.options:
        lines += [heading.format("OPTIONS" if not deep else "Options")]
        for option in command.options:
            lines += _entry(option.names, option.metavar, _with_default(option))
    lines += [heading.format("EXAMPLES" if not deep else "Examples"), ".nf"]
    return [*lines, *map(_text, command.examples), ".fi"]


def _with_default(option: Option) -> str:
    values = f" One of {', '.join(option.choices)}." if option.choices else ""
    default = f" Default: {option.default}." if option.default not in {False, "", ()} else ""
    return f"{option.text}{values}{default}"


def _entry(option_names: tuple[str, ...] | list[str], metavar: str, text: str) -> list[str]:
    spelled = ", ".join(rf"\fB{_text(name)}\fR" for name in option_names)
    return [".TP", f"{spelled} \\fI{_text(metavar)}\\fR" if metavar else spelled, _text(text)]


def _text(text: str) -> str:
    """Escape what roff would take for more than a letter."""
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return re.sub(r"^([.'])", r"\\&\1", text)
