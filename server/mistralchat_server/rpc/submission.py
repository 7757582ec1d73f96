"""Translates a valid ChatRequest into what the executor understands."""

from mistralchat.v1 import chat_pb2 as pb

from ..executor.messages import Constraint, ConstraintKind, Request
from ..text.bad_words import canonical_bad_words
from .budget import Budget

_FORMATS = {
    "json_schema": ConstraintKind.JSON_SCHEMA,
    "regex": ConstraintKind.REGEX,
    "grammar": ConstraintKind.GRAMMAR,
}


def executor_request(
    request: pb.ChatRequest,
    request_id: int,
    prompt: list[int],
    budget: Budget,
    stop_token_ids: tuple[int, ...],
) -> Request:
    """The executor's form of a request that has kept every rule."""
    return Request(
        id=request_id,
        prompt_token_ids=prompt,
        max_new_tokens=budget.max_new_tokens,
        stop_token_ids=stop_token_ids,
        beam_width=request.beam_width if request.HasField("beam_width") else 1,
        temperature=request.temperature,
        top_p=request.top_p if request.HasField("top_p") else 1.0,
        top_k=request.top_k,
        min_p=request.min_p,
        repetition_penalty=request.repetition_penalty if request.HasField("repetition_penalty") else 1.0,
        presence_penalty=request.presence_penalty,
        frequency_penalty=request.frequency_penalty,
        seed=request.seed if request.HasField("seed") else None,
        min_new_tokens=request.min_tokens,
        logprobs=request.logprobs,
        top_logprobs=request.top_logprobs,
        constraint=_constraint(request),
    )


def _constraint(request: pb.ChatRequest) -> Constraint | None:
    if request.bad_words_list:
        words = canonical_bad_words(request.bad_words_list)
        return Constraint(ConstraintKind.EXCLUDED_STRINGS, words)
    if request.HasField("response_format"):
        kind = request.response_format.WhichOneof("format")
        assert kind is not None, "the rules want a format to be set"
        return Constraint(_FORMATS[kind], (getattr(request.response_format, kind),))
    return None
