"""What a token-level request becomes, and the rules that it has to keep."""

import math
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat_server.rpc.errors import CallError, Violation, invalid
from mistralchat_server.rpc.trtllm.names import renamed
from mistralchat_server.rpc.trtllm.submission import (
    chat_request,
    refuse_sequences,
    sequences,
    violations,
)

_Guide = tl.GuidedDecodingParams


def _request(sampling: dict[str, Any] | None = None, **fields: Any) -> tl.GenerateRequest:
    base: dict[str, Any] = {"tokenized": tl.TokenizedInput(input_token_ids=[1, 2]), "max_tokens": 5}
    return tl.GenerateRequest(sampling_config=tl.SamplingConfig(**sampling or {}), **{**base, **fields})


def _broken(request: tl.GenerateRequest) -> list[str]:
    """The fields at fault, as the caller reads them."""
    found = list(violations(request, chat_request(request), max_beam_width=4, vocab_size=100))
    return [] if not found else [v.field for v in renamed(invalid(found)).details[0].field_violations]  # type: ignore[attr-defined]


def test_sampling_parameters_keep_their_meaning() -> None:
    values: dict[str, Any] = {
        "top_k": 5,
        "top_p": 0.5,
        "min_p": 0.25,
        "temperature": 0.75,
        "min_tokens": 2,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.5,
        "seed": 7,
    }
    chat = chat_request(_request(values, stop=["s"], bad=["b"]))
    assert {name: getattr(chat, name) for name in values} == values
    assert chat.max_completion_tokens == 5
    assert (list(chat.stop_words_list), list(chat.bad_words_list)) == (["s"], ["b"])


def test_what_is_not_set_stays_unset() -> None:
    chat = chat_request(_request())
    assert [field.name for field, _ in chat.ListFields()] == ["max_completion_tokens"]


@pytest.mark.parametrize(
    ("kind", "guide", "becomes"),
    [
        (_Guide.GUIDE_TYPE_JSON, "ignored", ("json_schema", "{}")),
        (_Guide.GUIDE_TYPE_JSON_SCHEMA, '{"type":"object"}', ("json_schema", '{"type":"object"}')),
        (_Guide.GUIDE_TYPE_REGEX, "a+", ("regex", "a+")),
        (_Guide.GUIDE_TYPE_EBNF_GRAMMAR, 'root ::= "a"', ("grammar", 'root ::= "a"')),
    ],
)
def test_guides_become_response_formats(kind: int, guide: str, becomes: tuple[str, str]) -> None:
    request = _request(guided_decoding=_Guide(guide_type=kind, guide=guide))  # type: ignore[arg-type,unused-ignore]
    response_format = chat_request(request).response_format
    assert (response_format.WhichOneof("format"), getattr(response_format, becomes[0])) == becomes
    assert _broken(request) == []


@pytest.mark.parametrize(
    ("request_", "fields"),
    [
        (_request(tokenized=tl.TokenizedInput()), ["input_token_ids"]),
        (_request(tokenized=tl.TokenizedInput(input_token_ids=[100])), ["input_token_ids"]),
        (_request(stop_token_ids=[100]), ["stop_token_ids"]),
        (_request(stop_token_ids=[1] * 65), ["stop_token_ids"]),
        (_request(max_tokens=0), ["max_tokens"]),
        (_request({"temperature": 3}), ["temperature"]),
        (_request({"temperature": math.nan}), ["temperature"]),
        (_request({"repetition_penalty": math.inf}), ["repetition_penalty"]),
        (_request({"seed": 2**63}), ["seed"]),
        (_request({"beam_width": -1}), ["beam_width"]),
        (_request({"beam_width": 5}), ["beam_width"]),
        (_request({"top_p": 0.5}), ["top_p"]),
        (_request(stop=[""]), ["stop[0]"]),
        (_request(bad=["a\0"]), ["bad[0]"]),
        (_request(output_config=tl.OutputConfig(logprobs=21)), ["top_logprobs"]),
        (_request(output_config=tl.OutputConfig(logprobs=-1)), ["top_logprobs"]),
        (_request(guided_decoding=_Guide(guide="x")), ["guide_type"]),
        (
            _request(guided_decoding=_Guide(guide_type=_Guide.GUIDE_TYPE_JSON_SCHEMA, guide="{")),
            ["guided_decoding"],
        ),
        (
            _request(guided_decoding=_Guide(guide_type=_Guide.GUIDE_TYPE_JSON), bad=["b"]),
            ["bad", "guided_decoding"],
        ),
    ],
)
def test_rules_are_those_of_chat_under_the_names_of_the_protocol(
    request_: tl.GenerateRequest, fields: list[str]
) -> None:
    assert _broken(request_) == fields


def test_numbers_too_large_for_the_contract_mean_no_less() -> None:
    assert _broken(_request({"min_tokens": 2**32 - 1}, max_tokens=2**32 - 1)) == []
    assert chat_request(_request(max_tokens=2**32 - 1)).max_completion_tokens == 2**31 - 1


def test_structural_tags_are_unimplemented() -> None:
    request = _request(guided_decoding=_Guide(guide_type=_Guide.GUIDE_TYPE_STRUCTURAL_TAG))
    with pytest.raises(CallError, match="guide_type") as refusal:
        chat_request(request)
    assert refusal.value.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(
    ("beam_width", "returned", "wanted"), [(0, 0, 1), (1, 1, 1), (4, 0, 4), (4, 1, 1), (4, 4, 4)]
)
def test_as_many_answers_as_asked_for(beam_width: int, returned: int, wanted: int) -> None:
    request = _request({"beam_width": beam_width, "num_return_sequences": returned})
    refuse_sequences(request)
    assert sequences(request) == wanted


@pytest.mark.parametrize(("beam_width", "returned"), [(0, 2), (1, 2), (4, 5)])
def test_more_answers_than_beams_are_unimplemented(beam_width: int, returned: int) -> None:
    with pytest.raises(CallError, match="num_return_sequences"):
        refuse_sequences(_request({"beam_width": beam_width, "num_return_sequences": returned}))


def test_descriptions_speak_of_the_same_names() -> None:
    error = renamed(
        invalid(
            [
                Violation("min_tokens", "exceeds the 5 tokens that max_completion_tokens leaves"),
                Violation("messages", "become 9 tokens"),
                Violation("response_format.json_schema", "is not JSON"),
            ]
        )
    )
    assert str(error) == (
        "min_tokens: exceeds the 5 tokens that max_tokens leaves. input_token_ids: become 9 tokens. "
        "guided_decoding: is not JSON"
    )
