"""Reading the configuration: TOML (``configs/hyperd.toml``), or the original daemon's INI file.

Errors are InvalidInput and name file and key. Keys of the INI file that mean nothing here are warned about.
"""

from __future__ import annotations

import configparser
import dataclasses
import ipaddress
import os
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperd.config.model import (
    DEFAULT_HOST,
    ApiConfig,
    Config,
    CriConfig,
    HypervisorConfig,
    ImagesConfig,
    LogConfig,
    NetworkConfig,
    RegistryConfig,
    SignatureConfig,
    SignatureRule,
    TlsConfig,
)
from hyperd.errors import InvalidInput
from hyperd.publickeys import read_public_key

DEFAULT_FILES = (Path("/etc/hyper/hyperd.toml"), Path("/etc/hyper/config"))
PACKAGED_GUEST = Path("/usr/lib/hyperd/guest")  # of the Debian package (scripts/build-deb)
MAX_RUN_PATH = 80  # a VM's socket adds "/vm-" + 10 letters + "/control.sock" to at most 107 bytes
LOG_FORMATS = ("logfmt", "json", "console")
LOG_LEVELS = ("debug", "info", "warning", "error")
SECTIONS: Mapping[str, type] = {
    "hypervisor": HypervisorConfig,
    "network": NetworkConfig,
    "registry": RegistryConfig,
    "log": LogConfig,
    "tls": TlsConfig,
    "cri": CriConfig,
    "api": ApiConfig,
}
# A registry (it has a dot, a port, or is localhost), and possibly parts of a repository's name.
_PREFIX = re.compile(
    r"(?:localhost|[a-z0-9-]+(?:\.[a-z0-9-]+)+|[a-z0-9.-]+:[0-9]+|\[[a-f0-9:]+\](?::[0-9]+)?)(?:/[a-z0-9._-]+)*"
)
_DEVICE = re.compile(r"[A-Za-z0-9_.-]{1,15}")
_TABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,31}")
_SIZE = re.compile(r"([0-9]+)\s*([kmgt]?)(?:i?b)?", re.IGNORECASE)
_UIDS = re.compile(r"([0-9]{1,10})-([0-9]{1,10})")
MIN_UID = 1000  # below are the system's users
_OLD_KEY = re.compile(r"^\s*(?:[A-Z]\w+|gRPCHost)\s*=", re.MULTILINE)
IGNORED = {
    "Kernel": "the guest is hyperd's own",
    "Initrd": "the guest is hyperd's own",
    "gRPCHost": "there is no gRPC server",
    "StorageDriver": "there is one way of storing images",
    "EnableVsock": "guests are reached over virtio-serial",
    "VmFactoryPolicy": "[hypervisor] pool and templates say which VMs are kept ready",
    "BufferGoroutinesMax": "containers are created at once",
    "BufferChannelSize": "containers are created at once",
    "GDBTCPPort": "not supported",
    "Bios": "not supported",
    "Cbfs": "not supported",
    "Vbox": "not supported",
}


def load(
    path: Path | None,
    *,
    root: Path | None = None,
    hosts: Sequence[str] = (),
    docker_hosts: Sequence[str] = (),
    cri: str = "",
    log_level: str = "",
    log_format: str = "",
    tls: Mapping[str, Any] | None = None,
) -> tuple[Config, list[str]]:
    """Read the configuration.

    Args:
        path: the file; None = the first of DEFAULT_FILES that exists, or the defaults.
        root, hosts, docker_hosts, cri, log_level, log_format: from the command line, they win; ``hosts`` and
            ``docker_hosts`` replace the file's.
        tls: keys of ``[tls]`` from the command line.

    Returns: the configuration and warnings for the log.
    Errors: InvalidInput.

    """
    files = DEFAULT_FILES if os.geteuid() == 0 else (users_file(),)
    chosen = path or next((candidate for candidate in files if candidate.exists()), None)
    config, warnings = read(chosen) if chosen else (Config(), [])
    if os.geteuid() != 0:
        config = for_user(config)
    changes: dict[str, Any] = {}
    if root is not None:
        changes["root"] = root.absolute()
    if hosts:
        changes["hosts"] = tuple(hosts)
    if docker_hosts:
        changes["docker_hosts"] = tuple(docker_hosts)
    if cri:
        changes["cri"] = dataclasses.replace(config.cri, address=cri)
    if log_level:
        changes["log_level"] = log_level
    if log_format:
        changes["log_format"] = log_format
    if tls:
        changes["tls"] = dataclasses.replace(config.tls, **tls)
    config = with_packaged_guest(dataclasses.replace(config, **changes))
    check(config)
    return config, warnings


