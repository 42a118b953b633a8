"""Passwords' hashes (bcrypt), and secrets that are only kept as digests."""

from __future__ import annotations

import base64
import hashlib
import secrets

import bcrypt

ROUNDS = 11  # about 0.1 s on a small machine
LONGEST = 1024  # characters


def hash_password(password: str) -> str:
    """Return the bcrypt hash of a password of any length (bcrypt itself takes 72 bytes)."""
    return bcrypt.hashpw(_digest(password), bcrypt.gensalt(ROUNDS)).decode()


def check_password(password: str, hashed: str) -> bool:
    """Say whether a password belongs to a hash; no hash costs the same time as a wrong password."""
    try:
        return bcrypt.checkpw(_digest(password), (hashed or NOBODY).encode()) and bool(hashed)
    except ValueError:
        return False


def _digest(password: str) -> bytes:
    return base64.b64encode(hashlib.sha256(password.encode("utf-8", "surrogatepass")).digest())


def new_secret() -> str:
    """Return a new token: 43 letters, no colon."""
    return secrets.token_urlsafe(32)


def digest_of(secret: str) -> str:
    """Return what is kept of a token. It has 256 random bits: a plain digest cannot be guessed."""
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


NOBODY = hash_password(secrets.token_hex(16))
