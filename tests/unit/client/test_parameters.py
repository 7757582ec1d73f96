"""Keywords and messages become the request that they say."""

import json
from typing import cast

import pytest

from mistralchat import DEFAULT_MAX_COMPLETION_TOKENS, ChatParameters, Message, assistant, system, user
from mistralchat.messages import wire_messages
from mistralchat.parameters import chat_request
from mistralchat.v1 import chat_pb2

# A value of each keyword that differs from what an unset field reads as.
VALUES = {
    "max_tokens": 7,
    "max_completion_tokens": 8,
    "beam_width": 2,
    "bad_words_list": ["Paris"],
    "stop_words_list": ["END"],
    "repetition_penalty": 1.5,
    "temperature": 0.5,
    "top_p": 0.25,
    "top_k": 3,
    "min_p": 0.125,
    "presence_penalty": 0.75,
    "frequency_penalty": -0.75,
    "seed": 2**40,
    "min_tokens": 4,
    "logprobs": True,
    "top_logprobs": 6,
    "json_schema": '{"type": "object"}',
    "regex": "a+",
    "grammar": 'root ::= "a"',
    "max_delay_ms": 9,
    "max_tokens_per_message": 10,
}
NESTED = {
    "response_format": chat_pb2.ResponseFormat.DESCRIPTOR,
    "stream_options": chat_pb2.StreamOptions.DESCRIPTOR,
}


def test_every_field_of_the_contract_is_a_keyword() -> None:
    fields = {field.name for field in chat_pb2.ChatRequest.DESCRIPTOR.fields} - {"messages"}
    expected = fields - NESTED.keys()
    for name, nested in NESTED.items():
        assert name in fields
        expected |= {field.name for field in nested.fields}
    assert set(ChatParameters.__annotations__) == expected == set(VALUES)


def only(name: str, value: object) -> ChatParameters:
    return cast(ChatParameters, {name: value})


@pytest.mark.parametrize("name", VALUES)
def test_each_keyword_reaches_its_field_and_no_other(name: str) -> None:
    request = chat_request("hi", only(name, VALUES[name]))
    owner = name
    holder = request
    for nested, descriptor in NESTED.items():
        if name in descriptor.fields_by_name:
            owner, holder = nested, getattr(request, nested)
    value = getattr(holder, name)
    assert (list(value) if isinstance(VALUES[name], list) else value) == VALUES[name]
    expected = {"messages", owner}
    if name != "max_tokens":
        expected.add("max_completion_tokens")
    assert {field.name for field, _ in request.ListFields()} == expected


@pytest.mark.parametrize("name", sorted(VALUES))
def test_none_is_not_set(name: str) -> None:
    assert chat_request("hi", only(name, None)) == chat_request("hi", {})


@pytest.mark.parametrize("name", ["temperature", "top_k", "seed", "logprobs", "max_delay_ms"])
def test_zero_is_set(name: str) -> None:
    request = chat_request("hi", only(name, 0))
    holder = request.stream_options if name == "max_delay_ms" else request
    assert holder.HasField(name)


def test_the_budget() -> None:
    assert chat_request("hi", {}).max_completion_tokens == DEFAULT_MAX_COMPLETION_TOKENS == 512
    assert chat_request("hi", {"max_completion_tokens": 3}).max_completion_tokens == 3
    # Both given is the server's to refuse, not the client's to hide.
    both = chat_request("hi", {"max_tokens": 1, "max_completion_tokens": 2})
    assert both.HasField("max_tokens")
    assert both.HasField("max_completion_tokens")


def test_a_schema_can_be_a_mapping() -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}}}
    assert json.loads(chat_request("hi", {"json_schema": schema}).response_format.json_schema) == schema


@pytest.mark.parametrize(
    ("parameters", "error", "said"),
    [
        ({"temprature": 1.0}, TypeError, "temprature"),
        ({"messages": "hi"}, TypeError, "messages"),
        ({"bad_words_list": "Paris"}, TypeError, "bad_words_list"),
        ({"stop_words_list": "END"}, TypeError, "stop_words_list"),
        ({"regex": "a", "grammar": "b"}, ValueError, "regex and grammar"),
        ({"top_k": 2**40}, ValueError, None),
        ({"top_k": "many"}, TypeError, None),
    ],
)
def test_what_no_request_can_carry(
    parameters: ChatParameters, error: type[Exception], said: str | None
) -> None:
    with pytest.raises(error, match=said):
        chat_request("hi", parameters)


def test_all_spellings_of_a_conversation() -> None:
    messages = [system("s"), user("u"), assistant("a")]
    pairs = [("system", "s"), ("user", "u"), ("assistant", "a")]
    mappings = [{"role": role, "content": content} for role, content in pairs]
    wire = wire_messages(messages)
    assert [(message.role, message.content) for message in wire] == [
        (chat_pb2.ROLE_SYSTEM, "s"),
        (chat_pb2.ROLE_USER, "u"),
        (chat_pb2.ROLE_ASSISTANT, "a"),
    ]
    assert wire_messages(pairs) == wire_messages(mappings) == wire
    assert wire_messages("u") == wire_messages([Message("user", "u")]) == [wire[1]]


@pytest.mark.parametrize(
    ("messages", "error"),
    [
        ([("usr", "hi")], ValueError),
        (["hi there"], TypeError),
        ([("user", "hi", "there")], TypeError),
        ([{"role": "user"}], TypeError),
        ([{"role": "user", "content": "hi", "name": "x"}], TypeError),
        ([("user", 3)], TypeError),
    ],
)
def test_what_is_no_conversation(messages: list[object], error: type[Exception]) -> None:
    with pytest.raises(error):
        wire_messages(messages)  # type: ignore[arg-type]
