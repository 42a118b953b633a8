"""Reading the configuration file (TOML). Errors are InvalidInput and name file and key."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hypercloud.config.model import Config
from hypercloud.errors import InvalidInput

DEFAULT_FILE = Path("/etc/hyper/hypercloud.toml")
LEVELS = ("debug", "info", "warning", "error")
FORMATS = ("logfmt", "json", "console")
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_KUBE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_QUANTITY = re.compile(r"[1-9][0-9]{0,8}(Ki|Mi|Gi|Ti|k|M|G|T)?")
_HOST = re.compile(r"(tcp://(\[[0-9a-fA-F:]+\]|[^/:\s]+):\d{1,5}|unix:///\S{1,100})")


def load(path: Path | None, options: Mapping[str, Any] | None = None) -> Config:
    """Return the settings of a file with those of the command line in front.

    Args:
        path: the file; None = the default one, when it exists.
        options: keys that win, those of a section as a table; empty values do not count.

    Errors: InvalidInput.

    """
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    data: dict[str, Any] = {}
    if path is not None:
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            raise InvalidInput(f"cannot read the configuration {path}", details=str(error)) from None
    for key, value in (options or {}).items():
        if isinstance(value, Mapping) and isinstance(data.get(key, {}), Mapping):
            data[key] = {**data.get(key, {}), **{inner: one for inner, one in value.items() if one}}
        elif value:
            data[key] = value
    config = typing.cast("Config", _section(Config, data, ""))
    check(config)
    return config


def _section(kind: type[Any], data: Any, prefix: str) -> Any:
    """Build a dataclass from a table, each value checked against the field's type."""
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{prefix.rstrip('.')} must be a table")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(data) - {field.name for field in dataclasses.fields(kind)})
    if unknown:
        raise InvalidInput(
            f"unknown key {prefix}{unknown[0]} in the configuration",
            resolution="configs/hypercloud.toml explains every key",
        )
    return kind(**{key: _value(hints[key], value, f"{prefix}{key}") for key, value in data.items()})


def _value(hint: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _section(typing.cast("type[Any]", hint), value, f"{key}.")
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        hint = next(arg for arg in args if arg is not types.NoneType)
    if origin is tuple:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InvalidInput(f"{key} must be a list")
        return tuple(_value(args[0], item, key) for item in value)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        if not isinstance(value, Mapping):
            raise InvalidInput(f"{key} must be a table")
        return {name: _value(args[1], item, f"{key}.{name}") for name, item in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if type(value) is not hint:
        raise InvalidInput(f"{key} must be of type {hint.__name__}", details=f"it is {value!r}"[:120])
    return value


def check(config: Config) -> None:
    """Check what types do not say. Errors: InvalidInput."""
    if not config.hosts:
        raise InvalidInput("hosts is empty: no client could reach the server")
    for host in config.hosts:
        if not _HOST.fullmatch(host):
            raise InvalidInput("hosts must be tcp://address:port or unix:///path", details=host[:100])
    if config.log_level not in LEVELS or config.log_format not in FORMATS:
        raise InvalidInput(f"log_level is one of {', '.join(LEVELS)}, log_format one of {', '.join(FORMATS)}")
    if (config.tls.cert is None) != (config.tls.key is None):
        raise InvalidInput("tls.cert and tls.key are set together or not at all")
    for network in config.engines.networks:
        try:
            ipaddress.ip_network(network)
        except ValueError as error:
            raise InvalidInput("engines.networks must be CIDRs", details=str(error)) from None
    if not _KUBE_NAME.fullmatch(config.kubernetes.namespace):
        raise InvalidInput("kubernetes.namespace is no name of a namespace", details=config.kubernetes.namespace[:80])
    if not _QUANTITY.fullmatch(config.kubernetes.volume_size):
        raise InvalidInput("kubernetes.volume_size must be such as 1Gi", details=config.kubernetes.volume_size[:40])
    bounds = (
        ("threads", config.threads, 4, 4096),
        ("proxies", config.proxies, 0, 8),
        ("engines.health_interval", config.engines.health_interval, 0.05, 3600),
        ("engines.timeout", config.engines.timeout, 0.1, 3600),
        ("engines.connect_timeout", config.engines.connect_timeout, 0.1, 60),
        ("engines.stop_timeout", config.engines.stop_timeout, 0, 3600),
        ("kubernetes.patience", config.kubernetes.patience, 1, 86_400),
        ("login.attempts", config.login.attempts, 1, 1000),
        ("login.session_hours", config.login.session_hours, 0.01, 24 * 366),
        ("history.days", config.history.days, 0, 36_500),
    )
    for key, number, low, high in bounds:
        if not low <= number <= high:
            raise InvalidInput(f"{key} must be from {low} to {high}", details=f"it is {number}")
    for name in config.organisations:
        if not _NAME.fullmatch(name):
            raise InvalidInput("the name of an organisation is lower-case letters, digits, - and _", details=name[:80])
