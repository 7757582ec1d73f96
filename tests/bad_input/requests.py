"""Requests that break a rule, ask for what is not there, or are no requests at all."""

import math
from typing import Any

import grpc
from grpc_health.v1 import health_pb2
from smg_grpc_proto.generated import trtllm_service_pb2 as tl
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat.v1 import chat_pb2 as pb

from ..conftest import Server
from ..integration.conftest import ask, user
from .case import Attempt, Case, each, said

_SAMPLED: dict[str, Any] = {"temperature": 1.0}


def _chats(**given: Any) -> Attempt:
    request = pb.ChatRequest(**{"messages": [user("Hello")], **given})
    return lambda server: said(lambda: list(server.chat.Chat(request, timeout=60)))


def _counts(messages: list[pb.Message]) -> Attempt:
    request = pb.CountTokensRequest(messages=messages)
    return lambda server: said(lambda: server.chat.CountTokens(request, timeout=60))


def _format(**source: str) -> dict[str, Any]:
    return {"response_format": pb.ResponseFormat(**source)}


def _schema(source: str) -> dict[str, Any]:
    return _format(json_schema=source)


def _stream(**fields: int) -> dict[str, Any]:
    return {"stream_options": pb.StreamOptions(**fields)}


def _invalid(what: str, fields: str, *given: dict[str, Any]) -> Case:
    """Refused for its fields, before an executor hears of it; `given` in as many ways as there are."""
    named = fields if fields.endswith("fields") else ", ".join(f"`{field}`" for field in fields.split())
    attempts = each([_chats(**values) for values in given])
    return Case(what, f"INVALID_ARGUMENT: {named}", attempts, reaches_executor=False)


def _out_of_range(field: str, what: str, values: list[float], **others: Any) -> Case:
    return _invalid(f"`{field}` {what}", field, *({field: value, **others} for value in values))


_NO_NUMBERS = [math.nan, math.inf, -math.inf]
_MANY_WORDS = ["x" * 257] * 256
_UNKNOWN_ROLE = pb.Message.FromString(b"\x08\x63" + user("Hi").SerializeToString()[2:])


def _nested(levels: int) -> str:
    return '{"not":' * levels + "{}" + "}" * levels


MESSAGES = [
    _invalid("no messages", "messages", {"messages": []}),
    _invalid("a message without a role", "messages[0].role", {"messages": [pb.Message(content="Hi")]}),
    _invalid("a role that the contract lacks, 99", "messages[0].role", {"messages": [_UNKNOWN_ROLE]}),
    _invalid(
        "a message without content", "messages[0].content", {"messages": [pb.Message(role=pb.ROLE_USER)]}
    ),
    _invalid(
        "an empty message", "messages[0].content messages[0].role", {"messages": [pb.Message()]}
    ),
    _invalid("only the second message wrong", "messages[1].content", {"messages": [user("Hi"), user("")]}),
    _invalid("1,025 messages", "messages", {"messages": [user("Hi")] * 1_025}),
    _invalid(
        "a conversation longer than the context",
        "messages",
        {"messages": [user("x" * 32_768)]},
        {"messages": [user("x" * 99)] * 400},
    ),
    _invalid(
        "more than a thousand mistakes at once",
        "50 fields",
        {
            "messages": [pb.Message()] * 1_024,
            "bad_words_list": _MANY_WORDS,
            "stop_words_list": _MANY_WORDS[:64],
        },
    ),
    Case(
        "`CountTokens` without messages, or with 1,025",
        "INVALID_ARGUMENT: `messages`",
        each([_counts([]), _counts([user("Hi")] * 1_025)]),
        reaches_executor=False,
    ),
    Case(
        "`CountTokens` of an unknown role",
        "INVALID_ARGUMENT: `messages[0].role`",
        _counts([_UNKNOWN_ROLE]),
        reaches_executor=False,
    ),
]  # fmt: skip

