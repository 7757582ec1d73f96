"""What an answer looks like on the wire, with the replay executor: one token a byte, the prompt repeated."""

import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

from .conftest import Server, answer, ask, eventually, text, user

_MANY_BYTES = "Zoë: naïve 日本語 🎉👩‍👩‍👧 — fin"


def test_an_answer_streams_in_order_and_ends_once(replay_server: Server) -> None:
    messages = answer(replay_server, "The quick brown fox", max_completion_tokens=100)
    assert text(messages) == "The quick brown fox"
    assert len(messages) > 1
    *rest, last = messages
    assert last.finish_reason == pb.FINISH_REASON_STOP
    assert all(m.finish_reason == pb.FINISH_REASON_UNSPECIFIED for m in rest)
    assert not any(m.HasField("usage") or m.HasField("timings") or m.HasField("stop_word") for m in rest)
    assert {m.beam_index for m in messages} == {0}


def test_the_whole_conversation_is_the_prompt(replay_server: Server) -> None:
    messages = [user("one"), pb.Message(role=pb.ROLE_ASSISTANT, content="two"), user("three")]
    stream = replay_server.chat.Chat(pb.ChatRequest(messages=messages), timeout=60)
    assert text(list(stream)) == "one\ntwo\nthree"


def test_no_character_is_broken_between_messages(replay_server: Server) -> None:
    # One byte in a message at most, so that only the server can keep characters whole.
    options = pb.StreamOptions(max_tokens_per_message=1)
    messages = answer(replay_server, _MANY_BYTES, max_completion_tokens=500, stream_options=options)
    # protobuf itself refuses to parse what is no UTF-8; a broken character would be U+FFFD here.
    assert text(messages) == _MANY_BYTES
    assert all(len(m.text) <= 1 for m in messages)


@pytest.mark.parametrize(
    ("fields", "expected", "finish", "generated"),
    [
        # The prompt is 20 tokens.
        ({}, "x" * 20, pb.FINISH_REASON_STOP, 20),
        ({"max_tokens": 40}, "x" * 20, pb.FINISH_REASON_LENGTH, 20),
        ({"max_tokens": 41}, "x" * 20, pb.FINISH_REASON_STOP, 20),
        ({"max_tokens": 25}, "x" * 5, pb.FINISH_REASON_LENGTH, 5),
        ({"max_tokens": 20}, "", pb.FINISH_REASON_LENGTH, 0),
        ({"max_tokens": 19}, "x" * 19, pb.FINISH_REASON_PROMPT_TRUNCATED, 0),
        ({"max_tokens": 1}, "x", pb.FINISH_REASON_PROMPT_TRUNCATED, 0),
        ({"max_completion_tokens": 1}, "x", pb.FINISH_REASON_LENGTH, 1),
        ({"max_completion_tokens": 2**31 - 1}, "x" * 20, pb.FINISH_REASON_STOP, 20),
        ({"max_tokens": 2**31 - 1}, "x" * 20, pb.FINISH_REASON_STOP, 20),
        ({"max_completion_tokens": 99, "min_tokens": 30}, "x" * 30, pb.FINISH_REASON_STOP, 30),
        ({"max_completion_tokens": 30, "min_tokens": 30}, "x" * 30, pb.FINISH_REASON_LENGTH, 30),
    ],
)
def test_a_budget_is_kept_and_accounted_for(
    replay_server: Server, fields: dict[str, Any], expected: str, finish: int, generated: int
) -> None:
    before = replay_server.executor.new_id()
    messages = answer(replay_server, "x" * 20, **fields)
    calls = replay_server.executor.new_id() - before - 1
    last = messages[-1]
    assert (text(messages), last.finish_reason) == (expected, finish)
    assert last.usage == pb.Usage(prompt_tokens=20, completion_tokens=generated, total_tokens=20 + generated)
    # What needs no token does not go to the executor.
    assert calls == (1 if generated else 0)
    assert last.timings.HasField("time_to_first_token") == (generated > 0)
    assert last.timings.HasField("total")


def test_the_default_budget_is_fifty_tokens_with_the_prompt(replay_server: Server) -> None:
    messages = answer(replay_server, "y" * 40)
    assert text(messages) == "y" * 10
    assert messages[-1].usage.total_tokens == 50


