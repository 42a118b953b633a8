"""Runs one fuzz target by coverage, with libFuzzer's options: ``python -m tests.fuzz.run TARGET [OPTION...] [CORPUS]``.

Needs atheris, which is loaded before the code that it shall see.
"""

from __future__ import annotations

import logging
import sys
import warnings

import atheris


def main() -> None:
    """Run the target that the first argument names."""
    target = sys.argv.pop(1)
    logging.disable(logging.CRITICAL)
    with atheris.instrument_imports(include=["hyperd"]):
        from tests.fuzz.targets import TARGETS
    import structlog

    warnings.simplefilter("error")  # of the parsers, not of what is imported
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    atheris.Setup(sys.argv, TARGETS[target])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
