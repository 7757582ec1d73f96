"""Which parameter of OpenAI's API arrives in which field of a worker: the table of docs/gateway.md.

What the gateway drops without a word is tested too. A release of SMG that begins to pass it on fails
here, so that the table can be corrected.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import common_pb2, trtllm_service_pb2_grpc
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat_server.rpc.trtllm.tokenizer_files import tokenizer_archive
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

from .conftest import Gateway, chat, free_port

_TOKENIZER = byte_tokenizer()
_Guide = tl.GuidedDecodingParams


class _Recorder(trtllm_service_pb2_grpc.TrtllmServiceServicer):  # type: ignore[misc]
    """A worker that notes each request and answers nothing."""

    def __init__(self) -> None:
        self.requests: list[tl.GenerateRequest] = []

    def HealthCheck(self, request: Any, context: Any) -> tl.HealthCheckResponse:  # noqa: N802
        return tl.HealthCheckResponse(status="OK")

    def GetModelInfo(self, request: Any, context: Any) -> tl.GetModelInfoResponse:  # noqa: N802
        return tl.GetModelInfoResponse(model_id="recorder", max_seq_len=4096, vocab_size=257)

    def GetServerInfo(self, request: Any, context: Any) -> tl.GetServerInfoResponse:  # noqa: N802
        return tl.GetServerInfoResponse()

    def GetTokenizer(self, request: Any, context: Any) -> Iterator[common_pb2.GetTokenizerChunk]:  # noqa: N802
        yield common_pb2.GetTokenizerChunk(data=tokenizer_archive(None, _TOKENIZER), sha256="")

    def Generate(self, request: tl.GenerateRequest, context: Any) -> Iterator[tl.GenerateResponse]:  # noqa: N802
        self.requests.append(request)
        yield tl.GenerateResponse(
            request_id=request.request_id, complete=tl.GenerateComplete(finish_reason="stop")
        )


@pytest.fixture(scope="module")
def recorder() -> Iterator[tuple[_Recorder, str]]:
    server = grpc.server(ThreadPoolExecutor(4))
    recorder = _Recorder()
    trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server(recorder, server)
    address = f"127.0.0.1:{free_port()}"
    server.add_insecure_port(address)
    server.start()
    yield recorder, address
    server.stop(0).wait()


@pytest.fixture(scope="module")
def door(recorder: tuple[_Recorder, str], logs: Path) -> Iterator[Gateway]:
    gateway = Gateway(logs / "recorder", [recorder[1]])
    yield gateway
    gateway.stop()


def _sent(door: Gateway, recorder: _Recorder, path: str, parameters: dict[str, Any]) -> tl.GenerateRequest:
    """What arrives of a call with these parameters."""
    recorder.requests.clear()
    client = door.client()
    if path == "chat":
        chat(client, model="recorder", extra_body=parameters)
    else:
        client.completions.create(model="recorder", prompt="Hello", extra_body=parameters)
    (request,) = recorder.requests
    request.request_id = ""
    return request


def _field(request: tl.GenerateRequest, path: str) -> Any:
    value: Any = request
    for name in path.split("."):
        value = getattr(value, name)
    return list(value) if path in ("stop", "stop_token_ids") else value


_SCHEMA = {"type": "object"}
#: Endpoint, parameter, value, and the field that it arrives in; None: it does not arrive.
_TABLE: list[tuple[str, str, Any, str | None, Any]] = [
    ("chat", "max_tokens", 7, "max_tokens", 7),
    ("chat", "max_completion_tokens", 7, "max_tokens", 7),
    ("chat", "temperature", 0.5, "sampling_config.temperature", 0.5),
    ("chat", "top_p", 0.5, "sampling_config.top_p", 0.5),
    ("chat", "top_k", 5, "sampling_config.top_k", 5),
    ("chat", "min_p", 0.25, "sampling_config.min_p", 0.25),
    ("chat", "repetition_penalty", 1.5, "sampling_config.repetition_penalty", 1.5),
    ("chat", "presence_penalty", 0.5, "sampling_config.presence_penalty", 0.5),
    ("chat", "frequency_penalty", 0.5, "sampling_config.frequency_penalty", 0.5),
    ("chat", "n", 2, "sampling_config.num_return_sequences", 2),
    ("chat", "stop", ["a", "b"], "stop", ["a", "b"]),
    ("chat", "ignore_eos", True, "ignore_eos", True),
    ("chat", "logprobs", True, "output_config.logprobs", 0),
    ("chat", "regex", "a+", "guided_decoding.guide", "a+"),
    ("chat", "ebnf", 'root ::= "a"', "guided_decoding.guide", 'root ::= "a"'),
    (
        "chat",
        "response_format",
        {"type": "json_object"},
        "guided_decoding.guide_type",
        _Guide.GUIDE_TYPE_JSON_SCHEMA,
    ),
    (
        "chat",
        "response_format",
        {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA}},
        "guided_decoding.guide",
        '{"type":"object"}',
    ),
    ("chat", "seed", 5, None, None),
    ("chat", "min_tokens", 3, None, None),
    ("chat", "stop_token_ids", [5], None, None),
    ("chat", "logit_bias", {"5": 1.0}, None, None),
    ("completions", "seed", 5, "sampling_config.seed", 5),
    ("completions", "min_tokens", 3, "sampling_config.min_tokens", 3),
    ("completions", "stop_token_ids", [5], "stop_token_ids", [5]),
    ("completions", "max_tokens", 7, "max_tokens", 7),
]


@pytest.mark.parametrize(
    ("path", "parameter", "value", "field", "arrives"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[3]}") for row in _TABLE],
)
def test_where_a_parameter_arrives(
    door: Gateway,
    recorder: tuple[_Recorder, str],
    path: str,
    parameter: str,
    value: Any,
    field: str | None,
    arrives: Any,
) -> None:
    request = _sent(door, recorder[0], path, {parameter: value})
    plain = _sent(door, recorder[0], path, {})
    if field is None:
        assert request == plain
    else:
        assert _field(request, field) == arrives
        assert request != plain


def test_what_arrives_when_nothing_is_asked_for(door: Gateway, recorder: tuple[_Recorder, str]) -> None:
    """Not greedy: OpenAI's default temperature is 1, and the gateway sends it."""
    recorder[0].requests.clear()
    door.client().chat.completions.create(model="recorder", messages=[{"role": "user", "content": "Hello"}])
    (request,) = recorder[0].requests
    assert request.sampling_config.temperature == 1
    assert request.max_tokens > 1_000


def test_bad_words_and_beams_are_for_grpc_callers(door: Gateway, recorder: tuple[_Recorder, str]) -> None:
    plain = _sent(door, recorder[0], "chat", {})
    for parameters in ({"bad_words_list": ["x"]}, {"bad_words": ["x"]}, {"beam_width": 4}):
        assert _sent(door, recorder[0], "chat", parameters) == plain
