"""What to say to a command line that is not understood: the word that was meant, or how the same is had here."""

from __future__ import annotations

import difflib

import click

from hyperctl import verbs
from hyperctl.command import Command

# Words of docker, podman and the original that are said otherwise here.
_COMMANDS = {
    "container": "list container, start -c, stop -c, rm -c...",
    "pod": "list, start, stop, rm...",
    "docker": "the command without it",
    "delete": "rm",
    "remove": "rm",
    "shell": "exec -t NAME sh",
    "sh": "exec -t NAME sh",
    "describe": "inspect",
    "get": "list",
    "play": "kube play",
}
_OPTIONS = {
    "--link": "put both containers into one pod, or both pods on a network, where they know each other by name",
    "--net": "say --network",
    "--dns-opt": "say --dns-option",
    "--cpu-quota": "say --cpus",
    "--cpu-period": "say --cpus",
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
_CLOSE = 0.75  # of difflib: `--nam` is near `--name`, `--network` not near `--workdir`


def unknown_command(word: str) -> str:
    """Give the message for a word that is no command."""
    text = f"hyperctl: '{word}' is not a hyperctl command."
    if word.lower() in _COMMANDS:
        text += f" Here it is: {_COMMANDS[word.lower()]}."
    elif near := difflib.get_close_matches(word.lower(), sorted(verbs.VERBS), n=1, cutoff=0.6):
        text += f" Did you mean {near[0]}?"
    return f"{text} See 'hyperctl --help'."


def unknown_option(command: Command, word: str, ctx: click.Context) -> click.UsageError:
    """Give the error for an option that a command does not have."""
    name = word.partition("=")[0]
    text = f"No such option: {name}."
    known = [one for option in command.options for one in option.names if one.startswith("--")]
    if name in _OPTIONS:
        text += f" Instead: {_OPTIONS[name]}."
    elif near := difflib.get_close_matches(name, known, n=1, cutoff=_CLOSE):
        text += f" Did you mean {near[0]}?"
    return click.UsageError(text, ctx)
