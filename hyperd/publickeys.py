"""Public keys in PEM files, and whether a signature is by one of them.

ECDSA (P-256, P-384, P-521), Ed25519 and RSA as cosign uses them: over the SHA-256 of the data (for the larger curves
also the hash of their own size), Ed25519 over the data itself (RFC 8032), RSA with PKCS #1 v1.5 padding (RFC 8017).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hyperd.errors import InvalidInput

MAX_FILE = 64 * 1024  # bytes of a key's file
MIN_RSA = 2048  # bits
_BEGIN = b"-----BEGIN "


@dataclass(frozen=True, kw_only=True)
class PublicKey:
    """A key that signatures are checked with.

    Args:
        name: of its file, for people.
        fingerprint: ``sha256:<hex>`` of the key itself (SubjectPublicKeyInfo, DER), whatever its file is called.
        verifies: gets a signature and the data, and tells whether this key made it.

    """

    name: str
    fingerprint: str
    verifies: Callable[[bytes, bytes], bool]


def read_public_key(path: Path) -> PublicKey:
    """Read a key (PEM, "PUBLIC KEY" of RFC 7468).

    Raises:
        InvalidInput: the file cannot be read, or is not one public key of a kind that is known and strong enough.

    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise InvalidInput(f"cannot read the public key {path}", details=error.strerror or str(error)) from error
    if len(data) > MAX_FILE or data.count(_BEGIN) != 1:
        raise _bad(path, "it must have one PEM block")
    # Here, because only a daemon with a policy needs it: 10 MB of memory.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    try:
        key = load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _bad(path, str(error).partition("\n")[0][:200]) from error
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    fingerprint = f"sha256:{hashlib.sha256(der).hexdigest()}"
    return PublicKey(name=str(path), fingerprint=fingerprint, verifies=_checker(path, key))


def _checker(path: Path, key: object) -> Callable[[bytes, bytes], bool]:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512

    if isinstance(key, ed25519.Ed25519PublicKey):
        return _quietly(key.verify)
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA:
            raise _bad(path, f"an RSA key must have {MIN_RSA} bits, this has {key.key_size}")
        return _quietly(lambda signature, data: key.verify(signature, data, padding.PKCS1v15(), SHA256()))
    own = {"secp256r1": SHA256(), "secp384r1": SHA384(), "secp521r1": SHA512()}
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in own:
        usual = _quietly(lambda signature, data: key.verify(signature, data, ec.ECDSA(SHA256())))
        larger = _quietly(lambda signature, data: key.verify(signature, data, ec.ECDSA(own[key.curve.name])))
        return lambda signature, data: usual(signature, data) or larger(signature, data)
    raise _bad(path, "it must be an ECDSA (P-256, P-384, P-521), Ed25519 or RSA key")


def _quietly(verify: Callable[[bytes, bytes], None]) -> Callable[[bytes, bytes], bool]:
    from cryptography.exceptions import InvalidSignature

    def verifies(signature: bytes, data: bytes) -> bool:
        try:
            verify(signature, data)
        except InvalidSignature:
            return False
        return True

    return verifies


def _bad(path: Path, why: str) -> InvalidInput:
    return InvalidInput(
        f"{path} is not a public key that signatures can be checked with",
        details=why,
        resolution="use the .pub file that cosign makes (PEM, BEGIN PUBLIC KEY)",
    )
