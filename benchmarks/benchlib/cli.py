"""The command line of ``scripts/bench``."""

from __future__ import annotations

import argparse
import compileall
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchlib import host, plot, report
from benchlib.crowd import AttachesScenario, DensityScenario, TogetherScenario
from benchlib.distro import DistroScenario
from benchlib.idle import MemoryScenario
from benchlib.images import ImagesScenario
from benchlib.podman import Podman
from benchlib.samples import Samples
from benchlib.scenarios import SCENARIOS, Context, NotThere, Scenario
from benchlib.target import Target
from benchlib.warm import WarmScenario
from hyperd.errors import HyperError
from hyperd.guest.image import find_guest
from tests.support.daemon import PROJECT
from tests.support.registry import Layer, RegistryServer, busybox_tar

ALL: dict[str, Callable[[Context], Scenario]] = {
    **SCENARIOS,
    "warm": WarmScenario,
    "distro": DistroScenario,
    "memory": MemoryScenario,
    "attaches": AttachesScenario,
    "together": TogetherScenario,
    "density": DensityScenario,
    "images": ImagesScenario,
}
# Rounds, and seconds after which no further round begins.
QUICK, FULL = (3, 90.0), (15, 1000.0)
DOCUMENT = PROJECT / report.DOCUMENT
PLOT = PROJECT / "docs/performance.svg"
RESULTS = PROJECT / "benchmarks"


class Run:
    """One run: what was measured and what went wrong."""

    def __init__(self, *, names: Sequence[str], quick: bool, rounds: int, limit: float) -> None:
        self.samples = Samples()
        self.failures: list[str] = []
        self.missing: list[str] = []
        self.rounds = 0
        self.log: Callable[[], list[str]] = list
        self._names = names
        self._quick = quick
        self._wanted = rounds
        self._limit = limit

    def measure(self, guest: Path) -> dict[str, Any]:
        """Do everything; give what is written as JSON. Errors: HyperError, RuntimeError when nothing can be."""
        files = find_guest(guest)
        before = host.load()
        with ExitStack() as stack:
            registry = stack.enter_context(RegistryServer())
            registry.push("busybox", "latest", [Layer(busybox_tar())])
            image = f"{registry.host}/busybox"
            target = stack.enter_context(Target(image, guest))
            self.log = target.last_words
            podman = self._podman(stack, image)
            target.warm_up()
            accelerator = target.accelerator()
            context = Context(
                target=target,
                samples=self.samples,
                podman=podman,
                kernel=files.kernel,
                initrd=files.initrd,
                quick=self._quick,
                accelerator=accelerator,
            )
            self._rounds({name: ALL[name](context) for name in self._names})
        return {
            "format": report.FORMAT,
            "host": host.describe(),
            "accelerator": accelerator,
            "kernel": files.kernel.name,
            "rounds": self.rounds,
            "quick": self._quick,
            "load": [before, host.load()],
            "missing": self.missing,
            "failures": self.failures,
            "summaries": {key: value.as_dict() for key, value in sorted(self.samples.summaries().items())},
        }

    def _podman(self, stack: ExitStack, image: str) -> Podman | None:
        absent = host.missing(host.PEERS)
        if absent:
            self.missing.append(f"the peer podman (apt-get install {' '.join(absent)})")
            return None
        podman = Podman()
        stack.callback(podman.close)
        try:
            podman.pull(image)
        except RuntimeError as error:
            self.missing.append(f"the peer podman: {error}")
            return None
        return podman

    def _rounds(self, scenarios: dict[str, Scenario]) -> None:
        started = time.monotonic()
        ready = {name: scenario for name, scenario in scenarios.items() if self._safely(name, scenario.prepare)}
        try:
            for number in range(self._wanted):
                if time.monotonic() - started > self._limit:
                    say(f"only {number} of {self._wanted} rounds fitted into {self._limit:g} s")
                    break
                for name, scenario in list(ready.items()):
                    if number >= scenario.most:
                        continue
                    say(f"round {number + 1}/{self._wanted} {name}")
                    if not self._safely(name, scenario.round):
                        del ready[name]
                self.rounds = number + 1
        finally:
            for name, scenario in scenarios.items():
                say(f"finishing {name}")
                self._safely(name, scenario.finish)

    def _safely(self, name: str, step: Callable[[], None]) -> bool:
        """One scenario that fails must not cost the others."""
        try:
            step()
        except NotThere as error:
            self.missing.append(str(error))
            say(f"{name}: missing: {error}")
            return False
        except Exception as error:
            text = " ".join(str(error)[:300].split())
            self.failures.append(f"{name}: {type(error).__name__}: {text}")
            say(self.failures[-1])
            for line in self.log():  # which is gone with the daemon
                say(f"daemon: {line}")
            return False
        return True


