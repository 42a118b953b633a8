"""Images for the commands that need them: names, pulling, asking for a login."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress

from hyperctl import credentials, output, progress, terminal
from hyperctl.api.client import Client
from hyperctl.api.errors import NotFound, ProgressError, Unauthorized, UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, TextIO

_UNAUTHORIZED = 401


def tagged(image: str) -> str:
    """Return the name with `:latest` when it has neither a tag nor a digest."""
    if "@" in image or ":" in image.rpartition("/")[2]:
        return image
    return f"{image}:latest"


def split_tag(image: str) -> tuple[str, str]:
    """Return repository and tag; the tag is empty when there is none."""
    head, slash, last = image.rpartition("/")
    base, _, tag = last.partition(":")
    return f"{head}{slash}{base}", tag


def pull(client: Client, image: str, *, file: TextIO | None) -> None:
    """Pull an image and show the progress (not without a file); asks for a login when the registry wants one.

    Raises:
        ApiError, ProgressError: the daemon or the registry refuses.
        UsageProblem: the file with the credentials is broken.

    """
    name = tagged(image)
    server = credentials.registry_of(name)
    auth = credentials.find(server)
    try:
        progress.show(client.pull(name, auth=credentials.header(auth)), file)
    except (Unauthorized, ProgressError) as error:
        unauthorized = isinstance(error, Unauthorized) or error.code == _UNAUTHORIZED
        if not unauthorized or not terminal.interactive():
            raise
        (file or sys.stderr).write("Please login prior to pull:\n")
        auth = ask_login(server)
        login(client, auth)
        progress.show(client.pull(name, auth=credentials.header(auth)), file)


def create(make: Callable[[], str], client: Client, images: list[str], *, when: str = "") -> str:
    """Call `make`; when it says that an image is missing, pull all of them and call it once more.

    Progress goes to stderr: stdout belongs to what the container will say.

    Args:
        make: creates something of the images.
        client: the daemon.
        images: their names.
        when: they are pulled: `missing` or empty, `always` before, or `never`.

    Raises:
        ApiError, ProgressError: the daemon or the registry refuses.
        UsageProblem: `when` is another word.

    """
    if when not in {"", "missing", "always", "never"}:
        raise UsageProblem(f"'{when}' is not known to --pull: use missing, always or never")
    try:
        if when != "always":
            try:
                return make()
            except NotFound:
                if when == "never":
                    raise
        for image in dict.fromkeys(images):
            pull(client, image, file=sys.stderr)
        return make()
    finally:
        for warning in client.warnings:
            output.complain(f"hyperctl WARNING: {output.clean(warning)}")
        client.warnings.clear()


def of_pod(pod: dict[str, Any]) -> list[str]:
    """Return the names of the images a pod needs."""
    return [container["image"] for container in pod.get("containers", []) if container.get("image")]


def ask_login(server: str, *, username: str = "", password: str = "", email: str = "") -> dict[str, str]:
    """Return credentials, asking for what is missing; the password is not echoed."""
    import click

    username = username or click.prompt("Username", err=True)
    password = password or click.prompt("Password", hide_input=True, err=True)
    auth = {"username": username, "password": password, "serveraddress": server}
    if email:
        auth["email"] = email
    return auth


def login(client: Client, auth: dict[str, str]) -> tuple[str, str]:
    """Check credentials with their registry and keep them; forget them when the registry refuses.

    Returns:
        The registry's words, and where the credentials are kept: a path or the name of a credential helper.

    Raises:
        Unauthorized: username or password is wrong.
        UsageProblem: they cannot be kept.

    """
    try:
        status = client.authenticate(auth)
    except Unauthorized:
        with suppress(UsageProblem):
            credentials.forget(auth["serveraddress"])
        raise
    return status, credentials.keep(auth)
