"""Remembers which requests were open when the executor ended, and refuses one that ends it again and again.

At a death every request that had no token yet is a suspect, since most that harm an engine do so at once;
if there was none, all that were open. From then on suspects are served one at a time until each has got
further than it was: whichever is being tried when the executor ends once more is the one. A request is known
by a keyed hash of all its fields but the id, so nothing of a prompt is kept.
"""

import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from .messages import Failure, FailureKind, Request, command_encoder
from .stream import GenerationError, TokenStream

#: Seconds for which a request is a suspect, unless it is cleared before.
_SUSPECTED = 300.0
#: Seconds for which a request that has ended the executor twice is refused.
_REFUSED = 3600.0
#: Most suspects, and most refused ones; beyond that the oldest are forgotten.
_MOST = 4_096

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Suspicion:
    until: float
    #: Tokens that it had when the executor ended.
    tokens: int


@dataclass(frozen=True, slots=True)
class _Trial:
    """A suspect that is being served, to see what becomes of the executor."""

    fingerprint: bytes
    stream: TokenStream
    suspicion: _Suspicion


class Suspects:
    """What has been learnt over all executor processes that one server has had."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._key = os.urandom(32)
        self._suspected: OrderedDict[bytes, _Suspicion] = OrderedDict()
        #: Fingerprint → until when.
        self._refused: OrderedDict[bytes, float] = OrderedDict()
        self._trial: _Trial | None = None

    def admit(self, request: Request, stream: TokenStream) -> None:
        """To be called before a request is sent. Raises `GenerationError` for one that must not be now."""
        if not self._suspected and not self._refused:
            # The usual case costs nothing.
            return
        self._expire()
        self._close_trial()
        fingerprint = self._fingerprint(request)
        if fingerprint in self._refused:
            message = "this request has ended the executor twice and is refused for an hour"
            raise GenerationError(Failure(request.id, FailureKind.HARMFUL, message))
        if (suspicion := self._suspected.get(fingerprint)) is None:
            return
        if self._trial is not None:
            message = "the executor ended while this request was open; such requests are served one at a time"
            raise GenerationError(Failure(request.id, FailureKind.SUSPECT, message))
        self._trial = _Trial(fingerprint, stream, suspicion)

    def left(self, stream: TokenStream) -> None:
        """To be called when the executor has gone on without a request whose reader had left."""
        if self._trial is not None and self._trial.stream is stream:
            # It is not cleared by that, and makes room for the next.
            self._close_trial()
            self._trial = None

    def died(self, open_requests: Iterable[tuple[Request, TokenStream]]) -> list[int]:
        """To be called when the executor has ended, before its streams fail. Returns the ids now refused."""
        self._close_trial()
        trial, self._trial = self._trial, None
        unended = [(request, stream) for request, stream in open_requests if not stream.ended]
        suspects = [(request, stream) for request, stream in unended if not stream.tokens] or unended
        refused = []
        for request, stream in suspects:
            fingerprint = self._fingerprint(request)
            if trial is not None and stream is trial.stream:
                self._suspected.pop(fingerprint, None)
                _remember(self._refused, fingerprint, self._clock() + _REFUSED)
                refused.append(request.id)
            elif fingerprint not in self._refused:
                before = self._suspected.get(fingerprint)
                tokens = stream.tokens if before is None else max(before.tokens, stream.tokens)
                _remember(self._suspected, fingerprint, _Suspicion(self._clock() + _SUSPECTED, tokens))
        return refused

    def _close_trial(self) -> None:
        """Clears the suspect that is being served, if it has got further than it was or is through."""
        trial = self._trial
        if trial is not None and (trial.stream.ended or trial.stream.tokens > trial.suspicion.tokens):
            self._suspected.pop(trial.fingerprint, None)
            self._trial = None

    def _expire(self) -> None:
        now = self._clock()
        while self._suspected and next(iter(self._suspected.values())).until <= now:
            self._suspected.popitem(last=False)
        while self._refused and next(iter(self._refused.values())) <= now:
            self._refused.popitem(last=False)

    def _fingerprint(self, request: Request) -> bytes:
        content = command_encoder.encode(msgspec.structs.replace(request, id=0))
        return hashlib.blake2b(content, digest_size=16, key=self._key).digest()


def _remember(table: OrderedDict[bytes, T], fingerprint: bytes, value: T) -> None:
    table[fingerprint] = value
    table.move_to_end(fingerprint)
    if len(table) > _MOST:
        table.popitem(last=False)
