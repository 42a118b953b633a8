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


@click.group(invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", type=click.Path(path_type=Path), help="Configuration file (TOML, or the original's INI).")
@click.option("--root", type=click.Path(path_type=Path), help="Directory of the daemon's state.")
@click.option("--host", multiple=True, metavar="ADDR", help="unix:///path, tcp://address:port or fd://; repeatable.")
@click.option("--docker-host", multiple=True, metavar="ADDR", help="Also speak the Docker API there; repeatable.")
@click.option("--cri", metavar="ADDR", help="Also serve Kubernetes' CRI there: unix:///path (extra hyperd[cri]).")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What to log.")
@click.option("--log-format", type=click.Choice(["logfmt", "json", "console"]), help="How to log.")
@click.option("--tls", is_flag=True, help="Speak TLS on tcp:// addresses.")
@click.option("--tlsverify", is_flag=True, help="TLS, and only with clients that --tlscacert knows.")
@click.option("--tlscert", type=click.Path(path_type=Path), help="Certificate of the daemon (PEM).")
@click.option("--tlskey", type=click.Path(path_type=Path), help="Key of the certificate (PEM).")
@click.option("--tlscacert", type=click.Path(path_type=Path), help="Authority of the clients' certificates (PEM).")
@click.version_option(__version__, message="hyperd %(version)s")
@click.pass_context
def main(ctx: click.Context, /, *, config: Path | None, **typed: Any) -> None:
    """Run pods of containers, every pod in its own virtual machine, and serve them over HTTP.

    Without a command the daemon runs. SIGTERM ends it (what happens to the pods says on_exit in the configuration),
    SIGHUP reads the configuration again.
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
        "docker_hosts": typed["docker_host"],
        "cri": typed["cri"] or "",
        "log_level": typed["log_level"] or "",
        "log_format": typed["log_format"] or "",
        "tls": {key: value for key, value in tls.items() if value},
    }
    ctx.obj = config, options
    if ctx.invoked_subcommand is not None:
        return
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
    os.umask(0o077)  # nothing that the daemon makes is another user's to read; the socket gets its mode by itself
    try:
        from hyperd.server import memory

        memory.prepare()
        import structlog

        from hyperd.config import load
        from hyperd.engine import Engine
        from hyperd.server import logging, serve
    except ModuleNotFoundError as error:
        click.echo(f"hyperd: {_missing(error)}", err=True)
        return 1

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


def _missing(error: ModuleNotFoundError) -> str:
    """Return what to do about a library that is not there. Errors: the error itself when it is a module of ours."""
    name = (error.name or "").partition(".")[0]
    if name in {"", "hyperd"}:
        raise error
    return f"the daemon's libraries are not installed ({name} is missing): pip install 'hyperd[daemon]'"


@main.command("build-guest")
@click.option(
    "--kernel",
    type=click.Choice(["auto", "distro", "minimal"]),
    default="auto",
    show_default=True,
    help="distro: Debian's cloud kernel, downloaded. minimal: our own, compiled (minutes), boots in half the time. "
    "auto: the minimal one when it was compiled before, else Debian's.",
)
@click.option("--output", type=click.Path(path_type=Path), help="Directory; the daemon's guest_dir by default.")
@click.option("--jobs", default=os.cpu_count() or 1, metavar="N", help="Compilers at a time; all CPUs by default.")
@click.option("--force", is_flag=True, help="Build although nothing changed.")
@click.pass_obj
def build_guest_command(
    common: tuple[Path | None, Mapping[str, Any]], *, kernel: str, output: Path | None, jobs: int, force: bool
) -> None:
    """Make what the VMs boot from: agent, initramfs, kernel.

    Needs Debian's packages gcc libc6-dev make busybox-static kmod xz-utils zstd, and for the minimal kernel bison
    flex bc libelf-dev libssl-dev cpio. What is there already and up to date is not built again. The daemon takes a new
    guest for the VMs it starts after its own restart.
    """
    try:
        from hyperd.config import load
        from hyperd.guest.image import build_guest
        from hyperd.guest.kernel import build_kernel
    except ModuleNotFoundError as error:
        raise click.ClickException(_missing(error)) from error
    config, options = common
    try:
        directory = output.resolve() if output else load.load(config, root=options["root"])[0].guest
        if kernel == "minimal":
            click.echo("compiling the kernel, unless it is there: this takes minutes", err=True)
            build_kernel(directory, jobs=jobs, force=force)
        guest = build_guest(directory, kernel=kernel, force=force)
    except (HyperError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"{guest.flavour}: {guest.kernel} {guest.initrd}")


@main.command("recover")
@click.pass_obj
def recover_command(common: tuple[Path | None, Mapping[str, Any]]) -> None:
    """Rebuild the database from what lies in the root directory, when the daemon refuses to start.

    Pods, images, networks and volumes come back from the copies that the daemon keeps beside disks and layers. Pods are
    stopped then; VMs that still run are ended by the daemon's next start. A damaged database is kept in the directory
    aside/. Running it again is fine; no daemon may run.
    """
    try:
        from hyperd.config import load
        from hyperd.db.rebuild import recover
        from hyperd.server import logging
        from hyperd.server.serve import root_lock
    except ModuleNotFoundError as error:
        raise click.ClickException(_missing(error)) from error
    config, options = common
    os.umask(0o077)
    logging.setup(options["log_level"] or "warning", options["log_format"] or "logfmt")
    try:
        settings, _ = load.load(config, root=options["root"])
        with root_lock(settings.root):
            done = recover(settings.root)
    except (HyperError, OSError) as error:
        raise click.ClickException(str(error)) from error
    click.echo(f"database: {done.database}")
    for kind in ("pod", "image", "layer", "network", "volume"):
        click.echo(f"{kind}s brought back: {done.added[kind]}")
    for path in done.aside:
        click.echo(f"put aside: {path}")
    for problem in done.failed:
        click.echo(f"not brought back: {problem}", err=True)
    if done.failed:
        raise SystemExit(1)


@main.command("files")
@click.argument("name", default="")
def files_command(*, name: str) -> None:
    """List the files that come with hyperd, or print one: the example configuration, units of systemd, example pods.

    The units start this very hyperd: `hyperd files hyperd.service > /etc/systemd/system/hyperd.service`.
    """
    from hyperd.config import shipped

    try:
        if name:
            click.echo(shipped.text(name, program=_program()), nl=False)
        else:
            click.echo("\n".join(shipped.names()))
    except HyperError as error:
        raise click.ClickException(str(error)) from error


def _program() -> str:
    """Return the absolute path of the hyperd that runs; empty when it is run in another way than by its command."""
    path = Path(sys.argv[0])
    return str(path.absolute()) if path.name == "hyperd" and path.is_file() else ""


if __name__ == "__main__":
    main()