def test_a_prompt_is_never_cut_within_a_character(replay_server: Server) -> None:
    (message,) = answer(replay_server, "Zoë!", max_tokens=3)
    assert message.finish_reason == pb.FINISH_REASON_PROMPT_TRUNCATED
    assert message.text in ("Zo", "Zo\ufffd")


def test_an_answer_ends_where_the_context_is_full(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0, "context_length": 30})
    messages = answer(server, "x" * 20, max_completion_tokens=100)
    assert text(messages) == "x" * 10
    assert messages[-1].finish_reason == pb.FINISH_REASON_LENGTH


def test_timings_are_in_the_order_of_what_they_time(replay_server: Server) -> None:
    timings = answer(replay_server, "Hello there", max_completion_tokens=100)[-1].timings
    queued, first, total = (
        getattr(timings, name).ToNanoseconds() for name in ("queued", "time_to_first_token", "total")
    )
    assert 0 <= queued <= first <= total
    # Ten further steps of a millisecond each.
    assert total - first >= 5_000_000


@pytest.mark.parametrize(
    ("stop_words", "expected", "matched"),
    [
        (["quick"], "The ", "quick"),
        (["fox", "quick"], "The ", "quick"),
        (["The"], "", "The"),
        (["quack", "brown fox"], "The quick ", "brown fox"),
        (["foxes", "🎉"], "The quick brown fox ", "🎉"),
        (["\n"], "The quick brown fox 🎉", "\n"),
        (["foxy", "QUICK"], "The quick brown fox 🎉\nend", None),
        (["end"], "The quick brown fox 🎉\n", "end"),
        # A word that could still begin when the answer ends is no word.
        (["ending"], "The quick brown fox 🎉\nend", None),
    ],
)
def test_an_answer_ends_at_a_stop_word(
    replay_server: Server, stop_words: list[str], expected: str, matched: str | None
) -> None:
    messages = answer(
        replay_server, "The quick brown fox 🎉\nend", max_completion_tokens=100, stop_words_list=stop_words
    )
    last = messages[-1]
    assert text(messages) == expected
    assert (last.stop_word if last.HasField("stop_word") else None) == matched
    assert last.finish_reason == (pb.FINISH_REASON_STOP_WORD if matched else pb.FINISH_REASON_STOP)
    consumed = (expected + (matched or "")).encode()
    assert last.usage.completion_tokens == len(consumed)
    replay_server.await_idle()


def test_a_stop_word_frees_the_executor(replay_server: Server) -> None:
    messages = answer(
        replay_server, "to be", max_completion_tokens=30_000, min_tokens=30_000, stop_words_list=["beto"]
    )
    assert text(messages) == "to "
    replay_server.await_idle()


def test_beams_come_whole_one_message_each_best_first(replay_server: Server) -> None:
    messages = answer(replay_server, "abcd", max_completion_tokens=100, beam_width=4)
    assert [(m.beam_index, m.text) for m in messages] == [
        (0, "abcd"),
        (1, "bcda"),
        (2, "cdab"),
        (3, "dabc"),
    ]
    assert [m.finish_reason for m in messages] == [pb.FINISH_REASON_STOP] * 4
    assert [m.HasField("usage") for m in messages] == [False, False, False, True]
    assert messages[-1].usage == pb.Usage(prompt_tokens=4, completion_tokens=16, total_tokens=20)


def test_every_beam_has_its_own_stop_word_and_end(replay_server: Server) -> None:
    messages = answer(
        replay_server, "abcd", max_completion_tokens=3, beam_width=3, stop_words_list=["cd", "ab"]
    )
    assert [(m.text, m.finish_reason, m.stop_word) for m in messages] == [
        ("", pb.FINISH_REASON_STOP_WORD, "ab"),
        ("b", pb.FINISH_REASON_STOP_WORD, "cd"),
        ("", pb.FINISH_REASON_STOP_WORD, "cd"),
    ]
    assert messages[-1].usage.completion_tokens == 2 + 3 + 2


def test_beams_that_the_budget_ends_say_so(replay_server: Server) -> None:
    messages = answer(replay_server, "abcd", max_completion_tokens=2, beam_width=2)
    assert [(m.text, m.finish_reason) for m in messages] == [
        ("ab", pb.FINISH_REASON_LENGTH),
        ("bc", pb.FINISH_REASON_LENGTH),
    ]


