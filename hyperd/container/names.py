"""Names of containers, and of their processes in the guest."""

from __future__ import annotations

import secrets
import string
from dataclasses import replace

from hyperd.errors import InvalidInput
from hyperd.spec.model import ContainerSpec

_ALLOWED = set(string.ascii_letters + string.digits + "_.-")


def checked(name: str) -> str:
    """Return a container's new name without the slash before it. Errors: InvalidInput."""
    name = name.removeprefix("/")
    if not 2 <= len(name) <= 128 or not name[0].isalnum() or not set(name) <= _ALLOWED:
        raise InvalidInput(f"bad container name {name!r}", resolution="letters, digits, _ . and -, two at least")
    return name


def named(spec: ContainerSpec, name: str) -> ContainerSpec:
    """Return the specification with a name."""
    return replace(spec, name=name)


def made_up(pod_id: str, image: str) -> str:
    """Return a name for a container of a pod that was not given one."""
    return f"{pod_id}-{image_base(image)}-{''.join(secrets.choice(string.ascii_letters) for _ in range(10))}"


def image_base(image: str) -> str:
    """Return the last part of an image's name without tag, as container names carry it."""
    return image.rpartition("/")[2].partition("@")[0].partition(":")[0]


def ident(container_id: str, run: int) -> str:
    """Return the agent's name of a container's run (at most 64 bytes)."""
    return f"{container_id[:24]}-{run}"
