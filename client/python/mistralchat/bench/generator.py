"""A process that makes calls: it gets batches of prepared calls and hands back what it noted.

It imports neither rich nor numpy, and does nothing beside its calls.
"""

import asyncio
import gc
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import cycle
from multiprocessing.connection import Connection

from mistralchat.bench.caller import METHOD, Caller, ChatMethod
from mistralchat.bench.recording import Recording
from mistralchat.cli._connection_options import ServerConnection

_REPORT_SECONDS = 0.2
_CONNECT_SECONDS = 10.0
#: Channels of one process to one target share a connection otherwise.
_OWN_CONNECTION = ("grpc.use_local_subchannel_pool", 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls to make, from a common beginning on (by `time.perf_counter`)."""

    requests: list[bytes]
    start: float
    callers: int
    """How many at the same time. 0: each when it is due."""
    due: list[float] = field(default_factory=list)
    """Seconds from the start to each call, where there are no callers."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End the batch that is running; what has been noted is handed back."""


@dataclass(frozen=True, slots=True)
class Ready:
    """All connections are made."""


@dataclass(frozen=True, slots=True)
class Failed:
    """They cannot be made."""


@dataclass(frozen=True, slots=True)
class Done:
    """A batch has ended."""

    recording: Recording
    ended: float
    """By `time.perf_counter`."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Of the batch that is running, so far."""

    answered: int
    failed: int
    messages: int


def main(pipe: Connection, connection: ServerConnection, connections: int) -> None:
    """The whole life of the process; it ends with the other end of the pipe."""
    # Where the command has gone there is nobody left to tell.
    with suppress(BrokenPipeError, ConnectionResetError):
        asyncio.run(_Generator(pipe, connection).live(connections))


class _Generator:
    def __init__(self, pipe: Connection, connection: ServerConnection) -> None:
        self._pipe = pipe
        self._connection = connection
        self._orders: asyncio.Queue[Batch | Stop | None] = asyncio.Queue()

    async def live(self, connections: int) -> None:
        channels = [self._connection.aio_channel(_OWN_CONNECTION) for _ in range(connections)]
        methods: list[ChatMethod] = [channel.unary_stream(METHOD) for channel in channels]
        threading.Thread(
            target=self._receive, args=(asyncio.get_running_loop(),), name="orders", daemon=True
        ).start()
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                await asyncio.gather(*(channel.channel_ready() for channel in channels))
        except TimeoutError:
            self._pipe.send(Failed())
        else:
            self._pipe.send(Ready())
            gc.collect()
            gc.freeze()
            while (order := await self._orders.get()) is not None:
                if isinstance(order, Batch):
                    self._pipe.send(await self._run(order, methods))
        await asyncio.gather(*(channel.close() for channel in channels))

    def _receive(self, loop: asyncio.AbstractEventLoop) -> None:
        """In a thread of its own, since pipes know no event loop. It sleeps in a read."""
        order: Batch | Stop | None = Stop()
        while order is not None:
            try:
                order = self._pipe.recv()
            except (EOFError, OSError):
                order = None
            try:
                loop.call_soon_threadsafe(self._orders.put_nowait, order)
            except RuntimeError:  # the loop has ended
                return

    async def _run(self, batch: Batch, methods: list[ChatMethod]) -> Done:
        recording = Recording()
        caller = Caller(self._connection.timeout, self._connection.metadata(), recording)
        before = time.process_time()
        calls = asyncio.create_task(_make(batch, caller, methods), name="calls")
        order = asyncio.create_task(self._orders.get(), name="order")
        while not calls.done() and not order.done():
            await asyncio.wait((calls, order), timeout=_REPORT_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            self._pipe.send(Progress(recording.answered, recording.failed, len(recording.received)))
        ended = time.perf_counter()
        if order.done():
            # An interruption, or the end of the pipe, which is for `live` to see.
            self._orders.put_nowait(order.result())
        order.cancel()
        calls.cancel()
        await asyncio.wait((calls, order))
        if not calls.cancelled():
            calls.result()
        recording.cpu_seconds = time.process_time() - before
        recording.interrupted = len(batch.requests) - recording.answered - recording.failed
        return Done(recording, ended)


async def _make(batch: Batch, caller: Caller, methods: list[ChatMethod]) -> None:
    """Makes all calls of a batch, over the connections in turn."""
    await asyncio.sleep(max(0.0, batch.start - time.perf_counter()))
    calls = zip(batch.requests, cycle(methods))
    async with asyncio.TaskGroup() as tasks:
        if batch.callers:
            for _ in range(batch.callers):
                tasks.create_task(_one_after_the_other(caller, calls))
            return
        for due, (request, method) in zip(batch.due, calls, strict=True):
            await asyncio.sleep(max(0.0, batch.start + due - time.perf_counter()))
            tasks.create_task(caller.call(method, request, batch.start + due))


async def _one_after_the_other(caller: Caller, calls: Iterator[tuple[bytes, ChatMethod]]) -> None:
    """One caller; all of them take their calls from the same iterator."""
    for request, method in calls:
        await caller.call(method, request)
