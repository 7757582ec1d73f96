"""What the table of bad input has no rows for: allowed edges, templates that refuse, faults, limits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.text.tokenizer import ChatTokenizer

from ..bad_input.requests import UNSUPPORTED
from .conftest import Server, answer, refusal, text, user


def _format(**source: str) -> dict[str, Any]:
    return {"response_format": pb.ResponseFormat(**source)}


def _messages(*messages: pb.Message) -> dict[str, Any]:
    return {"messages": messages}


def _goes_on(server: Server) -> None:
    messages = answer(server, max_completion_tokens=5)
    assert messages[-1].usage.completion_tokens > 0


_MANY = [pb.Message()] * 1_024
_MANY_WORDS = ["x" * 257] * 256


def test_a_request_with_thousands_of_mistakes_gets_a_short_answer(replay_server: Server) -> None:
    request = pb.ChatRequest(messages=_MANY, bad_words_list=_MANY_WORDS, stop_words_list=_MANY_WORDS[:64])
    refused = refusal(lambda: list(replay_server.chat.Chat(request, timeout=60)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(refused.fields) == 50
    assert len(refused.message) < 1_000


def _assert_unsupported(server: Server, parameter: str, **given: Any) -> None:
    before = server.executor.new_id()
    refused = refusal(lambda: answer(server, **given))
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED
    info = refused.details["ErrorInfo"]
    assert info.reason == "PARAMETER_NOT_SUPPORTED"
    assert info.metadata["parameter"] == parameter
    assert server.executor.new_id() == before + 1


def test_the_parameters_that_are_refused_are_those_that_get_model_lists(replay_server: Server) -> None:
    model = replay_server.chat.GetModel(pb.GetModelRequest())
    # top_logprobs needs logprobs, which is refused first.
    refused = {case.outcome.partition(": ")[2].strip("`") for case in UNSUPPORTED}
    assert {p.name for p in model.unsupported_parameters} == {*refused, "top_logprobs"}


_NEUTRAL: dict[str, Any] = {
    "beam_width": 1, "repetition_penalty": 1.0, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0,
    "presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0, "logprobs": False, "top_logprobs": 0,
}  # fmt: skip


def test_as_many_messages_as_allowed_are_answered(replay_server: Server) -> None:
    request = pb.ChatRequest(messages=[user("x")] * 1_024, max_completion_tokens=3)
    assert text(list(replay_server.chat.Chat(request, timeout=60))) == "x\nx"


def test_asking_for_nothing_is_never_refused(replay_server: Server) -> None:
    assert text(answer(replay_server, "Hello", **_NEUTRAL)) == "Hello"


_ALTERNATING = """\
{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}\
{{ raise_exception('Conversation roles must alternate user and assistant') }}{% endif %}\
{{ message['content'] }}{% endfor %}"""
_DIVIDING = "{{ messages[0]['content'] }}{% if messages | length > 1 %}{{ 1 // 0 }}{% endif %}"


_ROLES = {"user": pb.ROLE_USER, "assistant": pb.ROLE_ASSISTANT, "system": pb.ROLE_SYSTEM}


def test_the_templates_refusal_of_an_order_of_roles_is_the_callers_fault(
    serve: Callable[..., Server], tmp_path: Path, tokenizer_directory: Callable[..., Path]
) -> None:
    server = serve(model=str(tokenizer_directory(tmp_path, _ALTERNATING)))
    for roles in (["assistant"], ["system", "user"], ["user", "user"], ["user", "assistant", "system"]):
        messages = [pb.Message(role=_ROLES[role], content="Hi") for role in roles]
        before = server.executor.new_id()
        for call in (
            lambda messages=messages: list(server.chat.Chat(pb.ChatRequest(messages=messages))),
            lambda messages=messages: server.chat.CountTokens(pb.CountTokensRequest(messages=messages)),
        ):
            refused = refusal(call)
            assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["messages"])
            assert "must alternate user and assistant" in refused.message
        assert server.executor.new_id() == before + 1
    assert text(answer(server, "Hello")) == "Hello"


def test_a_template_that_fails_tells_nothing_of_how(
    serve: Callable[..., Server], tmp_path: Path, tokenizer_directory: Callable[..., Path]
) -> None:
    server = serve(model=str(tokenizer_directory(tmp_path, _DIVIDING)))
    request = pb.ChatRequest(messages=[user("Hi"), user("Hi")])
    refused = refusal(lambda: list(server.chat.Chat(request)))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["messages"])
    assert "zero" not in refused.message


def test_a_fault_of_the_server_tells_an_id_that_the_logs_know(
    replay_server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self: ChatTokenizer, turns: object) -> list[int]:
        raise RuntimeError("Check failed at /build/secret.cc")

    with monkeypatch.context() as patch:
        patch.setattr(ChatTokenizer, "prompt", fail)
        for call in (
            lambda: answer(replay_server),
            lambda: replay_server.chat.CountTokens(pb.CountTokensRequest(messages=[user("Hi")])),
        ):
            refused = refusal(call)
            assert refused.code == grpc.StatusCode.INTERNAL
            assert refused.details["RequestInfo"].request_id in refused.message
            assert refused.details["RequestInfo"].request_id in caplog.text
    # Where it happened, not what the library said: that could hold a prompt.
    assert "in fail" in caplog.text
    assert "secret.cc" not in caplog.text
    _goes_on(replay_server)


@pytest.mark.parametrize(
    ("parameter", "given"),
    [
        ("top_logprobs", {"logprobs": True, "top_logprobs": 1}),
        ("bad_words_list", {"beam_width": 2, "bad_words_list": ["a"]}),
        ("response_format", {"beam_width": 2, **_format(regex="a")}),
        ("repetition_penalty", {"beam_width": 2, "repetition_penalty": 1.5}),
        ("presence_penalty", {"beam_width": 2, "presence_penalty": 1.0}),
        ("frequency_penalty", {"beam_width": 2, "frequency_penalty": 1.0}),
        ("min_tokens", {"beam_width": 2, "max_completion_tokens": 5, "min_tokens": 5}),
    ],
)
def test_what_the_engine_lacks_is_refused_by_name(
    openvino_server: Server, parameter: str, given: dict[str, Any]
) -> None:
    _assert_unsupported(openvino_server, parameter, **given)
    model = openvino_server.chat.GetModel(pb.GetModelRequest())
    (listed,) = [p for p in model.unsupported_parameters if p.name == parameter]
    assert listed.with_beam_search_only == ("beam_width" in given)
    _goes_on(openvino_server)


@pytest.mark.parametrize(
    ("given", "field"),
    [({"beam_width": 9}, "beam_width"), (_messages(user("word " * 9_000)), "messages")],
    ids=["beams", "context"],
)
def test_the_engines_own_limits_are_kept(openvino_server: Server, given: dict[str, Any], field: str) -> None:
    request = pb.ChatRequest(**{"messages": [user("Hello")], **given})
    refused = refusal(lambda: list(openvino_server.chat.Chat(request, timeout=60)))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("beam_width", [1, 8]),
        ("repetition_penalty", [1e-6, 10.0]),
        ("temperature", [0.0, 0.01, 2.0]),
        ("top_p", [1e-6, 1.0]),
        ("top_k", [0, 1, 2**31 - 1]),
        ("min_p", [0.0, 0.999]),
        ("presence_penalty", [-2.0, 2.0]),
        ("frequency_penalty", [-2.0, 2.0]),
        ("seed", [0, 2**63 - 1]),
        ("min_tokens", [0, 3]),
        ("max_completion_tokens", [1]),
        ("stop_words_list", [["x" * 256] * 64, ["\0"], ["🎉" * 256]]),
        ("bad_words_list", [["x" * 256] * 256, ["🎉" * 256]]),
        ("messages", [[user("\0")]]),
    ],
)
def test_the_edges_of_what_is_allowed_are_allowed(
    openvino_server: Server, field: str, values: list[Any]
) -> None:
    for value in values:
        fields = {"messages": [user("Hello")], "max_completion_tokens": 3, field: value}
        if field in ("top_p", "top_k", "min_p"):
            fields.setdefault("temperature", 1.0)
        messages = list(openvino_server.chat.Chat(pb.ChatRequest(**fields), timeout=60))
        assert messages[-1].usage.completion_tokens > 0
