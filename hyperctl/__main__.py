"""`python -m hyperctl`."""

from __future__ import annotations

import sys

from hyperctl.cli import main

sys.exit(main())
