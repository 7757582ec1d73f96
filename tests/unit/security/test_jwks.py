import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from mistralchat_server.security import jwks
from mistralchat_server.security.jwks import ExpiredTokenError, TokenVerifier
from mistralchat_server.security.watched import UnusableFileError

_ISSUER, _AUDIENCE = "https://issuer.example", "mistralchat"


@cache
def _private(kind: str) -> Any:
    match kind:
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "ES384":
            return ec.generate_private_key(ec.SECP384R1())
        case "short":
            return rsa.generate_private_key(65_537, 1_024)
        case _:
            return rsa.generate_private_key(65_537, 2_048)


_ALGORITHMS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "short": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "ES384": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}


def _public(kind: str, **more: Any) -> dict[str, Any]:
    described: dict[str, Any] = _ALGORITHMS[kind].to_jwk(_private(kind).public_key(), as_dict=True)
    return {**described, "kid": kind, **more}


def _token(kind: str = "ES256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    content = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "alice", "exp": time.time() + 60, **claims}
    content = {name: value for name, value in content.items() if value is not None}
    return jwt.encode(content, _private(kind), kind, {"kid": kind, **(headers or {})})


def _write(path: Path, *keys: dict[str, Any]) -> None:
    path.write_text(json.dumps({"keys": keys}))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "jwks.json"
    _write(path, *map(_public, ("RS256", "ES256", "EdDSA")), {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"})
    return path


@pytest.fixture
def verifier(file: Path) -> TokenVerifier:
    return TokenVerifier(file, _ISSUER, _AUDIENCE)


@pytest.mark.parametrize("kind", ["RS256", "ES256", "EdDSA"])
def test_a_valid_token_tells_its_subject(verifier: TokenVerifier, kind: str) -> None:
    token = _token(kind)
    assert [verifier.subject(token) for _ in range(2)] == ["alice"] * 2


def test_an_audience_may_be_one_of_several(verifier: TokenVerifier) -> None:
    assert verifier.subject(_token(aud=["another", _AUDIENCE])) == "alice"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "another"},
        {"aud": None},
        {"aud": []},
        {"exp": None},
        {"exp": "tomorrow"},
        {"sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "x" * 300},
        {"sub": "two\nlines"},
        {"nbf": time.time() + 3_600},
        {"iat": time.time() + 3_600},
    ],
)
def test_a_token_with_wrong_claims_is_nobodys(verifier: TokenVerifier, claims: dict[str, Any]) -> None:
    assert verifier.subject(_token(**claims)) is None


def test_an_expired_token_is_told_as_such(verifier: TokenVerifier) -> None:
    with pytest.raises(ExpiredTokenError):
        verifier.subject(_token(exp=time.time() - 60))
    # Within what clocks may differ.
    assert verifier.subject(_token(exp=time.time() - 5)) == "alice"


def test_whether_a_forged_token_has_expired_is_not_told(verifier: TokenVerifier) -> None:
    token = _token(exp=time.time() - 60)
    assert verifier.subject(token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")) is None


def test_a_token_that_was_verified_ends_at_its_time(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = _token()
    assert verifier.subject(token) == "alice"
    monkeypatch.setattr(verifier, "_verify", lambda *_: None)
    assert verifier.subject(token) == "alice"
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 3_600)
    assert verifier.subject(token) is None


def _part(content: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(content).encode()).rstrip(b"=").decode()


def _by_hand(header: dict[str, Any], sign: Callable[[bytes], bytes]) -> str:
    claims = {"iss": _ISSUER, "aud": _AUDIENCE, "sub": "mallory", "exp": int(time.time()) + 60}
    signed = f"{_part(header)}.{_part(claims)}"
    return f"{signed}.{base64.urlsafe_b64encode(sign(signed.encode())).rstrip(b'=').decode()}"


def _hmac_with_public_key(kind: str) -> str:
    pem = _private(kind).public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    header = {"alg": "HS256", "typ": "JWT", "kid": kind}
    return _by_hand(header, lambda signed: hmac.digest(pem, signed, hashlib.sha256))


def _tampered() -> str:
    head, body, signature = _token().split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
    return f"{head}.{_part({**claims, 'sub': 'mallory'})}.{signature}"


@pytest.mark.parametrize(
    "make",
    [
        lambda: _by_hand({"alg": "none", "kid": "ES256"}, lambda _: b""),
        lambda: _by_hand({"alg": "None", "kid": "ES256"}, lambda _: b""),
        lambda: _hmac_with_public_key("RS256"),
        lambda: _hmac_with_public_key("ES256"),
        lambda: _by_hand({"alg": "HS256", "kid": "oct"}, lambda s: hmac.digest(b"secret", s, hashlib.sha256)),
        _tampered,
        lambda: _token(headers={"kid": "unknown"}),
        lambda: _token(headers={"kid": "RS256"}),
        lambda: jwt.encode({"sub": "alice"}, _private("ES256"), "ES256"),
        lambda: _token(headers={"crit": ["x"], "x": 1}),
        lambda: _token("ES384"),
        lambda: "",
        lambda: "a.b.c",
        lambda: "..",
        lambda: "é.é.é",
        lambda: "x" * 100_000,
        lambda: _by_hand({"alg": "ES256", "kid": ["ES256"]}, lambda _: b"x"),
        lambda: _by_hand({"alg": 7, "kid": "ES256"}, lambda _: b"x"),
    ],
)
def test_a_forged_token_is_nobodys(verifier: TokenVerifier, make: Callable[[], str]) -> None:
    assert verifier.subject(make()) is None


def test_keys_are_exchanged_while_running(file: Path, verifier: TokenVerifier) -> None:
    token = _token("ES256")
    assert verifier.subject(token) == "alice"
    _write(file, _public("RS256"))
    # Verified before, with a key that is no longer trusted.
    assert verifier.subject(token) is None
    assert verifier.subject(_token("RS256")) == "alice"
    file.write_text("{")
    assert verifier.subject(_token("RS256")) == "alice"


def test_memory_of_verified_tokens_is_bounded(
    verifier: TokenVerifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "_REMEMBERED", 3)
    for number in range(6):
        assert verifier.subject(_token("EdDSA", sub=f"caller-{number}")) == f"caller-{number}"
    assert len(verifier._verified) == 3


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"keys": 1}',
        '{"keys": []}',
        json.dumps({"keys": [_public("ES384"), {"kty": "oct", "k": "c2VjcmV0", "kid": "oct"}, 7]}),
        json.dumps({"keys": [_public("ES256", use="enc"), _public("RS256", alg="RS512")]}),
        json.dumps({"keys": [_public("short")]}),
        json.dumps({"keys": [{**_public("ES256"), "kid": None}, {"kty": "EC", "crv": "P-256", "kid": "x"}]}),
    ],
)
def test_a_file_without_usable_keys_is_told(tmp_path: Path, content: str) -> None:
    path = tmp_path / "jwks.json"
    path.write_text(content)
    with pytest.raises(UnusableFileError, match=r"jwks\.json"):
        TokenVerifier(path, _ISSUER, _AUDIENCE)
