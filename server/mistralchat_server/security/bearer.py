"""Whose a bearer token is: that of a static key, or of a JSON Web Token."""

from .jwks import TokenVerifier
from .keys import PREFIX, Keys


class Bearer:
    """Knows identities by their tokens, of the kinds that the server accepts."""

    def __init__(self, keys: Keys | None, tokens: TokenVerifier | None) -> None:
        self._keys = keys
        self._tokens = tokens

    def identity(self, token: str) -> str | None:
        """`key:NAME` or `jwt:SUBJECT`; None for an invalid token. Raises `ExpiredTokenError`."""
        if token.startswith(PREFIX):
            owner = self._keys.owner(token) if self._keys is not None else None
            return None if owner is None else f"key:{owner}"
        subject = self._tokens.subject(token) if self._tokens is not None else None
        return None if subject is None else f"jwt:{subject}"
