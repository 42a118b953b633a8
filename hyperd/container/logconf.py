"""Where and how a container's output is kept: the daemon's defaults, the pod's ``log`` and the container's ``logPath``.

Names and meanings of the options are those of Docker's log drivers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from hyperd.config.model import Config
from hyperd.errors import InvalidInput, NotSupported
from hyperd.spec.model import ContainerSpec, PodSpec
from hyperd.stream.channels import Address, TlsFiles
from hyperd.stream.logformats import FACILITIES, FORMATS, Origin, expand_tag

OPTIONS: Mapping[str, frozenset[str]] = {
    "json-file": frozenset({"max-size", "max-file"}),
    "cri": frozenset(),
    "none": frozenset(),
    "syslog": frozenset(
        {
            "syslog-address",
            "syslog-facility",
            "syslog-format",
            "syslog-tls-ca-cert",
            "syslog-tls-cert",
            "syslog-tls-key",
            "syslog-tls-skip-verify",
            "tag",
        }
    ),
    "journald": frozenset({"tag"}),
}
LOCAL_SYSLOG = "/dev/log"
SYSLOG_PORT = 514
SYSLOG_TLS_PORT = 6514  # RFC 5425, 4.1
DEFAULT_TAG = "{{.ID}}"
MAX_TAG = 128
_SIZE = re.compile(r"(\d{1,15})([kmg]?)b?", re.IGNORECASE)
_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


@dataclass(frozen=True, kw_only=True)
class LogSettings:
    """How one container's output is kept.

    Args:
        driver: a key of OPTIONS.
        path: of the log file, also where there is none. mark: of what is noted about it (cri).
        max_size: bytes of a file, 0 = never rotated. max_file: files that are kept.
        address: of the receiver (syslog, journald).
        facility: syslog's number. form: one of FORMATS. tag: a template, see ``expand_tag``.

    """

    driver: str
    path: Path
    mark: Path | None = None
    max_size: int = 0
    max_file: int = 1
    address: Address | None = None
    facility: int = FACILITIES["daemon"]
    form: str = FORMATS[0]
    tag: str = DEFAULT_TAG


def log_settings(config: Config, pod: PodSpec, pod_id: str, container_id: str, spec: ContainerSpec) -> LogSettings:
    """Merge the daemon's defaults and what the container asks for, or its pod where it asks for nothing.

    Errors: NotSupported, InvalidInput.
    """
    asked = pod.log if spec.log is None else spec.log
    driver = asked.type or config.log.driver
    if driver not in OPTIONS:
        raise NotSupported(f"the log driver {driver} is not supported", resolution="use " + ", ".join(OPTIONS))
    unknown = sorted(set(asked.config) - OPTIONS[driver])
    if unknown:
        known = ", ".join(sorted(OPTIONS[driver])) or "none"
        raise InvalidInput(f"unknown log option {unknown[0]!r} for the driver {driver}", details=f"it knows: {known}")
    options = {key: value for key, value in {**_defaults(config), **asked.config}.items() if key in OPTIONS[driver]}
    path = _path(config, pod_id, container_id, spec)
    if driver == "json-file":
        count = options["max-file"]
        if not count.isdigit() or not 1 <= int(count) <= 1000:
            raise InvalidInput(f"bad log option max-file {count!r}", resolution="a number from 1 to 1000")
        return LogSettings(driver=driver, path=path, max_size=parse_size(options["max-size"]), max_file=int(count))
    if driver == "cri":
        if not spec.log_path:
            raise InvalidInput("the log driver cri needs the path of a file", details="it is not rotated by hyperd")
        return LogSettings(driver=driver, path=path, mark=config.root / "pods" / pod_id / f"{container_id}-log.mark")
    if driver == "syslog":
        return LogSettings(
            driver=driver,
            path=path,
            address=_with_tls(parse_address(options["syslog-address"]), options),
            facility=_facility(options["syslog-facility"]),
            form=_form(options["syslog-format"]),
            tag=_tag(options["tag"]),
        )
    if driver == "journald":
        address = Address(kind="unix", path=str(config.log.journal_socket))
        return LogSettings(driver=driver, path=path, address=address, tag=_tag(options["tag"]))
    return LogSettings(driver=driver, path=path)


def check_receiver(settings: LogSettings) -> None:
    """Refuse a local receiver that this host does not have, and certificates that cannot be used.

    Errors: NotSupported, InvalidInput.
    """
    address = settings.address
    if address is not None and address.tls is not None:
        address.tls.context()
    if address is None or address.kind != "unix":
        return
    if not Path(address.path).is_socket():
        raise NotSupported(
            f"the log driver {settings.driver} cannot be used: this host has no socket {address.path}",
            resolution="start the service that owns it, name another address, or use json-file",
        )


def parse_size(text: str) -> int:
    """Read ``10m``, ``512k``, ``1g`` or bytes. Errors: InvalidInput."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidInput(f"bad log option max-size {text!r}", resolution="a number with k, m or g")
    return int(match[1]) * _UNITS[match[2].lower()]


