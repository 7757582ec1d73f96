"""The tokens of one open call, on their way from the executor to the caller."""

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from .messages import Failure, FailureKind, Output


class ExecutorGoneError(Exception):
    """The executor process has ended, or is ending, and with it the request."""


class GenerationError(Exception):
    """The executor refused the request or could not finish it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.kind: FailureKind = failure.kind
        self.parameter = failure.parameter


@dataclass(frozen=True)
class Linger:
    """How long tokens may wait for others, and how many are enough to wait no longer."""

    seconds: float
    enough: int = sys.maxsize


class TokenStream:
    """Collects what the executor produces until the reader takes it, all at once.

    A reader that is slow finds more in each batch; the outputs of a beam are joined while they wait, so
    what is held is the tokens themselves. Times are in seconds of the monotonic clock.
    """

    __slots__ = (
        "_failure",
        "_outputs",
        "_waiter",
        "ended",
        "first_token_at",
        "last_token_at",
        "on_end",
        "started_at",
        "tokens",
    )

    def __init__(self) -> None:
        self._outputs: list[Output] = []
        self._waiter: asyncio.Future[None] | None = None
        self._failure: Exception | None = None
        #: All outputs of the request have arrived.
        self.ended = False
        #: Called when the executor is done with the request, however far its reader is.
        self.on_end: Callable[[], None] | None = None
        #: How many have arrived so far, on all beams.
        self.tokens = 0
        #: The executor took the request up.
        self.started_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at: float | None = None

    async def take(self, linger: Linger | None = None) -> list[Output]:
        """Everything that has arrived since the last call, at least one output.

        With `linger`, tokens wait for others to join them, though never once the request has ended.
        Raises `GenerationError` or `ExecutorGoneError` where the request has failed. Must not be called
        again after an output with `last`, or an error.
        """
        if not self._outputs and self._failure is None:
            await self._news()
        if linger is not None:
            await self._linger(linger)
        if self._failure is not None:
            try:
                raise self._failure
            finally:
                # The error holds this frame.
                self._failure = None
        outputs, self._outputs = self._outputs, []
        return outputs

    def push(self, output: Output) -> None:
        """Adds what one iteration produced."""
        self.last_token_at = time.monotonic()
        if self.first_token_at is None:
            self.first_token_at = self.last_token_at
        self.tokens += len(output.token_ids)
        if output.last:
            self._end()
        pending = self._outputs[-1] if self._outputs else None
        if pending is not None and pending.beam_index == output.beam_index:
            pending.join(output)
        else:
            self._outputs.append(output)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error, which its reader gets at once."""
        self._failure = error
        self._end()
        self._wake()

    def _end(self) -> None:
        self.ended = True
        if self.on_end is not None:
            self.on_end()

    async def _linger(self, linger: Linger) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(linger.seconds):
                while not self.ended and self._waiting_tokens < linger.enough:
                    await self._news()

    @property
    def _waiting_tokens(self) -> int:
        return sum(len(output.token_ids) for output in self._outputs)

    def _news(self) -> asyncio.Future[None]:
        # No coroutine, which would be one more object of each stream that waits.
        self._waiter = asyncio.get_running_loop().create_future()
        return self._waiter

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
