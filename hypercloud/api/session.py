"""The page's sessions: a signed cookie that other sites cannot make use of.

Some requests of Shipyard's API change things by GET, so every request needs the CSRF token in a header, which no other
site can send. Browsers cannot set headers of websockets: there the Origin must be this server's own.
"""

from __future__ import annotations

import hmac
import secrets
from urllib.parse import urlsplit

from flask import request, session

from hypercloud.account.model import Identity
from hypercloud.api.context import cloud
from hypercloud.errors import Forbidden, Unauthorized

HEADER = "X-CSRF-Token"


def begin(identity: Identity) -> str:
    """Begin a session; return its CSRF token.

    Who signs in again, in another tab of the browser, has the same token there: the cookie is of both.
    """
    who = {"account": identity.account, "stamp": cloud().accounts.stamp(identity.account)}
    again = all(session.get(key) == value for key, value in who.items())
    token = str(session["csrf"]) if again else secrets.token_urlsafe(24)
    session.clear()
    session.permanent = True
    session.update(who, csrf=token)
    return token


def end() -> None:
    """End the session."""
    session.clear()


def identity_of_session() -> Identity | None:
    """Return who has signed in on the page; None when nobody has.

    Errors: Forbidden without the CSRF token, or from another site; Unauthorized when the password has changed since.
    """
    account = session.get("account")
    if not account:
        return None
    if request.headers.get("Upgrade", "").lower() == "websocket":
        if urlsplit(request.headers.get("Origin", "")).netloc != request.host:
            raise Forbidden("the request comes from another site")
    elif not hmac.compare_digest(request.headers.get(HEADER, "").encode(), str(session.get("csrf")).encode()):
        raise Forbidden("the request lacks the page's token", resolution=f"send {HEADER}")
    if session.get("stamp") != cloud().accounts.stamp(str(account)):
        raise Unauthorized("the session is over", resolution="sign in again")
    return cloud().accounts.identity_of(str(account))
