"""The ``hyperd`` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from hyperd import __version__
from hyperd.errors import HyperError


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (TOML, or the original's INI).")
@click.option("--root", type=click.Path(path_type=Path), help="Directory of the daemon's state.")
@click.option("--host", multiple=True, metavar="ADDR", help="unix:///path, tcp://address:port or fd://; repeatable.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--log-format", type=click.Choice(["logfmt", "json", "console"]), help="How to log.")
@click.option("--tls", is_flag=True, help="Speak TLS on tcp:// addresses.")
@click.option("--tlsverify", is_flag=True, help="TLS, and only with clients that --tlscacert knows.")
@click.option("--tlscert", type=click.Path(path_type=Path), help="Certificate of the daemon (PEM).")
@click.option("--tlskey", type=click.Path(path_type=Path), help="Key of the certificate (PEM).")
@click.option("--tlscacert", type=click.Path(path_type=Path), help="Authority of the clients' certificates (PEM).")
@click.version_option(__version__, message="hyperd %(version)s")
def main(*, config: Path | None, **typed: Any) -> None:
    """Run pods of containers, every pod in its own virtual machine, and serve them over HTTP.

    SIGTERM ends the daemon (what happens to the pods says on_exit in the configuration), SIGHUP reads the
    configuration again.
    """
    tls = {
        "enabled": typed["tls"],
        "verify": typed["tlsverify"],
        "cert": typed["tlscert"],
        "key": typed["tlskey"],
        "ca": typed["tlscacert"],
    }
    options = {
        "root": typed["root"],
        "hosts": typed["host"],
        "log_level": typed["log_level"] or "",
        "log_format": typed["log_format"] or "",
        "tls": {key: value for key, value in tls.items() if value},
    }
    code = run(config, options)
    sys.stdout.flush()
    sys.stderr.flush()
    # A request that hangs in a library must not keep the daemon from ending: its pool thread would be waited for.
    os._exit(code)


def run(config: Path | None, options: Mapping[str, Any]) -> int:
    """Run the daemon and give its exit code.

    Args:
        config: path of the configuration file.
        options: those of the command line that win over the file, as ``load.load`` takes them.

    """
    from hyperd.server import memory

    memory.prepare()
    import structlog

    from hyperd.config import load
    from hyperd.engine import Engine
    from hyperd.server import logging, serve

    logging.setup(options["log_level"] or "info", options["log_format"] or "logfmt")
    log = structlog.get_logger("hyperd")
    try:
        settings, warnings = load.load(config, **options)
        logging.setup(settings.log_level, settings.log_format)
        for warning in warnings:
            log.warning("config.ignored", reason=warning)
        serve.serve(settings, Engine, reload=lambda: load.load(config, **options))
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
