"""The tables of rules: every edge, from both sides."""

import math
from typing import Any

import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.rpc import rules

_MOST_BEAMS = 4
_SAMPLED: dict[str, Any] = {"temperature": 1.0}


def _broken(**fields: Any) -> list[str]:
    """Fields at fault in a request that is good otherwise."""
    messages = [pb.Message(role=pb.ROLE_USER, content="Hi")]
    request = pb.ChatRequest(**{"messages": messages, **fields})
    return sorted({violation.field for violation in rules.violations(request, _MOST_BEAMS)})


@pytest.mark.parametrize(
    ("field", "good", "bad", "others"),
    [
        ("max_tokens", [1, 2**31 - 1], [0, -1], {}),
        ("max_completion_tokens", [1, 2**31 - 1], [0, -1], {}),
        ("beam_width", [1, 4], [0, 5], {}),
        ("repetition_penalty", [1e-30, 1, 10], [0, -1e-30, 10.00001, math.nan, math.inf], {}),
        ("temperature", [0, -0.0, 0.01, 2], [0.00999, -0.01, 2.00001, math.nan, math.inf], {}),
        ("top_p", [1e-30, 1], [0, 1.00001, math.nan, -math.inf], _SAMPLED),
        ("top_k", [0, 1, 2**31 - 1], [-1], _SAMPLED),
        ("min_p", [0, 0.9999], [-1e-30, 1, math.nan], _SAMPLED),
        ("presence_penalty", [-2, 2], [-2.00001, 2.00001, math.nan, math.inf], {}),
        ("frequency_penalty", [-2, 2], [-2.00001, 2.00001, math.nan, -math.inf], {}),
        ("seed", [0, 2**63 - 1], [-1, -(2**63)], {}),
        ("min_tokens", [0, 2**31 - 1], [-1], {}),
        ("top_logprobs", [0, 20], [-1, 21], {"logprobs": True}),
    ],
)
def test_a_number_is_held_to_its_range(
    field: str, good: list[float], bad: list[float], others: dict[str, Any]
) -> None:
    assert [value for value in good if _broken(**{field: value}, **others)] == []
    assert [value for value in bad if _broken(**{field: value}, **others) != [field]] == []


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [("max_delay_ms", [0, 10_000], [-1, 10_001]), ("max_tokens_per_message", [1, 2**31 - 1], [0, -1])],
)
def test_stream_options_are_held_to_their_range(field: str, good: list[int], bad: list[int]) -> None:
    for value in good:
        assert _broken(stream_options=pb.StreamOptions(**{field: value})) == []
    for value in bad:
        assert _broken(stream_options=pb.StreamOptions(**{field: value})) == [f"stream_options.{field}"]


def test_every_number_of_the_contract_has_a_range() -> None:
    numbers = {
        field.name
        for field in pb.ChatRequest.DESCRIPTOR.fields
        if field.message_type is None and field.type not in (field.TYPE_STRING, field.TYPE_BOOL)
    }
    options = {f"stream_options.{field.name}" for field in pb.StreamOptions.DESCRIPTOR.fields}
    assert {rule.field for rule in rules.RANGES} == numbers | options


def test_every_field_but_the_messages_is_a_parameter() -> None:
    assert {"messages", *rules.PARAMETERS} == set(pb.ChatRequest.DESCRIPTOR.fields_by_name)
    named = {*rules.NEUTRAL, *(name for pair in (*rules.EXCLUSIONS, *rules.NEEDS) for name in pair)}
    assert named <= set(rules.PARAMETERS)


@pytest.mark.parametrize(("field", "value"), rules.NEUTRAL.items())
def test_a_neutral_value_asks_for_nothing(field: str, value: Any) -> None:
    assert not rules.asks_for(pb.ChatRequest(**{field: value}), field)
    assert not rules.asks_for(pb.ChatRequest(), field)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 0),
        ("max_tokens", 50),
        ("temperature", 0.5),
        ("logprobs", True),
        ("stop_words_list", [""]),
        ("stream_options", pb.StreamOptions()),
        ("response_format", pb.ResponseFormat()),
    ],
)
def test_any_other_value_asks_for_something(field: str, value: Any) -> None:
    assert rules.asks_for(pb.ChatRequest(**{field: value}), field)


_ALL: dict[str, Any] = {
    "max_tokens": 50, "max_completion_tokens": 5, "bad_words_list": ["x"], "min_tokens": 2, "beam_width": 2,
    "temperature": 1.0, "top_p": 0.5, "top_k": 5, "min_p": 0.5, "seed": 0,
    "response_format": pb.ResponseFormat(regex="a"), "stream_options": pb.StreamOptions(),
}  # fmt: skip


