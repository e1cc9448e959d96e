"""TLS between processes of one session, and nobody else: all have one key, which follows from the session's secret.

The certificate follows from it, too, so each process makes the same by itself: Ed25519 signs without dice. Either end
shows it and takes no other, so that whoever completes the handshake has the session's secret. Traffic has keys of its
own (TLS 1.3), so a secret that is lost later opens nothing that was recorded before.
"""

from __future__ import annotations

import datetime
import os
import ssl
import tempfile
from hashlib import blake2b

_NAME = "sparkray session"


def contexts(secret: bytes) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For the end that accepts, and for the one that connects. Takes a few hundred milliseconds at first.

    Args:
        secret: of the session; what is derived from it tells nothing of it.

    Raises:
        ImportError: the package `cryptography` is not installed.
    """
    key, certificate = _identity(blake2b(secret, digest_size=32, person=b"sparkray-tls").digest())
    found = []
    for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT):
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False  # it is the session's, not a host's
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=certificate.decode())
        _load(context, key + certificate)
        found.append(context)
    return found[0], found[1]


def _identity(seed: bytes) -> tuple[bytes, bytes]:
    """Key and certificate, as PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.from_private_bytes(seed)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _NAME)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime.datetime(2000, 1, 1))  # a session's clocks may differ; its secret is what expires
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .sign(key, None)
    )
    encoded = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return encoded, certificate.public_bytes(serialization.Encoding.PEM)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """`ssl` takes a key from a file only: one without a name where the system has those."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("sparkray-tls")
        try:
            os.write(descriptor, pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return
    with tempfile.NamedTemporaryFile() as file:  # readable by this user only
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