NUMBERS = [
    _out_of_range("max_tokens", "of 0, negative", [0, -1, -(2**31)]),
    _out_of_range("max_completion_tokens", "of 0, negative", [0, -1, -(2**31)]),
    _out_of_range("beam_width", "of 0, negative, above the executor's limit", [0, -1, 5, 2**31 - 1]),
    _out_of_range(
        "repetition_penalty", "of 0, negative, above 10, NaN, infinite", [0, -1, 10.001, *_NO_NUMBERS]
    ),
    _out_of_range(
        "temperature", "negative, under 0.01, above 2, NaN, infinite", [-0.5, 0.009, 2.001, *_NO_NUMBERS]
    ),
    _out_of_range(
        "top_p", "of 0, negative, above 1, NaN, infinite", [0, -0.1, 1.001, *_NO_NUMBERS], **_SAMPLED
    ),
    _out_of_range("top_k", "negative", [-1, -(2**31)], **_SAMPLED),
    _out_of_range(
        "min_p", "negative, 1 and more, NaN, infinite", [-0.001, 1, 1.001, *_NO_NUMBERS], **_SAMPLED
    ),
    _out_of_range("presence_penalty", "beyond 2, NaN, infinite", [-2.001, 2.001, *_NO_NUMBERS]),
    _out_of_range("frequency_penalty", "beyond 2, NaN, infinite", [-2.001, 2.001, *_NO_NUMBERS]),
    _out_of_range("seed", "negative", [-1, -(2**63)]),
    _out_of_range("min_tokens", "negative", [-1, -(2**31)]),
    _out_of_range("top_logprobs", "negative, above 20", [-1, 21, 2**31 - 1], logprobs=True),
    _invalid(
        "a delay that is negative, or over 10 s",
        "stream_options.max_delay_ms",
        _stream(max_delay_ms=-1),
        _stream(max_delay_ms=10_001),
    ),
    _invalid(
        "messages of no tokens",
        "stream_options.max_tokens_per_message",
        _stream(max_tokens_per_message=0),
        _stream(max_tokens_per_message=-1),
    ),
    _invalid(
        "both stream options wrong",
        "stream_options.max_delay_ms stream_options.max_tokens_per_message",
        _stream(max_delay_ms=-1, max_tokens_per_message=-1),
    ),
    _invalid(
        "`min_tokens` above the budget",
        "min_tokens",
        {"max_tokens": 8, "min_tokens": 4},
        {"min_tokens": 46},
        {"max_completion_tokens": 3, "min_tokens": 4},
    ),
]  # fmt: skip

COMBINATIONS = [
    _invalid(
        "two budgets",
        "max_completion_tokens max_tokens",
        {"max_tokens": 50, "max_completion_tokens": 50},
    ),
    _invalid("beams and `temperature`", "beam_width temperature", {"beam_width": 2, **_SAMPLED}),
    _invalid("beams and `seed`", "beam_width seed", {"beam_width": 2, "seed": 0}),
    *(
        _invalid(
            f"beams and `{field}`",
            f"beam_width {field}",
            {"beam_width": 2, "temperature": 0.0, field: value},
        )
        for field, value in {"top_p": 0.5, "top_k": 3, "min_p": 0.5}.items()
    ),
    _invalid(
        "beams and `stream_options`", "beam_width stream_options", {"beam_width": 2, **_stream()}
    ),
    _invalid(
        "a format and bad words",
        "bad_words_list response_format",
        {"bad_words_list": ["x"], **_format(regex="a")},
    ),
    _invalid(
        "a format and `min_tokens`",
        "min_tokens response_format",
        {"min_tokens": 1, **_format(regex="a")},
    ),
    *(
        _invalid(f"`{field}` without `temperature`", field, {field: value})
        for field, value in {"top_p": 0.5, "top_k": 1, "min_p": 0.5}.items()
    ),
    _invalid(
        "`top_logprobs` without `logprobs`",
        "top_logprobs",
        {"top_logprobs": 1},
        {"top_logprobs": 1, "logprobs": False},
    ),
    _invalid(
        "several mistakes of all kinds",
        "6 fields",
        {
            "messages": [pb.Message()], "max_tokens": 0, "temperature": 3.0, "stop_words_list": [""],
            "top_k": -1,
        },
    ),
]  # fmt: skip

