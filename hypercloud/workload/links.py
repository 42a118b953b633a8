"""The environment variables that a link puts into a container. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

# What an image sets for every program is of no interest to others, but the old service showed it as well.
_WORD = re.compile(r"[^A-Z0-9_]")


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A port that can be reached: where, and which port of the container it is."""

    inner: int
    protocol: str
    host: str
    port: int

    @property
    def url(self) -> str:
        """As ``tcp://host:port``."""
        return f"{self.protocol}://{self.host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Target:
    """A container that is linked to."""

    uuid: str
    name: str
    endpoints: tuple[Endpoint, ...]
    env: Mapping[str, str]


def variable(name: str) -> str:
    """Return the beginning of a link's variables: upper case, other signs as ``_``."""
    return _WORD.sub("_", name.upper())


def variables(name: str, targets: Sequence[Target], api_url: str = "") -> dict[str, str]:
    """Return all variables of one link.

    Args:
        name: of the link.
        targets: the containers, in order; the first is also known without a number.
        api_url: of the service that is linked to.

    """
    prefix = variable(name)
    found: dict[str, str] = {}
    for number, target in enumerate(targets, start=1):
        found |= of_target(f"{prefix}_{number}", target)
    if targets:
        found |= of_target(prefix, targets[0])
    if api_url:
        found[f"{prefix}_DOCKERCLOUD_API_URL"] = api_url
    return found


def of_target(prefix: str, target: Target) -> dict[str, str]:
    """Return the variables of one container under a prefix."""
    found = {f"{prefix}_ENV_{key}": value for key, value in target.env.items()}
    for number, one in enumerate(sorted(target.endpoints, key=lambda end: (end.inner, end.protocol))):
        if number == 0:
            found[f"{prefix}_PORT"] = one.url
        key = f"{prefix}_PORT_{one.inner}_{one.protocol.upper()}"
        found |= {
            key: one.url,
            f"{key}_ADDR": one.host,
            f"{key}_PORT": str(one.port),
            f"{key}_PROTO": one.protocol,
        }
    return found


def pairs(env: Iterable[str]) -> dict[str, str]:
    """Return ``K=V`` texts as a dictionary."""
    return {key: value for key, _, value in (one.partition("=") for one in env) if key}
