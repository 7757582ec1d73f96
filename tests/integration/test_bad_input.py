"""Every rule of the contract, broken over the wire: what the caller learns, and that nobody else notices."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.text.tokenizer import ChatTokenizer

from .conftest import Server, answer, ask, refusal, text, user

_SAMPLED: dict[str, Any] = {"temperature": 1.0}


def _stream(**fields: int) -> dict[str, Any]:
    return {"stream_options": pb.StreamOptions(**fields)}


def _format(**source: str) -> dict[str, Any]:
    return {"response_format": pb.ResponseFormat(**source)}


def _messages(*messages: pb.Message) -> dict[str, Any]:
    return {"messages": messages}


def _nested(levels: int) -> str:
    return '{"not":' * levels + "{}" + "}" * levels


#: Field, the values that are refused, what else must be set for no other rule to be broken.
_OUT_OF_RANGE: list[tuple[str, list[float], dict[str, Any]]] = [
    ("max_tokens", [0, -1, -(2**31)], {}),
    ("max_completion_tokens", [0, -1, -(2**31)], {}),
    ("beam_width", [0, -1, 5, 2**31 - 1], {}),
    ("repetition_penalty", [0, -1, 10.001, math.nan, math.inf, -math.inf], {}),
    ("temperature", [-0.5, 0.009, 2.001, math.nan, math.inf, -math.inf], {}),
    ("top_p", [0, -0.1, 1.001, math.nan, math.inf], _SAMPLED),
    ("top_k", [-1, -(2**31)], _SAMPLED),
    ("min_p", [-0.001, 1, 1.001, math.nan, -math.inf], _SAMPLED),
    ("presence_penalty", [-2.001, 2.001, math.nan, math.inf, -math.inf], {}),
    ("frequency_penalty", [-2.001, 2.001, math.nan, math.inf, -math.inf], {}),
    ("seed", [-1, -(2**63)], {}),
    ("min_tokens", [-1, -(2**31)], {}),
    ("top_logprobs", [-1, 21, 2**31 - 1], {"logprobs": True}),
]
_BROKEN: dict[str, tuple[dict[str, Any], list[str]]] = {
    **{
        f"{field}={value:g}": ({field: value, **others}, [field])
        for field, values, others in _OUT_OF_RANGE
        for value in values
    },
    "negative delay": (_stream(max_delay_ms=-1), ["stream_options.max_delay_ms"]),
    "long delay": (_stream(max_delay_ms=10_001), ["stream_options.max_delay_ms"]),
    "no tokens in a message": (
        _stream(max_tokens_per_message=0),
        ["stream_options.max_tokens_per_message"],
    ),
    "both stream options wrong": (
        _stream(max_delay_ms=-1, max_tokens_per_message=-1),
        ["stream_options.max_delay_ms", "stream_options.max_tokens_per_message"],
    ),
    # messages
    "no message": (_messages(), ["messages"]),
    "no role": (_messages(pb.Message(content="Hi")), ["messages[0].role"]),
    "no content": (_messages(pb.Message(role=pb.ROLE_USER)), ["messages[0].content"]),
    "an empty message": (_messages(pb.Message()), ["messages[0].content", "messages[0].role"]),
    "the second message wrong": (_messages(user("Hi"), user("")), ["messages[1].content"]),
    "too many messages": (_messages(*[user("Hi")] * 1_025), ["messages"]),
    # two that exclude each other
    "two budgets": (
        {"max_tokens": 50, "max_completion_tokens": 50},
        ["max_completion_tokens", "max_tokens"],
    ),
    "beams and temperature": ({"beam_width": 2, **_SAMPLED}, ["beam_width", "temperature"]),
    "beams and seed": ({"beam_width": 2, "seed": 0}, ["beam_width", "seed"]),
    **{
        f"beams and {field}": (
            {"beam_width": 2, "temperature": 0.0, field: value},
            ["beam_width", field],
        )
        for field, value in {"top_p": 0.5, "top_k": 3, "min_p": 0.5}.items()
    },
    "beams and stream options": ({"beam_width": 2, **_stream()}, ["beam_width", "stream_options"]),
    "a format and bad words": (
        {"bad_words_list": ["x"], **_format(regex="a")},
        ["bad_words_list", "response_format"],
    ),
    "a format and min_tokens": (
        {"min_tokens": 1, **_format(regex="a")},
        ["min_tokens", "response_format"],
    ),
    # one that needs another
    "top_p without temperature": ({"top_p": 0.5}, ["top_p"]),
    "top_k without temperature": ({"top_k": 1}, ["top_k"]),
    "min_p without temperature": ({"min_p": 0.5}, ["min_p"]),
    "top_logprobs without logprobs": ({"top_logprobs": 1}, ["top_logprobs"]),
    "top_logprobs with logprobs off": ({"top_logprobs": 1, "logprobs": False}, ["top_logprobs"]),
    # words
    **{
        f"{what} {field}": ({field: words}, [field + place])
        for field, most in {"bad_words_list": 256, "stop_words_list": 64}.items()
        for what, words, place in [
            ("an empty string in", ["good", ""], "[1]"),
            ("257 characters in", ["x" * 257], "[0]"),
            ("257 characters of four bytes in", ["🎉" * 257], "[0]"),
            ("too many of", [f"word {i}" for i in range(most + 1)], ""),
        ]
    },
    "NUL in a bad word": ({"bad_words_list": ["good", "b\0d"]}, ["bad_words_list[1]"]),
    # response_format
    "no format": (_format(), ["response_format"]),
    **{
        f"an empty {kind}": (_format(**{kind: ""}), [f"response_format.{kind}"])
        for kind in ("json_schema", "regex", "grammar")
    },
    **{
        f"a long {kind}": (_format(**{kind: "a" * 65_537}), [f"response_format.{kind}"])
        for kind in ("json_schema", "regex", "grammar")
    },
    **{
        f"a schema that is {what}": (_format(json_schema=source), ["response_format.json_schema"])
        for what, source in {
            "not JSON": "{'type': 'object'}",
            "half of one": '{"type":',
            "not an object": '["object"]',
            "true": "true",
            "a number of many digits": "1" * 5_000,
            "one level too deep": _nested(64),
            "deeper than Python recurses": _nested(8_000),
        }.items()
    },
    # budgets
    "min_tokens above max_tokens": ({"max_tokens": 8, "min_tokens": 4}, ["min_tokens"]),
    "min_tokens above the default budget": ({"min_tokens": 46}, ["min_tokens"]),
    "min_tokens above max_completion_tokens": (
        {"max_completion_tokens": 3, "min_tokens": 4},
        ["min_tokens"],
    ),
    "a prompt longer than the context": (_messages(user("x" * 32_768)), ["messages"]),
    "messages longer than the context together": (_messages(*[user("x" * 99)] * 400), ["messages"]),
    # several at once
    "everything": (
        {
            "messages": [pb.Message()],
            "max_tokens": 0,
            "temperature": 3.0,
            "stop_words_list": [""],
            "top_k": -1,
        },
        [
            "max_tokens",
            "messages[0].content",
            "messages[0].role",
            "stop_words_list[0]",
            "temperature",
            "top_k",
        ],
    ),
}  # fmt: skip


def _goes_on(server: Server) -> None:
    messages = answer(server, max_completion_tokens=5)
    assert messages[-1].usage.completion_tokens > 0


@pytest.mark.parametrize(("given", "fields"), _BROKEN.values(), ids=_BROKEN)
def test_a_broken_rule_is_refused(replay_server: Server, given: dict[str, Any], fields: list[str]) -> None:
    request = pb.ChatRequest(**{"messages": [user("Hello")], **given})
    before = replay_server.executor.new_id()
    refused = refusal(lambda: list(replay_server.chat.Chat(request, timeout=60)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == fields
    # A request takes an id when, and only when, it goes to the executor.
    assert replay_server.executor.new_id() == before + 1
    assert replay_server.executor.open_streams == 0
    _goes_on(replay_server)


def test_a_call_that_is_answered_takes_an_id(replay_server: Server) -> None:
    before = replay_server.executor.new_id()
    _goes_on(replay_server)
    assert replay_server.executor.new_id() == before + 2


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        ([], ["messages"]),
        ([pb.Message()], ["messages[0].content", "messages[0].role"]),
        ([user("Hi")] * 1_025, ["messages"]),
    ],
    ids=["none", "empty", "many"],
)
def test_counting_tokens_keeps_the_rules_for_messages(
    replay_server: Server, messages: list[pb.Message], fields: list[str]
) -> None:
    request = pb.CountTokensRequest(messages=messages)
    refused = refusal(lambda: replay_server.chat.CountTokens(request, timeout=60))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, fields)


def test_a_role_that_the_contract_does_not_know_is_refused(replay_server: Server) -> None:
    message = pb.Message.FromString(b"\x08\x63" + user("Hi").SerializeToString()[2:])
    assert message.role == 99
    for call in (
        lambda: list(replay_server.chat.Chat(pb.ChatRequest(messages=[message]), timeout=60)),
        lambda: replay_server.chat.CountTokens(pb.CountTokensRequest(messages=[message]), timeout=60),
    ):
        refused = refusal(call)
        assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, ["messages[0].role"])


_MANY = [pb.Message()] * 1_024
_MANY_WORDS = ["x" * 257] * 256


def test_a_request_with_thousands_of_mistakes_gets_a_short_answer(replay_server: Server) -> None:
    request = pb.ChatRequest(messages=_MANY, bad_words_list=_MANY_WORDS, stop_words_list=_MANY_WORDS[:64])
    refused = refusal(lambda: list(replay_server.chat.Chat(request, timeout=60)))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert len(refused.fields) == 50
    assert len(refused.message) < 1_000


_ROUGH = {
    "half a message": ask().SerializeToString()[:-1],
    "a string that is not UTF-8": ask("Hello").SerializeToString().replace(b"Hello", b"He\xff\xfeo"),
    "a surrogate": ask("abc").SerializeToString().replace(b"abc", b"\xed\xa0\x80"),
    "a field of the wrong wire type": b"\x0d\x01",
    "a field without end": b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    "no protobuf at all": b"GET / HTTP/1.1\r\n\r\n",
}  # fmt: skip


@pytest.mark.parametrize("rough", _ROUGH.values(), ids=_ROUGH)
@pytest.mark.parametrize("method", ["Chat", "CountTokens"])
def test_bytes_that_are_no_request_are_the_callers_fault(
    replay_server: Server, method: str, rough: bytes
) -> None:
    path = f"/mistralchat.v1.ChatService/{method}"
    if method == "Chat":
        stream: Any = replay_server.channel.unary_stream(path)
        refused = refusal(lambda: list(stream(rough, timeout=60)))
    else:
        single: Any = replay_server.channel.unary_unary(path)
        refused = refusal(lambda: single(rough, timeout=60))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    _goes_on(replay_server)


def test_a_request_of_five_megabytes_is_refused(replay_server: Server) -> None:
    refused = refusal(lambda: answer(replay_server, "x" * 5_000_000))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    _goes_on(replay_server)


#: What the replay executor cannot honour, in a form that no rule forbids.
_NOT_ON_REPLAY: dict[str, dict[str, Any]] = {
    "bad_words_list": {"bad_words_list": ["x"]},
    "repetition_penalty": {"repetition_penalty": 1.1},
    "temperature": {"temperature": 0.5},
    "top_p": {"temperature": 0.0, "top_p": 0.5},
    "top_k": {"temperature": 0.0, "top_k": 5},
    "min_p": {"temperature": 0.0, "min_p": 0.1},
    "presence_penalty": {"presence_penalty": 0.1},
    "frequency_penalty": {"frequency_penalty": -0.1},
    "seed": {"seed": 0},
    "logprobs": {"logprobs": True},
    "response_format": _format(regex="a"),
}


def _assert_unsupported(server: Server, parameter: str, **given: Any) -> None:
    before = server.executor.new_id()
    refused = refusal(lambda: answer(server, **given))
    assert refused.code == grpc.StatusCode.UNIMPLEMENTED
    info = refused.details["ErrorInfo"]
    assert info.reason == "PARAMETER_NOT_SUPPORTED"
    assert info.metadata["parameter"] == parameter
    assert server.executor.new_id() == before + 1


@pytest.mark.parametrize("parameter", _NOT_ON_REPLAY)
def test_a_parameter_that_the_executor_lacks_is_refused_by_name(
    replay_server: Server, parameter: str
) -> None:
    _assert_unsupported(replay_server, parameter, **_NOT_ON_REPLAY[parameter])
    _goes_on(replay_server)


def test_the_parameters_that_are_refused_are_those_that_get_model_lists(replay_server: Server) -> None:
    model = replay_server.chat.GetModel(pb.GetModelRequest())
    # top_logprobs needs logprobs, which is refused first.
    assert {p.name for p in model.unsupported_parameters} == {*_NOT_ON_REPLAY, "top_logprobs"}


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
    assert "secret.cc" in caplog.text
    _goes_on(replay_server)


#: What only the engine's own compiler can tell.
_CANNOT_COMPILE: dict[str, tuple[dict[str, Any], str]] = {
    "an open parenthesis": (_format(regex="(a"), "response_format.regex"),
    "an open bracket": (_format(regex="["), "response_format.regex"),
    "look-ahead": (_format(regex="(?=a)b"), "response_format.regex"),
    "a back-reference": (_format(regex=r"(a)\1"), "response_format.regex"),
    "a rule without a body": (_format(grammar="root ::="), "response_format.grammar"),
    "a grammar without root": (_format(grammar='start ::= "a"'), "response_format.grammar"),
    "prose": (_format(grammar="Be kind."), "response_format.grammar"),
    "a rule with an endless name": (_format(grammar="root ::= " + "a" * 60_000), "response_format.grammar"),
    "a type that JSON lacks": (_format(json_schema='{"type": "cat"}'), "response_format.json_schema"),
    "a type that is a number": (_format(json_schema='{"type": 5}'), "response_format.json_schema"),
    "a bad pattern": (
        _format(json_schema='{"type": "string", "pattern": "(("}'), "response_format.json_schema"
    ),
    "a range without numbers": (
        _format(json_schema='{"type": "integer", "minimum": 5, "maximum": 3}'),
        "response_format.json_schema",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("given", "field"), _CANNOT_COMPILE.values(), ids=_CANNOT_COMPILE)
def test_a_constraint_that_does_not_compile_is_the_callers_fault(
    openvino_server: Server, given: dict[str, Any], field: str
) -> None:
    refused = refusal(lambda: answer(openvino_server, max_completion_tokens=2, **given))
    assert (refused.code, refused.fields) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    iteration = openvino_server.executor.last_iteration
    assert iteration is not None
    assert iteration.active == 0
    _goes_on(openvino_server)


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