@pytest.mark.parametrize(("one", "other"), rules.EXCLUSIONS)
def test_two_that_exclude_each_other_are_both_at_fault(one: str, other: str) -> None:
    needed = {"temperature": 0.0} if other in ("top_p", "top_k", "min_p") else {}
    assert _broken(**{one: _ALL[one], other: _ALL[other], **needed}) == sorted([one, other])
    assert _broken(**{one: _ALL[one]}) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"beam_width": 1}, {"temperature": 1.0}),
        ({"beam_width": 2}, {"temperature": 0.0}),
        ({"beam_width": 2}, {"top_p": 1.0, "top_k": 0, "min_p": 0.0}),
        ({"response_format": pb.ResponseFormat(regex="a")}, {"min_tokens": 0, "bad_words_list": []}),
    ],
)
def test_neutral_values_exclude_nothing(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert _broken(**one, **other) == []


@pytest.mark.parametrize(
    ("field", "value", "needed"),
    [
        ("top_p", 0.5, {"temperature": 0.0}),
        ("top_k", 1, {"temperature": 0.5}),
        ("min_p", 0.5, {"temperature": 1.0}),
        ("top_logprobs", 1, {"logprobs": True}),
    ],
)
def test_what_needs_another_is_at_fault_alone(field: str, value: float, needed: dict[str, Any]) -> None:
    assert _broken(**{field: value}) == [field]
    assert _broken(**{field: value}, **needed) == []


def test_logprobs_that_are_off_are_not_what_top_logprobs_needs() -> None:
    assert _broken(top_logprobs=1, logprobs=False) == ["top_logprobs"]
    assert _broken(top_logprobs=0, logprobs=False) == []


@pytest.mark.parametrize(("field", "most"), [("bad_words_list", 256), ("stop_words_list", 64)])
def test_words_are_bounded_in_number_and_length(field: str, most: int) -> None:
    assert _broken(**{field: ["é" * 256] * most}) == []
    assert _broken(**{field: ["x"] * (most + 1)}) == [field]
    assert _broken(**{field: ["x", "y" * 257, ""]}) == [f"{field}[1]", f"{field}[2]"]


def test_only_bad_words_must_not_hold_nul() -> None:
    assert _broken(bad_words_list=["\0"], stop_words_list=["\0"]) == ["bad_words_list[0]"]


def _nested(levels: int) -> str:
    return '{"items":' * levels + "true" + "}" * levels


@pytest.mark.parametrize(
    ("kind", "source", "good"),
    [
        ("json_schema", "{}", True),
        ("json_schema", ' {"type": "object"} ', True),
        ("json_schema", _nested(63), True),
        ("json_schema", _nested(64), False),
        ("json_schema", _nested(9_000), False),
        ("json_schema", '{"default":' + "[" * 63 + "]" * 63 + "}", True),
        ("json_schema", '{"default":' + "[" * 64 + "]" * 64 + "}", False),
        ("json_schema", "", False),
        ("json_schema", "[]", False),
        ("json_schema", "null", False),
        ("json_schema", "{", False),
        ("json_schema", '{"default": ' + "9" * 5_000 + "}", False),
        ("json_schema", '{"type": "integer", "minimum": 1e400}', False),
        ("regex", "a\0b", False),
        ("json_schema", '{"title":"' + "x" * 65_524 + '"}', True),
        ("json_schema", '{"title":"' + "x" * 65_525 + '"}', False),
        ("regex", "é" * 65_536, True),
        ("regex", "é" * 65_537, False),
        ("grammar", "", False),
    ],
)
def test_a_format_is_checked_as_far_as_can_be_without_the_engine(kind: str, source: str, good: bool) -> None:
    assert _broken(response_format=pb.ResponseFormat(**{kind: source})) == (
        [] if good else [f"response_format.{kind}"]
    )


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        ({"low": 1}, "must be at least 1"),
        ({"low": 0, "high": 10_000}, "must be at least 0 and at most 10,000"),
        ({"low": 0, "high": 1, "high_exclusive": True}, "must be at least 0 and below 1"),
        ({"low": 0, "high": 1, "low_exclusive": True}, "must be above 0 and at most 1"),
        ({"low": 0.01, "high": 2, "besides": 0}, "must be 0, or at least 0.01 and at most 2"),
    ],
)
def test_a_range_says_what_it_wants(bounds: dict[str, Any], sentence: str) -> None:
    assert str(rules.Range("field", **bounds)) == sentence


def test_the_range_of_the_temperature_is_told_as_the_contract_has_it() -> None:
    (rule,) = [rule for rule in rules.RANGES if rule.field == "temperature"]
    assert str(rule) == "must be 0, or at least 0.01 and at most 2"


def test_too_many_messages_are_one_violation() -> None:
    assert _broken(messages=[pb.Message()] * 1_025) == ["messages"]
    good = [pb.Message(role=pb.ROLE_USER, content="Hi")] * 1_024
    assert _broken(messages=good) == []
