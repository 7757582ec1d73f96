"""ChatCompletions on a model, as OpenAI's Python client sees it, beside the same calls of Chat."""

import json
from typing import Any

import openai
import pytest

from mistralchat.v1 import chat_pb2 as pb

from .conftest import Gateway, Server, chat

_QUESTION = "What is the capital of France?"


@pytest.fixture(scope="module")
def client(openvino_gateway: Gateway) -> openai.OpenAI:
    return openvino_gateway.client()


@pytest.fixture(scope="module")
def model(client: openai.OpenAI) -> str:
    (model,) = client.models.list().data
    return model.id


def _by_grpc(server: Server, content: str, **fields: Any) -> list[pb.ChatResponse]:
    messages = [pb.Message(role=pb.ROLE_USER, content=content)]
    return list(server.chat.Chat(pb.ChatRequest(messages=messages, **fields)))


def _text(messages: list[pb.ChatResponse]) -> str:
    return "".join(message.text for message in messages)


def test_the_model_is_listed_under_its_name(model: str, openvino_server: Server) -> None:
    assert model == openvino_server.chat.GetModel(pb.GetModelRequest()).name


def test_an_answer_is_the_one_that_grpc_callers_get(
    client: openai.OpenAI, model: str, openvino_server: Server
) -> None:
    answer = chat(client, _QUESTION, model=model, max_tokens=20)
    *_, last = messages = _by_grpc(openvino_server, _QUESTION, max_completion_tokens=20)
    assert answer.choices[0].message.content == _text(messages)
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens == last.usage.prompt_tokens
    assert answer.usage.completion_tokens == last.usage.completion_tokens


def test_a_stream_is_the_same_answer(client: openai.OpenAI, model: str) -> None:
    whole = chat(client, _QUESTION, model=model, max_tokens=20)
    chunks = list(
        chat(
            client, _QUESTION, model=model, max_tokens=20, stream=True, stream_options={"include_usage": True}
        )
    )
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert sum(map(bool, pieces)) > 3
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens


def test_the_budget_ends_an_answer(client: openai.OpenAI, model: str) -> None:
    for name in ("max_tokens", "max_completion_tokens"):
        answer = chat(client, _QUESTION, model=model, **{name: 3})
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (
            "The capital of",
            "length",
        )


@pytest.mark.parametrize(
    ("stop", "left"),
    [
        ("Paris", "The capital of France is "),
        (" Paris", "The capital of France is"),
        (["nowhere", "is Par"], "The capital of France "),
        ("rance i", "The capital of F"),
        ("The", ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_part_of_a_stop_string_is_ever_sent(
    client: openai.OpenAI, model: str, stop: Any, left: str, stream: bool
) -> None:
    answer = chat(client, _QUESTION, model=model, max_tokens=20, stop=stop, stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer if chunk.choices]
        text, reason = "".join(choice.delta.content or "" for choice in choices), choices[-1].finish_reason
    else:
        text, reason = answer.choices[0].message.content or "", answer.choices[0].finish_reason
    assert (text, reason) == (left, "stop")


@pytest.mark.parametrize(
    "penalty", [{"repetition_penalty": 1.5}, {"presence_penalty": 1.5}, {"frequency_penalty": 1.5}]
)
def test_penalties_act_as_in_chat(
    client: openai.OpenAI, model: str, openvino_server: Server, penalty: dict[str, float]
) -> None:
    question = "Repeat the word banana twenty times."
    ours = {} if "repetition_penalty" in penalty else penalty
    answer = chat(client, question, model=model, max_tokens=24, **ours, extra_body={} if ours else penalty)
    expected = _text(_by_grpc(openvino_server, question, max_completion_tokens=24, **penalty))
    plain = _text(_by_grpc(openvino_server, question, max_completion_tokens=24))
    assert answer.choices[0].message.content == expected != plain


def test_a_seed_decides_a_completion(client: openai.OpenAI, model: str) -> None:
    def complete(seed: int) -> str:
        answer = client.completions.create(
            model=model, prompt="Once upon a time", max_tokens=16, temperature=1, seed=seed
        )
        return answer.choices[0].text

    assert complete(1) == complete(1)
    assert complete(1) != complete(2)


def test_logprobs_are_those_of_chat(client: openai.OpenAI, model: str, openvino_server: Server) -> None:
    parameters = {"max_tokens": 20, "logprobs": True, "stop": [" Paris"]}
    content = chat(client, _QUESTION, model=model, **parameters).choices[0].logprobs.content
    messages = _by_grpc(
        openvino_server, _QUESTION, max_completion_tokens=20, logprobs=True, stop_words_list=[" Paris"]
    )
    expected = [logprob for message in messages for logprob in message.logprobs]
    assert [each.token for each in content] == [each.token for each in expected]
    # A prefix from the KV cache is rounded to eight bits: the first token's was seen to move by 0.08.
    assert [each.logprob for each in content] == pytest.approx([each.logprob for each in expected], abs=0.15)


def test_json_schema(client: openai.OpenAI, model: str) -> None:
    schema = {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
        "required": ["city", "sure"],
        "additionalProperties": False,
    }
    response_format = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    answer = chat(client, _QUESTION, model=model, max_tokens=40, response_format=response_format)
    found = json.loads(answer.choices[0].message.content)
    assert set(found) == {"city", "sure"}
    assert found["city"] in ("Paris", "Rome")


def test_regex(client: openai.OpenAI, model: str) -> None:
    answer = chat(client, _QUESTION, model=model, max_tokens=20, extra_body={"regex": "(yes|no){2}"})
    assert answer.choices[0].message.content in ("yesyes", "yesno", "noyes", "nono")


def test_several_turns(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(
        model=model,
        messages=[
            {"role": "system", "content": "You answer in one word."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "user", "content": _QUESTION},
        ],
        temperature=0,
        max_tokens=10,
    )
    assert answer.choices[0].message.content
