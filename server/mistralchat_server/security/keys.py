"""Static keys: how they are made, stored as digests, and recognised.

A key is 256 random bits, so nobody finds it by trying: the slow hashes that protect passwords would
protect nothing here and cost each call their time. SHA-256 does.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .watched import UnusableFileError, Watched

#: Tells keys from other tokens, to this server and to programs that look for leaked secrets.
PREFIX = "mck_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


class Entry(NamedTuple):
    """A line of a keys file."""

    name: str
    digest: bytes


class Keys:
    """The keys of a file. A name may have several, the old one and the new one for example."""

    def __init__(self, path: Path) -> None:
        """Raises `UnusableFileError`."""
        self._entries = Watched([path], lambda: _parsed(path))

    def owner(self, key: str) -> str | None:
        """The name that the key belongs to."""
        digest = hashlib.sha256(key.encode()).digest()
        owner = None
        # To the end also when it is found, so that the time tells nothing.
        for entry in self._entries.current():
            if hmac.compare_digest(entry.digest, digest):
                owner = entry.name
        return owner


def new_key() -> str:
    """A key that nobody can guess."""
    return PREFIX + secrets.token_urlsafe(32)


def line(name: str, key: str) -> str:
    """The line of a keys file that lets `key` in as `name`. Raises ValueError for a name that cannot be."""
    if not _NAME.fullmatch(name):
        raise ValueError(
            "a name has letters, digits and . _ @ -, 64 at most, and begins with one of the former"
        )
    return f"{name}: sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def _parsed(path: Path) -> Sequence[Entry]:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UnusableFileError(f"{path} is not text.") from error
    return [
        _entry(content, f"{path}, line {number}")
        for number, written in enumerate(text.splitlines(), start=1)
        if (content := written.partition("#")[0].strip())
    ]


def _entry(content: str, place: str) -> Entry:
    name, _, digest = (part.strip() for part in content.partition(":"))
    found = _DIGEST.fullmatch(digest)
    if not _NAME.fullmatch(name) or found is None:
        # Without the line itself: someone may have written the key there.
        raise UnusableFileError(f"{place} is not of the form NAME: sha256:DIGEST (`mistralchat keys new`).")
    return Entry(name, bytes.fromhex(found[1]))
