"""Messages of logs that go elsewhere: syslog (RFC 3164, RFC 5424) and the journal's native protocol."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from hyperd.stream.logs import now_text
from hyperd.stream.remotelog import Entry

# RFC 5424, table 1.
FACILITIES = {
    name: number
    for number, name in enumerate(
        (
            "kern",
            "user",
            "mail",
            "daemon",
            "auth",
            "syslog",
            "lpr",
            "news",
            "uucp",
            "cron",
            "authpriv",
            "ftp",
        )
    )
} | {f"local{number}": 16 + number for number in range(8)}
SEVERITY = {"stdout": 6, "stderr": 3}  # informational, error
FORMATS = ("rfc3164", "rfc5424", "rfc5424micro")
_UNPRINTABLE = re.compile(rb"[\x00\n]")
_TOKEN = re.compile(r"[^\x21-\x7e]")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Whose log it is: the words of tags and the journal's fields."""

    container_id: str
    name: str
    pod_id: str
    image: str
    image_id: str
    host: str

    def words(self) -> dict[str, str]:
        """Return what ``{{.Word}}`` of a tag may name."""
        image_id = self.image_id.removeprefix("sha256:")
        return {
            "ID": self.container_id[:12],
            "FullID": self.container_id,
            "Name": self.name,
            "PodID": self.pod_id,
            "ImageName": self.image,
            "ImageID": image_id[:12],
            "ImageFullID": image_id,
            "DaemonName": "hyperd",
        }


def syslog_3164(origin: Origin, *, tag: str, facility: int, local: bool) -> Callable[[Entry], bytes]:
    """Return the encoder of RFC 3164 messages; ``local``: without the host's name, as ``syslog(3)`` writes them."""
    host = "" if local else f"{_token(origin.host, 255)} "
    name = _token(tag, 128)

    def encode(entry: Entry) -> bytes:
        when = datetime.fromtimestamp(entry.time_ns / 1e9, UTC).astimezone()
        stamp = f"{_MONTHS[when.month - 1]} {when.day:2d} {when:%H:%M:%S}"
        return f"<{_priority(facility, entry)}>{stamp} {host}{name}: ".encode("ascii") + _clean(entry.text)

    return encode


def syslog_5424(origin: Origin, *, tag: str, facility: int, micro: bool) -> Callable[[Entry], bytes]:
    """Return the encoder of RFC 5424 messages; the message id is the name of the stream."""
    host, name = _token(origin.host, 255), _token(tag, 48)
    ident = origin.container_id[:12]

    def encode(entry: Entry) -> bytes:
        stamp = now_text(entry.time_ns)
        stamp = f"{stamp[:26]}Z" if micro else f"{stamp[:19]}Z"
        head = f"<{_priority(facility, entry)}>1 {stamp} {host} {name} {ident} {entry.stream} - "
        return head.encode("ascii") + _clean(entry.text)

    return encode


def journal(origin: Origin, *, tag: str) -> Callable[[Entry], bytes]:
    """Return the encoder of the journal's native protocol (systemd, "Native Journal Protocol")."""
    fixed = {
        "SYSLOG_IDENTIFIER": tag,
        "CONTAINER_ID": origin.container_id[:12],
        "CONTAINER_ID_FULL": origin.container_id,
        "CONTAINER_NAME": origin.name,
        "CONTAINER_TAG": tag,
        "IMAGE_NAME": origin.image,
        "POD_ID": origin.pod_id,
        "HYPERD_PID": str(os.getpid()),
    }
    head = b"".join(_field(key, value.encode("utf-8", "replace")) for key, value in fixed.items())

    def encode(entry: Entry) -> bytes:
        more = b"CONTAINER_PARTIAL_MESSAGE=true\n" if entry.partial else b""
        stamp = b"CONTAINER_TIMESTAMP_EPOCH_NS=%d\n" % entry.time_ns
        priority = b"PRIORITY=%d\n" % SEVERITY[entry.stream]
        return head + priority + stamp + more + _field("MESSAGE", entry.text)

    return encode


def expand_tag(template: str, words: Mapping[str, str]) -> str:
    """Put words in place of ``{{.Word}}``. Errors: KeyError for an unknown one."""
    return re.sub(r"\{\{\s*\.(\w+)\s*\}\}", lambda found: words[found[1]], template)


def _field(key: str, value: bytes) -> bytes:
    if b"\n" in value:
        return key.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return key.encode() + b"=" + value + b"\n"


def _priority(facility: int, entry: Entry) -> int:
    return facility * 8 + SEVERITY[entry.stream]


def _clean(text: bytes) -> bytes:
    """Keep a message one message: newlines and NULs cannot be in it."""
    return _UNPRINTABLE.sub(b" ", text)


def _token(text: str, limit: int) -> str:
    return _TOKEN.sub("_", text)[:limit] or "-"


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
