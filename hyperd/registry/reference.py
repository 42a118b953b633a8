"""Names of images, read with the rules of the distribution project.

The grammar is that of ``distribution/reference`` (https://github.com/distribution/reference), which the Docker command
line and every registry follow: ``[domain/]path[:tag][@digest]``; a first part without a dot, a colon or upper-case
letters that is not ``localhost`` belongs to the path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from hyperd.errors import InvalidInput

DOCKER_DOMAIN = "docker.io"
_LEGACY_DOMAIN = "index.docker.io"
_OFFICIAL = "library/"
DEFAULT_TAG = "latest"
MAX_NAME = 255  # characters of the path; the domain does not count
MAX_TEXT = 1024  # a whole reference: name, tag of 128 and digest fit

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_DOMAIN = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?", re.ASCII)
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)
_HEX_SIZE = {"sha256": 64, "sha384": 96, "sha512": 128}
_DIGEST = re.compile(r"(sha256|sha384|sha512):([a-f0-9]+)", re.ASCII)
_IDENTIFIER = re.compile(r"[a-f0-9]{64}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A checked name of an image.

    Args:
        domain: ``docker.io``, ``host``, ``host:port`` or ``[v6]:port``.
        path: the repository inside the registry, ``library/busybox``.
        tag: empty when the text had none.
        digest: ``sha256:<hex>``, empty when the text had none.
        default_domain: the domain that is left out of familiar names.

    """

    domain: str
    path: str
    tag: str = ""
    digest: str = ""
    default_domain: str = DOCKER_DOMAIN

    @classmethod
    def parse(cls, text: str, *, default_domain: str = DOCKER_DOMAIN) -> Reference:
        """Read a name as a user types it.

        Args:
            text: ``busybox``, ``host:5000/a/b:tag``, ``a@sha256:<hex>``.
            default_domain: where names without a domain live; only docker.io's one-part paths get ``library/``.

        Raises:
            InvalidInput: the text is not a reference.

        """
        if not text or len(text) > MAX_TEXT:
            raise _invalid(text, "empty or too long")
        if _IDENTIFIER.fullmatch(text):
            raise _invalid(text, "64 hexadecimal digits are an image id, not a name")
        rest, at, digest = text.partition("@")
        if at and not is_digest(digest):
            raise _invalid(text, "bad digest")
        domain, rest = _split_domain(rest, default_domain)
        path, colon, tag = rest.partition(":")
        if colon and not _TAG.fullmatch(tag):
            raise _invalid(text, "bad tag")
        if domain == DOCKER_DOMAIN and "/" not in path:
            path = _OFFICIAL + path
        if path != path.lower():
            raise _invalid(text, "repository name must be lowercase")
        if not _DOMAIN.fullmatch(domain) or not _PATH.fullmatch(path):
            raise _invalid(text, "")
        if len(path) > MAX_NAME:
            raise _invalid(text, f"repository name must not be more than {MAX_NAME} characters")
        return cls(domain=domain, path=path, tag=tag, digest=digest, default_domain=default_domain)

    @property
    def repository(self) -> str:
        """The familiar name without tag and digest: ``busybox``, ``host:5000/a/b``.

        It means this repository alone: the domain stays where the path would be taken for one, or for an id.
        """
        if self.domain != self.default_domain:
            return self.canonical_repository
        path = self.path
        if self.domain == DOCKER_DOMAIN and path.startswith(_OFFICIAL) and "/" not in path[len(_OFFICIAL) :]:
            path = path[len(_OFFICIAL) :]
        return self.canonical_repository if _split_domain(path, "")[0] or _IDENTIFIER.fullmatch(path) else path

    @property
    def canonical_repository(self) -> str:
        """The whole name without tag and digest: ``docker.io/library/busybox``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar(self) -> str:
        """The name as the Docker command line prints it."""
        return self.repository + self._suffix

    @property
    def canonical(self) -> str:
        """The whole name with tag and digest."""
        return self.canonical_repository + self._suffix

    @property
    def target(self) -> str:
        """What is asked of the registry: the digest, else the tag, else ``latest``."""
        return self.digest or self.tag or DEFAULT_TAG

    @property
    def _suffix(self) -> str:
        return (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")

    def with_default_tag(self) -> Reference:
        """Return the same reference with ``latest`` when it has neither tag nor digest."""
        if self.tag or self.digest:
            return self
        return replace(self, tag=DEFAULT_TAG)

    def with_tag(self, tag_or_digest: str) -> Reference:
        """Return the reference with another tag (or digest) in place of its own.

        Raises:
            InvalidInput: it is neither a tag nor a digest.

        """
        if is_digest(tag_or_digest):
            return replace(self, tag="", digest=tag_or_digest)
        if not _TAG.fullmatch(tag_or_digest):
            raise _invalid(f"{self.repository}:{tag_or_digest}", "bad tag")
        return replace(self, tag=tag_or_digest, digest="")

    def __str__(self) -> str:
        return self.familiar


def is_digest(text: str) -> bool:
    """Tell whether a text is a digest of a known algorithm and length (OCI image-spec, descriptor.md)."""
    match = _DIGEST.fullmatch(text)
    return match is not None and len(match[2]) == _HEX_SIZE[match[1]]


def _split_domain(text: str, default_domain: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    plain = first != "localhost" and not any(c in first for c in ".:") and first == first.lower()
    if not slash or plain:
        return default_domain, text
    return (DOCKER_DOMAIN if first == _LEGACY_DOMAIN else first), rest


def _invalid(text: str, why: str) -> InvalidInput:
    shown = text if len(text) <= MAX_TEXT else text[:64] + "..."
    return InvalidInput(
        f"invalid reference format: {shown!r}",
        details=why,
        resolution="use [host[:port]/]name[:tag][@sha256:digest]",
    )