def with_packaged_guest(config: Config) -> Config:
    """Use the guest of the distribution's package where there is no other."""
    if config.hypervisor.guest_dir is not None or (config.root / "guest").exists() or not PACKAGED_GUEST.exists():
        return config
    hypervisor = dataclasses.replace(config.hypervisor, guest_dir=PACKAGED_GUEST)
    return dataclasses.replace(config, hypervisor=hypervisor)


def users_file() -> Path:
    """Return the configuration file of an ordinary user (XDG Base Directory Specification)."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "hyper" / "hyperd.toml"


def for_user(config: Config) -> Config:
    """Replace the defaults that only root can have: directory, socket, bridge, guest."""
    default = Config()
    changes: dict[str, Any] = {}
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    root = data / "hyper" if config.root == default.root else config.root
    changes["root"] = root
    if config.hosts == default.hosts:
        runtime = os.environ.get("XDG_RUNTIME_DIR")
        changes["hosts"] = (f"unix://{Path(runtime) if runtime else root}/hyper.sock",)
    if config.network.bridge == default.network.bridge:
        changes["network"] = dataclasses.replace(config.network, bridge="")
    if config.hypervisor.guest_dir is None and not (root / "guest").exists() and default.guest.exists():
        changes["hypervisor"] = dataclasses.replace(config.hypervisor, guest_dir=default.guest)
    return dataclasses.replace(config, **changes)


def read(path: Path) -> tuple[Config, list[str]]:
    """Read one file, in whichever of the two formats it is. Errors: InvalidInput."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read the configuration {path}", details=str(error)) from error
    if path.suffix != ".toml" and _OLD_KEY.search(text):
        return _from_ini(path, text)
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"the configuration {path} is not valid TOML", details=str(error)) from error
    return _from_table(path, data), []


def _from_table(path: Path, data: Mapping[str, Any]) -> Config:
    values = dict(data)
    if isinstance(values.get("cri"), str):
        values["cri"] = {"address": values["cri"]}
    for name, section in SECTIONS.items():
        table = _table(path, values.pop(name, {}), name)
        values[name] = section(**_typed(path, section, table, prefix=f"{name}."))
    sections = {name: values.pop(name) for name in SECTIONS}
    images = _images(path, values.pop("images", {}))
    return Config(**_typed(path, Config, values, prefix=""), **sections, images=images)


def _images(path: Path, table: Any) -> ImagesConfig:
    """Read ``[images.signatures]`` and its rules, each of which says ``accept = true`` or whose keys it requires."""
    values = dict(_table(path, table, "images"))
    signatures = dict(_table(path, values.pop("signatures", {}), "images.signatures"))
    for key in values:
        raise InvalidInput(f"{path}: unknown key images.{key}", resolution="see configs/hyperd.toml")
    where, rules = "images.signatures.rule", signatures.pop("rule", [])
    if not isinstance(rules, list):
        raise InvalidInput(f"{path}: {where} must be sections, [[{where}]]")
    found = []
    for rule in rules:
        one = dict(_table(path, rule, where))
        accept = one.pop("accept", False)
        typed = _typed(path, SignatureRule, one, prefix=f"{where}.")
        if not isinstance(accept, bool) or not typed.get("prefix") or accept == bool(typed.get("require")):
            raise InvalidInput(f"{path}: {where} must have a prefix, and either require or accept = true")
        if accept and typed.get("bundles"):
            raise InvalidInput(f"{path}: {where}.bundles is for rules that require signatures")
        found.append(SignatureRule(**typed))
    typed = _typed(path, SignatureConfig, signatures, prefix="images.signatures.")
    return ImagesConfig(signatures=SignatureConfig(**{**typed, "rule": tuple(found)}))


