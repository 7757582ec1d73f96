"""The settings of this room."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

#: What an identity can be allowed to call: the contract's service, or the token-level one of a gateway.
Service = Literal["chat", "tokens"]
Access = dict[str, Annotated[list[Service], Field(max_length=2)]]


class TLSOptions(BaseModel, extra="forbid", frozen=True):
    """The files of TLS, in PEM. They are read again when they change."""

    certificate: Path | None = Field(
        None, description="The server's certificate, followed by those that it was issued under."
    )
    private_key: Path | None = Field(None, description="Its private key, without a passphrase.")
    client_ca: Path | None = Field(
        None, description="Callers must have a certificate that one of these has issued (mutual TLS)."
    )

    def problem(self) -> str | None:
        """What is missing, if something is."""
        if (self.certificate is None) != (self.private_key is None):
            return "tls.certificate and tls.private_key belong together: give both"
        if self.client_ca is not None and self.certificate is None:
            return "tls.client_ca needs tls.certificate and tls.private_key"
        return None


class JWTOptions(BaseModel, extra="forbid", frozen=True):
    """Which JSON Web Tokens identify a caller."""

    jwks: Path | None = Field(
        None, description="The issuer's public keys, a JWKS file. It is read again when it changes."
    )
    issuer: str | None = Field(None, description="What a token's iss must be.")
    audience: str | None = Field(None, description="What a token's aud must be or hold.")

    def problem(self) -> str | None:
        """What is missing, if something is."""
        given = [value for value in (self.jwks, self.issuer, self.audience) if value is not None]
        if given and len(given) < 3:
            return "jwt.jwks, jwt.issuer and jwt.audience belong together: give all three"
        return None
