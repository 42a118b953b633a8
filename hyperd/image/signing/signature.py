"""The policy on signatures: whose images may be pulled and used, and what a good signature is.

Signatures are those of cosign: a "simple signing" payload (containers/image, docs/containers-signature.5.md, "JSON
data format") and a signature over its bytes, or a bundle (``hyperd.image.signing.bundle``). Where they are found:
``hyperd.image.signing.store``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import structlog
from sqlalchemy import select

from hyperd.config.model import SignatureConfig
from hyperd.db.models import ImageRow, ImageSignatureRow
from hyperd.db.session import Database
from hyperd.errors import Forbidden, InvalidInput
from hyperd.image.signing.bundle import signed_digests
from hyperd.image.signing.store import Signed, signatures_of
from hyperd.publickeys import PublicKey, read_public_key
from hyperd.registry.client import RawManifest, RegistryClient
from hyperd.registry.reference import Reference

log = structlog.get_logger(__name__)

PAYLOAD_TYPE = "cosign container image signature"
_BUNDLED = "+bundle"  # behind the key of a row: a rule that accepts no bundles any more does not count it


class Flaw(IntEnum):
    """Why a signature does not count; of several signatures the one that came furthest is told."""

    MISSING = 0
    KEY = 1  # by none of the keys that the policy names
    PAYLOAD = 2  # signed is something else than an image
    DIGEST = 3  # signed is another image
    REPOSITORY = 4  # signed is this image, for another repository
    NAMELESS = 5  # signed is this image, in a bundle, which names no repository
    UNCHECKED = 6  # it is here, but was not pulled under this policy


_WORDS = {
    Flaw.MISSING: "it has no signature",
    Flaw.KEY: "it is not signed by a key that the policy names",
    Flaw.PAYLOAD: "what is signed is not an image",
    Flaw.DIGEST: "the signature is for another image",
    Flaw.REPOSITORY: "the signature is for another repository",
    Flaw.NAMELESS: "a sigstore bundle names no repository, and the rule does not accept bundles",
    Flaw.UNCHECKED: "its signature has not been checked",
}


class SignatureRefused(Forbidden):
    """The policy on signatures does not let an image in.

    Args:
        name: of the image.
        flaw: why.
        details: what was seen.
        resolution: what can be done.

    """

    def __init__(self, name: str, flaw: Flaw, *, details: str = "", resolution: str = "") -> None:
        super().__init__(
            f"the policy on signatures refuses {name}: {_WORDS[flaw]}", details=details, resolution=resolution
        )
        self.flaw = flaw


@dataclass(frozen=True, kw_only=True)
class Demand:
    """What a rule asks of signatures.

    Args:
        keys: of which one must have signed; none = anything is accepted.
        bundles: whether a sigstore bundle counts, though it names no repository.

    """

    keys: tuple[PublicKey, ...] = ()
    bundles: bool = False

    def counts(self, mark: str) -> bool:
        """Return whether what was noted of an image (``Approval.mark``) is enough."""
        forms = ("", _BUNDLED) if self.bundles else ("",)
        return mark in {f"{key.fingerprint}{form}" for key in self.keys for form in forms}


@dataclass(frozen=True, kw_only=True)
class Approval:
    """A signature that counts: the manifest's ``digest``, the ``repository`` it is for, whose it is, and its form."""

    digest: str
    repository: str
    key: PublicKey
    bundled: bool = False

    @property
    def mark(self) -> str:
        """What is kept of it: ``sha256:<hex>`` of the key, and whether a bundle had it."""
        return f"{self.key.fingerprint}{_BUNDLED if self.bundled else ''}"


class SignaturePolicy:
    """What must be signed by whom.

    Args:
        config: the rules.

    Raises:
        InvalidInput: a key cannot be read.

    """

    def __init__(self, config: SignatureConfig) -> None:
        required = config.keys if config.default == "require" else ()
        self._default = Demand(keys=_keys(required), bundles=config.bundles)
        self._rules = [(rule.prefix, Demand(keys=_keys(rule.require), bundles=rule.bundles)) for rule in config.rule]

    @property
    def accepts_anything(self) -> bool:
        """Whether nothing has to be signed."""
        return not self._default.keys and not any(demand.keys for _, demand in self._rules)

    def demand(self, repository: str) -> Demand:
        """Return what is asked of the images of a repository.

        Args:
            repository: the whole name, with its registry; empty for an image without a name.

        """
        fitting = [(prefix, demand) for prefix, demand in self._rules if f"{repository}/".startswith(f"{prefix}/")]
        return max(fitting, key=lambda rule: len(rule[0]))[1] if fitting else self._default


