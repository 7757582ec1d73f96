"""What goes wrong, as the exception that OpenAI's client makes of it; and nothing of the inside is told."""

import io
import json
import os
import signal
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import openai
import pytest

from mistralchat_server.rpc.trtllm.tokenizer_files import tokenizer_archive
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

from .conftest import Gateway, Server, chat, eventually

#: What an error would hold if it told of the inside: paths, sources, engines, exceptions.
_INSIDE = ("/tmp", "/home", "Traceback", ".py", ".cpp", "xgrammar", "openvino", "Exception(")
_STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('No system role here.') }}{% endif %}"


def _refused(kind: type[openai.OpenAIError], call: Callable[[], Any]) -> Any:
    with pytest.raises(kind) as refusal:
        call()
    assert not [inside for inside in _INSIDE if inside in str(refusal.value)]
    return refusal.value


def test_a_model_that_nobody_serves(replay_gateway: Gateway) -> None:
    client = replay_gateway.client()
    error = _refused(openai.NotFoundError, lambda: chat(client, model="another"))
    assert error.code == "model_not_found"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff\xfe", b"[]", b'{"model": "replay"}', b'{"model": "replay", "messages": 1}']
)
def test_a_body_that_is_no_request(replay_gateway: Gateway, body: bytes) -> None:
    status, text = replay_gateway.post(body)
    assert status in (400, 422)
    assert not [inside for inside in _INSIDE if inside in text]
    assert json.loads(text)["error"]["message"]


def test_an_empty_conversation(replay_gateway: Gateway) -> None:
    status, _ = replay_gateway.post(b'{"model": "replay", "messages": []}')
    assert status == 400


@pytest.mark.parametrize(
    "parameters",
    [
        {"temperature": 3},
        {"top_p": 0},
        {"presence_penalty": 3},
        {"max_tokens": 0},
        {"stop": ["x" * 300]},
        {"extra_body": {"repetition_penalty": 100}},
        {"extra_body": {"top_k": -5}},
    ],
)
def test_a_parameter_out_of_range(replay_gateway: Gateway, parameters: Any) -> None:
    _refused(openai.BadRequestError, lambda: chat(replay_gateway.client(), **parameters))


@pytest.mark.parametrize("stream", [False, True])
def test_a_parameter_that_the_executor_cannot_honour(replay_gateway: Gateway, stream: bool) -> None:
    client = replay_gateway.client()
    error = _refused(openai.APIStatusError, lambda: chat(client, temperature=1, stream=stream))
    assert error.status_code == 501
    assert "temperature is not supported" in str(error)


def test_several_choices(replay_gateway: Gateway) -> None:
    error = _refused(openai.APIStatusError, lambda: chat(replay_gateway.client(), n=2))
    assert error.status_code == 501
    assert "num_return_sequences is not supported" in str(error)


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_over_the_context(replay_gateway: Gateway, stream: bool) -> None:
    client = replay_gateway.client()
    error = _refused(openai.BadRequestError, lambda: chat(client, "x" * 33_000, stream=stream))
    assert "32768 tokens" in str(error)


def test_a_schema_that_does_not_compile(openvino_gateway: Gateway, openvino_server: Server) -> None:
    client = openvino_gateway.client()
    model = client.models.list().data[0].id
    for body in ({"regex": "(a"}, {"ebnf": "root ::= nowhere"}):
        _refused(
            openai.BadRequestError,
            lambda body=body: chat(client, model=model, max_tokens=5, extra_body=body),  # type: ignore[misc]
        )
    schema = {"name": "s", "schema": {"type": "nonsense"}}
    response_format = {"type": "json_schema", "json_schema": schema}
    error = _refused(
        openai.BadRequestError,
        lambda: chat(client, model=model, max_tokens=5, response_format=response_format),
    )
    assert "guided_decoding" in str(error)
    assert chat(client, model=model, max_tokens=5).choices[0].message.content