WORDS = [
    *(
        case
        for field, most in {"bad_words_list": 256, "stop_words_list": 64}.items()
        for case in (
            _invalid(f"an empty string in `{field}`", f"{field}[1]", {field: ["good", ""]}),
            _invalid(
                f"a string of 257 characters in `{field}`",
                f"{field}[0]",
                {field: ["x" * 257]},
                {field: ["🎉" * 257]},
            ),
            _invalid(
                f"{most + 1} strings in `{field}`", field, {field: [f"word {i}" for i in range(most + 1)]}
            ),
        )
    ),
    _invalid("a million bad words", "bad_words_list", {"bad_words_list": ["x"] * 1_000_000}),
    _invalid("U+0000 in a bad word", "bad_words_list[1]", {"bad_words_list": ["good", "b\0d"]}),
]

FORMATS = [
    _invalid("`response_format` with nothing in it", "response_format", _format()),
    *(
        _invalid(
            f"a `{kind}` that is empty, or of 65,537 characters",
            f"response_format.{kind}",
            _format(**{kind: ""}),
            _format(**{kind: "a" * 65_537}),
        )
        for kind in ("json_schema", "regex", "grammar")
    ),
    *(
        _invalid(f"a schema {what}", "response_format.json_schema", *map(_schema, sources))
        for what, sources in {
            "that is not JSON": ["{'type': 'object'}", '{"type":'],
            "that is not an object": ['["object"]', "true"],
            "with a number of thousands of digits, or an infinite one": ["1" * 5_000, '{"minimum": 1e999}'],
            "nested 65 levels deep, or 8,000": [_nested(64), _nested(8_000)],
            "with a keyword that would not be enforced": ['{"type": "string", "minimum": 3}', '{"if": {}}'],
        }.items()
    ),
]  # fmt: skip


def _not_on_replay(parameter: str, **given: Any) -> Case:
    return Case(
        f"`{parameter}`, which the replay executor lacks",
        f"UNIMPLEMENTED: `{parameter}`",
        _chats(**given),
        reaches_executor=False,
    )


#: In a form that no rule forbids.
UNSUPPORTED = [
    _not_on_replay("bad_words_list", bad_words_list=["x"]),
    _not_on_replay("repetition_penalty", repetition_penalty=1.1),
    _not_on_replay("temperature", temperature=0.5),
    _not_on_replay("top_p", temperature=0.0, top_p=0.5),
    _not_on_replay("top_k", temperature=0.0, top_k=5),
    _not_on_replay("min_p", temperature=0.0, min_p=0.1),
    _not_on_replay("presence_penalty", presence_penalty=0.1),
    _not_on_replay("frequency_penalty", frequency_penalty=-0.1),
    _not_on_replay("seed", seed=0),
    _not_on_replay("logprobs", logprobs=True),
    _not_on_replay("response_format", **_format(regex="a")),
]


def _does_not_compile(what: str, *given: tuple[str, str]) -> Case:
    field = f"response_format.{given[0][0]}"
    attempts = [_chats(max_completion_tokens=2, **_format(**{kind: source})) for kind, source in given]
    return Case(what, f"INVALID_ARGUMENT: `{field}`", each(attempts), server="openvino_server")


