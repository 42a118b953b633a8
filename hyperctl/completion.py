"""Completion in bash, zsh and fish: the scripts, and what hyperctl answers them.

A script calls hyperctl with `_HYPERCTL_COMPLETE` set to the name of the shell. zsh and fish give the words up to the
cursor as arguments, the last one being incomplete; bash, which breaks words at `:` and `=`, gives the line in
COMP_LINE. The answer has a line for each offer: `plain`, `file` or `dir` (names of files: the shell knows them best),
the whole word, and what it is; with tabs between.
"""

from __future__ import annotations

import os
import re
import signal
from contextlib import suppress
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from hyperctl import credentials, full, verbs
from hyperctl.api.errors import HyperctlError, UsageProblem
from hyperctl.command import App, Group

VARIABLE = "_HYPERCTL_COMPLETE"
_PATIENCE = 3  # seconds for a daemon that does not answer: nobody waits longer for a completion
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*")  # nothing that a shell would take for more than a word

_BASH = r"""# bash completion of hyperctl
_hyperctl_completion() {
    local type value rest word=${COMP_LINE:0:COMP_POINT} cut=
    COMPREPLY=()
    word=${word##*[[:space:]]}
    # bash replaces only what stands behind the last of its word breaks
    if [[ $word == *[:=]* ]]; then
        rest=${word##*[:=]}
        cut=${word%"$rest"}
        [[ $COMP_WORDBREAKS == *"${cut: -1}"* ]] || cut=
    fi
    while IFS=$'\t' read -r type value rest; do
        case $type in
            file) compopt -o default ;;
            dir) compopt -o dirnames ;;
            plain) COMPREPLY+=("${value#"$cut"}") ;;
        esac
    done < <(COMP_LINE=${COMP_LINE:0:COMP_POINT} _HYPERCTL_COMPLETE=bash "$1" 2>/dev/null)
}
complete -o nosort -F _hyperctl_completion hyperctl
"""

_ZSH = r"""#compdef hyperctl
# zsh completion of hyperctl
_hyperctl() {
    local line
    local -a parts found
    for line in "${(@f)$(_HYPERCTL_COMPLETE=zsh ${(Q)~words[1]} "${(@Q)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}"; do
        parts=("${(@ps:\t:)line}")
        case $parts[1] in
            file) _files ;;
            dir) _files -/ ;;
            plain) found+=("${parts[2]//:/\\:}${parts[3]:+:$parts[3]}") ;;
        esac
    done
    (( $#found )) && _describe hyperctl found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _hyperctl "$@"
else
    compdef _hyperctl hyperctl
fi
"""

_FISH = r"""# fish completion of hyperctl
function __hyperctl_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l program $words[1]
    set -e words[1]
    for line in (_HYPERCTL_COMPLETE=fish $program $words "$current" 2>/dev/null)
        set -l parts (string split \t -- $line)
        switch $parts[1]
            case file
                __fish_complete_path $current
            case dir
                __fish_complete_directories $current ''
            case plain
                printf '%s\t%s\n' $parts[2] $parts[3]
        end
    end
end
complete --command hyperctl --no-files --arguments '(__hyperctl_complete)'
"""
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def script(shell: str) -> str:
    """Give the script that makes a shell ask hyperctl for completions.

    Args:
        shell: bash, zsh or fish.

    Raises:
        UsageProblem: it is another shell.

    """
    if shell not in SCRIPTS:
        raise UsageProblem(f"there is no completion for {shell}: bash, zsh and fish have one")
    return SCRIPTS[shell]


class _Words(ShellComplete):
    """click's completion for words that are known already."""

    name = "words"
    source_template = ""


def answer(arguments: list[str]) -> str:
    """Give the offers for a command line, as the scripts read them.

    Args:
        arguments: the words up to the cursor, unless the shell is bash.

    """
    words = list(arguments)
    if os.environ[VARIABLE] == "bash":
        line = os.environ.get("COMP_LINE", "")
        words = split_arg_string(line)[1:]
        if not line or line[-1].isspace():
            words.append("")
    *words, incomplete = words or [""]
    items: list[CompletionItem[str]] = []
    _limit_time()
    with suppress(HyperctlError, click.ClickException):
        items = _Words(full.cli, {}, "hyperctl", VARIABLE).get_completions(words, incomplete)
    option, equals, _ = incomplete.partition("=")
    prefix = f"{option}=" if equals and option.startswith("--") else ""
    return "".join(f"{item.type}\t{prefix}{item.value}\t{_one_line(item.help)}\n" for item in items)


