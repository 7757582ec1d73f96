"""Tokens on their way to one caller: taken together, joined while they wait, failed at once."""

import asyncio

import pytest

from mistralchat_server.executor.messages import Failure, FailureKind, FinishReason, Output
from mistralchat_server.executor.stream import ExecutorGoneError, GenerationError, Linger, TokenStream

_FOREVER = 3_600.0
_PATIENCE = 20.0


def _output(*tokens: int, beam: int = 0, last: bool = False) -> Output:
    finish_reason = FinishReason.STOP if last else None
    return Output(1, list(tokens), beam_index=beam, finish_reason=finish_reason, last=last)


async def _settle() -> None:
    """Lets every task run that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_what_waits_is_taken_together() -> None:
    stream = TokenStream()
    stream.push(_output(1))
    stream.push(_output(2, 3))
    (output,) = await stream.take()
    assert output.token_ids == [1, 2, 3]
    stream.push(_output(4))
    (output,) = await stream.take()
    assert output.token_ids == [4]


async def test_a_reader_waits_for_the_first_token() -> None:
    stream = TokenStream()
    taking = asyncio.create_task(stream.take())
    await _settle()
    assert not taking.done()
    stream.push(_output(7))
    assert [output.token_ids for output in await taking] == [[7]]


async def test_joining_keeps_logprobs_and_the_end() -> None:
    stream = TokenStream()
    stream.push(Output(1, [1], logprobs=[-0.5], top_logprobs=[[(1, -0.5)]]))
    stream.push(
        Output(1, [2], logprobs=[-1.5], top_logprobs=[[(2, -1.5)]], finish_reason=FinishReason.LENGTH)
    )
    (output,) = await stream.take()
    assert output == Output(
        1,
        [1, 2],
        logprobs=[-0.5, -1.5],
        top_logprobs=[[(1, -0.5)], [(2, -1.5)]],
        finish_reason=FinishReason.LENGTH,
    )


async def test_the_outputs_of_different_beams_stay_apart() -> None:
    stream = TokenStream()
    for beam in range(3):
        stream.push(_output(beam, beam=beam, last=beam == 2))
    assert [(o.beam_index, o.token_ids, o.last) for o in await stream.take()] == [
        (0, [0], False),
        (1, [1], False),
        (2, [2], True),
    ]
    assert stream.ended


async def test_tokens_linger_until_there_are_enough() -> None:
    stream = TokenStream()
    taking = asyncio.create_task(stream.take(Linger(_FOREVER, enough=3)))
    for token in (1, 2):
        stream.push(_output(token))
        await _settle()
        assert not taking.done()
    stream.push(_output(3))
    outputs = await asyncio.wait_for(taking, _PATIENCE)
    assert [output.token_ids for output in outputs] == [[1, 2, 3]]


async def test_tokens_do_not_linger_after_the_end() -> None:
    stream = TokenStream()
    taking = asyncio.create_task(stream.take(Linger(_FOREVER)))
    stream.push(_output(1))
    await _settle()
    assert not taking.done()
    stream.push(_output(2, last=True))
    outputs = await asyncio.wait_for(taking, _PATIENCE)
    assert [output.token_ids for output in outputs] == [[1, 2]]


async def test_tokens_linger_no_longer_than_they_may() -> None:
    stream = TokenStream()
    stream.push(_output(1))
    (output,) = await asyncio.wait_for(stream.take(Linger(0.01)), _PATIENCE)
    assert output.token_ids == [1]


@pytest.mark.parametrize("linger", [None, Linger(_FOREVER)])
async def test_a_failure_reaches_the_reader_at_once(linger: Linger | None) -> None:
    stream = TokenStream()
    stream.push(_output(1))
    taking = asyncio.create_task(stream.take(linger if linger else None))
    if linger:
        await _settle()
        assert not taking.done()
    stream.fail(ExecutorGoneError())
    with pytest.raises(ExecutorGoneError):
        await asyncio.wait_for(taking, _PATIENCE)
    assert stream.ended


async def test_a_failure_tells_whose_fault_it_is() -> None:
    stream = TokenStream()
    stream.fail(GenerationError(Failure(1, FailureKind.INVALID, "too big", "bad_words_list")))
    with pytest.raises(GenerationError, match="too big") as caught:
        await stream.take()
    assert (caught.value.kind, caught.value.parameter) == (FailureKind.INVALID, "bad_words_list")


async def test_a_reader_that_leaves_loses_no_token_of_the_next() -> None:
    stream = TokenStream()
    taking = asyncio.create_task(stream.take())
    await _settle()
    taking.cancel()
    stream.push(_output(1))
    (output,) = await stream.take()
    assert output.token_ids == [1]


async def test_the_times_of_the_first_and_the_last_token_are_noted() -> None:
    stream = TokenStream()
    assert stream.first_token_at is stream.last_token_at is None
    stream.push(_output(1))
    first = stream.first_token_at
    assert first is not None
    stream.push(_output(2))
    assert stream.first_token_at == first
    assert stream.last_token_at is not None
    assert stream.last_token_at >= first


def test_pieces_are_the_output_and_the_last_has_its_end() -> None:
    output = Output(
        1,
        [1, 2, 3, 4, 5],
        [-1, -2, -3, -4, -5],
        [[]] * 5,
        beam_index=2,
        finish_reason=FinishReason.STOP,
        last=True,
    )
    assert list(output.pieces(2)) == [
        Output(1, [1, 2], [-1, -2], [[], []], beam_index=2),
        Output(1, [3, 4], [-3, -4], [[], []], beam_index=2),
        Output(1, [5], [-5], [[]], beam_index=2, finish_reason=FinishReason.STOP, last=True),
    ]
    assert [piece.token_ids for piece in output.pieces(5)] == [[1, 2, 3, 4, 5]]
    assert [piece.token_ids for piece in Output(1, [1, 2, 3, 4]).pieces(2)] == [[1, 2], [3, 4]]
