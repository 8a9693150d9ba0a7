"""In whose name a video is signed: the operator's certificate and private key, or test ones that this machine makes.

It needs `cryptography`, which comes with the extra `provenance`.
"""

from __future__ import annotations

import fcntl
import os
import stat
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from atenea import durable
from atenea.errors import PermanentError

UNTRUSTED = "atenea test certificate, not trusted"
"""The name in the certificates that `untrusted_signer` makes."""

_UNTRUSTED_DAYS = 30 * 365
_MOST_BYTES = 1 << 20
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_LEAST_RSA_BITS = 2048


@dataclass(frozen=True, kw_only=True)
class Signer:
    """What a video is signed with.

    Attributes:
        chain: certificates in PEM, the signer's own first.
        key: its private key, PKCS #8 in PEM.
        algorithm: of the signature, as C2PA calls it, such as "es256".
        name: what the certificate calls its subject.
    """

    chain: bytes
    key: bytes = field(repr=False)
    algorithm: str
    name: str


def load_signer(certificate: Path, private_key: Path, *, secret: bool = True) -> Signer:
    """The signer from PEM files.

    Args:
        certificate: its own, then those that lead to its root.
        private_key: of the certificate.
        secret: refuse a key that others may read.

    Raises:
        PermanentError: one cannot be read or used, others may read the key, or the two do not belong together.
    """
    chain = _chain(certificate)
    key = _private_key(private_key, secret=secret)
    own = chain[0]
    if _public(key.public_key()) != _public(own.public_key()):
        raise PermanentError(f"private_key: {private_key} is not the key of the certificate in {certificate}")
    now = datetime.now(UTC)
    if now > own.not_valid_after_utc:
        raise PermanentError(f"certificate: {certificate} expired on {own.not_valid_after_utc:%Y-%m-%d}; renew it")
    if now < own.not_valid_before_utc:
        raise PermanentError(f"certificate: {certificate} is not valid before {own.not_valid_before_utc:%Y-%m-%d}")
    return Signer(
        chain=b"".join(one.public_bytes(Encoding.PEM) for one in chain),
        key=_pkcs8(key),
        algorithm=_algorithm(key, private_key),
        name=_name(own),
    )


def untrusted_signer(folder: Path) -> Signer:
    """A signer whom nobody trusts, made when it is first asked for and kept in the folder, readable by us alone."""
    path = folder / "test-certificate.pem"
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # another job may be making it
        if not path.exists():
            durable.write_atomic(path, _untrusted(), 0o600)
    finally:
        os.close(descriptor)
    return load_signer(path, path, secret=False)  # some file systems show everything to everybody


def _chain(path: Path) -> list[x509.Certificate]:
    data, _ = _read(path, "certificate")
    try:
        return x509.load_pem_x509_certificates(data)
    except ValueError:
        raise PermanentError(f"certificate: {path} holds no certificate in PEM") from None


def _private_key(path: Path, *, secret: bool) -> PrivateKeyTypes:
    """The key; whether others may read it is judged as ssh does for its keys."""
    data, status = _read(path, "private_key")
    # The group's bits of a file that is not ours may stand for an access list, as in systemd's credentials.
    if secret and status.st_mode & (0o077 if status.st_uid == os.geteuid() else 0o007):
        raise PermanentError(f"private_key: others may read {path}; run: chmod 600 {path}")
    try:
        return load_pem_private_key(data, password=None)
    except TypeError:
        raise PermanentError(f"private_key: {path} is encrypted; store it without a password") from None
    except Exception:  # noqa: BLE001 - of many kinds, and none may bring what the file holds into a message
        raise PermanentError(f"private_key: {path} holds no private key in PEM") from None


def _read(path: Path, option: str) -> tuple[bytes, os.stat_result]:
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise PermanentError(f"{option}: {path} is no regular file")
            return file.read(_MOST_BYTES), status
    except OSError as error:
        raise PermanentError(f"{option}: {path} cannot be read: {error.strerror}") from None


def _algorithm(key: PrivateKeyTypes, path: Path) -> str:
    if isinstance(key, ec.EllipticCurvePrivateKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size >= _LEAST_RSA_BITS:
        return "ps256"
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise PermanentError(
        f"private_key: {path} is of a kind that C2PA does not know; use P-256, P-384, P-521, Ed25519,"
        f" or RSA with at least {_LEAST_RSA_BITS} bits"
    )


def _public(key: object) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))  # type: ignore[attr-defined]


def _pkcs8(key: PrivateKeyTypes) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _name(certificate: x509.Certificate) -> str:
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        for attribute in certificate.subject.get_attributes_for_oid(kind):
            return str(attribute.value)
    return certificate.subject.rfc4514_string()


def _untrusted() -> bytes:
    """A key, its certificate and that of the authority which issued it: C2PA refuses one that vouches for itself."""
    key, root_key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = _subject("root of the atenea test certificate")
    root = (
        _certificate(root_name, root_name, root_key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(sign_certificates=True), critical=True)
        .sign(root_key, SHA256())
    )
    own = (
        _certificate(_subject(UNTRUSTED), root_name, key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(sign_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
        .sign(root_key, SHA256())
    )
    return _pkcs8(key) + own.public_bytes(Encoding.PEM) + root.public_bytes(Encoding.PEM)


def _subject(common_name: str) -> x509.Name:
    names = ((NameOID.ORGANIZATION_NAME, UNTRUSTED), (NameOID.COMMON_NAME, common_name))
    return x509.Name([x509.NameAttribute(kind, value) for kind, value in names])


def _certificate(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=_UNTRUSTED_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
