"""``python -m hypercloud``."""

from __future__ import annotations

from hypercloud.cli import main

main()
