"""Validators of single values, for the schemas: callables that raise marshmallow's ValidationError."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable

from marshmallow import ValidationError

from hyperd.container.signals import find_signal

LOG_DRIVERS = ("json-file", "syslog", "journald", "gelf", "fluentd", "awslogs", "splunk", "none")
RLIMITS = (
    *("as", "core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc", "rss"),
    *("rtprio", "rttime", "sigpending", "stack"),
)
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_SYSCTL = re.compile(r"[A-Za-z0-9_-]+(?:[./][A-Za-z0-9_-]+)+")
Check = Callable[[str], None]


class Verbatim(str):
    """A message that begins as the original daemon's did: the path of the field comes after it, not before."""

    __slots__ = ()


def _require(good: bool, message: str) -> None:
    if not good:
        raise ValidationError(message)


def text(limit: int) -> Check:
    """Allow ``limit`` characters and no NUL."""

    def check(value: str) -> None:
        _require(len(value) <= limit, f"is longer than {limit} characters")
        _require("\0" not in value, "contains a NUL character")

    return check


def optional(check: Check) -> Check:
    """Allow the empty string, or what ``check`` lets through."""

    def wrapped(value: str) -> None:
        if value:
            check(value)

    return wrapped


def pattern(expression: re.Pattern[str], what: str) -> Check:
    """Demand that the whole value matches."""

    def check(value: str) -> None:
        _require(expression.fullmatch(value) is not None, f"{shown(value)} is not {what} ({expression.pattern})")

    return check


def choice(*values: str) -> Check:
    """Demand one of the values."""
    listed = ", ".join(value for value in values if value)

    def check(value: str) -> None:
        _require(value in values, f"{shown(value)} is not one of {listed}")

    return check


def shown(value: str) -> str:
    """Quote a caller's value for a message, shortened."""
    return repr(value if len(value) <= 80 else value[:77] + "...")


def not_blank(value: str) -> None:
    """Demand something else than white space."""
    _require(bool(value.strip()), "is empty")


def single_line(value: str) -> None:
    """Forbid control characters."""
    _require(value.isprintable(), "contains control characters")


def word(value: str) -> None:
    """Demand one word (of a line of resolv.conf)."""
    _require(
        bool(value) and value.isprintable() and not any(c.isspace() for c in value),
        f"{shown(value)} is not one word",
    )


def guest_path(value: str) -> None:
    """Demand an absolute path without ``..``."""
    single_line(value)
    _require(value.startswith("/"), f"{shown(value)} is not an absolute path")
    _require(".." not in value.split("/"), f"{shown(value)} contains ..")
    _require(
        all(len(part.encode("utf-8", "replace")) <= 255 for part in value.split("/")),
        "has a name over 255 bytes",
    )


def mount_path(value: str) -> None:
    """Demand an absolute path that something can be mounted on or written to."""
    guest_path(value)
    _require(value.strip("/.") != "" or value == "/", f"{shown(value)} cannot be mounted on")


def account(value: str) -> None:
    """Demand name or number of a user or group, without the separators of ``/etc/passwd``."""
    _require(len(value) <= 256, "is longer than 256 characters")
    _require(value.isprintable() and ":" not in value and "/" not in value, f"{shown(value)} is no user or group")


def env_name(value: str) -> None:
    """Demand the name of an environment variable."""
    _require(bool(value) and "=" not in value, f"{shown(value)} is no name of an environment variable")


def sysctl(value: str) -> None:
    """Demand the name of a kernel parameter, with dots or slashes."""
    _require(_SYSCTL.fullmatch(value) is not None, f"{shown(value)} is no kernel parameter")


def restart_policy(value: str) -> None:
    """Demand never, onFailure, always or unless-stopped."""
    choice("", "never", "onFailure", "always", "unless-stopped")(value)


def stop_signal(value: str) -> None:
    """Demand a signal by name or number, such as ``TERM``, ``SIGRTMIN+3`` or ``9``."""
    _require(not value or find_signal(value) != 0, f"{shown(value)} is not a signal")


def device(value: str) -> None:
    """Demand the name of a network device (Linux IFNAMSIZ)."""
    _require(_DEVICE.fullmatch(value) is not None and value not in {".", ".."}, f"{shown(value)} is no device name")


def address(value: str) -> None:
    """Demand an IPv4 or IPv6 address."""
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValidationError(f"{shown(value)} is no IP address") from None


def cidr(value: str) -> None:
    """Demand an address with its prefix length."""
    try:
        _require("/" in value, f"{shown(value)} has no prefix length")
        ipaddress.ip_interface(value)
    except ValueError:
        raise ValidationError(f"{shown(value)} is no CIDR") from None


def cidr_list(value: str) -> None:
    """Demand CIDRs separated by commas."""
    parts = value.split(",")
    _require(len(parts) <= 16, "has over 16 addresses")
    for part in parts:
        cidr(part.strip())


def uri(value: str) -> None:
    """Demand a URI that the daemon may be asked to fetch."""
    single_line(value)
    if value:
        _require(
            value.startswith(("http://", "https://", "file:///")),
            f"{shown(value)} is no http, https or file URI",
        )