def test_a_role_that_the_template_refuses(
    serve: Callable[..., Server], gateway: Callable[..., Gateway], tmp_path: Path
) -> None:
    with zipfile.ZipFile(io.BytesIO(tokenizer_archive(None, byte_tokenizer()))) as file:
        file.extractall(tmp_path / "strict")
    path = tmp_path / "strict" / "tokenizer_config.json"
    config = json.loads(path.read_bytes())
    path.write_text(json.dumps({**config, "chat_template": _STRICT + config["chat_template"]}))
    server = serve(model=str(tmp_path / "strict"), model_name="strict")
    client = gateway([server.address]).client()
    assert chat(client, model="strict").choices[0].message.content == "Hello"
    error = _refused(
        openai.BadRequestError,
        lambda: client.chat.completions.create(
            model="strict",
            temperature=0,
            messages=[{"role": "system", "content": "x"}, {"role": "user", "content": "y"}],
        ),
    )
    assert "No system role here." in str(error)


def test_a_server_that_is_full(serve: Callable[..., Server], gateway: Callable[..., Gateway]) -> None:
    server = serve(max_open_calls=1)
    client = gateway([server.address]).client()
    stream = chat(client, "x" * 20_000, max_tokens=20_000, stream=True)
    next(iter(stream))
    error = _refused(openai.RateLimitError, lambda: chat(client))
    assert "the server already has 1 open calls" in str(error)
    stream.close()
    server.await_idle()


def test_a_caller_without_the_key(replay_server: Server, gateway: Callable[..., Gateway]) -> None:
    door = gateway([replay_server.address], "--api-key", "secret")
    _refused(openai.AuthenticationError, lambda: chat(door.client(api_key="wrong")))
    assert chat(door.client(api_key="secret")).choices[0].message.content == "Hello"
    assert door.post(b"{}", "/workers")[0] == 401


def test_without_a_worker_nobody_is_answered_until_there_is_one(
    serve: Callable[..., Server], gateway: Callable[..., Gateway]
) -> None:
    server = serve(load=False)
    door = gateway([server.address], wait=False)
    eventually(lambda: "is not ready: the model is still being loaded" in door.log, "the gateway says why")
    _refused(openai.APIConnectionError, lambda: chat(door.client()))
    server.load()
    door.await_ready()
    assert chat(door.client()).choices[0].message.content == "Hello"


def test_once_all_workers_are_gone(serve: Callable[..., Server], gateway: Callable[..., Gateway]) -> None:
    server = serve()
    door = gateway([server.address])
    server.stop()
    error = _refused(openai.InternalServerError, lambda: chat(door.client()))
    assert error.status_code == 503


def test_an_executor_that_dies_in_the_middle_of_an_answer(
    serve: Callable[..., Server], gateway: Callable[..., Gateway]
) -> None:
    server = serve()
    client = gateway([server.address]).client()
    stream = chat(client, "x" * 20_000, max_tokens=20_000, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    lost = server.executor
    os.kill(server.executor_pid, signal.SIGKILL)
    error = _refused(openai.APIError, lambda: list(stream))
    assert "the executor has stopped" in str(error)
    server.await_another(lost)
    assert chat(client).choices[0].message.content == "Hello"


def test_a_worker_that_dies_in_the_middle_of_an_answer(
    worker: Callable[..., Any], gateway: Callable[..., Gateway]
) -> None:
    dying = worker()
    stream = chat(gateway([dying.address]).client(), "x" * 20_000, max_tokens=20_000, stream=True)
    for chunk in stream:
        if chunk.choices and chunk.choices[0].delta.content:
            break
    dying.stop()
    _refused(openai.APIError, lambda: list(stream))


@pytest.mark.parametrize("stream", [False, True])
def test_a_caller_that_leaves_frees_its_slot(
    replay_gateway: Gateway, replay_server: Server, stream: bool
) -> None:
    client = replay_gateway.client(timeout=1.0)
    if stream:
        answer = chat(client, "x" * 20_000, max_tokens=20_000, stream=True)
        next(iter(answer))
        assert replay_server.executor.open_streams == 1
        answer.close()
    else:
        _refused(openai.APITimeoutError, lambda: chat(client, "x" * 20_000, max_tokens=20_000))
    replay_server.await_idle()
