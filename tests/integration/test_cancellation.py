"""A caller that leaves frees its slot in the executor, however it leaves."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

from .conftest import Server, answer, ask, eventually, refusal, text

#: At least half a minute at a step of a millisecond.
_ENDLESS: dict[str, Any] = {"max_completion_tokens": 32_000, "min_tokens": 32_000}

_CALLER = """
import sys, grpc
from mistralchat.v1 import chat_pb2 as pb, chat_pb2_grpc
channel = grpc.insecure_channel(sys.argv[1])
request = pb.ChatRequest(
    messages=[pb.Message(role=pb.ROLE_USER, content="x")], max_completion_tokens=32000, min_tokens=32000
)
for message in chat_pb2_grpc.ChatServiceStub(channel).Chat(request):
    print(message.text, flush=True)
"""


def _active(server: Server) -> int:
    iteration = server.executor.last_iteration
    return 0 if iteration is None else iteration.active


def test_a_caller_that_cancels_frees_its_slot(replay_server: Server) -> None:
    stream = replay_server.chat.Chat(ask(**_ENDLESS), timeout=60)
    next(iter(stream))
    assert _active(replay_server) == 1
    stream.cancel()
    replay_server.await_idle()
    assert refusal(lambda: list(stream)).code == grpc.StatusCode.CANCELLED


def test_callers_that_cancel_before_the_first_message_free_their_slots(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0.02, "max_batch_size": 4})
    streams = [server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(8)]
    eventually(lambda: _active(server) == 4 and server.app.admission.waiting == 4, "all have arrived")
    for stream in streams:
        stream.cancel()
    server.await_idle()
    assert text(answer(server, "Hello")) == "Hello"


def test_one_that_leaves_disturbs_nobody(replay_server: Server) -> None:
    staying = [replay_server.chat.Chat(ask(f"caller {i}" * 30, **_budget(270)), timeout=60) for i in range(4)]
    leaving = [replay_server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(4)]
    for stream in leaving:
        next(iter(stream))
        stream.cancel()
    assert [text(list(stream)) for stream in staying] == [f"caller {i}" * 30 for i in range(4)]
    replay_server.await_idle()


def _budget(tokens: int) -> dict[str, Any]:
    return {"max_completion_tokens": tokens}


def test_a_deadline_frees_its_slot(replay_server: Server) -> None:
    stream = replay_server.chat.Chat(ask(**_ENDLESS), timeout=0.3)
    assert refusal(lambda: list(stream)).code == grpc.StatusCode.DEADLINE_EXCEEDED
    replay_server.await_idle()


def test_a_deadline_frees_a_slot_while_beams_are_searched(replay_server: Server) -> None:
    stream = replay_server.chat.Chat(ask(beam_width=4, **_ENDLESS), timeout=0.3)
    assert refusal(lambda: list(stream)).code == grpc.StatusCode.DEADLINE_EXCEEDED
    replay_server.await_idle()


@pytest.mark.parametrize(
    "options",
    [pb.StreamOptions(max_delay_ms=10_000), pb.StreamOptions(max_tokens_per_message=1)],
    ids=["waiting for more", "one by one"],
)
def test_stream_options_do_not_hold_a_slot(replay_server: Server, options: pb.StreamOptions) -> None:
    stream = replay_server.chat.Chat(ask(stream_options=options, **_ENDLESS), timeout=60)
    eventually(lambda: _active(replay_server) == 1, "the executor works on it")
    stream.cancel()
    replay_server.await_idle()


def test_a_caller_that_stalls_and_leaves_frees_its_slot(serve: Callable[..., Server]) -> None:
    server = serve()

    def steps() -> int:
        iteration = server.executor.last_iteration
        return 0 if iteration is None else iteration.step

    with grpc.insecure_channel(server.address, (("grpc.http2.lookahead_bytes", 1_024),)) as channel:
        stream = chat_pb2_grpc.ChatServiceStub(channel).Chat(ask(**_ENDLESS), timeout=60)
        next(iter(stream))
        eventually(lambda: steps() > 1_000, "more has been generated than the connection takes")
        stream.cancel()
        server.await_idle()


def test_a_caller_whose_channel_closes_frees_its_slot(replay_server: Server) -> None:
    stub_channel = grpc.insecure_channel(replay_server.address)
    stream = stub_channel.unary_stream(
        "/mistralchat.v1.ChatService/Chat",
        request_serializer=pb.ChatRequest.SerializeToString,
        response_deserializer=pb.ChatResponse.FromString,
    )(ask(**_ENDLESS))
    next(iter(stream))
    stub_channel.close()
    replay_server.await_idle()


def test_a_caller_that_is_killed_frees_its_slot(replay_server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _CALLER, replay_server.address], stdout=subprocess.PIPE
    ) as caller:
        assert caller.stdout is not None
        assert caller.stdout.readline().startswith(b"x")
        assert _active(replay_server) == 1
        caller.kill()
        replay_server.await_idle()


def test_a_caller_that_leaves_makes_room_for_another(serve: Callable[..., Server]) -> None:
    server = serve(max_open_calls=1)
    stream = server.chat.Chat(ask(**_ENDLESS), timeout=60)
    next(iter(stream))
    refused = refusal(lambda: answer(server))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    stream.cancel()
    server.await_idle()
    assert text(answer(server, "Hello")) == "Hello"


def test_a_caller_that_leaves_the_engine_frees_its_slot(openvino_server: Server) -> None:
    request = ask("Count to a thousand.", max_completion_tokens=4_000, min_tokens=4_000)
    stream = openvino_server.chat.Chat(request, timeout=60)
    next(iter(stream))
    stream.cancel()
    openvino_server.await_idle()
