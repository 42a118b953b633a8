"""The ``hyperd`` command."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from hyperd import __version__
from hyperd.errors import HyperError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (TOML, or the original's INI).")
@click.option("--root", type=click.Path(path_type=Path), help="Directory of the daemon's state.")
@click.option("--host", multiple=True, metavar="ADDR", help="unix:///path, tcp://address:port or fd://; repeatable.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.version_option(__version__, message="hyperd %(version)s")
def main(*, config: Path | None, root: Path | None, host: tuple[str, ...], log_level: str | None) -> None:
    """Run pods of containers, every pod in its own virtual machine, and serve them over HTTP."""
    code = run(config=config, root=root, hosts=host, log_level=log_level or "")
    sys.stdout.flush()
    sys.stderr.flush()
    # A request that hangs in a library must not keep the daemon from ending: its pool thread would be waited for.
    os._exit(code)


def run(*, config: Path | None, root: Path | None, hosts: tuple[str, ...], log_level: str) -> int:
    """Run the daemon and give its exit code."""
    import structlog

    from hyperd import configfile, logsetup, server
    from hyperd.engine import Engine

    logsetup.setup(log_level or "info")
    log = structlog.get_logger("hyperd")
    try:
        settings, warnings = configfile.load(config, root=root, hosts=hosts, log_level=log_level)
        logsetup.setup(settings.log_level)
        for warning in warnings:
            log.warning("config.ignored", reason=warning)
        server.serve(settings, Engine)
    except HyperError as error:
        click.echo(f"hyperd: {error}", err=True)
        return 1
    except (SystemExit, KeyboardInterrupt) as stop:
        return stop.code if isinstance(stop, SystemExit) and isinstance(stop.code, int) else 0
    except Exception:
        log.exception("server.failed")
        return 1
    return 0


if __name__ == "__main__":
    main()
