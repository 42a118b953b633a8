"""The verbs of hyperctl: where each is, and its line of help; loading this loads none of them."""

from __future__ import annotations

from importlib import import_module

from hyperctl.command import HOST_OPTIONS, Command, Group

WITH_VALUES = (*HOST_OPTIONS, "--tlscacert", "--tlscert", "--tlskey")  # before the verb

# verb: (module under hyperctl.commands, line of help); the object there is `<verb>_command`.
VERBS = {
    "attach": ("execs", "Attach to a running container"),
    "build": ("build", "Build an image from a Dockerfile"),
    "checkpoint": ("checkpoints", "Save a pod while it runs"),
    "commit": ("archives", "Make an image of a container"),
    "completion": ("helps", "Print a script that completes commands in your shell"),
    "cp": ("contents", "Copy files between a container and this machine"),
    "create": ("create", "Create a pod, or a container in a pod"),
    "diff": ("contents", "List what a container has changed of its image"),
    "events": ("watch", "Show what happens in the daemon"),
    "exec": ("execs", "Run a command in a container"),
    "export": ("contents", "Write a container's file system as a tar"),
    "help": ("helps", "Show the help of a command"),
    "history": ("imagetools", "Show how an image was made"),
    "image": ("imagetools", "Clean up images; also `image ls`, `rm`, `pull`... as docker has them"),
    "images": ("images", "List images"),
    "import": ("imagetools", "Make an image of a root file system"),
    "info": ("system", "Show what the daemon says about itself"),
    "inspect": ("inspect", "Show everything that is known of pods, containers or images"),
    "kill": ("lifecycle", "Send a signal to containers or pods"),
    "kube": ("kube", "Run manifests of Kubernetes as pods of this host"),
    "labels": ("lifecycle", "Show or set labels of a pod"),
    "list": ("lists", "List pods, containers or VMs"),
    "load": ("archives", "Load images from a tar"),
    "login": ("registry", "Keep credentials for a registry"),
    "logout": ("registry", "Forget credentials for a registry"),
    "logs": ("logs", "Show the output of a container"),
    "network": ("networks", "Networks of pods"),
    "pause": ("lifecycle", "Pause a pod"),
    "port": ("lists", "Show where ports of a pod are published"),
    "ports": ("ports", "List, add or delete published ports of a pod"),
    "ps": ("lists", "List containers, pods or VMs"),
    "pull": ("images", "Pull an image from a registry"),
    "push": ("archives", "Push an image to a registry"),
    "rename": ("lifecycle", "Give a container another name"),
    "restart": ("lifecycle", "Restart pods or containers"),
    "restore": ("checkpoints", "Make a pod of one that was saved"),
    "rm": ("lifecycle", "Remove pods or containers"),
    "rmi": ("images", "Remove images"),
    "run": ("run", "Create and start a pod"),
    "save": ("archives", "Save images as a tar"),
    "search": ("imagetools", "Find images in a registry"),
    "start": ("lifecycle", "Start a pod or a container"),
    "stats": ("watch", "Show what a pod and its containers use"),
    "stop": ("lifecycle", "Stop pods or containers"),
    "system": ("system", "Clean up the whole system; see what it takes"),
    "tag": ("imagetools", "Give an image a further name"),
    "top": ("contents", "List the processes of a container"),
    "update": ("lifecycle", "Give containers other limits"),
    "unpause": ("lifecycle", "Resume a paused pod"),
    "version": ("system", "Show the version of hyperctl"),
    "volume": ("volumes", "Named volumes"),
    "wait": ("lifecycle", "Wait until containers have ended"),
    "vm": ("vms", "Create or remove idle VMs"),
}

# Docker's longer forms of the same: `image ls` is `images`, `container rm` is `rm`.
_SAME = ("attach", "commit", "cp", "create", "diff", "exec", "export", "inspect", "kill", "logs", "pause", "port")
_SAME_TOO = ("rename", "restart", "rm", "run", "start", "stats", "stop", "top", "unpause", "update", "wait", "ps")
_LONGER = {
    "container": {"ls": "ps", "list": "ps", **{verb: verb for verb in (*_SAME, *_SAME_TOO)}},
    "image": {
        "ls": "images",
        "list": "images",
        "rm": "rmi",
        **{verb: verb for verb in ("build", "history", "import", "inspect", "load", "pull", "push", "save", "tag")},
    },
}


def shortened(arguments: list[str]) -> list[str]:
    """Return a command line with docker's longer form of a verb replaced by hyperctl's."""
    at = 0
    while at < len(arguments) and arguments[at].startswith("-"):
        at += 2 if arguments[at] in WITH_VALUES else 1
    if at + 1 >= len(arguments):
        return arguments
    verb = _LONGER.get(arguments[at].lower(), {}).get(arguments[at + 1].lower())
    return arguments if verb is None else [*arguments[:at], verb, *arguments[at + 2 :]]


def commands(verb: str) -> dict[str, Command]:
    """Return the commands of a verb by their words, `rm` or `image prune`; none when there is no such verb."""
    found = load(verb)
    if isinstance(found, Group):
        return {f"{found.name} {name}": one for name, one in found.commands.items()}
    return {} if found is None else {found.name: found}


def load(verb: str) -> Command | Group | None:
    """Return the command of a verb, in any case of its letters; None when there is no such verb."""
    verb = verb.lower()
    if verb not in VERBS:
        return None
    found: Command | Group = getattr(import_module(f"hyperctl.commands.{VERBS[verb][0]}"), f"{verb}_command")
    return found
