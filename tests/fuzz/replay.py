"""Gives the files of a directory to a fuzz target, while ``scripts/fuzz`` counts branches."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz.targets import TARGETS

for path in sorted(Path(sys.argv[2]).iterdir()):
    TARGETS[sys.argv[1]](path.read_bytes())
