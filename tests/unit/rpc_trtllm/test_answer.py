"""Which tokens of an answer are sent, and when."""

from collections.abc import Sequence
from typing import Any

import pytest
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat_server.executor.messages import FinishReason, Output
from mistralchat_server.executor.stream import TokenStream
from mistralchat_server.rpc.trtllm.answer import TokenAnswer
from mistralchat_server.text.byte_tokenizer import byte_tokenizer
from mistralchat_server.text.tokenizer import ChatTokenizer, load_tokenizer

_BYTES = byte_tokenizer()
(_END,) = _BYTES.stop_token_ids


@pytest.fixture(scope="module")
def words(model_path: Any) -> ChatTokenizer:
    """A tokenizer whose tokens are words."""
    return load_tokenizer(model_path)


def _ids(text: str, tokenizer: ChatTokenizer = _BYTES) -> list[int]:
    return tokenizer.backend.encode(text, add_special_tokens=False).ids


async def _answer(
    outputs: Sequence[Output], tokenizer: ChatTokenizer = _BYTES, sequences: int = 1, **fields: Any
) -> list[tl.GenerateResponse]:
    """The messages, when each output is taken by itself."""
    fields = {"streaming": True, "request_id": "r", **fields}
    request = tl.GenerateRequest(tokenized=tl.TokenizedInput(input_token_ids=[1, 2, 3]), **fields)
    stream = TokenStream()
    messages = []
    stream.push(outputs[0])
    rest = iter(outputs[1:])

    async def write(message: tl.GenerateResponse) -> None:
        messages.append(message)
        for output in rest:
            stream.push(output)
            break

    await TokenAnswer(request, tokenizer, sequences).send(stream, write)
    return messages


def _steps(
    token_ids: list[int], finish: FinishReason | None = FinishReason.STOP, **first: Any
) -> list[Output]:
    """All in one output: what is sent must not depend on how the tokens arrive."""
    return [Output(1, list(token_ids), finish_reason=finish, last=finish is not None, **first)]


def _chunks(messages: list[tl.GenerateResponse]) -> list[list[int]]:
    return [list(message.chunk.token_ids) for message in messages if message.HasField("chunk")]


def _complete(messages: list[tl.GenerateResponse]) -> tl.GenerateComplete:
    assert [message.HasField("complete") for message in messages][-1]
    return messages[-1].complete


async def test_chunks_are_deltas_and_the_last_message_is_whole() -> None:
    one, two = _ids("one"), _ids("two")
    messages = await _answer(
        [Output(1, one), Output(1, [*two, _END], finish_reason=FinishReason.STOP, last=True)]
    )
    assert _chunks(messages) == [one, two]
    complete = _complete(messages)
    assert list(complete.output_token_ids) == one + two
    assert (complete.finish_reason, complete.prompt_tokens, complete.completion_tokens) == ("stop", 3, 7)
    assert complete.WhichOneof("matched_stop") is None
    assert {message.request_id for message in messages} == {"r"}


async def test_without_streaming_there_is_one_message() -> None:
    messages = await _answer(_steps(_ids("hello"), FinishReason.LENGTH), streaming=False)
    (message,) = messages
    assert list(message.complete.output_token_ids) == _ids("hello")
    assert message.complete.finish_reason == "length"


async def test_tokens_of_a_stop_string_are_not_sent() -> None:
    messages = await _answer(_steps(_ids("say STOP now")), stop=["STOP"])
    assert _chunks(messages) == [_ids("say ")]
    complete = _complete(messages)
    assert list(complete.output_token_ids) == _ids("say ")
    assert (complete.matched_stop_str, complete.finish_reason) == ("STOP", "stop")
    assert complete.completion_tokens == len("say STOP")


async def test_what_could_begin_a_stop_string_waits() -> None:
    outputs = [Output(1, _ids("a ST")), Output(1, _ids("AR"), finish_reason=FinishReason.LENGTH, last=True)]
    messages = await _answer(outputs, stop=["STOP"])
    assert _chunks(messages) == [_ids("a "), _ids("STAR")]


