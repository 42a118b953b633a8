"""Registry credentials in Docker's own file, `~/.docker/config.json` (or under DOCKER_CONFIG).

The file is shared with docker, skopeo and podman: everything else in it stays as it is.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Mapping

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SERVER = "https://index.docker.io/v1/"


def path() -> str:
    """Give the path of the file."""
    directory = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(directory, "config.json")


def registry_of(image: str) -> str:
    """Give the key of the registry an image's name points to: Docker's rule for the first component."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    if not named or first in {"docker.io", "index.docker.io"}:
        return DEFAULT_SERVER
    return first


def find(server: str) -> dict[str, str]:
    """Give username, password, email and serveraddress kept for a server; empty when there are none.

    Raises:
        UsageProblem: the file is there and not readable.

    """
    auths = _auths(_read())
    for key in (server, *(key for key in auths if _host(key) == _host(server))):
        entry = auths.get(key)
        if isinstance(entry, dict):
            found = _decode(entry)
            if found:
                return {**found, "serveraddress": server}
    return {}


def everything() -> dict[str, dict[str, str]]:
    """Give the credentials of all servers, by server.

    Raises:
        UsageProblem: the file is broken.

    """
    found = {server: find(server) for server in _auths(_read())}
    return {server: auth for server, auth in found.items() if auth}


def keep(auth: dict[str, str]) -> None:
    """Write credentials down under their serveraddress.

    Raises:
        UsageProblem: the file cannot be read or written.

    """
    data = _read()
    pair = f"{auth['username']}:{auth['password']}".encode()
    entry = {"auth": base64.b64encode(pair).decode()}
    if auth.get("email"):
        entry["email"] = auth["email"]
    data["auths"] = {**_auths(data), auth["serveraddress"]: entry}
    _write(data)


def forget(server: str) -> bool:
    """Remove the credentials of a server; say whether there were any.

    Raises:
        UsageProblem: the file cannot be read or written.

    """
    data = _read()
    auths = _auths(data)
    if server not in auths:
        return False
    data["auths"] = {key: entry for key, entry in auths.items() if key != server}
    _write(data)
    return True


def header(auth: Mapping[str, object]) -> str:
    """Give the value of X-Registry-Auth (or -Config): the URL-safe base64 of the JSON (RFC 4648, 5)."""
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode() if auth else ""


def _host(server: str) -> str:
    return server.partition("://")[2].partition("/")[0] or server.partition("/")[0]


def _auths(data: dict[str, Any]) -> dict[str, Any]:
    auths = data.get("auths")
    return auths if isinstance(auths, dict) else {}


def _decode(entry: dict[str, Any]) -> dict[str, str]:
    try:
        text = base64.b64decode(str(entry.get("auth", "")), validate=True).decode().rstrip("\0")
    except (binascii.Error, ValueError):
        return {}
    username, colon, password = text.partition(":")
    if not colon:
        return {}
    found = {"username": username, "password": password}
    if isinstance(entry.get("email"), str):
        found["email"] = entry["email"]
    return found


def _read() -> dict[str, Any]:
    try:
        with open(path(), "rb") as file:
            data = json.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageProblem(f"cannot read {path()}: {error}") from error
    if not isinstance(data, dict):
        raise UsageProblem(f"cannot read {path()}: it is not a JSON object")
    return data


def _write(data: dict[str, Any]) -> None:
    """Replace the file in one step; only its owner may read it."""
    import tempfile

    target = os.path.realpath(path())
    try:
        os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=".config.json.", dir=os.path.dirname(target))  # mode 0600
    except OSError as error:
        raise UsageProblem(f"cannot write {path()}: {error.strerror}") from error
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(data, file, indent="\t")
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise UsageProblem(f"cannot write {path()}: {error.strerror}") from error
