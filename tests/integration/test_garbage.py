"""Calls that fail leave nothing to the garbage collector, which would hold all others up for its work."""

import gc
import os
import signal
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType

import grpc
import pytest

from .conftest import Server, answer, ask, eventually, refusal

_CALLS = 20


@pytest.fixture
def garbage() -> Iterator[Callable[[], list[str]]]:
    """Tells in which functions of the server the frames were that only the collector would have freed."""
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)

    def found() -> list[str]:
        gc.collect()
        codes = [lost.f_code for lost in gc.garbage if isinstance(lost, FrameType)]
        return [code.co_qualname for code in codes if "mistralchat_server" in code.co_filename]

    yield found
    gc.set_debug(0)
    gc.garbage.clear()
    gc.enable()


def test_refused_calls(serve: Callable[..., Server], garbage: Callable[[], list[str]]) -> None:
    server = serve(max_open_calls=1)
    stream = server.chat.Chat(ask(max_completion_tokens=32_000, min_tokens=32_000), timeout=60)
    next(iter(stream))
    for _ in range(_CALLS):
        refusal(lambda: answer(server))
    stream.cancel()
    assert garbage() == []


def test_calls_that_run_or_wait_when_the_executor_ends(
    serve: Callable[..., Server], garbage: Callable[[], list[str]]
) -> None:
    server = serve(replay={"max_batch_size": 10, "step_seconds": 0.001})
    endless = ask(max_completion_tokens=32_000, min_tokens=32_000)
    streams = [server.chat.Chat(endless, timeout=60) for _ in range(_CALLS)]
    eventually(lambda: server.app.admission.waiting == _CALLS - 10, "half of them wait")
    os.kill(server.executor_pid, signal.SIGKILL)
    for stream in streams:
        assert refusal(partial(list, stream)).code == grpc.StatusCode.UNAVAILABLE
    assert garbage() == []


def test_invalid_calls(serve: Callable[..., Server], garbage: Callable[[], list[str]]) -> None:
    server = serve()
    for _ in range(_CALLS):
        refusal(lambda: answer(server, temperature=-1))
    assert garbage() == []
