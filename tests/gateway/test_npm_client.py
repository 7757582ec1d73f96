"""ChatCompletions as OpenAI's npm client sees it."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import Gateway, Server

_HERE = Path(__file__).parent / "npm"
#: `make test` installs the client there, where there is npm.
_INSTALLED = Path(__file__).parents[2] / ".cache" / "openai-npm"

_Calls = Callable[..., list[Any]]


@pytest.fixture(scope="module")
def calls() -> _Calls:
    node = shutil.which("node")
    if node is None or not (_INSTALLED / "node_modules" / "openai").is_dir():
        pytest.skip("needs node, and OpenAI's npm client, which `make test` installs where there is npm")

    def make(gateway: Gateway, *requests: dict[str, Any]) -> list[Any]:
        assert node is not None
        url = f"http://127.0.0.1:{gateway.port}/v1"
        done = subprocess.run(
            [node, str(_HERE / "calls.mjs"), str(_INSTALLED), url],
            input=json.dumps(requests),
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        outcomes: list[Any] = json.loads(done.stdout)
        return outcomes

    return make


def _chat(content: str = "Hello there", **body: Any) -> dict[str, Any]:
    more = {key: body.pop(key) for key in ("leaveAfter",) if key in body}
    messages = [{"role": "user", "content": content}]
    return {
        "endpoint": "chat",
        "body": {"model": "replay", "temperature": 0, "messages": messages, **body},
        **more,
    }


def test_answers(calls: _Calls, replay_gateway: Gateway) -> None:
    whole, stream, stopped, cut = calls(
        replay_gateway,
        _chat(),
        _chat(stream=True),
        _chat("say STOP now", stream=True, stop="STOP"),
        _chat(max_tokens=3),
    )
    assert (whole["text"], whole["reason"]) == ("Hello there", "stop")
    assert stream["text"] == "Hello there"
    assert stream["pieces"] > 3
    assert (stopped["text"], stopped["reason"]) == ("say ", "stop")
    assert (cut["text"], cut["reason"]) == ("Hel", "length")


def test_parameters_of_a_model(calls: _Calls, openvino_gateway: Gateway) -> None:
    model = openvino_gateway.client().models.list().data[0].id
    question = "Repeat the word banana twenty times."
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}
    seeded = {
        "endpoint": "completions",
        "body": {"model": model, "prompt": "Once", "max_tokens": 12, "temperature": 1, "seed": 3},
    }
    plain, penalized, logprobs, document, one, two = calls(
        openvino_gateway,
        _chat(question, model=model, max_tokens=24),
        _chat(question, model=model, max_tokens=24, frequency_penalty=1.5),
        _chat(model=model, max_tokens=4, logprobs=True),
        _chat(
            model=model,
            max_tokens=40,
            response_format={"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
        ),
        seeded,
        seeded,
    )
    assert plain["text"] != penalized["text"]
    assert all(entry["logprob"] <= 0 for entry in logprobs["logprobs"]["content"])
    assert isinstance(json.loads(document["text"])["ok"], bool)
    assert one["text"] == two["text"]


def test_errors(calls: _Calls, replay_gateway: Gateway) -> None:
    outcomes = calls(
        replay_gateway,
        _chat(model="another"),
        _chat(temperature=3),
        _chat("x" * 33_000),
        _chat(temperature=1),
        _chat(temperature=1, stream=True),
    )
    assert [(outcome["error"], outcome["status"]) for outcome in outcomes] == [
        ("NotFoundError", 404),
        ("BadRequestError", 400),
        ("BadRequestError", 400),
        ("InternalServerError", 501),
        ("InternalServerError", 501),
    ]


def test_a_caller_that_leaves_frees_its_slot(
    calls: _Calls, replay_gateway: Gateway, replay_server: Server
) -> None:
    (outcome,) = calls(replay_gateway, _chat("x" * 20_000, max_tokens=20_000, stream=True, leaveAfter=5))
    assert outcome["pieces"] == 5
    replay_server.await_idle()
