"""`login` and `logout`."""

from __future__ import annotations

import sys

import click

from hyperctl import credentials, images, output, terminal
from hyperctl.api.errors import UsageProblem
from hyperctl.command import App, command


@command(
    "login",
    "hyperctl login registry.example.com:5000",
    "hyperctl login -u alice --password-stdin registry.example.com < secret",
)
@click.argument("server", default=credentials.DEFAULT_SERVER, metavar="[SERVER]")
@click.option("-u", "--username", default="", help="User name; asked for when missing.")
@click.option("-p", "--password", default="", help="Password; asked for when missing.")
@click.option("--password-stdin", is_flag=True, help="Read the password from stdin.")
@click.option("-e", "--email", default="", help="E-mail address; not needed by today's registries.")
@click.pass_obj
def login_command(app: App, *, server: str, username: str, password: str, password_stdin: bool, email: str) -> None:
    """Check credentials with a registry and keep them in Docker's configuration file."""
    if password_stdin:
        if password:
            raise UsageProblem("--password and --password-stdin can not be used together")
        password = sys.stdin.read().rstrip("\r\n")
    if not (username and password) and not terminal.interactive():
        raise UsageProblem("username and password are needed: there is no terminal to ask on")
    auth = images.ask_login(server, username=username, password=password, email=email)
    status = images.login(app.client, auth)
    output.say(f"WARNING: login credentials saved in {credentials.path()}")
    if status:
        output.say(status)


@command("logout", "hyperctl logout registry.example.com:5000")
@click.argument("server", default=credentials.DEFAULT_SERVER, metavar="[SERVER]")
def logout_command(server: str) -> None:
    """Forget the credentials of a registry."""
    if credentials.forget(server):
        output.say(f"Remove login credentials for {server}")
    else:
        output.say(f"Not logged in to {server}")
