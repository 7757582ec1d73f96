"""Translates a token-level GenerateRequest into a ChatRequest, whose rules it then has to keep."""

from collections.abc import Iterator

from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat.v1 import chat_pb2 as pb

from .. import rules
from ..errors import Violation, unsupported

_INT32 = 2**31 - 1
_INT64 = 2**63 - 1
_Guide = tl.GuidedDecodingParams
_GUIDES = {
    _Guide.GUIDE_TYPE_JSON_SCHEMA: "json_schema",
    _Guide.GUIDE_TYPE_REGEX: "regex",
    _Guide.GUIDE_TYPE_EBNF_GRAMMAR: "grammar",
}
#: Fields of the sampling configuration that ChatRequest has under the same name and with the same meaning.
_SAME = (
    "top_k",
    "top_p",
    "min_p",
    "temperature",
    "min_tokens",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)


def chat_request(request: tl.GenerateRequest) -> pb.ChatRequest:
    """All that shapes the answer, in the words of the contract; without `messages`.

    Numbers beyond what a field of the contract holds become its largest, which no rule allows or which
    means no less. Raises UNIMPLEMENTED for what the contract has no words for.
    """
    sampling = request.sampling_config
    chat = pb.ChatRequest(
        max_completion_tokens=min(request.max_tokens, _INT32),
        stop_words_list=request.stop,
        bad_words_list=request.bad,
    )
    if sampling.beam_width:
        chat.beam_width = sampling.beam_width
    for name in _SAME:
        if sampling.HasField(name):
            setattr(chat, name, min(getattr(sampling, name), _INT32))
    if sampling.HasField("seed") and sampling.seed <= _INT64:
        chat.seed = sampling.seed
    if request.output_config.HasField("logprobs"):
        chat.logprobs = True
        chat.top_logprobs = request.output_config.logprobs
    if request.HasField("guided_decoding"):
        chat.response_format.CopyFrom(_response_format(request.guided_decoding))
    return chat


def sequences(request: tl.GenerateRequest) -> int:
    """How many answers are wanted: beams, of which there can be fewer than were searched."""
    sampling = request.sampling_config
    return int(sampling.num_return_sequences or max(sampling.beam_width, 1))


def violations(
    request: tl.GenerateRequest, chat: pb.ChatRequest, max_beam_width: int, vocab_size: int
) -> Iterator[Violation]:
    """Every rule that the request breaks; `chat` is its translation."""
    prompt = request.tokenized.input_token_ids
    if not prompt:
        yield Violation("input_token_ids", "must not be empty")
    for name, ids in (("input_token_ids", prompt), ("stop_token_ids", request.stop_token_ids)):
        if ids and max(ids) >= vocab_size:
            yield Violation(name, f"must be tokens of the model: below {vocab_size:,}")
    if len(request.stop_token_ids) > rules.MAX_STOP_WORDS:
        yield Violation("stop_token_ids", f"must be at most {rules.MAX_STOP_WORDS:,} tokens")
    if request.sampling_config.seed > _INT64:
        yield Violation("seed", f"must be at most {_INT64:,}")
    if request.HasField("guided_decoding") and request.guided_decoding.guide_type not in (
        _Guide.GUIDE_TYPE_JSON,
        *_GUIDES,
    ):
        yield Violation("guide_type", "must be set to one that is known")
        return
    yield from (v for v in rules.violations(chat, max_beam_width) if v.field != "messages")


def refuse_sequences(request: tl.GenerateRequest) -> None:
    """Raises UNIMPLEMENTED where more answers are wanted than beams are searched."""
    if sequences(request) > max(request.sampling_config.beam_width, 1):
        raise unsupported("num_return_sequences", "one answer is sampled for each call: call again")


def _response_format(guided: tl.GuidedDecodingParams) -> pb.ResponseFormat:
    if guided.guide_type == _Guide.GUIDE_TYPE_STRUCTURAL_TAG:
        raise unsupported("guide_type", "structural tags are not offered")
    if guided.guide_type == _Guide.GUIDE_TYPE_JSON:
        return pb.ResponseFormat(json_schema="{}")
    kind = _GUIDES.get(guided.guide_type)
    return pb.ResponseFormat() if kind is None else pb.ResponseFormat(**{kind: guided.guide})
