"""What is noted of calls to a server with canned answers."""

import time
from collections.abc import Iterator

import grpc

from mistralchat._connection import CallMetadata
from mistralchat.bench.caller import METHOD, NO_ANSWER, Caller
from mistralchat.bench.recording import Recording
from mistralchat.v1 import chat_pb2

from ..conftest import FakeChatService, Script, fails, says


async def calls(target: str, count: int = 1, due: float | None = None) -> Recording:
    recording = Recording()
    caller = Caller(10.0, CallMetadata(None, "secret"), recording)
    async with grpc.aio.insecure_channel(target) as channel:
        for _ in range(count):
            await caller.call(channel.unary_stream(METHOD), b"", due)
    return recording


async def test_an_answer(service: FakeChatService, target: str) -> None:
    before = time.perf_counter()
    recording = await calls(target)
    assert recording.answered == 1
    assert recording.messages.tolist() == [4]
    assert (recording.prompt_tokens[0], recording.completion_tokens[0]) == (5, 3)
    assert (recording.queued[0], recording.server_time_to_first_token[0]) == (0.25, 1.0)
    times = [before, recording.sent[0], *recording.received, recording.ended[0], time.perf_counter()]
    assert times == sorted(times)
    assert recording.due == recording.sent
    assert service.metadata["authorization"] == "Bearer secret"


async def test_latency_counts_from_when_a_call_was_due(target: str) -> None:
    due = time.perf_counter() - 5
    recording = await calls(target, due=due)
    assert recording.due.tolist() == [due]
    assert recording.sent[0] > due + 4


async def test_failures_are_counted_by_status(service: FakeChatService, target: str) -> None:
    def nothing(_: chat_pb2.ChatRequest, __: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        yield from ()

    scripts: list[Script] = [
        fails(grpc.StatusCode.UNAVAILABLE, "stopping"),
        fails(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many"),
        fails(grpc.StatusCode.UNAVAILABLE, "stopping, still", after=("half",)),
        says("Hello"),
        fails(grpc.StatusCode.CANCELLED, "by the server"),
        nothing,
    ]
    service.script = lambda request, context: scripts[len(service.requests) - 1](request, context)
    recording = await calls(target, len(scripts))
    assert recording.answered == 1
    assert recording.failures == {"UNAVAILABLE": 2, "RESOURCE_EXHAUSTED": 1, "CANCELLED": 1, NO_ANSWER: 1}
    assert recording.reasons["UNAVAILABLE"] == "stopping"
    # What had arrived of a failed answer does not count.
    assert len(recording.received) == recording.messages[0] == 2
