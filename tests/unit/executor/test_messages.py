"""What crosses the process boundary arrives as it was sent."""

import pytest

from mistralchat_server.executor.messages import (
    Cancel,
    Close,
    Command,
    Constraint,
    ConstraintKind,
    Description,
    Event,
    Failure,
    FailureKind,
    FinishReason,
    Iteration,
    Output,
    Ready,
    Request,
    StartFailed,
    command_decoder,
    command_encoder,
    event_decoder,
    event_encoder,
)


@pytest.mark.parametrize(
    "command",
    [
        Request(1, [1, 2, 3], 10, (2,)),
        Request(
            2**40, [0], 1, (), beam_width=3, temperature=0.5, seed=2**63 - 1, logprobs=True,
            constraint=Constraint(ConstraintKind.EXCLUDED_STRINGS, ("é", "🎉")),
        ),
        Cancel(7),
        Close(),
    ],
)  # fmt: skip
def test_a_command_survives_its_encoding(command: Command) -> None:
    assert command_decoder.decode(command_encoder.encode(command)) == command


@pytest.mark.parametrize(
    "event",
    [
        Ready(Description("replay", "none", 10, 2, 3, {"seed": "no"}, {"min_p": "not with beams"})),
        StartFailed("There is no model."),
        Iteration(
            step=5,
            active=2,
            started=[(1, 1.5)],
            outputs=[
                Output(1, [5], logprobs=[-0.25], top_logprobs=[[(5, -0.25)]]),
                Output(2, [], finish_reason=FinishReason.LENGTH, last=True, cached_prompt_tokens=3),
            ],
            failures=[Failure(3, FailureKind.INVALID, "no", "messages")],
        ),
    ],
)
def test_an_event_survives_its_encoding(event: Event) -> None:
    assert event_decoder.decode(event_encoder.encode(event)) == event


def test_equal_constraints_are_one_key() -> None:
    one, other = (Constraint(ConstraintKind.REGEX, ("a",)) for _ in range(2))
    assert len({one, other, Constraint(ConstraintKind.GRAMMAR, ("a",))}) == 2


def test_outputs_do_not_share_what_they_grow_by() -> None:
    one, other = Output(1, [1]), Output(2, [2])
    one.join(Output(1, [3], logprobs=[-1.0]))
    assert other.logprobs == []
