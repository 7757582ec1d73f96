"""The server's side of TLS: credentials that follow their files."""

from pathlib import Path
from typing import NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from .watched import UnusableFileError, Watched


class _Files(NamedTuple):
    certificate: bytes
    private_key: bytes
    client_ca: bytes | None

    def configuration(self) -> grpc.ServerCertificateConfiguration:
        return grpc.ssl_server_certificate_configuration(
            [(self.private_key, self.certificate)], self.client_ca
        )


def credentials(certificate: Path, private_key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Credentials that are renewed with the files; open connections keep those that they began with.

    Raises `UnusableFileError`.
    """
    paths = [path for path in (certificate, private_key, client_ca) if path is not None]
    watched = Watched(paths, lambda: _read(certificate, private_key, client_ca))
    in_use = watched.current()

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        # gRPC asks at each handshake, in a thread of its own; None means that nothing has changed.
        nonlocal in_use
        current = watched.current()
        if current is in_use:
            return None
        in_use = current
        return current.configuration()

    return grpc.dynamic_ssl_server_credentials(
        in_use.configuration(),
        renewed,  # type: ignore[arg-type]  # the types do not know of None
        require_client_authentication=client_ca is not None,
    )


def _read(certificate: Path, private_key: Path, client_ca: Path | None) -> _Files:
    files = _Files(
        certificate.read_bytes(),
        private_key.read_bytes(),
        None if client_ca is None else client_ca.read_bytes(),
    )
    chain = _certificates(files.certificate, certificate)
    try:
        key = load_pem_private_key(files.private_key, password=None)
    except (ValueError, TypeError) as error:
        # A TypeError stands for a passphrase.
        raise UnusableFileError(f"{private_key} is not a private key in PEM without a passphrase.") from error
    if _public_bytes(key) != _public_bytes(chain[0]):
        raise UnusableFileError(f"{private_key} is not the key of the certificate {certificate}.")
    if client_ca is not None and files.client_ca is not None:
        _certificates(files.client_ca, client_ca)
    return files


def _certificates(pem: bytes, path: Path) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise UnusableFileError(f"{path} is not a certificate in PEM.") from error


def _public_bytes(holder: object) -> bytes:
    public = holder.public_key()  # type: ignore[attr-defined]
    encoded: bytes = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded
