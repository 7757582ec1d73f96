"""The replay executor repeats the prompt, and keeps the bounds of an engine."""

from collections.abc import Callable
from typing import Any

import pytest

from mistralchat_server.executor.messages import Constraint, ConstraintKind, FinishReason, Output, Request
from mistralchat_server.executor.replay import ReplayExecutor, ReplayOptions
from mistralchat_server.executor.seam import Executor, RequestError, StepResult

_PROMPT = [5, 6, 7, 8]


def _executor(**options: Any) -> ReplayExecutor:
    return ReplayExecutor(ReplayOptions(step_seconds=0, **options))


def _request(request_id: int = 1, prompt: list[int] = _PROMPT, tokens: int = 100, **fields: Any) -> Request:
    return Request(request_id, prompt, tokens, (), **fields)


def _run(executor: Executor) -> list[StepResult]:
    steps = []
    while executor.active:
        steps.append(executor.step())
    return steps


def _play(request: Request, **options: Any) -> list[Output]:
    executor = _executor(**options)
    executor.submit(request)
    return [output for step in _run(executor) for output in step.outputs]


@pytest.mark.parametrize(
    ("tokens", "least", "expected", "finish"),
    [
        (100, 0, [5, 6, 7, 8], FinishReason.STOP),
        (4, 0, [5, 6, 7, 8], FinishReason.LENGTH),
        (3, 0, [5, 6, 7], FinishReason.LENGTH),
        (1, 0, [5], FinishReason.LENGTH),
        (100, 6, [5, 6, 7, 8, 5, 6], FinishReason.STOP),
        (6, 6, [5, 6, 7, 8, 5, 6], FinishReason.LENGTH),
        (100, 2, [5, 6, 7, 8], FinishReason.STOP),
    ],
)
def test_an_answer_is_the_prompt_within_its_bounds(
    tokens: int, least: int, expected: list[int], finish: FinishReason
) -> None:
    outputs = _play(_request(tokens=tokens, min_new_tokens=least))
    assert [token for output in outputs for token in output.token_ids] == expected
    assert [output.finish_reason for output in outputs] == [None] * (len(expected) - 1) + [finish]
    assert [output.last for output in outputs] == [False] * (len(expected) - 1) + [True]


def test_the_same_request_has_the_same_answer() -> None:
    assert _play(_request()) == _play(_request())


def test_beams_come_together_each_a_token_later() -> None:
    outputs = _play(_request(beam_width=3))
    assert [(o.beam_index, o.token_ids) for o in outputs] == [
        (0, [5, 6, 7, 8]),
        (1, [6, 7, 8, 5]),
        (2, [7, 8, 5, 6]),
    ]
    assert [o.last for o in outputs] == [False, False, True]
    assert {o.finish_reason for o in outputs} == {FinishReason.STOP}


def test_no_more_run_at_once_than_the_batch_holds() -> None:
    executor = _executor(max_batch_size=2)
    for request_id in range(1, 6):
        executor.submit(_request(request_id, [1, 2]))
    assert executor.active == 5
    steps = _run(executor)
    assert [[o.request_id for o in step.outputs] for step in steps] == [
        [1, 2],
        [1, 2],
        [3, 4],
        [3, 4],
        [5],
        [5],
    ]
    assert [[i for i, _ in step.started] for step in steps] == [[1, 2], [], [3, 4], [], [5], []]


def test_a_cancelled_request_is_active_until_the_next_step() -> None:
    executor = _executor()
    executor.submit(_request(1))
    executor.submit(_request(2))
    executor.step()
    executor.cancel(1)
    assert executor.active == 2
    assert [output.request_id for output in executor.step().outputs] == [2]
    assert executor.active == 1


@pytest.mark.parametrize("request_id", [1, 99])
def test_cancelling_what_is_not_there_changes_nothing(request_id: int) -> None:
    executor = _executor()
    executor.submit(_request(1, [1]))
    executor.step()
    executor.cancel(request_id)
    assert executor.active == 0


def test_closing_ends_everything() -> None:
    executor = _executor()
    executor.submit(_request())
    executor.close()
    assert executor.active == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"temperature": 0.5},
        {"logprobs": True},
        {"constraint": Constraint(ConstraintKind.REGEX, ("a",))},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0},
        {"frequency_penalty": -1.0},
    ],
    ids=str,
)
def test_what_it_cannot_honour_it_refuses_and_forgets(fields: dict[str, Any]) -> None:
    executor = _executor()
    with pytest.raises(RequestError):
        executor.submit(_request(**fields))
    assert executor.active == 0


def test_it_describes_its_options() -> None:
    description = _executor(max_batch_size=3, max_beam_width=2, context_length=10).describe()
    assert (description.max_batch_size, description.max_beam_width, description.context_length) == (3, 2, 10)
    assert description.executor == "replay"


def test_steps_keep_their_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: now)
    executor = ReplayExecutor(ReplayOptions(step_seconds=0.02))
    executor.submit(_request(prompt=[1] * 4))
    _run(executor)
    assert slept == pytest.approx([0.02] * 3)


def test_it_is_an_executor() -> None:
    make: Callable[[], Executor] = _executor
    assert make().active == 0
