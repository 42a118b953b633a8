"""What completion offers for arguments and the values of options: fixed words, verbs, and names the daemon knows."""

from __future__ import annotations

import re
import signal
from typing import Any

import click
from click.shell_completion import CompletionItem

from hyperctl import credentials, verbs
from hyperctl.command import App, Group

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@-]*")  # nothing that a shell would take for more than a word


def offers(kind: str, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
    """Return what may stand for an argument or an option's value.

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
    """Return names and descriptions."""
    fixed = {
        "format": (("table", "columns"), ("json", "raw values")),
        "item": (("pod", "pods"), ("container", "containers"), ("vm", "virtual machines")),
        "layout": (("docker", ""), ("oci", "")),
        "restart": (("never", ""), ("onFailure", ""), ("always", "")),
        "pull": (("missing", ""), ("always", ""), ("never", "")),
        "logs": (("json-file", "on this host"), ("none", "nowhere"), ("syslog", ""), ("journald", "")),
        "shell": (("bash", ""), ("zsh", ""), ("fish", "")),
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
    if kind == "any":
        return [pair for one in ("pod", "container", "image") for pair in _of_daemon(one, app)]
    if kind in {"pod", "vm"}:
        return [(row[0], row[-1]) for row in app.client.list_items(kind)]
    if kind == "container":
        rows = app.client.list_items("container")
        return [(row[1].removeprefix("/"), f"{row[3]} in {row[2]}") for row in rows if len(row) > 3]
    if kind in {"network", "volume"}:
        return [(str(one.get("name", "")), str(one.get("driver", ""))) for one in app.client.rows(f"/{kind}/list")]
    rows = [row.rsplit(":", 4) for row in app.client.images(all_images=False, quiet=False)]
    names = [(row[0], row[1], row[2][:12]) for row in rows if len(row) == 5 and "<none>" not in row[:2]]
    if kind == "repository":
        return [(name, "") for name in dict.fromkeys(name for name, _, _ in names)]
    return [(f"{name}:{tag}", image) for name, tag, image in names]