async def test_bytes_of_an_unfinished_character_wait() -> None:
    first, second = _ids("é")
    messages = await _answer(
        [Output(1, [*_ids("a"), first]), Output(1, [second], finish_reason=FinishReason.LENGTH, last=True)]
    )
    assert _chunks(messages) == [_ids("a"), [first, second]]


async def test_a_token_of_both_answer_and_stop_string_is_sent_with_all_of_the_stop_string(
    words: ChatTokenizer,
) -> None:
    ids = _ids("The capital of France is Paris, you see", words)
    text = words.backend.decode(ids)
    stop = "ance is P"  # begins within " France", ends within " Paris"
    messages = await _answer(_steps(ids), words, stop=[stop])
    sent = list(_complete(messages).output_token_ids)
    assert sent == ids[: len(sent)]
    assert words.decode(sent).partition(stop)[0] == text.partition(stop)[0]
    assert stop in words.decode(sent)


async def test_a_token_that_ends_beyond_the_stop_string_is_not_sent(words: ChatTokenizer) -> None:
    ids = _ids("The capital of France is Paris", words)
    messages = await _answer(_steps(ids), words, stop=[" Par"])
    assert words.decode(list(_complete(messages).output_token_ids)) == "The capital of France is"


@pytest.mark.parametrize("kept", [False, True])
async def test_stop_tokens_of_the_caller(kept: bool) -> None:
    stop = _ids("!")[0]
    messages = await _answer(
        _steps(_ids("Hi! More"), FinishReason.LENGTH),
        stop_token_ids=[stop],
        include_stop_token_in_output=kept,
    )
    complete = _complete(messages)
    assert list(complete.output_token_ids) == _ids("Hi!" if kept else "Hi")
    assert (complete.matched_token_id, complete.finish_reason) == (stop, "stop")


async def test_the_end_of_the_answer_can_be_kept() -> None:
    messages = await _answer(_steps([*_ids("Hi"), _END]), include_stop_token_in_output=True)
    assert list(_complete(messages).output_token_ids) == [*_ids("Hi"), _END]
    messages = await _answer(_steps(_ids("Hi STOP")), stop=["STOP"], include_stop_token_in_output=True)
    assert list(_complete(messages).output_token_ids) == _ids("Hi STOP")


async def test_logprobs_come_with_their_tokens() -> None:
    ids = _ids("ab STOP")
    output = Output(
        1,
        list(ids),
        logprobs=[-0.5] * len(ids),
        top_logprobs=[[(7, -0.25)]] * len(ids),
        finish_reason=FinishReason.LENGTH,
        last=True,
    )
    complete = _complete(await _answer([output], stop=["STOP"]))
    assert [logprob.token_id for logprob in complete.logprobs] == list(complete.output_token_ids) == ids[:3]
    assert complete.logprobs[0].logprob == -0.5
    assert [(top.token_id, top.logprob) for top in complete.logprobs[0].top_logprobs] == [(7, -0.25)]


async def test_beams_come_best_first_and_no_more_than_wanted() -> None:
    outputs = [
        Output(1, _ids(text), beam_index=beam, finish_reason=FinishReason.LENGTH, last=beam == 2)
        for beam, text in enumerate(("first", "second", "third"))
    ]
    request = tl.GenerateRequest(streaming=False)
    stream = TokenStream()
    for output in outputs:
        stream.push(output)
    messages: list[tl.GenerateResponse] = []

    async def write(message: tl.GenerateResponse) -> None:
        messages.append(message)

    await TokenAnswer(request, _BYTES, 2).send(stream, write)
    found = [(m.complete.sequence_index, list(m.complete.output_token_ids)) for m in messages]
    assert found == [(0, _ids("first")), (1, _ids("second"))]