#: What only the engine's own compiler can tell.
CONSTRAINTS = [
    _does_not_compile(
        "a regex that is malformed: `(a`, `[`", ("regex", "(a"), ("regex", "[")
    ),
    _does_not_compile(
        "a regex with what the engine lacks: look-ahead, back-references",
        ("regex", "(?=a)b"),
        ("regex", r"(a)\1"),
    ),
    _does_not_compile(
        "a grammar that is malformed, or prose", ("grammar", "root ::="), ("grammar", "Be kind.")
    ),
    _does_not_compile("a grammar without `root`", ("grammar", 'start ::= "a"')),
    _does_not_compile("a rule whose name has 60,000 characters", ("grammar", "root ::= " + "a" * 60_000)),
    _does_not_compile(
        "a schema of a type that JSON lacks",
        ("json_schema", '{"type": "cat"}'),
        ("json_schema", '{"type": 5}'),
    ),
    _does_not_compile(
        "a schema with a bad pattern", ("json_schema", '{"type": "string", "pattern": "(("}')
    ),
    _does_not_compile(
        "a schema whose range holds no number",
        ("json_schema", '{"type": "integer", "minimum": 5, "maximum": 3}'),
    ),
]  # fmt: skip


def _generates(sampling: dict[str, Any] | None = None, **given: Any) -> Attempt:
    usual: dict[str, Any] = {"tokenized": tl.TokenizedInput(input_token_ids=[1, 2]), "max_tokens": 5}
    request = tl.GenerateRequest(sampling_config=tl.SamplingConfig(**sampling or {}), **{**usual, **given})

    def attempt(server: Server) -> str:
        stub = trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)
        return said(lambda: list(stub.Generate(request, timeout=60)))

    return attempt


def _embeds(server: Server) -> str:
    stub = trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)
    return said(lambda: stub.Embed(tl.EmbedRequest(), timeout=60))


TOKEN_LEVEL = [
    Case(what, outcome, attempt, reaches_executor=False)
    for what, outcome, attempt in [
        (
            "no input tokens",
            "INVALID_ARGUMENT: `input_token_ids`",
            _generates(tokenized=tl.TokenizedInput()),
        ),
        (
            "input tokens that the model lacks",
            "INVALID_ARGUMENT: `input_token_ids`",
            _generates(tokenized=tl.TokenizedInput(input_token_ids=[2**32 - 1])),
        ),
        (
            "stop tokens that the model lacks, or 65 of them",
            "INVALID_ARGUMENT: `stop_token_ids`",
            each([_generates(stop_token_ids=[100_000]), _generates(stop_token_ids=[1] * 65)]),
        ),
        ("no budget", "INVALID_ARGUMENT: `max_tokens`", _generates(max_tokens=0)),
        ("a seed above 2⁶³", "INVALID_ARGUMENT: `seed`", _generates({"seed": 2**63})),
        (
            "guided decoding of no kind",
            "INVALID_ARGUMENT: `guide_type`",
            _generates(guided_decoding=tl.GuidedDecodingParams(guide="x")),
        ),
        (
            "two answers without beams",
            "UNIMPLEMENTED: `num_return_sequences`",
            _generates({"num_return_sequences": 2}),
        ),
        ("`ignore_eos`", "UNIMPLEMENTED: `ignore_eos`", _generates(ignore_eos=True)),
        ("a LoRA adapter", "UNIMPLEMENTED: `lora_config`", _generates(lora_config=tl.LoraConfig(task_id=1))),
        ("`Embed`", "UNIMPLEMENTED: `Embed`", _embeds),
    ]
]


def _rough(data: bytes) -> Attempt:
    def attempt(server: Server) -> str:
        service = "/mistralchat.v1.ChatService"
        stream: Any = server.channel.unary_stream(f"{service}/Chat")
        single: Any = server.channel.unary_unary(f"{service}/CountTokens")
        outcomes = said(lambda: list(stream(data, timeout=60))), said(lambda: single(data, timeout=60))
        return " or ".join(dict.fromkeys(outcomes))

    return attempt


def _too_large(server: Server) -> str:
    return said(lambda: list(server.chat.Chat(ask("x" * 5_242_880), timeout=60)))