def _table(path: Path, value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{path}: {name} must be a section, [{name}]")
    return value


def _typed(path: Path, section: type, table: Mapping[str, Any], *, prefix: str) -> dict[str, Any]:
    """Check keys and types of one section against its class."""
    hints = typing.get_type_hints(section)
    known = {field.name for field in dataclasses.fields(section)} - set(SECTIONS)
    out = {}
    for key, value in table.items():
        if key not in known:
            raise InvalidInput(f"{path}: unknown key {prefix}{key}", resolution="see configs/hyperd.toml")
        out[key] = _value(value, hints[key], f"{path}: {prefix}{key}")
    return out


def _value(value: Any, hint: Any, where: str) -> Any:
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if Path in kinds and isinstance(value, str):
        if not value and type(None) in kinds:
            return None
        return Path(value)
    if typing.get_origin(hint) is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(Path(item) for item in value) if Path in typing.get_args(hint) else tuple(value)
    if bool in kinds and isinstance(value, bool):
        return value
    if int in kinds and isinstance(value, int) and not isinstance(value, bool):
        return value
    if float in kinds and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if str in kinds and isinstance(value, str):
        return value
    wanted = "an array of strings" if typing.get_origin(hint) is tuple else " or ".join(_word(kind) for kind in kinds)
    raise InvalidInput(f"{where} must be {wanted}", details=f"it is {value!r}"[:200])


def _word(kind: Any) -> str:
    words = {str: "a string", int: "a whole number", float: "a number", bool: "true or false", Path: "a path"}
    return words.get(kind, "empty")


def _from_ini(path: Path, text: str) -> tuple[Config, list[str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, default_section="\0")
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string(f"[]\n{text}".replace("[]", "[main]", 1))
    except configparser.Error as error:
        raise InvalidInput(f"cannot read the configuration {path}", details=str(error)) from error
    old = dict(parser["main"])
    options = dict(parser["Log"]) if parser.has_section("Log") else {}
    warnings = [f"{path}: {key} is ignored: {reason}" for key, reason in IGNORED.items() if old.pop(key, "")]
    network: dict[str, Any] = {}
    config: dict[str, Any] = {}
    log: dict[str, Any] = {}
    for key, target, name in (
        ("Bridge", network, "bridge"),
        ("BridgeIP", network, "subnet"),
        ("Logger", log, "driver"),
    ):
        if old.get(key):
            target[name] = old[key]
    if old.get("Root"):
        config["root"] = Path(old["Root"])
    if old.get("Host"):
        config["hosts"] = (DEFAULT_HOST, old["Host"])
    if old.get("StorageBaseSize"):
        config["scratch_size"] = parse_size(old["StorageBaseSize"], f"{path}: StorageBaseSize")
    if old.get("DisableIptables", "").strip().lower() in {"1", "true", "yes", "on"}:
        network["nat"] = False
    log |= _ini_log(path, options)
    warnings += _hypervisor_warning(path, old.get("Hypervisor", ""))
    mapped = {"Root", "Host", "StorageBaseSize", "DisableIptables", "Hypervisor", "Bridge", "BridgeIP", "Logger"}
    unknown = [key for key in old if key not in mapped] + [f"[Log] {key}" for key in options]
    warnings += [f"{path}: {key} is not known and ignored" for key in unknown]
    return Config(**config, network=NetworkConfig(**network), log=LogConfig(**log)), warnings


def _ini_log(path: Path, options: dict[str, str]) -> dict[str, Any]:
    """Take the known keys of the INI file's [Log] section out of ``options``."""
    log: dict[str, Any] = {}
    for key, name in (("max-size", "max_size"), ("max-file", "max_file")):
        if options.get(key):
            log[name] = parse_size(options.pop(key), f"{path}: [Log] {key}")
    texts = ("syslog-address", "syslog-facility", "syslog-format", "tag")
    files = ("syslog-tls-ca-cert", "syslog-tls-cert", "syslog-tls-key")
    for key in (*texts, *files):
        if options.get(key):
            log[key.replace("-", "_")] = options.pop(key)
    if options.get("syslog-tls-skip-verify"):
        log["syslog_tls_skip_verify"] = options.pop("syslog-tls-skip-verify").strip().lower() in {"1", "true"}
    if options.get("PodLogPrefix"):
        log["directory"] = Path(options.pop("PodLogPrefix"))
    if options.get("PodIdInPath"):
        log["pod_id_in_path"] = options.pop("PodIdInPath").strip().lower() in {"1", "true", "yes", "on"}
    return log


def _hypervisor_warning(path: Path, name: str) -> list[str]:
    if name in {"", "libvirt", "kvm", "qemu-kvm", "qemu"}:
        return []
    return [f"{path}: Hypervisor={name} is not supported, libvirt with QEMU is used"]


def _check_group(path: str) -> None:
    """Check ``hypervisor.cgroup_parent``. Errors: InvalidInput."""
    if path and (not path.startswith("/") or ".." in path.split("/")):
        raise InvalidInput("hypervisor.cgroup_parent must begin with / and have no ..", details=repr(path[:100]))


def _check_uids(text: str) -> None:
    """Check ``hypervisor.uid_range``: never root's or a system user's ids. Errors: InvalidInput."""
    found = _UIDS.fullmatch(text)
    if text and (found is None or not MIN_UID <= int(found[1]) <= int(found[2]) < 2**32 - 1):
        raise InvalidInput(
            f"hypervisor.uid_range must be FIRST-LAST, of {MIN_UID} to {2**32 - 2}, or empty", details=repr(text[:40])
        )


def parse_size(text: str, where: str) -> int:
    """Read ``10GB`` as bytes (powers of 1024, as the original does). Errors: InvalidInput."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(f"{where} must be a size such as 10GB", details=repr(text[:40]))
    return int(found[1]) * int(1024 ** " kmgt".index(found[2].lower() or " "))


def check(config: Config) -> None:
    """Check values and what joins them. Errors: InvalidInput that names the key."""
    for key in ("root", "runtime_dir"):
        path = getattr(config, key)
        if path is not None and not path.is_absolute():
            raise InvalidInput(f"{key} must be an absolute path", details=str(path))
    if len(str(config.run).encode()) > MAX_RUN_PATH:
        raise InvalidInput(
            f"the path {config.run} of the VMs' sockets is longer than {MAX_RUN_PATH} bytes",
            resolution="choose a shorter root, or set runtime_dir",
        )
    _one_of("log_level", config.log_level, LOG_LEVELS)
    _one_of("log_format", config.log_format, LOG_FORMATS)
    _one_of("on_exit", config.on_exit, ("leave", "stop"))
    _one_of("hypervisor.driver", config.hypervisor.driver, ("libvirt", "fake"))
    _one_of("hypervisor.accelerator", config.hypervisor.accelerator, ("auto", "kvm", "tcg"))
    _between("threads", config.threads, 4, 512)
    _between("socket_mode", config.socket_mode, 0, 0o777)
    _between("max_pods", config.max_pods, 1, 65_536)
    _between("scratch_size", config.scratch_size, 16 * 2**20, 2**44)
    _between("stop_grace", config.stop_grace, 0, 3600)
    _between("hypervisor.boot_timeout", config.hypervisor.boot_timeout, 1, 3600)
    _between("hypervisor.default_vcpu", config.hypervisor.default_vcpu, 1, 256)
    _between("hypervisor.default_memory", config.hypervisor.default_memory, 28, 2**20)
    _between("hypervisor.pool", config.hypervisor.pool, 0, 32)
    _check_uids(config.hypervisor.uid_range)
    _check_group(config.hypervisor.cgroup_parent)
    _between("registry.parallel_layers", config.registry.parallel_layers, 1, 32)
    _between("registry.timeout", config.registry.timeout, 1, 3600)
    _between("registry.min_rate", config.registry.min_rate, 0, 2**30)
    _between("registry.min_rate_seconds", config.registry.min_rate_seconds, 1, 3600)
    _between("log.max_size", config.log.max_size, 0, 2**50)
    _between("log.max_file", config.log.max_file, 1, 1000)
    if config.log.directory is not None and not config.log.directory.is_absolute():
        raise InvalidInput("log.directory must be an absolute path", details=str(config.log.directory))
    _check_network(config.network)
    _check_cri(config.cri)
    if config.cri.cni_conf_dir and not config.network.bridge:
        raise InvalidInput("cri.cni_conf_dir needs network.bridge", details="without it nothing is made on the host")
    _check_tls(config.tls)
    _check_signatures(config.images.signatures)
    if not config.hosts:
        raise InvalidInput("hosts is empty: no client could reach the daemon")


def _check_cri(cri: CriConfig) -> None:
    if cri.address and not cri.address.startswith("unix:///"):
        raise InvalidInput(f"bad address of the CRI {cri.address[:200]!r}", resolution="use unix:///path")
    if cri.cni_conf_dir is not None and not cri.cni_conf_dir.is_absolute():
        raise InvalidInput("cri.cni_conf_dir must be an absolute path", details=str(cri.cni_conf_dir))
    if (cri.stream_cert is None) != (cri.stream_key is None):
        raise InvalidInput("cri.stream_cert and cri.stream_key belong together")
    for path in cri.cni_bin_dirs:
        if not path.is_absolute() or ":" in str(path):  # plugins get them in one variable
            raise InvalidInput("cri.cni_bin_dirs must be absolute paths without a colon", details=str(path))


def _check_tls(tls: TlsConfig) -> None:
    wanted = ("cert", "key", "ca") if tls.verify else ("cert", "key") if tls.on else ()
    for key in wanted:
        if getattr(tls, key) is None:
            raise InvalidInput(f"tls.{key} is not set", resolution="TLS needs cert and key, and ca to verify clients")


def _check_signatures(signatures: SignatureConfig) -> None:
    _one_of("images.signatures.default", signatures.default, ("accept", "require"))
    if (signatures.default == "require") != bool(signatures.keys):
        raise InvalidInput('images.signatures.keys must be given with default = "require", and only then')
    prefixes = [rule.prefix for rule in signatures.rule]
    for prefix in prefixes:
        if not _PREFIX.fullmatch(prefix):
            raise InvalidInput(
                "images.signatures.rule.prefix must be a registry, and possibly the beginning of a repository's name",
                details=repr(prefix[:100]),
                resolution="such as registry.example.com/team, or docker.io/library",
            )
        if prefixes.count(prefix) > 1:
            raise InvalidInput("images.signatures has two rules for one prefix", details=prefix)
    for key in (*signatures.keys, *(key for rule in signatures.rule for key in rule.require)):
        if not key.is_absolute():
            raise InvalidInput("images.signatures: a key must be an absolute path", details=str(key))
        read_public_key(key)


def _check_network(network: NetworkConfig) -> None:
    try:
        subnet = ipaddress.IPv4Network(network.subnet, strict=False)
        for server in network.dns:
            ipaddress.ip_address(server)
    except ValueError as error:
        raise InvalidInput("network: bad subnet or dns", details=str(error)) from None
    _between("network.subnet's prefix", subnet.prefixlen, 8, 29)
    _between("network.mtu", network.mtu, 576, 65_535)
    if network.bridge and not _DEVICE.fullmatch(network.bridge):
        raise InvalidInput("network.bridge is no name of a network device", details=repr(network.bridge[:40]))
    if not _TABLE.fullmatch(network.nft_table):
        raise InvalidInput("network.nft_table is no name of an nftables table", details=repr(network.nft_table[:40]))


def _one_of(key: str, value: str, allowed: Sequence[str]) -> None:
    if value not in allowed:
        raise InvalidInput(f"{key} must be one of {', '.join(allowed)}", details=f"it is {value[:40]!r}")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise InvalidInput(f"{key} must be from {low} to {high}", details=f"it is {value}")
