"""Completion in bash, zsh and fish: the scripts, and what hyperctl answers them.

A script calls hyperctl with `_HYPERCTL_COMPLETE` set to the name of the shell. zsh and fish give the words up to the
cursor as arguments, the last one being incomplete; bash, which breaks words at `:` and `=`, gives the line in
COMP_LINE. The answer has a line for each offer: `plain`, `file` or `dir` (names of files: the shell knows them best),
the whole word, and what it is; with tabs between.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

import click
from click.shell_completion import CompletionItem, ShellComplete, split_arg_string

from hyperctl import full
from hyperctl.api.errors import HyperctlError, UsageProblem

VARIABLE = "_HYPERCTL_COMPLETE"
_PATIENCE = 3  # seconds for a daemon that does not answer: nobody waits longer for a completion

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
    """Return the script that makes a shell ask hyperctl for completions.

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
    """Return the offers for a command line, as the scripts read them.

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


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())


def _limit_time() -> None:
    def stop(*_: object) -> None:
        raise HyperctlError("the daemon does not answer")

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(_PATIENCE)