def say(text: str) -> None:
    """Tell how far it is."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    made = argparse.ArgumentParser(
        prog="scripts/bench", description="Measure hyperd beside the floor and its peers, as root."
    )
    made.add_argument("subset", nargs="*", metavar="SUBSET", help=f"of {', '.join(ALL)} (default: all)")
    made.add_argument("--quick", action="store_true", help="fewer rounds: under 3 minutes on a quiet machine")
    made.add_argument("--rounds", type=int, help=f"default {FULL[0]}, with --quick {QUICK[0]}")
    made.add_argument("--limit", type=float, metavar="SECONDS", help="begin no further round after that")
    made.add_argument(
        "--output", type=Path, metavar="FILE", help="where the JSON goes (default benchmarks/results-<time>.json)"
    )
    made.add_argument("--guest", type=Path, default=Path(os.environ.get("HYPERD_TEST_GUEST", PROJECT / ".cache/guest")))
    made.add_argument(
        "--compare", nargs=2, type=Path, metavar=("OLD", "NEW"), help="compare two result files; measures nothing"
    )
    made.add_argument(
        "--write-docs", type=Path, metavar="RESULTS", help="put the table of a result file into docs/performance.md"
    )
    made.add_argument("--write-readme", action="store_true", help="with a run or --write-docs: into README.md, too")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; 0 = everything was measured, 1 = something failed, 2 = it cannot be measured here."""
    for number in (signal.SIGTERM, signal.SIGINT):  # also where SIGINT is ignored: everything is cleaned up
        signal.signal(number, signal.default_int_handler)
    made = parser()
    options = made.parse_args(arguments)
    unknown = [name for name in options.subset if name not in ALL]
    if unknown:
        made.error(f"unknown: {', '.join(unknown)}; there are {', '.join(ALL)}")
    try:
        if options.compare:
            print(report.compare(*map(report.load_results, options.compare)))
            return 0
        if options.write_docs:
            publish(report.load_results(options.write_docs), readme=options.write_readme)
            return 0
        return measure(options)
    except KeyboardInterrupt:
        print("bench: interrupted; everything is removed", file=sys.stderr)
        return 130
    except (report.BadResults, HyperError, RuntimeError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def measure(options: argparse.Namespace) -> int:
    """Measure, print and write."""
    if os.geteuid() != 0:
        raise RuntimeError("run this as root: pods need a bridge and nftables")
    absent = host.missing(host.NEEDED)
    if absent:
        raise RuntimeError(f"something is missing: apt-get install {' '.join(absent)} (scripts/test does it)")
    rounds, limit = QUICK if options.quick else FULL
    for name in ("hyperd", "hyperctl"):  # as an installation has them: else every start would compile them
        compileall.compile_dir(PROJECT / name, quiet=2)
    run = Run(
        names=options.subset or list(ALL),
        quick=options.quick,
        rounds=options.rounds or rounds,
        limit=limit if options.limit is None else options.limit,
    )
    results = run.measure(options.guest.resolve())
    stamp = results["host"]["when"].replace(":", "").replace("-", "")
    output = options.output or RESULTS / f"results-{stamp}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(report.table(results))
    say(f"written to {output}")
    if not options.subset and not options.quick and options.output is None:
        publish(results, readme=options.write_readme)
    return 1 if run.failures else 0


def publish(results: dict[str, Any], *, readme: bool) -> None:
    """Put the table between the marks of the documents."""
    for path, document, wanted in ((DOCUMENT, "", True), (PROJECT / "README.md", report.DOCUMENT, readme)):
        if wanted:
            done = report.write_between(path, report.table(results, document=document, short=bool(document)))
            say(f"{path.name}: {'table written' if done else 'no marks for the table, left alone'}")
    PLOT.write_text(plot.svg(results), encoding="utf-8")
    say(f"{PLOT.name}: plot written")
