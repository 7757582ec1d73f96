"""Requests that may have ended the executor: served one at a time, refused after the second death."""

import msgspec
import pytest

from mistralchat_server.executor.messages import FailureKind, Output, Request
from mistralchat_server.executor.stream import GenerationError, TokenStream
from mistralchat_server.executor.suspects import Suspects

_HOUR = 3_600.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def suspects(clock: Clock) -> Suspects:
    return Suspects(clock)


def _request(prompt: int, request_id: int = 1) -> Request:
    return Request(request_id, [prompt], 10, ())


def _stream(tokens: int = 0, *, ended: bool = False) -> TokenStream:
    stream = TokenStream()
    if tokens:
        stream.push(Output(1, [0] * tokens, last=ended))
    return stream


def _refusal(suspects: Suspects, prompt: int) -> FailureKind | None:
    """Why a new request with this prompt is not served. One that is served leaves at once."""
    stream = TokenStream()
    try:
        suspects.admit(_request(prompt, request_id=99), stream)
    except GenerationError as error:
        return error.kind
    suspects.left(stream)
    return None


def _submit(suspects: Suspects, prompt: int, tokens: int = 0) -> tuple[Request, TokenStream]:
    request, stream = _request(prompt), TokenStream()
    suspects.admit(request, stream)
    if tokens:
        stream.push(Output(1, [0] * tokens))
    return request, stream


def test_what_ends_the_executor_twice_is_refused_the_third_time(suspects: Suspects) -> None:
    assert suspects.died([_submit(suspects, 7)]) == []
    assert suspects.died([_submit(suspects, 7)]) == [1]
    assert _refusal(suspects, 7) == FailureKind.HARMFUL
    assert _refusal(suspects, 8) is None


def test_the_id_does_not_make_another_request_and_every_other_field_does(suspects: Suspects) -> None:
    poison = _request(7)
    for request_id in (1, 2):
        stream = TokenStream()
        again = msgspec.structs.replace(poison, id=request_id)
        suspects.admit(again, stream)
        suspects.died([(again, stream)])
    suspects_of_another_length = msgspec.structs.replace(poison, max_new_tokens=11)
    suspects.admit(suspects_of_another_length, TokenStream())
    assert _refusal(suspects, 7) == FailureKind.HARMFUL


def test_of_many_suspects_the_one_that_was_tried_is_refused(suspects: Suspects) -> None:
    suspects.died([_submit(suspects, prompt) for prompt in (1, 2, 3)])
    # The first passes its trial, while the others have to wait.
    _, first = _submit(suspects, 1)
    assert _refusal(suspects, 2) == FailureKind.SUSPECT
    assert _refusal(suspects, 3) == FailureKind.SUSPECT
    assert _refusal(suspects, 4) is None
    first.push(Output(1, [0]))
    # The second does not.
    tried = _submit(suspects, 2)
    bystander = _submit(suspects, 4)
    suspects.died([tried, bystander])
    assert [_refusal(suspects, prompt) for prompt in (1, 2, 3, 4)] == [None, FailureKind.HARMFUL, None, None]


def test_whoever_had_tokens_is_no_suspect_beside_one_who_had_none(suspects: Suspects) -> None:
    talking = _submit(suspects, 1, tokens=5)
    suspects.died([talking, _submit(suspects, 2)])
    _submit(suspects, 2)
    # Another trial is going on, which only a suspect would have to wait for.
    assert _refusal(suspects, 1) is None


def test_if_all_had_tokens_each_has_to_get_further_than_it_was(suspects: Suspects) -> None:
    suspects.died([_submit(suspects, 1, tokens=5), _submit(suspects, 2, tokens=3)])
    _, tried = _submit(suspects, 1, tokens=5)
    assert _refusal(suspects, 2) == FailureKind.SUSPECT
    tried.push(Output(1, [0]))
    assert _refusal(suspects, 2) is None


def test_one_that_ended_is_no_suspect(suspects: Suspects) -> None:
    suspects.died([(_request(1), _stream(2, ended=True))])
    first = _submit(suspects, 1)
    assert suspects.died([first]) == []


def test_an_answer_that_is_complete_clears_its_request(suspects: Suspects) -> None:
    suspects.died([_submit(suspects, 1, tokens=9)])
    _, shorter = _submit(suspects, 1)
    shorter.push(Output(1, [0], last=True))
    assert suspects.died([_submit(suspects, 1)]) == []


def test_one_that_leaves_makes_room_and_is_not_cleared(suspects: Suspects) -> None:
    suspects.died([_submit(suspects, 1), _submit(suspects, 2)])
    _, leaving = _submit(suspects, 1)
    suspects.left(leaving)
    _submit(suspects, 2)
    assert _refusal(suspects, 1) == FailureKind.SUSPECT


def test_suspicion_and_refusal_come_to_an_end(suspects: Suspects, clock: Clock) -> None:
    suspects.died([_submit(suspects, 1)])
    suspects.died([_submit(suspects, 1)])
    suspects.died([_submit(suspects, 2), _submit(suspects, 3)])
    _submit(suspects, 2)
    clock.now = _HOUR - 1
    assert _refusal(suspects, 1) == FailureKind.HARMFUL
    assert _refusal(suspects, 3) is None
    clock.now = _HOUR
    assert _refusal(suspects, 1) is None


def test_what_is_remembered_is_bounded_and_holds_nothing_of_a_prompt(suspects: Suspects) -> None:
    suspects.died([(_request(prompt), TokenStream()) for prompt in range(5_000)])
    assert len(suspects._suspected) < 5_000
    assert {len(fingerprint) for fingerprint in suspects._suspected} == {16}
    other_server = Suspects()
    assert other_server._fingerprint(_request(4_999)) not in suspects._suspected
