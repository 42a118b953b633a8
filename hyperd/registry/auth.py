"""Credentials of registries and the two ways to show them.

The client's form is Docker's AuthConfig (``X-Registry-Auth``: URL-safe base64 of JSON). The registry's form is the
challenge of RFC 9110 section 11.6.1 with the schemes ``Basic`` and ``Bearer`` (distribution's token specification).
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field

MAX_HEADER = 64 * 1024  # bytes of an X-Registry-Auth header
MAX_CHALLENGE = 16 * 1024  # characters of a WWW-Authenticate header
DEFAULT_LIFETIME = 60.0  # seconds, when a token answer names none (distribution token specification)
MAX_LIFETIME = 3600.0
_MAX_TOKENS = 1024
_FIELDS = ("username", "password", "auth", "email", "serveraddress", "identitytoken", "registrytoken")
_SCHEME = re.compile(r"\s*([A-Za-z]+)(?:\s+|$)")
_PARAMETER = re.compile(r'\s*([A-Za-z_]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s",]+))\s*(?:,|$)')


@dataclass(frozen=True, kw_only=True)
class AuthConfig:
    """Docker's AuthConfig; empty strings are absent values."""

    username: str = ""
    password: str = field(default="", repr=False)
    auth: str = field(default="", repr=False)
    email: str = ""
    serveraddress: str = ""
    identitytoken: str = field(default="", repr=False)
    registrytoken: str = field(default="", repr=False)

    @classmethod
    def from_header(cls, header: str | None) -> AuthConfig | None:
        """Read an ``X-Registry-Auth`` header.

        Returns:
            None for a missing or unreadable header and for one without credentials: the caller is anonymous then.

        """
        if not header or len(header) > MAX_HEADER:
            return None
        text = header.strip().replace("+", "-").replace("/", "_")
        try:
            data = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
        except (ValueError, RecursionError):
            return None
        return cls.from_mapping(data) if isinstance(data, dict) else None

    @classmethod
    def from_mapping(cls, data: Mapping[str, object]) -> AuthConfig | None:
        """Read decoded JSON, keys in any case as Go's decoder does; None when nothing usable is inside."""
        lowered = {str(key).lower(): value for key, value in data.items()}
        values = {name: value for name in _FIELDS if isinstance(value := lowered.get(name, ""), str)}
        found = cls(**values)
        try:
            if not found.username and found.auth:
                found = _split_auth(found)
            # What no header can carry is no credential.
            f"{found.username}:{found.password}".encode()
            f"{found.identitytoken}{found.registrytoken}".encode("ascii")
        except ValueError:  # of Unicode and of base64, too
            return None
        return found if found.has_credentials else None

    @property
    def has_credentials(self) -> bool:
        """Whether there is anything to show to a registry."""
        return bool(self.username or self.identitytoken or self.registrytoken)

    @property
    def basic(self) -> str:
        """The value of a Basic ``Authorization`` header (RFC 7617), empty without a user name."""
        if not self.username:
            return ""
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


def _split_auth(config: AuthConfig) -> AuthConfig:
    try:
        user, colon, password = base64.b64decode(config.auth, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return config
    if not colon:
        return config
    return AuthConfig(
        username=user,
        password=password.rstrip("\0"),
        email=config.email,
        serveraddress=config.serveraddress,
        identitytoken=config.identitytoken,
        registrytoken=config.registrytoken,
    )


@dataclass(frozen=True)
class Challenge:
    """One challenge: the scheme in lower case and its parameters."""

    scheme: str
    parameters: Mapping[str, str]


def parse_challenges(header: str) -> list[Challenge]:
    """Read a ``WWW-Authenticate`` header (RFC 9110 section 11.6.1); what cannot be read is left out."""
    found: list[Challenge] = []
    text, position = header[:MAX_CHALLENGE], 0
    while (scheme := _SCHEME.match(text, position)) is not None:
        position = scheme.end()
        parameters: dict[str, str] = {}
        while (parameter := _PARAMETER.match(text, position)) is not None:
            quoted, plain = parameter[2], parameter[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
            parameters[parameter[1].lower()] = value
            position = parameter.end()
        found.append(Challenge(scheme[1].lower(), parameters))
    return found


class TokenCache:
    """Bearer tokens by realm, service, scope and user, each until shortly before it expires. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[tuple[str, ...], tuple[str, float]] = {}

    def get(self, key: tuple[str, ...]) -> str:
        """Return the token of a key, empty when there is none that is still good."""
        with self._lock:
            token, until = self._tokens.get(key, ("", 0.0))
        return token if time.monotonic() < until else ""

    def put(self, key: tuple[str, ...], token: str, lifetime: float) -> None:
        """Keep a token.

        Args:
            key: realm, service, scope and a hash of the credentials.
            token: the token.
            lifetime: seconds it is good for; a tenth is taken off for clocks and slow requests.

        """
        until = time.monotonic() + min(lifetime, MAX_LIFETIME) * 0.9
        with self._lock:
            if len(self._tokens) >= _MAX_TOKENS:
                self._tokens.clear()
            self._tokens[key] = (token, until)

    def drop(self, key: tuple[str, ...]) -> None:
        """Forget a token that a registry refused."""
        with self._lock:
            self._tokens.pop(key, None)
