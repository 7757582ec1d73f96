"""Decides whether another call may be opened."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import exhausted

#: Seconds after which a refused caller may try again.
_RETRY_AFTER = 1.0


class Admission:
    """Bounds the calls that are open at the same time, running and waiting ones together."""

    def __init__(self, max_open_calls: int) -> None:
        self._max_open_calls = max_open_calls
        self._open_calls = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def call(self) -> Iterator[None]:
        """Counts a call while it is open. Raises RESOURCE_EXHAUSTED when there are too many."""
        if self._open_calls >= self._max_open_calls:
            description = f"the server already has {self._max_open_calls:,} open calls"
            raise exhausted("open calls", description, _RETRY_AFTER)
        self._open_calls += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._open_calls -= 1
            if not self._open_calls:
                self._idle.set()

    async def idle(self) -> None:
        """Waits until no call is open."""
        await self._idle.wait()