class SignatureGuard:
    """Holds images to the policy: while they are pulled, and when containers and builds use them. Safe for threads.

    Args:
        config: the rules.
        database: keeps what was checked.

    Raises:
        InvalidInput: a key cannot be read.

    """

    def __init__(self, *, config: SignatureConfig, database: Database) -> None:
        self._policy = SignaturePolicy(config)
        self._database = database

    @property
    def accepts_anything(self) -> bool:
        """Whether nothing has to be signed."""
        return self._policy.accepts_anything

    def reconfigure(self, config: SignatureConfig) -> None:
        """Use other rules from now on; keys are read again. Errors: InvalidInput, and the old rules stay."""
        self._policy = SignaturePolicy(config)

    def check_pull(
        self, reference: Reference, client: RegistryClient, top: RawManifest, chosen: Callable[[], RawManifest]
    ) -> Approval | None:
        """See whether an image may come in, before anything of it is fetched; None when nothing has to be signed.

        Args:
            reference: what is pulled.
            client: the repository that has it.
            top: the manifest or index that the reference names.
            chosen: gives this host's manifest of an index; its signature does as well.

        Raises:
            SignatureRefused: no signature counts.
            Whatever a registry's answers raise.

        """
        repository = reference.canonical_repository
        demand = self._policy.demand(repository)
        if not demand.keys:
            return None
        seen: list[tuple[Flaw, str]] = []
        for digest in _digests(top, chosen):
            signatures = signatures_of(client, digest)
            found = approve(signatures, digest=digest, repository=repository, demand=demand, seen=seen)
            if found is not None:
                log.info("image.signed", image=str(reference), digest=digest, key=found.key.name)
                return found
        flaw, details = max(seen, default=(Flaw.MISSING, top.digest))
        resolution = "sign it, or change [images.signatures]"
        if flaw is Flaw.NAMELESS:
            resolution = "say bundles = true in the rule if its keys sign nothing but images of this prefix"
        raise SignatureRefused(str(reference), flaw, details=details, resolution=resolution)

    def note(self, image_id: str, approval: Approval | None) -> None:
        """Keep what was checked of an image that has come."""
        if approval is None:
            return
        row = ImageSignatureRow(
            image_id=image_id,
            repository=approval.repository,
            key=approval.mark,
            digest=approval.digest,
            checked_at=time.time(),
        )
        with self._database.session() as session:
            if session.get(ImageRow, image_id) is not None:
                session.merge(row)

    def check_use(self, image_id: str, repositories: Collection[str], *, name: str) -> None:
        """See whether an image that is here may be used under a name; by its id, under any of its names.

        Args:
            image_id: the image.
            repositories: whole names with their registries; none for an image without a name.
            name: for people.

        Raises:
            SignatureRefused: its signature must be checked first, by a pull.

        """
        policy = self._policy
        if policy.accepts_anything:
            return
        wanted = {repository: policy.demand(repository) for repository in repositories or ("",)}
        if not all(demand.keys for demand in wanted.values()):
            return
        for repository, mark in self._noted(image_id):
            if repository in wanted and wanted[repository].counts(mark):
                return
        resolution = "pull it, which checks its signature" if repositories else "use an image that was pulled"
        raise SignatureRefused(name, Flaw.UNCHECKED, resolution=f"{resolution}, or change [images.signatures]")

    def _noted(self, image_id: str) -> Sequence[tuple[str, str]]:
        wanted = select(ImageSignatureRow).where(ImageSignatureRow.image_id == image_id)
        with self._database.reading() as session:
            return [(row.repository, row.key) for row in session.scalars(wanted)]


def approve(
    signatures: Iterable[Signed],
    *,
    digest: str,
    repository: str,
    demand: Demand,
    seen: list[tuple[Flaw, str]],
) -> Approval | None:
    """Return the first signature that counts; what is wrong with those before it is added to ``seen``.

    Args:
        signatures: as they are found.
        digest: of the manifest that they must be for.
        repository: the whole name that they must be for.
        demand: whose they must be, and of which form.
        seen: flaws, with what was seen.

    """
    for signed in signatures:
        message = signed.payload if signed.message is None else signed.message
        key = next((key for key in demand.keys if key.verifies(signed.signature, message)), None)
        if key is None:
            seen.append((Flaw.KEY, f"{signed.origin} is not by one of {', '.join(key.name for key in demand.keys)}"))
            continue
        if signed.message is None:
            flaw = check_payload(signed.payload, digest=digest, repository=repository)
        else:
            flaw = check_statement(signed.payload, digest=digest, accepted=demand.bundles)
        if flaw is None:
            return Approval(digest=digest, repository=repository, key=key, bundled=signed.message is not None)
        seen.append((flaw[0], f"{signed.origin}: {flaw[1]}"))
    return None


def check_payload(payload: bytes, *, digest: str, repository: str) -> tuple[Flaw, str] | None:
    """Compare what is signed with what is pulled; None when it is the same, else what is wrong."""
    try:
        data = json.loads(payload)
    except (ValueError, RecursionError):
        return Flaw.PAYLOAD, "not JSON"
    critical = _member(data, "critical")
    if _member(critical, "type") != PAYLOAD_TYPE:
        return Flaw.PAYLOAD, f"its type is {str(_member(critical, 'type'))[:100]!r}"
    signed = _member(_member(critical, "image"), "docker-manifest-digest")
    if signed != digest:
        return Flaw.DIGEST, f"{str(signed)[:100]}, not {digest}"
    named = _member(_member(critical, "identity"), "docker-reference")
    try:
        same = isinstance(named, str) and Reference.parse(named).canonical_repository == repository
    except InvalidInput:
        same = False
    return None if same else (Flaw.REPOSITORY, f"{str(named)[:300]!r}, not {repository}")


def check_statement(payload: bytes, *, digest: str, accepted: bool) -> tuple[Flaw, str] | None:
    """Compare what a bundle signs with what is pulled; None when it is the same, else what is wrong.

    Args:
        payload: the bundle's statement.
        digest: of the manifest that it must be for.
        accepted: whether bundles count.

    """
    digests = signed_digests(payload)
    if digests is None:
        return Flaw.PAYLOAD, "not a statement that an image is signed"
    if digest not in digests:
        return Flaw.DIGEST, f"{', '.join(digests)[:100] or 'nothing'}, not {digest}"
    return None if accepted else (Flaw.NAMELESS, "the image is right, its repository is not told")


def _digests(top: RawManifest, chosen: Callable[[], RawManifest]) -> Iterable[str]:
    yield top.digest
    inner = chosen().digest
    if inner != top.digest:
        yield inner


def _keys(paths: Sequence[Any]) -> tuple[PublicKey, ...]:
    return tuple(read_public_key(path) for path in paths)


def _member(value: object, key: str) -> object:
    return value.get(key) if isinstance(value, dict) else None
