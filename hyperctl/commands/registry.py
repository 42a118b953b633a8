"""`login` and `logout`."""

from __future__ import annotations

import sys

from hyperctl import credentials, images, output, terminal
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, Argument, Option, command


@command(
    "login",
    Argument("server", "[SERVER]", default=credentials.DEFAULT_SERVER, complete="server"),
    Option("-u", "--username", metavar="NAME", text="User name; asked for when missing."),
    Option("-p", "--password", metavar="WORD", text="Password; asked for when missing."),
    Option("--password-stdin", flag=True, text="Read the password from stdin."),
    Option("-e", "--email", metavar="ADDRESS", text="E-mail address; not needed by today's registries."),
    examples=(
        "hyperctl login registry.example.com:5000",
        "hyperctl login -u alice --password-stdin registry.example.com < secret",
    ),
)
def login_command(app: App, *, server: str, username: str, password: str, password_stdin: bool, email: str) -> None:
    """Check credentials with a registry and keep them in Docker's configuration file."""
    if password_stdin:
        if password:
            raise UsageProblem("--password and --password-stdin can not be used together")
        password = sys.stdin.read().rstrip("\r\n")
    if not (username and password) and not terminal.interactive():
        raise UsageProblem("username and password are needed: there is no terminal to ask on")
    auth = images.ask_login(server, username=username, password=password, email=email)
    status, place = images.login(app.client, auth)
    # Only what lies in a file for everybody who gets hold of it is worth a warning.
    warning = "WARNING: " if place == credentials.path() else ""
    output.say(f"{warning}login credentials saved in {place}")
    if status:
        output.say(status)


@command(
    "logout",
    Argument("server", "[SERVER]", default=credentials.DEFAULT_SERVER, complete="server"),
    examples=("hyperctl logout registry.example.com:5000",),
)
def logout_command(_app: App, *, server: str) -> None:
    """Forget the credentials of a registry."""
    if credentials.forget(server):
        output.say(f"Remove login credentials for {server}")
    else:
        output.say(f"Not logged in to {server}")
