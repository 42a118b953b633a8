"""The keys with which a client leaves a terminal, such as ``ctrl-p,ctrl-q`` (the spelling of Docker's clients)."""

from __future__ import annotations

from hyperd.errors import InvalidInput

DEFAULT = b"\x10\x11"  # ctrl-p ctrl-q
MAX_KEYS = 16
_SPECIAL = {"@": 0, "[": 27, "\\": 28, "]": 29, "^": 30, "_": 31}


def parse_keys(text: str) -> bytes:
    """Return the bytes of a sequence of keys: single characters and ``ctrl-X``, joined by commas; empty = default.

    Errors: InvalidInput.
    """
    if not text:
        return DEFAULT
    keys = text.split(",")
    if len(keys) > MAX_KEYS:
        raise InvalidInput(f"over {MAX_KEYS} detach keys")
    return bytes(_key(key) for key in keys)


def _key(key: str) -> int:
    name = key.lower()
    if len(key) == 1 and key.isascii():
        return ord(key)
    last = name.removeprefix("ctrl-")
    if name.startswith("ctrl-") and len(last) == 1:
        if "a" <= last <= "z":
            return ord(last) - ord("a") + 1
        if last in _SPECIAL:
            return _SPECIAL[last]
    raise InvalidInput(
        f"unknown detach key {key[:20]!r}", resolution="use single characters or ctrl- and one of a-z @ [ \\ ] ^ _"
    )


class KeyWatch:
    """Looks for a sequence of keys in what a client types, wherever the pieces are cut.

    Args:
        keys: the sequence.
        holds: what may be its beginning is kept until the next key tells; else it is passed on at once, so that a key
            that a program needs, too, works without delay.

    """

    def __init__(self, keys: bytes, *, holds: bool = False) -> None:
        self._keys = keys
        self._holds = holds
        self._last = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """Return what is to be passed on, and whether the sequence is complete."""
        joined = self._last + data
        at = joined.find(self._keys)
        if at >= 0:
            new = at if self._holds else max(0, at - len(self._last))
            self._last = b""
            return (joined if self._holds else data)[:new], True
        if self._holds:
            kept = self._begun(joined)
            self._last = joined[len(joined) - kept :]
            return joined[: len(joined) - kept], False
        self._last = joined[-(len(self._keys) - 1) :] if len(self._keys) > 1 else b""
        return data, False

    def rest(self) -> bytes:
        """Return what is kept: no key follows it."""
        kept, self._last = (self._last if self._holds else b""), b""
        return kept

    def _begun(self, text: bytes) -> int:
        """Return how many bytes at the end of a text may be the beginning of the sequence."""
        longest = min(len(self._keys) - 1, len(text))
        return next((size for size in range(longest, 0, -1) if text.endswith(self._keys[:size])), 0)
