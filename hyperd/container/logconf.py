"""Where and how a container's output is kept."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from hyperd.config import Config
from hyperd.errors import InvalidInput, NotSupported
from hyperd.pod.model import ContainerSpec, PodSpec

DRIVERS = ("json-file", "none")
_SIZE = re.compile(r"(\d+)([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """``max_size`` in bytes, 0 = never rotated; ``max_file`` files are kept."""

    driver: str
    path: Path
    max_size: int
    max_file: int


def log_settings(config: Config, pod: PodSpec, pod_id: str, container_id: str, spec: ContainerSpec) -> LogSettings:
    """Merge the daemon's defaults, the pod's and the container's wishes. Errors: NotSupported, InvalidInput."""
    driver = pod.log.type or config.log.driver
    if driver not in DRIVERS:
        raise NotSupported(
            f"the log driver {driver} is not supported by this version", resolution="use " + " or ".join(DRIVERS)
        )
    options = dict(pod.log.config)
    size = parse_size(options.get("max-size", "")) if options.get("max-size") else config.log.max_size
    count = options.get("max-file", "") or str(config.log.max_file)
    if not count.isdigit() or not 1 <= int(count) <= 1000:
        raise InvalidInput(f"bad log option max-file {count!r}", resolution="a number from 1 to 1000")
    path = Path(spec.log_path) if spec.log_path else config.root / "pods" / pod_id / f"{container_id}-json.log"
    if not path.is_absolute():
        raise InvalidInput(f"logPath {spec.log_path!r} is not absolute")
    return LogSettings(driver=driver, path=path, max_size=size, max_file=int(count))


def parse_size(text: str) -> int:
    """Read ``10m``, ``512k``, ``1g`` or bytes. Errors: InvalidInput."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"bad log option max-size {text!r}", resolution="a number with k, m or g")
    return int(match[1]) * _UNITS[match[2].lower()]
