"""The parameters of one answer as keywords, and the request that they make."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from mistralchat.messages import Messages, wire_messages
from mistralchat.v1 import chat_pb2

DEFAULT_MAX_COMPLETION_TOKENS = 512
"""What the clients ask for where the caller names no budget.

The contract's own default is `max_tokens` = 50 with the prompt counted in, which suits few callers: a
longer question would come back cut and unanswered.
"""


class ChatParameters(TypedDict, total=False):
    """Keywords of `chat`. None means "not set"; chat.proto states each range and exclusion."""

    max_tokens: int | None
    """TOTAL budget in tokens, the prompt's included. Excludes `max_completion_tokens`."""
    max_completion_tokens: int | None
    """Budget in generated tokens; `DEFAULT_MAX_COMPLETION_TOKENS` where neither budget is given."""
    beam_width: int | None
    """Above 1: beam search. Nothing comes before its end, then one text per beam, best first."""
    bad_words_list: Sequence[str] | None
    """Strings that never occur in the answer."""
    stop_words_list: Sequence[str] | None
    """The answer ends before the first of these strings."""
    repetition_penalty: float | None
    """Above 1 discourages what the prompt or the answer already holds."""
    temperature: float | None
    """Not set or 0: always the likeliest token."""
    top_p: float | None
    top_k: int | None
    min_p: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    seed: int | None
    """Same seed, same request, same server: same answer."""
    min_tokens: int | None
    """The model cannot end its answer before this many tokens."""
    logprobs: bool | None
    """Fill `logprobs` of the answer."""
    top_logprobs: int | None
    """This many alternatives to each token."""
    json_schema: Mapping[str, Any] | str | None
    """The answer is one JSON document of this schema. Excludes `regex` and `grammar`."""
    regex: str | None
    """The whole answer matches this. Excludes `json_schema` and `grammar`."""
    grammar: str | None
    """The whole answer follows this EBNF grammar. Excludes `json_schema` and `regex`."""
    max_delay_ms: int | None
    """The longest that text waits for more to join it, in milliseconds."""
    max_tokens_per_message: int | None
    """The most tokens in one piece of the answer."""


_FORMATS = ("json_schema", "regex", "grammar")
_STREAM_OPTIONS = ("max_delay_ms", "max_tokens_per_message")
_WORD_LISTS = ("bad_words_list", "stop_words_list")


def chat_request(messages: Messages, parameters: ChatParameters) -> chat_pb2.ChatRequest:
    """The request for an answer to `messages`.

    Raises TypeError for an unknown keyword or a value of the wrong type, ValueError for one that the wire
    cannot carry and for two formats at once. Ranges are the server's to check.
    """
    unknown = parameters.keys() - ChatParameters.__annotations__.keys()
    if unknown:
        raise TypeError(f"chat() has no parameter {', '.join(sorted(unknown))}")
    fields: dict[str, Any] = {name: value for name, value in parameters.items() if value is not None}
    for name in _WORD_LISTS:
        # A string is a sequence of strings too: its letters.
        if isinstance(fields.get(name), str):
            raise TypeError(f"{name} is a list of strings, not one string")
    if not isinstance(fields.get("json_schema", ""), str):
        fields["json_schema"] = json.dumps(fields["json_schema"])
    response_format = {name: fields.pop(name) for name in _FORMATS if name in fields}
    if len(response_format) > 1:
        raise ValueError(f"{' and '.join(response_format)} exclude each other")
    stream_options = {name: fields.pop(name) for name in _STREAM_OPTIONS if name in fields}
    if not fields.keys() & {"max_tokens", "max_completion_tokens"}:
        fields["max_completion_tokens"] = DEFAULT_MAX_COMPLETION_TOKENS
    return chat_pb2.ChatRequest(
        messages=wire_messages(messages),
        response_format=response_format or None,
        stream_options=stream_options or None,
        **fields,
    )
