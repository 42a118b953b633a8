"""The ``hypercloud`` command."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from hypercloud import __version__
from hypercloud.errors import CloudError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (TOML).")
@click.option("--root", type=click.Path(path_type=Path), help="Directory of the server's state.")
@click.option("--host", multiple=True, metavar="ADDR", help="tcp://address:port or unix:///path; repeatable.")
@click.option("--database", metavar="URL", help="sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME.")
@click.option(
    "--kubernetes", type=click.Path(path_type=Path), metavar="KUBECONFIG", help="Use this cluster, no engines."
)
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--log-format", type=click.Choice(["logfmt", "json", "console"]), help="How to log.")
@click.version_option(__version__, message="hypercloud %(version)s")
def main(*, config: Path | None, **typed: Any) -> None:
    """Serve Shipyard's and Docker Cloud's APIs, and a web page, over Docker-API engines or a Kubernetes cluster.

    The first start makes the account "admin" and prints its password once. SIGTERM ends the server; containers
    run on.
    """
    options = {
        "root": typed["root"],
        "hosts": typed["host"],
        "database": typed["database"],
        "kubernetes": {"config": typed["kubernetes"]},
        "log_level": typed["log_level"],
        "log_format": typed["log_format"],
    }
    sys.exit(run(config, options))


def run(path: Path | None, options: dict[str, Any]) -> int:
    """Run the server and give its exit code.

    Args:
        path: the configuration file.
        options: keys of the configuration that win over the file.

    """
    try:
        from hypercloud import logs, server
        from hypercloud.config.load import load
    except ModuleNotFoundError as error:
        click.echo(f"hypercloud: {error.name} is not installed (pip install 'hyperd[cloud]')", err=True)
        return 1
    try:
        config = load(path, options)
        logs.setup(config.log_level, config.log_format)
        return server.serve(config)
    except CloudError as error:
        click.echo(f"hypercloud: {error}", err=True)
        return 1


if __name__ == "__main__":
    main()
