"""How many tokens a call may generate."""

from typing import Any

import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.rpc.budget import Budget
from mistralchat_server.rpc.errors import CallError


def _budget(prompt_tokens: int, context_length: int = 1_000, **fields: Any) -> Budget:
    return Budget.of(pb.ChatRequest(**fields), prompt_tokens, context_length)


@pytest.mark.parametrize(
    ("prompt_tokens", "fields", "expected"),
    [
        (10, {}, Budget(10, 40)),
        (49, {}, Budget(49, 1)),
        (50, {}, Budget(50, 0)),
        (51, {}, Budget(51, 0, truncated_to=50)),
        (10, {"max_tokens": 11}, Budget(10, 1)),
        (10, {"max_tokens": 10}, Budget(10, 0)),
        (10, {"max_tokens": 9}, Budget(10, 0, truncated_to=9)),
        (10, {"max_tokens": 1}, Budget(10, 0, truncated_to=1)),
        (10, {"max_tokens": 2_000}, Budget(10, 990)),
        (10, {"max_completion_tokens": 1}, Budget(10, 1)),
        (100, {"max_completion_tokens": 50}, Budget(100, 50)),
        (999, {"max_completion_tokens": 50}, Budget(999, 1)),
        (10, {"max_completion_tokens": 20, "min_tokens": 20}, Budget(10, 20)),
        (10, {"min_tokens": 40}, Budget(10, 40)),
    ],
)
def test_the_budget_is_what_request_and_context_leave(
    prompt_tokens: int, fields: dict[str, Any], expected: Budget
) -> None:
    assert _budget(prompt_tokens, **fields) == expected


@pytest.mark.parametrize(
    ("prompt_tokens", "fields", "field"),
    [
        (1_000, {"max_completion_tokens": 1}, "messages"),
        (5_000, {"max_tokens": 10}, "messages"),
        (10, {"max_completion_tokens": 20, "min_tokens": 21}, "min_tokens"),
        (10, {"max_tokens": 30, "min_tokens": 21}, "min_tokens"),
        (10, {"min_tokens": 41}, "min_tokens"),
        (995, {"max_completion_tokens": 20, "min_tokens": 6}, "min_tokens"),
        (50, {"max_tokens": 50, "min_tokens": 1}, "min_tokens"),
    ],
)
def test_what_cannot_fit_is_refused(prompt_tokens: int, fields: dict[str, Any], field: str) -> None:
    with pytest.raises(CallError) as caught:
        _budget(prompt_tokens, **fields)
    (bad_request,) = caught.value.details
    assert [v.field for v in bad_request.field_violations] == [field]  # type: ignore[attr-defined]