def _unknown_fields(server: Server) -> str:
    stream: Any = server.channel.unary_stream("/mistralchat.v1.ChatService/Chat")
    data = ask().SerializeToString() + b"\xfa\x7d\x05hello"  # field 2,015
    return said(lambda: list(stream(data, timeout=60)))


_TRUNCATED = ask().SerializeToString()[:-1]
_NOT_UTF8 = ask("Hello").SerializeToString().replace(b"Hello", b"He\xff\xfeo")
_SURROGATE = ask("abc").SerializeToString().replace(b"abc", b"\xed\xa0\x80")

BYTES = [
    Case(what, outcome, attempt, reaches_executor=reaches)
    for what, outcome, attempt, reaches in [
        ("half a message", "INVALID_ARGUMENT", _rough(_TRUNCATED), False),
        ("a string that is not UTF-8, or holds a surrogate", "INVALID_ARGUMENT",
         each([_rough(_NOT_UTF8), _rough(_SURROGATE)]), False),
        ("a field of the wrong wire type", "INVALID_ARGUMENT", _rough(b"\x0d\x01"), False),
        ("a length without end", "INVALID_ARGUMENT", _rough(b"\x0a" + b"\xff" * 11), False),
        ("something that is no protobuf at all", "INVALID_ARGUMENT", _rough(b"GET / HTTP/1.1"), False),
        ("a message of 5 MiB", "RESOURCE_EXHAUSTED", _too_large, False),
        ("fields that the contract does not know", "OK", _unknown_fields, True),
    ]
]  # fmt: skip


def _deadline_passes(server: Server) -> str:
    request = ask("x" * 20_000, max_completion_tokens=20_000)
    return said(lambda: list(server.chat.Chat(request, timeout=0.05)))


def _cancels(server: Server) -> str:
    call = server.chat.Chat(ask("x" * 20_000, max_completion_tokens=20_000), timeout=60)
    next(call)
    call.cancel()
    return said(lambda: list(call))


def _checks_unknown_service(server: Server) -> str:
    return said(lambda: server.health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=60))


def _metadata(**values: str) -> Attempt:
    return lambda server: said(
        lambda: list(server.chat.Chat(ask(), timeout=60, metadata=tuple(values.items())))
    )


def _one_more_than_allowed(server: Server) -> str:
    request = ask("x" * 20_000, max_completion_tokens=20_000)
    open_calls = [server.chat.Chat(request, timeout=60) for _ in range(2)]
    for call in open_calls:
        next(call)
    try:
        return said(lambda: list(server.chat.Chat(ask(), timeout=60)))
    finally:
        for call in open_calls:
            call.cancel()


def _abandoned(server: Server) -> str:
    with grpc.insecure_channel(server.address) as channel:
        stream: Any = channel.unary_stream("/mistralchat.v1.ChatService/Chat")
        data = ask("x" * 20_000, max_completion_tokens=20_000).SerializeToString()
        call = stream(data, timeout=60)
        next(call)
    return said(lambda: list(call))


CALLS = [
    Case("the deadline passes in the middle of an answer", "DEADLINE_EXCEEDED", _deadline_passes),
    Case("the caller cancels in the middle of an answer", "CANCELLED", _cancels),
    Case("the caller closes its channel in the middle of an answer", "CANCELLED", _abandoned),
    Case(
        "a call while the model is being loaded",
        "UNAVAILABLE: with `RetryInfo`",
        _chats(),
        server="loading_server",
    ),
    Case(
        "more open calls than `--max-open-calls`",
        "RESOURCE_EXHAUSTED: with `RetryInfo`",
        _one_more_than_allowed,
        server="small_server",
    ),
    Case("the health of a service that is not there", "NOT_FOUND", _checks_unknown_service),
    Case("metadata of 100 KB", "RESOURCE_EXHAUSTED", _metadata(large="x" * 100_000)),
]
