"""JSON Web Tokens, checked against the issuer's public keys."""

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jwt

from .watched import UnusableFileError, Watched

#: By the type of a key, and its curve, the one algorithm that it verifies. Never `none`, and never HS256,
#: with which the public key itself would sign.
_ALGORITHMS: Mapping[tuple[Any, Any], str] = {
    ("RSA", None): "RS256",
    ("EC", "P-256"): "ES256",
    ("OKP", "Ed25519"): "EdDSA",
}
_REQUIRED = ["exp", "iss", "aud", "sub"]
#: Seconds by which clocks may differ.
_LEEWAY = 30
#: Verified tokens that are remembered.
_REMEMBERED = 4_096
_LONGEST_SUBJECT = 256
_FEWEST_RSA_BITS = 2_048


class ExpiredTokenError(Exception):
    """The token is genuine, and its time is over."""


class _Verified(NamedTuple):
    subject: str
    expires: float


class TokenVerifier:
    """Knows whose tokens those of one issuer are."""

    def __init__(self, path: Path, issuer: str, audience: str) -> None:
        """`path` is a JWKS file. Raises `UnusableFileError`."""
        self._keys = Watched([path], lambda: _parsed(path))
        self._issuer = issuer
        self._audience = audience
        #: By the token's digest, so that memory holds no token. Only for as long as the keys are these.
        self._verified: OrderedDict[bytes, _Verified] = OrderedDict()
        self._verified_with: Mapping[str, jwt.PyJWK] = {}

    def subject(self, token: str) -> str | None:
        """The token's `sub`; None where it is not valid. Raises `ExpiredTokenError`."""
        keys = self._keys.current()
        if keys is not self._verified_with:
            self._verified.clear()
            self._verified_with = keys
        digest = hashlib.sha256(token.encode()).digest()
        if (known := self._verified.get(digest)) is not None and time.time() < known.expires:
            return known.subject
        self._verified.pop(digest, None)
        verified = self._verify(token, keys)
        if verified is None:
            return None
        self._verified[digest] = verified
        if len(self._verified) > _REMEMBERED:
            self._verified.popitem(last=False)
        return verified.subject

    def _verify(self, token: str, keys: Mapping[str, jwt.PyJWK]) -> _Verified | None:
        try:
            key = keys.get(jwt.get_unverified_header(token).get("kid", ""))
            if key is None:
                return None
            claims = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=_LEEWAY,
                options={"require": _REQUIRED},
            )
        except jwt.ExpiredSignatureError as error:
            raise ExpiredTokenError from error
        except (jwt.PyJWTError, ValueError, TypeError):
            return None
        subject = claims["sub"]
        if not subject or len(subject) > _LONGEST_SUBJECT or not subject.isprintable():
            return None
        return _Verified(subject, float(claims["exp"]) + _LEEWAY)


def _parsed(path: Path) -> Mapping[str, jwt.PyJWK]:
    """The usable keys by their `kid`."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise UnusableFileError(f"{path} is not JSON.") from error
    entries = content.get("keys") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UnusableFileError(f"{path} is not a JWKS: it has no list of keys.")
    keys = {entry["kid"]: key for entry in entries if (key := _key(entry)) is not None}
    if not keys:
        raise UnusableFileError(f"{path} has no key with a kid for RS256, ES256 or EdDSA.")
    return keys


def _key(entry: Any) -> jwt.PyJWK | None:
    """None for keys of another kind or purpose, which a JWKS may well hold beside."""
    if not isinstance(entry, dict) or not isinstance(entry.get("kid"), str):
        return None
    algorithm = _ALGORITHMS.get((entry.get("kty"), entry.get("crv")))
    if algorithm is None or entry.get("alg", algorithm) != algorithm or entry.get("use", "sig") != "sig":
        return None
    try:
        key = jwt.PyJWK(entry, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if algorithm == "RS256" and key.key.key_size < _FEWEST_RSA_BITS:
        return None
    return key
