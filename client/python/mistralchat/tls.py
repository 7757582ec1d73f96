"""What a client trusts, and what it shows, when the connection is encrypted."""

from dataclasses import dataclass
from pathlib import Path

import grpc


@dataclass(frozen=True)
class TLS:
    """Files in PEM. Without any the server's certificate must be from an authority that the public trusts.

    `ca` holds the authorities to trust instead. `certificate` and `private_key`, together, are what the
    client shows to a server that asks for it. `server_name` is the name that the server's certificate has,
    where that is not the target's host.
    """

    ca: str | Path | None = None
    certificate: str | Path | None = None
    private_key: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("a certificate and its private key belong together: give both")

    def credentials(self) -> grpc.ChannelCredentials:
        """Reads the files. Raises OSError."""
        return grpc.ssl_channel_credentials(
            _content(self.ca), _content(self.private_key), _content(self.certificate)
        )


def _content(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
