"""Starting, overload, a dying executor, draining: what callers and probes see of each."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server import app as app_module
from mistralchat_server.executor.child import ExecutorProcess
from mistralchat_server.executor.messages import Description
from mistralchat_server.text.byte_tokenizer import byte_tokenizer
from mistralchat_server.text.tokenizer import ChatTokenizer

from .conftest import Server, answer, ask, eventually, refusal, text, user

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE = "mistralchat.v1.ChatService"
_ENDLESS: dict[str, Any] = {"max_completion_tokens": 32_000, "min_tokens": 32_000}

_CALLS: dict[str, Callable[[Server], object]] = {
    "Chat": answer,
    "GetModel": lambda server: server.chat.GetModel(pb.GetModelRequest()),
    "CountTokens": lambda server: server.chat.CountTokens(pb.CountTokensRequest(messages=[user("Hi")])),
}
every_call = pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)


@contextmanager
def _health(server: Server) -> Iterator[list[int]]:
    """All that a watching probe is told, as it is told it."""
    told: list[int] = []
    watch = server.health.Watch(health_pb2.HealthCheckRequest(service=_SERVICE))

    def read() -> None:
        try:
            for response in watch:
                told.append(response.status)  # noqa: PERF401  (as it comes)
        except grpc.RpcError:
            return

    thread = threading.Thread(target=read)
    thread.start()
    eventually(lambda: bool(told), "the probe has been told something")
    try:
        yield told
    finally:
        watch.cancel()
        thread.join()


@every_call
def test_while_the_model_is_loaded_calls_are_told_to_retry(
    serve: Callable[..., Server], call: Callable[[Server], object]
) -> None:
    server = serve(load=False)
    refused = refusal(lambda: call(server))
    assert refused.code == grpc.StatusCode.UNAVAILABLE
    assert refused.retry_seconds > 0


@pytest.mark.parametrize("service", ["", _SERVICE])
def test_health_is_not_serving_while_the_model_is_loaded(serve: Callable[..., Server], service: str) -> None:
    response = serve(load=False).health.Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == _NOT_SERVING


def test_calls_beyond_the_most_are_told_to_retry(serve: Callable[..., Server]) -> None:
    server = serve(max_open_calls=2)
    open_calls = [server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(2)]
    for stream in open_calls:
        next(iter(stream))
    before = server.executor.new_id()
    refused = refusal(lambda: answer(server))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_seconds > 0
    (violation,) = refused.details["QuotaFailure"].violations
    assert "2" in violation.description
    assert server.executor.new_id() == before + 1
    # Only answers count.
    assert server.chat.GetModel(pb.GetModelRequest()).name == "replay"
    for stream in open_calls:
        stream.cancel()
    server.await_idle()
    assert text(answer(server, "Hello")) == "Hello"


def test_calls_that_are_refused_take_no_place(serve: Callable[..., Server]) -> None:
    server = serve(max_open_calls=1)
    for _ in range(5):
        assert refusal(lambda: answer(server, max_tokens=0)).code == grpc.StatusCode.INVALID_ARGUMENT
        assert refusal(lambda: answer(server, seed=1)).code == grpc.StatusCode.UNIMPLEMENTED
        too_long = refusal(lambda: answer(server, "x" * 40_000))
        assert too_long.code == grpc.StatusCode.INVALID_ARGUMENT
        assert text(answer(server, "Hello")) == "Hello"


def test_when_the_executor_dies_open_calls_end_and_it_is_started_again(
    serve: Callable[..., Server],
) -> None:
    server = serve()
    streams = [server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(4)]
    streams += [server.chat.Chat(ask(beam_width=2, **_ENDLESS), timeout=60) for _ in range(4)]
    eventually(lambda: server.executor.open_streams == 8, "all calls are open")
    dead = server.executor
    with _health(server) as told:
        os.kill(server.executor_pid, signal.SIGKILL)
        for stream in streams:
            refused = refusal(partial(list, stream))
            assert refused.code == grpc.StatusCode.UNAVAILABLE
            assert refused.retry_seconds > 0
        # It takes half a second until it is started again.
        for call in _CALLS.values():
            refused = refusal(partial(call, server))
            assert refused.code == grpc.StatusCode.UNAVAILABLE
            assert refused.retry_seconds > 0
        eventually(lambda: told[-1] == _SERVING and len(told) > 1, "it serves again")
    assert told == [_SERVING, _NOT_SERVING, _SERVING]
    assert server.executor is not dead
    assert dead.open_streams == 0
    assert text(answer(server, "Hello")) == "Hello"


def test_an_executor_that_hangs_is_killed_with_the_server(serve: Callable[..., Server]) -> None:
    server = serve()
    pid = server.executor_pid
    os.kill(pid, signal.SIGSTOP)
    server.begin_to_stop()
    eventually(lambda: server.ended, "the server has ended")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_draining_lets_open_answers_finish(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0.01})
    stream = server.chat.Chat(ask("x" * 100, max_completion_tokens=500), timeout=60)
    first = next(iter(stream))
    pid = server.executor_pid
    server.begin_to_stop()
    assert text([first, *stream]) == "x" * 100
    eventually(lambda: server.ended, "the server has ended")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_draining_is_told_to_probes_and_refuses_new_calls(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0.01}, grace_seconds=1)
    stream = server.chat.Chat(ask("x" * 50, max_completion_tokens=500), timeout=60)
    next(iter(stream))
    with _health(server) as told:
        server.begin_to_stop()
        eventually(lambda: told[-1] == _NOT_SERVING, "the probe knows")
        for call in _CALLS.values():
            assert refusal(partial(call, server)).code == grpc.StatusCode.UNAVAILABLE
        assert list(stream)[-1].finish_reason == pb.FINISH_REASON_STOP


def test_what_outlasts_the_grace_period_ends_with_unavailable(serve: Callable[..., Server]) -> None:
    server = serve(grace_seconds=0.2)
    streams = [server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(3)]
    for stream in streams:
        next(iter(stream))
    server.begin_to_stop()
    for stream in streams:
        refused = refusal(partial(list, stream))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert refused.retry_seconds > 0
    eventually(lambda: server.ended, "the server has ended")


def test_a_watching_probe_does_not_hold_up_the_end(serve: Callable[..., Server]) -> None:
    server = serve(grace_seconds=20)
    with _health(server):
        server.begin_to_stop()
        eventually(lambda: server.ended, "the server has ended", seconds=10)


def test_a_server_that_is_stopped_while_it_loads_leaves_no_executor(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    clients: list[ExecutorProcess] = []
    loaded = threading.Event()
    start = ExecutorProcess.start

    async def note(self: ExecutorProcess) -> Description:
        clients.append(self)
        return await start(self)

    def load_tokenizer(model: object) -> ChatTokenizer:
        loaded.wait(60)
        return byte_tokenizer()

    monkeypatch.setattr(ExecutorProcess, "start", note)
    monkeypatch.setattr(app_module, "_load_tokenizer", load_tokenizer)
    server = serve(load=False)
    server.load()
    eventually(lambda: bool(clients) and clients[0].client.description is not None, "the executor is there")
    server.begin_to_stop()
    eventually(lambda: server.ended, "the server has ended")
    loaded.set()
    for client in clients:
        with pytest.raises(ProcessLookupError):
            os.kill(client.pid, 0)
