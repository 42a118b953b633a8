"""What of a new configuration can be taken over while the daemon runs, and what waits for a restart."""

from __future__ import annotations

import dataclasses
from typing import Any

from hyperd.config.model import Config

# Keys that take effect at once; "section.*" is a whole section.
RELOADABLE = frozenset(
    {
        "log_level",
        "log_format",
        "on_exit",
        "stop_grace",
        "max_pods",
        "scratch_size",
        "hypervisor.default_vcpu",
        "hypervisor.default_memory",
        "network.dns",
        "registry.mirrors",
        "registry.insecure",
        "registry.ca_file",
        "registry.parallel_layers",
        "registry.max_layer_bytes",
        "registry.timeout",
        "registry.min_rate",
        "registry.min_rate_seconds",
        "images.signatures",
        "log.driver",
        "log.max_size",
        "log.max_file",
        "log.syslog_address",
        "log.syslog_facility",
        "log.syslog_format",
        "log.syslog_tls_ca_cert",
        "log.syslog_tls_cert",
        "log.syslog_tls_key",
        "log.syslog_tls_skip_verify",
        "log.tag",
        "log.journal_socket",
        "api.fetch_over_tcp",
        "api.allowed_hosts",
    }
)


def merge(old: Config, new: Config) -> tuple[Config, list[str], list[str]]:
    """Take over what can be.

    Returns: the configuration to go on with, the keys that changed, and the keys that wait for a restart.
    """
    before, after = flat(old), flat(new)
    different = [key for key in before if before[key] != after[key]]
    changed = [key for key in different if key in RELOADABLE]
    top = {key: after[key] for key in changed if "." not in key}
    for name in {key.partition(".")[0] for key in changed if "." in key}:
        values = {key.partition(".")[2]: after[key] for key in changed if key.startswith(f"{name}.")}
        top[name] = dataclasses.replace(getattr(old, name), **values)
    return dataclasses.replace(old, **top), changed, [key for key in different if key not in RELOADABLE]


def flat(config: Config) -> dict[str, Any]:
    """Return every value by its key, those of sections as ``section.key``."""
    out: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            out.update({f"{field.name}.{one.name}": getattr(value, one.name) for one in dataclasses.fields(value)})
        else:
            out[field.name] = value
    return out
