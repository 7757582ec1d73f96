"""More calls than the executor has slots, and readers that do not read: who gets what, over the wire."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server.executor.messages import Command, Request
from mistralchat_server.rpc import slots
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

from .conftest import Server, answer, ask, eventually, refusal, text

#: At least half a minute at a step of a millisecond.
_ENDLESS: dict[str, Any] = {"max_completion_tokens": 32_000, "min_tokens": 32_000}
_ONE_SLOT = {"step_seconds": 0.001, "max_batch_size": 1}
#: The least that gRPC reads ahead, so that the server notices when nobody reads.
_NO_READING_AHEAD = (("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0))


@pytest.fixture
def named_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Callers say who they are: all connections of a test come from one address."""

    def caller(context: Any) -> str:
        return str(dict(context.invocation_metadata()).get("caller", "somebody"))

    monkeypatch.setattr(slots, "caller", caller)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Server], list[str]]:
    """The prompts that the executor is handed from now on."""

    tokenizer = byte_tokenizer()

    def watch(server: Server) -> list[str]:
        prompts: list[str] = []
        send = server.executor.send

        def note(command: Command) -> None:
            if isinstance(command, Request):
                prompts.append(tokenizer.decode(command.prompt_token_ids))
            send(command)

        monkeypatch.setattr(server.executor, "send", note)
        return prompts

    return watch


def _begin(server: Server, content: str, caller: str = "somebody", **fields: Any) -> Any:
    return server.chat.Chat(ask(content, **fields), timeout=60, metadata=(("caller", caller),))


@contextmanager
def _occupied(server: Server) -> Iterator[Any]:
    """A call of the caller `a` has the server's only slot until the end of the `with`."""
    stream = _begin(server, "occupied", caller="a", **_ENDLESS)
    next(iter(stream))
    yield stream
    stream.cancel()


def _await_waiting(server: Server, calls: int) -> None:
    eventually(lambda: server.app.admission.waiting == calls, f"{calls} calls wait")


@pytest.mark.usefixtures("named_callers")
def test_one_call_of_another_caller_comes_before_the_many_of_one(
    serve: Callable[..., Server], submitted: Callable[[Server], list[str]]
) -> None:
    server = serve(replay=_ONE_SLOT, admission={"max_queue_seconds": 1_000})
    # A call that has ended shows that answers are short: two hundred may wait.
    answer(server, "x")
    with _occupied(server):
        prompts = submitted(server)
        many = [_begin(server, f"many {number}", caller="a") for number in range(200)]
        _await_waiting(server, 200)
        one = _begin(server, "one", caller="b")
        _await_waiting(server, 201)
    assert text(list(one)) == "one"
    assert text(list(many[-1])) == "many 199"
    assert prompts[:2] == ["one", "many 0"]
    assert len(prompts) == 201


def test_a_call_whose_deadline_passes_while_it_waits_is_never_started(
    serve: Callable[..., Server], submitted: Callable[[Server], list[str]]
) -> None:
    server = serve(replay=_ONE_SLOT)
    with _occupied(server):
        prompts = submitted(server)
        hurried = server.chat.Chat(ask("hurried"), timeout=0.2)
        patient = server.chat.Chat(ask("patient"), timeout=60)
        assert refusal(lambda: list(hurried)).code == grpc.StatusCode.DEADLINE_EXCEEDED
        _await_waiting(server, 1)
    assert text(list(patient)) == "patient"
    assert prompts == ["patient"]


def test_a_call_that_is_cancelled_while_it_waits_is_never_started(
    serve: Callable[..., Server], submitted: Callable[[Server], list[str]]
) -> None:
    server = serve(replay=_ONE_SLOT)
    with _occupied(server):
        prompts = submitted(server)
        leaving = _begin(server, "leaving")
        _await_waiting(server, 1)
        leaving.cancel()
        _await_waiting(server, 0)
    assert text(answer(server, "next")) == "next"
    assert prompts == ["next"]


def test_a_call_that_would_wait_too_long_is_told_when_to_return(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0.02, "max_batch_size": 1}, admission={"max_queue_seconds": 0.5})
    # Answers take a second: after one that waits, the next would wait too long.
    answer(server, "x" * 50, max_completion_tokens=50)
    with _occupied(server):
        waiting = _begin(server, "waiting")
        _await_waiting(server, 1)
        refused = refusal(lambda: answer(server))
        assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert 1 < refused.retry_seconds < 4
        (violation,) = refused.details["QuotaFailure"].violations
        assert violation.subject == "slots"
    assert text(list(waiting)) == "waiting"