def parse_address(text: str) -> Address:
    """Read ``unix:///path``, ``udp://``, ``tcp://`` or ``tcp+tls://host[:port]``; empty = the local one.

    Errors: InvalidInput.
    """
    if not text:
        return Address(kind="unix", path=LOCAL_SYSLOG)
    try:
        parts = urlsplit(text)
        usual = SYSLOG_TLS_PORT if parts.scheme == "tcp+tls" else SYSLOG_PORT
        host, port = parts.hostname or "", parts.port or usual
    except ValueError as error:
        raise InvalidInput(f"bad log option syslog-address {text[:100]!r}", details=str(error)) from None
    if parts.scheme in ("unix", "unixgram") and parts.path.startswith("/"):
        return Address(kind="unix", path=parts.path)
    if parts.scheme in ("udp", "tcp", "tcp+tls") and host and parts.path in ("", "/"):
        return Address(kind=parts.scheme, host=host, port=port)
    raise InvalidInput(
        f"bad log option syslog-address {text[:100]!r}",
        resolution="unix:///path, udp://host:port, tcp://host:port or tcp+tls://host:port",
    )


def _with_tls(address: Address, options: Mapping[str, str]) -> Address:
    """Add what TLS needs, which is checked whether the address uses it or not. Errors: InvalidInput."""
    paths: dict[str, Path | None] = {}
    for name in ("ca-cert", "cert", "key"):
        text = options[f"syslog-tls-{name}"]
        if text and not text.startswith("/"):
            raise InvalidInput(f"bad log option syslog-tls-{name} {text[:100]!r}", resolution="an absolute path")
        paths[name] = Path(text) if text else None
    if (paths["cert"] is None) != (paths["key"] is None):
        raise InvalidInput("the log options syslog-tls-cert and syslog-tls-key belong together")
    skip = options["syslog-tls-skip-verify"]
    if skip not in ("true", "false", "1", "0", ""):
        raise InvalidInput(f"bad log option syslog-tls-skip-verify {skip[:40]!r}", resolution="true or false")
    if address.kind != "tcp+tls":
        return address
    files = TlsFiles(ca=paths["ca-cert"], cert=paths["cert"], key=paths["key"], skip_verify=skip in ("true", "1"))
    return replace(address, tls=files)


def _defaults(config: Config) -> dict[str, str]:
    log = config.log
    return {
        "max-size": str(log.max_size),
        "max-file": str(log.max_file),
        "syslog-address": log.syslog_address,
        "syslog-facility": log.syslog_facility,
        "syslog-format": log.syslog_format,
        "syslog-tls-ca-cert": log.syslog_tls_ca_cert,
        "syslog-tls-cert": log.syslog_tls_cert,
        "syslog-tls-key": log.syslog_tls_key,
        "syslog-tls-skip-verify": "true" if log.syslog_tls_skip_verify else "false",
        "tag": log.tag,
    }


def _path(config: Config, pod_id: str, container_id: str, spec: ContainerSpec) -> Path:
    if spec.log_path:
        path = Path(spec.log_path)
        if not path.is_absolute():
            raise InvalidInput(f"logPath {spec.log_path!r} is not absolute")
        return path
    directory = config.log.directory or config.root / "pods"
    if config.log.pod_id_in_path or config.log.directory is None:
        directory /= pod_id
    return directory / f"{container_id}-json.log"


def _facility(text: str) -> int:
    if text.isdigit() and int(text) < 24:
        return int(text)
    if text not in FACILITIES:
        raise InvalidInput(f"bad log option syslog-facility {text[:40]!r}", resolution=", ".join(FACILITIES))
    return FACILITIES[text]


def _form(text: str) -> str:
    if text not in FORMATS:
        raise InvalidInput(f"bad log option syslog-format {text[:40]!r}", resolution=", ".join(FORMATS))
    return text


def _tag(text: str) -> str:
    words = Origin(container_id="", name="", pod_id="", image="", image_id="", host="").words()
    try:
        expand_tag(text, words)
    except KeyError as error:
        raise InvalidInput(f"bad log option tag: unknown word {error}", resolution=", ".join(words)) from None
    if len(text) > MAX_TAG or not text.isprintable():
        raise InvalidInput(f"bad log option tag {text[:40]!r}", resolution=f"at most {MAX_TAG} printable characters")
    return text or DEFAULT_TAG
