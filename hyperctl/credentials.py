"""Registry credentials in Docker's own file, `~/.docker/config.json` (or under DOCKER_CONFIG).

The file is shared with docker, skopeo and podman: everything else in it stays as it is. Where it names a credential
helper (`credHelpers` for single servers, `credsStore` for all others), that keeps them instead.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from collections.abc import Mapping

from hyperctl import helpers, output
from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_SERVER = "https://index.docker.io/v1/"
_HUB = {"docker.io", "index.docker.io", "registry-1.docker.io"}


def path() -> str:
    """Return the path of the file."""
    directory = os.environ.get("DOCKER_CONFIG") or os.path.join(os.path.expanduser("~"), ".docker")
    return os.path.join(directory, "config.json")


def registry_of(image: str) -> str:
    """Return the key of the registry an image's name points to: Docker's rule for the first component."""
    first, slash, _ = image.partition("/")
    named = slash and ("." in first or ":" in first or first == "localhost" or first != first.lower())
    if not named or first in {"docker.io", "index.docker.io"}:
        return DEFAULT_SERVER
    return first


def find(server: str) -> dict[str, str]:
    """Return what is kept for a server (username and password or identitytoken, email, serveraddress), if anything.

    A helper that does not work is told of on stderr, and the server asked without credentials: many images need none.

    Raises:
        UsageProblem: the file is there and not readable.

    """
    return _find(_read(), server)


def _find(data: dict[str, Any], server: str) -> dict[str, str]:
    auths, name = _auths(data), _helper(data, server)
    if name:
        try:
            for key in _spellings(auths, server):
                if found := helpers.get(name, key):
                    return {**found, **_email(auths.get(key)), "serveraddress": server}
        except helpers.HelperProblem as error:
            output.complain(f"WARNING: {error}")
    for key in _spellings(auths, server):
        if found := _decode(auths.get(key)):
            return {**found, "serveraddress": server}
    return {}


def everything() -> dict[str, dict[str, str]]:
    """Return the credentials of all servers, by server.

    Raises:
        UsageProblem: the file is broken.

    """
    data = _read()
    servers = _named(data)
    if name := _store(data):
        try:
            servers.update(dict.fromkeys(helpers.servers(name)))
        except helpers.HelperProblem as error:
            output.complain(f"WARNING: {error}")
    found = {server: _find(data, server) for server in servers}
    return {server: auth for server, auth in found.items() if auth}


def known() -> list[str]:
    """Return the servers the file itself names, without asking a helper.

    Raises:
        UsageProblem: the file is broken.

    """
    return list(_named(_read()))


def keep(auth: dict[str, str]) -> str:
    """Write credentials down under their serveraddress; give where: the file's path, or the helper's name.

    Raises:
        UsageProblem: the file cannot be read or written, or the helper does not work.

    """
    data, server = _read(), auth["serveraddress"]
    entry: dict[str, str] = {}
    if name := _helper(data, server):
        helpers.store(name, server, username=auth["username"], password=auth["password"])
    else:
        pair = f"{auth['username']}:{auth['password']}".encode()
        entry["auth"] = base64.b64encode(pair).decode()
    if auth.get("email"):
        entry["email"] = auth["email"]
    data["auths"] = {**_auths(data), server: entry}
    _write(data)
    return f"docker-credential-{name}" if name else path()


def forget(server: str) -> bool:
    """Remove the credentials of a server; say whether there were any.

    Raises:
        UsageProblem: the file cannot be read or written, or the helper does not work.

    """
    data = _read()
    auths, name = _auths(data), _helper(data, server)
    there = server in auths
    if name:
        for key in _spellings(auths, server):
            if helpers.get(name, key):
                helpers.erase(name, key)
                there = True
    if server in auths:
        data["auths"] = {key: entry for key, entry in auths.items() if key != server}
        _write(data)
    return there


def header(auth: Mapping[str, object]) -> str:
    """Return the value of X-Registry-Auth (or -Config): the URL-safe base64 of the JSON (RFC 4648, 5)."""
    return base64.urlsafe_b64encode(json.dumps(auth).encode()).decode() if auth else ""


def _host(server: str) -> str:
    """Return the host and port of a server however it is spelled; Docker Hub has several names."""
    host = server.partition("://")[2].partition("/")[0] or server.partition("/")[0]
    return "index.docker.io" if host in _HUB else host


def _auths(data: dict[str, Any]) -> dict[str, Any]:
    auths = data.get("auths")
    return auths if isinstance(auths, dict) else {}


def _spellings(auths: Mapping[str, Any], server: str) -> list[str]:
    """Return the keys under which a server's credentials may be: its own, and others for the same host."""
    return [server, *(key for key in auths if key != server and _host(key) == _host(server))]


def _helpers(data: dict[str, Any]) -> dict[str, Any]:
    found = data.get("credHelpers")
    return found if isinstance(found, dict) else {}


def _named(data: dict[str, Any]) -> dict[str, None]:
    """Return the servers that the file names, in order."""
    return dict.fromkeys([*_auths(data), *_helpers(data)])


def _store(data: dict[str, Any]) -> str:
    name = data.get("credsStore")
    return name if isinstance(name, str) else ""


def _helper(data: dict[str, Any], server: str) -> str:
    """Return the name of the helper that keeps a server's credentials: its own one, else that of all; or nothing."""
    for key, name in _helpers(data).items():
        if isinstance(name, str) and name and (key == server or _host(key) == _host(server)):
            return name
    return _store(data)


def _email(entry: object) -> dict[str, str]:
    email = entry.get("email") if isinstance(entry, dict) else None
    return {"email": email} if isinstance(email, str) else {}


def _decode(entry: object) -> dict[str, str]:
    if not isinstance(entry, dict):
        return {}
    token = entry.get("identitytoken")
    if isinstance(token, str) and token:
        return {"identitytoken": token, **_email(entry)}
    try:
        text = base64.b64decode(str(entry.get("auth", "")), validate=True).decode().rstrip("\0")
    except (binascii.Error, ValueError):
        return {}
    username, colon, password = text.partition(":")
    if not colon:
        return {}
    return {"username": username, "password": password, **_email(entry)}


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