def test_the_time_until_a_call_is_taken_up_holds_its_wait(serve: Callable[..., Server]) -> None:
    server = serve(replay=_ONE_SLOT)
    with _occupied(server) as occupier:
        waiting = _begin(server, "waiting")
        _await_waiting(server, 1)
        began = time.monotonic()
        for _ in range(100):
            next(occupier)
        waited = time.monotonic() - began
    timings = list(waiting)[-1].timings
    assert timings.queued.ToNanoseconds() / 1e9 >= waited
    assert timings.time_to_first_token.ToNanoseconds() >= timings.queued.ToNanoseconds()


@pytest.mark.usefixtures("named_callers")
def test_open_calls_of_one_caller_are_bounded(serve: Callable[..., Server]) -> None:
    server = serve(admission={"max_calls_per_caller": 1})
    stream = _begin(server, "x", caller="a", **_ENDLESS)
    next(iter(stream))
    refused = refusal(partial(list, _begin(server, "y", caller="a")))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_seconds > 0
    assert refused.details["QuotaFailure"].violations[0].subject == "open calls of one caller"
    assert text(list(_begin(server, "y", caller="b"))) == "y"
    stream.cancel()


@pytest.mark.usefixtures("named_callers")
def test_tokens_of_one_caller_are_bounded(serve: Callable[..., Server]) -> None:
    server = serve(admission={"tokens_per_minute": 600})
    fields = {"max_completion_tokens": 800}
    # Prompt and answer have 401 tokens each.
    assert text(list(_begin(server, "x" * 400, caller="a", **fields))) == "x" * 400
    refused = refusal(partial(list, _begin(server, "y", caller="a")))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert 10 < refused.retry_seconds < 25
    assert text(list(_begin(server, "y", caller="b"))) == "y"


def test_at_a_shutdown_waiting_calls_end_at_once_and_running_ones_finish(
    serve: Callable[..., Server], submitted: Callable[[Server], list[str]]
) -> None:
    server = serve(replay={"step_seconds": 0.01, "max_batch_size": 1})
    running = _begin(server, "x" * 100, max_completion_tokens=500)
    first = next(iter(running))
    prompts = submitted(server)
    waiting = [_begin(server, "waiting") for _ in range(2)]
    _await_waiting(server, 2)
    server.begin_to_stop()
    for stream in waiting:
        refused = refusal(partial(list, stream))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert refused.retry_seconds > 0
    assert not server.ended
    assert text([first, *running]) == "x" * 100
    assert prompts == []


def test_when_the_executor_dies_waiting_calls_end_at_once(serve: Callable[..., Server]) -> None:
    server = serve(replay=_ONE_SLOT)
    dead = server.executor
    running = _begin(server, "running", **_ENDLESS)
    next(iter(running))
    waiting = [_begin(server, "waiting") for _ in range(2)]
    _await_waiting(server, 2)
    os.kill(server.executor_pid, signal.SIGKILL)
    for stream in (running, *waiting):
        refused = refusal(partial(list, stream))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert refused.retry_seconds > 0
    server.await_another(dead)
    assert text(answer(server, "Hello")) == "Hello"
    assert (server.app.admission.open_calls, server.app.admission.running) == (0, 0)


def test_a_reader_that_stalls_loses_its_stream_and_its_slot(serve: Callable[..., Server]) -> None:
    server = serve(replay=_ONE_SLOT, reader_timeout_seconds=0.5)
    with grpc.insecure_channel(server.address, _NO_READING_AHEAD) as channel:
        stream = chat_pb2_grpc.ChatServiceStub(channel).Chat(ask(**_ENDLESS), timeout=60)
        next(iter(stream))
        (tokens,) = server.executor._streams.values()
        eventually(lambda: tokens._waiting_tokens > 100, "tokens wait for the reader")
        # However many, they are joined.
        assert len(tokens._outputs) == 1
        eventually(lambda: not _open(server), "the stream is lost")
        assert not tokens.ended
        server.await_idle()
        assert text(answer(server, "Hello")) == "Hello"
        refused = refusal(lambda: list(stream))
    assert refused.code == grpc.StatusCode.ABORTED
    assert refused.details["ErrorInfo"].reason == "READER_STALLED"


def _open(server: Server) -> int:
    return server.app.admission.open_calls


def test_a_reader_that_stalls_holds_no_slot_once_its_answer_is_there(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0, "max_batch_size": 1})
    with grpc.insecure_channel(server.address, _NO_READING_AHEAD) as channel:
        tokens = 20_000
        stream = chat_pb2_grpc.ChatServiceStub(channel).Chat(
            ask("x", max_completion_tokens=tokens, min_tokens=tokens), timeout=60
        )
        first = next(iter(stream))
        eventually(lambda: server.app.admission.running == 0, "the executor is done with it")
        assert _open(server) == 1
        assert text(answer(server, "Hello")) == "Hello"
        assert _open(server) == 1
        assert text([first, *stream]) == "x" * tokens
