"""The readers of all streams; one that takes nothing for too long loses its stream."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc

from .errors import stalled

#: How often within the timeout the readers are looked at.
_LOOKS = 8

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


class _Reader:
    """One stream; `write` returns when gRPC has sent the message, which flow control may delay."""

    __slots__ = ("_context", "_readers", "stalled", "task", "waiting_since")

    def __init__(self, readers: "Readers", context: "Context") -> None:
        task = asyncio.current_task()
        assert task is not None
        self._readers = readers
        self._context = context
        self.task = task
        #: When the write that is pending began.
        self.waiting_since: float | None = None
        self.stalled = False

    async def write(self, message: Any) -> None:
        """Sends one message."""
        self.waiting_since = time.monotonic()
        await self._context.write(message)
        self.waiting_since = None

    def __enter__(self) -> Callable[[Any], Awaitable[None]]:
        self._readers._add(self)
        return self.write

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._readers._remove(self)
        if self.stalled and kind is asyncio.CancelledError and not self.task.uncancel():
            raise stalled(self._readers.timeout) from None


class Readers:
    """Hands out what streams write with, and watches all of them with one timer."""

    def __init__(self, timeout: float) -> None:
        """`timeout` in seconds; 0 is none."""
        self.timeout = timeout
        self._readers: set[_Reader] = set()
        self._timer: asyncio.TimerHandle | None = None

    def writer(self, context: "Context") -> AbstractContextManager[Callable[[Any], Awaitable[None]]]:
        """What the current task sends its messages with. Raises ABORTED once its reader has stalled."""
        return _Reader(self, context)

    def _add(self, reader: _Reader) -> None:
        self._readers.add(reader)
        if self._timer is None and self.timeout:
            self._set_timer()

    def _remove(self, reader: _Reader) -> None:
        self._readers.remove(reader)

    def _set_timer(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self.timeout / _LOOKS, self._look)

    def _look(self) -> None:
        self._timer = None
        before = time.monotonic() - self.timeout
        for reader in self._readers:
            if reader.waiting_since is not None and reader.waiting_since < before and not reader.stalled:
                reader.stalled = True
                reader.task.cancel()
        if self._readers:
            self._set_timer()