def offers(kind: str, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """Give what may stand for an argument or an option's value.

    Args:
        kind: `complete` of the argument or option; with `/` the second one counts behind the flag named like it.
        ctx: the command line so far.
        incomplete: the word so far.

    Raises:
        HyperctlError: the daemon cannot be asked.

    """
    if kind in {"file", "dir"}:
        return [CompletionItem(incomplete, type=kind)]
    kind = _chosen(kind, ctx)
    typed = {word for value in ctx.params.values() if isinstance(value, tuple) for word in value}
    found = _named(kind, ctx) if kind else []
    return [
        CompletionItem(name, help=text) for name, text in found if name.startswith(incomplete) and name not in typed
    ]


def _chosen(kind: str, ctx: click.Context) -> str:
    """Resolve the kinds that depend on what was typed before."""
    words = ctx.params.get("words") or ()
    if kind == "pod/container":
        return "container" if ctx.params.get("container") else "pod"
    if kind == "container/pod":
        return "pod" if ctx.params.get("pod") or ctx.params.get("vm") else "container"
    if kind == "command":  # [POD] IMAGE [COMMAND...] of create and run
        kinds = ("pod", "image") if ctx.params.get("container") is True else ("image",)
        return kinds[len(words)] if len(words) < len(kinds) and not ctx.params.get("podfile") else ""
    return kind


def _named(kind: str, ctx: click.Context) -> list[tuple[str, str]]:
    """Give names and descriptions."""
    fixed = {
        "format": (("table", "columns"), ("json", "raw values")),
        "item": (("pod", "pods"), ("container", "containers"), ("vm", "virtual machines")),
        "layout": (("docker", ""), ("oci", "")),
        "logs": (("json-file", "on this host"), ("none", "nowhere"), ("syslog", ""), ("journald", "")),
        "shell": tuple((shell, "") for shell in SCRIPTS),
        "signal": tuple((one.name.removeprefix("SIG"), str(one.value)) for one in signal.Signals),
        "server": tuple((server, "") for server in credentials.known()) if kind == "server" else (),
    }
    if kind in fixed:
        return list(fixed[kind])
    if kind == "verb":
        return _verbs(ctx.params.get("words") or ())
    root: dict[str, Any] = dict(ctx.find_root().params)
    app = App(root.pop("host", ""), root)
    try:
        return [(name, text) for name, text in _of_daemon(kind, app) if _NAME.fullmatch(name)]
    finally:
        app.close()


def _verbs(words: tuple[str, ...]) -> list[tuple[str, str]]:
    if not words:
        return [(verb, text) for verb, (_, text) in verbs.VERBS.items()]
    found = verbs.load(words[0]) if len(words) == 1 else None
    return [(name, one.text) for name, one in found.commands.items()] if isinstance(found, Group) else []


def _of_daemon(kind: str, app: App) -> list[tuple[str, str]]:
    if kind in {"pod", "vm"}:
        return [(row[0], row[-1]) for row in app.client.list_items(kind)]
    if kind == "container":
        rows = app.client.list_items("container")
        return [(row[1].removeprefix("/"), f"{row[3]} in {row[2]}") for row in rows if len(row) > 3]
    rows = [row.rsplit(":", 4) for row in app.client.images(all_images=False, quiet=False)]
    names = [(row[0], row[1], row[2][:12]) for row in rows if len(row) == 5 and "<none>" not in row[:2]]
    if kind == "repository":
        return [(name, "") for name in dict.fromkeys(name for name, _, _ in names)]
    return [(f"{name}:{tag}", image) for name, tag, image in names]


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _limit_time() -> None:
    def stop(*_: object) -> None:
        raise HyperctlError("the daemon does not answer")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_PATIENCE)
