"""The loop between the front end and an engine, with an engine that does as it is told."""

from collections.abc import Iterable

import pytest

from mistralchat_server.executor.loop import ExecutorLoop
from mistralchat_server.executor.messages import (
    Cancel,
    Close,
    Command,
    Description,
    Failure,
    FailureKind,
    FinishReason,
    Iteration,
    Output,
    Request,
)
from mistralchat_server.executor.seam import RequestError, StepResult


class FakeExecutor:
    """Generates one token a step for each request, as many as it may; refuses prompts of nothing."""

    def __init__(self) -> None:
        self.left: dict[int, int] = {}
        self.log: list[str] = []
        self.silent = 0

    def describe(self) -> Description:
        return Description("fake", "none", 100, 1, 10)

    @property
    def active(self) -> int:
        return len(self.left)

    def submit(self, request: Request) -> None:
        if not request.prompt_token_ids:
            raise RequestError(FailureKind.INVALID, "nothing to say", "messages")
        self.log.append(f"submit {request.id}")
        self.left[request.id] = request.max_new_tokens

    def cancel(self, request_id: int) -> None:
        self.log.append(f"cancel {request_id}")
        self.left.pop(request_id, None)

    def step(self) -> StepResult:
        self.log.append("step")
        result = StepResult()
        if self.silent:
            self.silent -= 1
            return result
        for request_id in list(self.left):
            self.left[request_id] -= 1
            last = not self.left[request_id]
            result.outputs.append(
                Output(request_id, [0], finish_reason=FinishReason.STOP if last else None, last=last)
            )
            if last:
                del self.left[request_id]
        return result

    def close(self) -> None:
        self.log.append("close")


class Driver:
    """Hands the loop one batch of commands a turn, and keeps what it publishes."""

    def __init__(self, *batches: list[Command], least: float = 0.0) -> None:
        self.executor = FakeExecutor()
        self.least = least
        self.batches = list(batches)
        self.waited: list[bool] = []
        self.published: list[Iteration] = []

    def receive(self, wait: bool) -> Iterable[Command]:
        self.waited.append(wait)
        return self.batches.pop(0) if self.batches else [Close()]

    def run(self) -> list[Iteration]:
        ExecutorLoop(self.executor, self.receive, self.published.append, self.least).run()
        return self.published


def _request(request_id: int, tokens: int = 1) -> Request:
    return Request(request_id, [1], tokens, ())


def test_each_step_is_one_message_for_all_requests() -> None:
    driver = Driver([_request(1, 2), _request(2, 3)], [], [])
    published = driver.run()
    assert [[o.request_id for o in iteration.outputs] for iteration in published] == [[1, 2], [1, 2], [2]]
    assert [iteration.step for iteration in published] == [1, 2, 3]
    assert [iteration.active for iteration in published] == [2, 1, 0]


def test_very_short_steps_share_a_message() -> None:
    driver = Driver([_request(1, 2), _request(2, 3)], least=3_600.0)
    (iteration,) = driver.run()
    assert [output.request_id for output in iteration.outputs] == [1, 2, 1, 2, 2]
    assert (iteration.step, iteration.active) == (3, 0)
    assert driver.executor.log.count("step") == 3


def test_it_waits_for_commands_only_when_there_is_nothing_to_do() -> None:
    driver = Driver([_request(1, 2)], [], [_request(2)])
    driver.run()
    assert driver.waited == [True, False, True, True]


def test_commands_are_taken_in_order_before_the_step() -> None:
    driver = Driver([_request(1, 5), _request(2, 5), Cancel(1)])
    driver.run()
    assert driver.executor.log[:4] == ["submit 1", "submit 2", "cancel 1", "step"]


def test_a_refused_request_fails_and_the_others_go_on() -> None:
    driver = Driver([Request(1, [], 1, ()), _request(2)])
    (iteration, *_) = driver.run()
    assert iteration.failures == [Failure(1, FailureKind.INVALID, "nothing to say", "messages")]
    assert [output.request_id for output in iteration.outputs] == [2]


def test_a_refused_request_is_told_though_nothing_else_happens() -> None:
    (iteration,) = Driver([Request(1, [], 1, ())]).run()
    assert (iteration.failures[0].request_id, iteration.outputs, iteration.active) == (1, [], 0)


def test_a_step_that_changes_nothing_is_not_told() -> None:
    driver = Driver([_request(1, 1)], [], [], [])
    driver.executor.silent = 3
    published = driver.run()
    # The first tells that the request is active, the second that it has ended.
    assert [(i.step, i.active, len(i.outputs)) for i in published] == [(1, 1, 0), (4, 0, 1)]


def test_that_a_cancelled_request_is_gone_is_told() -> None:
    driver = Driver([_request(1, 9)], [Cancel(1)])
    published = driver.run()
    assert [(i.active, len(i.outputs)) for i in published] == [(1, 1), (0, 0)]


@pytest.mark.parametrize("batch", [[Close()], [_request(1, 9), Close()]])
def test_closing_ends_the_loop_and_the_engine(batch: list[Command]) -> None:
    driver = Driver(batch)
    driver.run()
    assert driver.executor.log[-1] == "close"
    assert len(driver.waited) == 1


def test_cancelling_what_has_ended_harms_nothing() -> None:
    driver = Driver([_request(1)], [Cancel(1), Cancel(99)], [_request(2)])
    published = driver.run()
    assert [o.request_id for i in published for o in i.outputs] == [1, 2]
