"""The command line of ``scripts/bench-docker``.

Measures the Docker API beside podman's and beside Docker's own daemon, all with the same docker CLI. Needs root, and
Debian's packages docker.io, docker-compose and podman. The table goes between the marks of docs/performance.md with
--write-docs. Exit status 1 when something failed.
"""

from __future__ import annotations

import argparse
import compileall
import sys
from contextlib import ExitStack
from pathlib import Path

from benchlib import dockersides, host, report
from benchlib.dockerwork import ROWS, Work
from benchlib.samples import Samples
from hyperd.guest.image import find_guest
from tests.support.daemon import PROJECT

SIDES = ("hyperd", "podman", "dockerd")


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"bench-docker: {text}", file=sys.stderr, flush=True)


def measure(args: argparse.Namespace, samples: Samples, failures: list[str]) -> None:
    """Do everything, round after round, side after side; what fails is left out from then on."""
    with ExitStack() as stack:
        work = Work(stack, samples, quick=args.quick)
        sides: list[dockersides.Side] = []
        if "hyperd" in args.sides:
            sides.append(dockersides.hyperd(stack, args.guest))
        if "podman" in args.sides:
            sides.append(dockersides.PodmanService(stack))
        if "dockerd" in args.sides:
            sides.append(dockersides.dockerd(stack))
        for side in sides:
            side.import_image()
            work.prepare(side)
        names = args.subset or list(work.all)
        if "load" in names:
            work.prepare_load(sides[0])
        todo = [(name, side) for name in names for side in sides]
        for number in range(args.rounds):
            for name, side in list(todo):
                say(f"round {number + 1}/{args.rounds} {name} {side.name}")
                try:
                    work.all[name](side)
                except Exception as error:
                    failures.append(f"{name} of {side.name}: {' '.join(str(error).split())[-300:]}")
                    say(failures[-1])
                    todo.remove((name, side))


def table(samples: Samples, failures: list[str], *, rounds: str, load: float, document: str) -> str:
    """Write the table; ``rounds``: how many, in words."""
    summaries = {key: value.as_dict() for key, value in samples.summaries().items()}
    lines = [report.line(row, summaries, document=document) for row in ROWS if row.key in summaries]
    machine = host.describe()
    words = f"{machine['cpus']} CPUs, {machine['memory_gib']} GiB, {machine['system']}, {machine['qemu']}"
    words += f", {machine['podman']}; {rounds}, load average {load} before and {host.load()} after."
    return "\n".join([report.HEAD, *lines, "", words, *(f"Failed: {text}." for text in failures)])


def main() -> int:
    """Measure all; 0 when nothing failed."""
    parser = argparse.ArgumentParser(prog="scripts/bench-docker", description=__doc__)
    parser.add_argument("subset", nargs="*", metavar="WORK", help="of run true exec ps cp build load cat compose")
    parser.add_argument("--quick", action="store_true", help="2 rounds and a smaller image")
    parser.add_argument("--rounds", type=int, help="default 7, with --quick 2")
    parser.add_argument("--sides", type=lambda text: text.split(","), default=SIDES, help=f"of {','.join(SIDES)}")
    parser.add_argument("--guest", type=Path, default=PROJECT / ".cache/guest")
    parser.add_argument("--write-docs", action="store_true", help="put the table into docs/performance.md")
    args = parser.parse_args()
    args.rounds = args.rounds or (2 if args.quick else 7)
    find_guest(args.guest)
    for name in ("hyperd", "hyperctl"):  # as an installation has them: else every start would compile them
        compileall.compile_dir(PROJECT / name, quiet=2)
    rounds = f"{args.rounds} interleaved rounds{' with --quick' if args.quick else ''}"
    samples, failures, load = Samples(), list[str](), host.load()
    measure(args, samples, failures)
    print(table(samples, failures, rounds=rounds, load=load, document=report.DOCUMENT))
    if args.write_docs:
        text = table(samples, failures, rounds=rounds, load=load, document="")
        report.write_between(PROJECT / report.DOCUMENT, text, "bench-docker")
    return 1 if failures else 0
