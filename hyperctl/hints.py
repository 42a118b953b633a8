"""What to say to a command line that is not understood: the word that was meant, or how the same is had here."""

from __future__ import annotations

import click

from hyperctl import verbs
from hyperctl.command import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# Words of docker, podman and the original that are said otherwise here.
_COMMANDS = {
    "container": "ps, start, stop, rm, exec...; system prune removes what has ended",
    "pod": "list, start, stop, rm...",
    "docker": "the command without it",
    "delete": "rm",
    "remove": "rm",
    "shell": "exec -t NAME sh",
    "sh": "exec -t NAME sh",
    "describe": "inspect",
    "get": "list",
    "play": "kube play",
    "ls": "list for pods, ps for containers",
    "compose": "kube play for manifests; docker-compose works with the daemon's --docker-host",
    "buildx": "build",
    "builder": "system prune",
    "manifest": "inspect",
    "daemon": "hyperd, a program of its own",
}
# What docker has and nothing here is like.
_NOT_HERE = {
    **dict.fromkeys(("swarm", "service", "stack", "node", "config", "secret"), "hypercloud manages several hosts"),
    "context": "-H or HYPER_HOST name the daemon",
    "plugin": "the daemon has no plug-ins",
    "trust": "the daemon's policy says which images must be signed",
    "checkpoint": "pause keeps a pod's memory",
}
_OPTIONS = {
    "--link": "put both containers into one pod, or both pods on a network, where they know each other by name",
    "--net": "say --network",
    "--dns-opt": "say --dns-option",
    "--cpu-quota": "say --cpus",
    "--cpu-period": "say --cpus",
    "--ports": "say --publish",
    "--port": "say --publish",
    "--expose": "containers of a network reach all ports of each other",
    "-P": "say --publish PORT for each port: the daemon chooses the host's port",
    "--publish-all": "say --publish PORT for each port: the daemon chooses the host's port",
    "--gpus": "devices of the host cannot be given to a pod",
    "--pid": "containers of a pod have a VM of their own, and each its own process ids",
    "--ipc": "containers of one pod share memory; pods do not",
    "--uts": "containers of one pod share the host name",
    "--userns": "a pod has a kernel of its own: its root is not the host's",
    "--runtime": "a pod is a virtual machine; there is one runtime",
    "--platform": "pods run on the host's kind of processor",
    "--volumes-from": "name the volume in both, or put both containers into one pod",
    "--cidfile": "take the id from standard output: -d -q",
    "--pod": "create -c POD IMAGE makes a container in a pod",
}


def unknown_command(word: str) -> str:
    """Return the message for a word that is no command."""
    text = f"hyperctl: '{word}' is not a hyperctl command."
    if word.lower() in _COMMANDS:
        text += f" Here it is: {_COMMANDS[word.lower()]}."
    elif word.lower() in _NOT_HERE:
        text += f" There is none: {_NOT_HERE[word.lower()]}."
    elif near := _nearest(word.lower(), sorted(verbs.VERBS)):
        text += f" Did you mean {near}?"
    return f"{text} See 'hyperctl --help'."


def unknown_option(command: Command, word: str, ctx: click.Context) -> click.UsageError:
    """Return the error for an option that a command does not have."""
    name = word.partition("=")[0]
    text = f"No such option: {name}."
    known = [one.removeprefix("--") for option in command.options for one in option.names if one.startswith("--")]
    if name in _OPTIONS:
        text += f" Instead: {_OPTIONS[name]}."
    elif name.startswith("--") and (near := _nearest(name.removeprefix("--"), known)):
        text += f" Did you mean --{near}?"
    return click.UsageError(text, ctx)


def _nearest(word: str, known: Iterable[str]) -> str:
    """Return what was meant by a word: one mistake away, two in a long word; empty when nothing is that near."""
    allowed = 1 if len(word) < _LONG else 2
    distance, _, found = min((_mistakes(word, one), -len(one), one) for one in known)
    return found if distance <= allowed else ""


def _mistakes(typed: str, meant: str) -> int:
    """Count what has to be typed otherwise: letters too many, missing, wrong, or in the other order."""
    before: list[int] = []
    row = list(range(len(meant) + 1))
    for i, a in enumerate(typed, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(meant, 1):
            best = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == meant[j - 2] and typed[i - 2] == b:
                best = min(best, older[j - 2] + 1)
            row.append(best)
    return row[-1]


_LONG = 7  # letters of a word in which two may be wrong
