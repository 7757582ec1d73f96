"""Streams whose reader takes nothing: given up in time, and only those."""

import asyncio
from typing import Any

import grpc
import pytest

from mistralchat_server.rpc.errors import CallError
from mistralchat_server.rpc.readers import Readers

_TIMEOUT = 0.2


class _Context:
    """A call whose reader takes a message when it is told to."""

    def __init__(self) -> None:
        self.reads = asyncio.Semaphore(0)
        self.taken: list[object] = []

    async def write(self, message: object) -> None:
        await self.reads.acquire()
        self.taken.append(message)


async def _stream(readers: Readers, context: Any, messages: int) -> None:
    with readers.writer(context) as write:
        for number in range(messages):
            await write(number)


async def test_a_reader_that_takes_nothing_ends_its_stream() -> None:
    readers, context = Readers(_TIMEOUT), _Context()
    context.reads.release()
    with pytest.raises(CallError) as caught:
        await _stream(readers, context, 5)
    assert caught.value.code is grpc.StatusCode.ABORTED
    assert context.taken == [0]
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_one_that_is_slow_keeps_its_stream() -> None:
    readers, context = Readers(_TIMEOUT), _Context()
    streaming = asyncio.create_task(_stream(readers, context, 8))
    for _ in range(8):
        await asyncio.sleep(_TIMEOUT / 4)
        context.reads.release()
    await streaming
    assert context.taken == list(range(8))


async def test_a_stream_may_have_nothing_to_say_for_long() -> None:
    readers, context = Readers(_TIMEOUT), _Context()
    with readers.writer(context) as write:  # type: ignore[arg-type]
        for _ in range(2):
            await asyncio.sleep(_TIMEOUT * 2)
            context.reads.release()
            await write("news")
    assert context.taken == ["news", "news"]


async def test_a_cancellation_from_elsewhere_stays_one() -> None:
    readers, context = Readers(_TIMEOUT), _Context()
    streaming = asyncio.create_task(_stream(readers, context, 1))
    await asyncio.sleep(0)
    streaming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await streaming


async def test_without_a_timeout_nobody_is_given_up() -> None:
    readers, context = Readers(0), _Context()
    streaming = asyncio.create_task(_stream(readers, context, 1))
    await asyncio.sleep(0.1)
    context.reads.release()
    await streaming
    assert readers._timer is None


async def test_no_timer_runs_without_streams() -> None:
    readers, context = Readers(0.08), _Context()
    context.reads.release()
    await _stream(readers, context, 1)
    assert not readers._readers
    for _ in range(1_000):
        if readers._timer is None:
            return
        await asyncio.sleep(0.005)
    pytest.fail("the timer goes on")