@pytest.mark.parametrize("most", [1, 3, 7])
@pytest.mark.parametrize("delay", [0, 30])
def test_no_message_holds_more_tokens_than_allowed(replay_server: Server, most: int, delay: int) -> None:
    options = pb.StreamOptions(max_tokens_per_message=most, max_delay_ms=delay)
    messages = answer(replay_server, "abc" * 20, max_completion_tokens=100, stream_options=options)
    assert text(messages) == "abc" * 20
    assert max(len(m.text) for m in messages) <= most
    assert messages[-1].finish_reason == pb.FINISH_REASON_STOP


def test_a_long_delay_joins_a_whole_answer(replay_server: Server) -> None:
    (message,) = answer(
        replay_server,
        "abc" * 20,
        max_completion_tokens=100,
        stream_options=pb.StreamOptions(max_delay_ms=10_000),
    )
    assert message.text == "abc" * 20


def test_a_long_delay_ends_when_a_message_is_full(replay_server: Server) -> None:
    answer(replay_server)
    assert replay_server.executor.last_iteration is not None
    before = replay_server.executor.last_iteration.step
    options = pb.StreamOptions(max_delay_ms=10_000, max_tokens_per_message=50)
    stream = replay_server.chat.Chat(
        ask("x", max_completion_tokens=30_000, min_tokens=30_000, stream_options=options), timeout=60
    )
    first = next(iter(stream))
    assert first.text == "x" * 50
    # Ten seconds are nearly ten thousand steps.
    iteration = replay_server.executor.last_iteration
    assert iteration is not None
    assert iteration.step - before < 5_000
    stream.cancel()
    replay_server.await_idle()


def test_a_reader_that_stalls_finds_larger_messages(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0})
    tokens = 30_000
    # The least that gRPC reads ahead, so that the server notices the stall.
    options = (("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0))
    with grpc.insecure_channel(server.address, options) as channel:
        stream = chat_pb2_grpc.ChatServiceStub(channel).Chat(
            ask("x", max_completion_tokens=tokens, min_tokens=tokens), timeout=60
        )
        first = next(iter(stream))

        def all_generated() -> bool:
            iteration = server.executor.last_iteration
            return iteration is not None and iteration.active == 0

        eventually(all_generated, "the executor has finished, though nobody reads")
        rest = list(stream)
    assert text([first, *rest]) == "x" * tokens
    assert len(rest) < tokens / 4
    assert max(len(m.text) for m in rest) > 1_000


def test_one_that_stalls_holds_up_nobody_else(serve: Callable[..., Server]) -> None:
    server = serve()
    with grpc.insecure_channel(server.address, (("grpc.http2.lookahead_bytes", 1_024),)) as channel:
        stalled = chat_pb2_grpc.ChatServiceStub(channel).Chat(
            ask("x", max_completion_tokens=30_000, min_tokens=30_000), timeout=60
        )
        next(iter(stalled))
        for _ in range(5):
            assert text(answer(server, "Hello")) == "Hello"
        stalled.cancel()
    server.await_idle()


def test_many_calls_at_once_get_each_their_own_answer(replay_server: Server) -> None:
    said = [f"call {i}: {'ab' * i}" for i in range(64)]
    streams = [replay_server.chat.Chat(ask(s, max_completion_tokens=500), timeout=60) for s in said]
    assert [text(list(stream)) for stream in streams] == said
    replay_server.await_idle()


def test_calls_beyond_the_batch_wait_their_turn(serve: Callable[..., Server]) -> None:
    server = serve(replay={"step_seconds": 0.001, "max_batch_size": 2})
    streams = [server.chat.Chat(ask("x" * 20), timeout=60) for _ in range(6)]
    ends = [list(stream)[-1] for stream in streams]
    assert all(end.finish_reason == pb.FINISH_REASON_STOP for end in ends)
    queued = sorted(end.timings.queued.ToNanoseconds() for end in ends)
    # Three rounds of twenty steps: the last pair waits for two of them.
    assert queued[-1] >= 20_000_000
    assert all(
        end.timings.queued.ToNanoseconds() <= end.timings.time_to_first_token.ToNanoseconds() for end in ends
    )


def test_threads_may_share_a_channel(replay_server: Server) -> None:
    answers: dict[int, str] = {}

    def call(number: int) -> None:
        answers[number] = text(answer(replay_server, f"number {number}"))

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: f"number {number}" for number in range(8)}
