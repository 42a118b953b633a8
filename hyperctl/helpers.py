"""Credential helpers: programs `docker-credential-NAME` that keep credentials outside the configuration file.

The protocol is that of docker-credential-helpers: the operation is the argument, what it needs is on stdin, JSON comes
on stdout; a failure is a status other than 0 with the reason on stdout.
"""

from __future__ import annotations

import json
import os
import re

from hyperctl.api.errors import UsageProblem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_MISSING = "credentials not found"  # what every helper says, whatever it adds
# No password: the user name that says that the secret is an identity token ("Credential helper protocol" of Docker's
# documentation of `docker login`).
_TOKEN = "<token>"  # noqa: S105 - no password, see above


class HelperProblem(UsageProblem):
    """A helper is not there, fails, or says what no helper may say."""


def get(name: str, server: str) -> dict[str, str]:
    """Return username and password (or identitytoken) kept for a server; empty when there are none.

    Args:
        name: of the helper, what stands behind `docker-credential-`.
        server: the key the credentials were stored under.

    Raises:
        HelperProblem: the helper does not work.

    """
    status, said = _call(name, "get", server)
    if status:
        if _MISSING in said:
            return {}
        raise _failed(name, "get", said)
    data = _object(name, said)
    username, secret = data.get("Username"), data.get("Secret")
    if not isinstance(username, str) or not isinstance(secret, str):
        raise HelperProblem(f"docker-credential-{name} get: no Username and Secret in its answer")
    if username == _TOKEN:
        return {"identitytoken": secret}
    return {"username": username, "password": secret} if username else {}


def store(name: str, server: str, *, username: str, password: str) -> None:
    """Keep credentials under a server's name.

    Raises:
        HelperProblem: the helper does not work.

    """
    status, said = _call(name, "store", json.dumps({"ServerURL": server, "Username": username, "Secret": password}))
    if status:
        raise _failed(name, "store", said)


def erase(name: str, server: str) -> None:
    """Forget the credentials of a server; it does not matter whether there were any.

    Raises:
        HelperProblem: the helper does not work.

    """
    status, said = _call(name, "erase", server)
    if status and _MISSING not in said:
        raise _failed(name, "erase", said)


def servers(name: str) -> list[str]:
    """Return the servers a helper keeps credentials for.

    Raises:
        HelperProblem: the helper does not work.

    """
    status, said = _call(name, "list", "")
    if status:
        raise _failed(name, "list", said)
    return list(_object(name, said)) if said not in {"", "null"} else []


def _call(name: str, operation: str, given: str) -> tuple[int, str]:
    """Run a helper; what it writes to stderr goes to ours, and it may ask the user: there is no time limit."""
    import subprocess

    if not _NAME.fullmatch(name):
        raise HelperProblem(f"'{name}' can not be the name of a credential helper")
    program = f"docker-credential-{name}"
    try:
        done = subprocess.run([program, operation], input=given.encode(), stdout=subprocess.PIPE, check=False)
    except FileNotFoundError:
        raise HelperProblem(f"the credential helper {program} is not on the PATH") from None
    except OSError as error:
        raise HelperProblem(f"cannot run {program}: {os.strerror(error.errno or 0)}") from error
    return done.returncode, done.stdout.decode(errors="replace").strip()


def _object(name: str, said: str) -> dict[str, Any]:
    try:
        data = json.loads(said)
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise HelperProblem(f"docker-credential-{name}: its answer is not a JSON object")
    return data


def _failed(name: str, operation: str, said: str) -> HelperProblem:
    return HelperProblem(f"docker-credential-{name} {operation}: {said or 'failed and does not say why'}")
