"""The rules that a ChatRequest must keep, as tables, and the violations of one that does not."""

import ctypes
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mistralchat.v1 import chat_pb2 as pb

from . import json_schema
from .errors import Violation

MAX_MESSAGES = 1_024
#: Of all messages together: several times what the longest context holds.
MAX_CONTENT_CHARACTERS = 1_048_576
MAX_BAD_WORDS = 256
MAX_STOP_WORDS = 64
MAX_WORD_CHARACTERS = 256
MAX_FORMAT_CHARACTERS = 65_536


@dataclass(frozen=True)
class Range:
    """Bounds of a number; an exclusive bound is not itself allowed."""

    field: str
    low: float = -math.inf
    high: float = math.inf
    low_exclusive: bool = False
    high_exclusive: bool = False
    #: A value outside the bounds that is allowed too.
    besides: float | None = None

    def holds(self, value: float) -> bool:
        """Whether the value is in range; NaN never is."""
        if value == self.besides:
            return True
        above = value > self.low if self.low_exclusive else value >= self.low
        below = value < self.high if self.high_exclusive else value <= self.high
        return above and below

    def __str__(self) -> str:
        words = [] if self.besides is None else [f"{self.besides:g}, or"]
        if self.low > -math.inf:
            words.append(f"{'above' if self.low_exclusive else 'at least'} {self.low:g}")
        if self.low > -math.inf and self.high < math.inf:
            words.append("and")
        if self.high < math.inf:
            words.append(f"{'below' if self.high_exclusive else 'at most'} {self.high:,g}")
        return "must be " + " ".join(words)


RANGES = (
    Range("max_tokens", low=1),
    Range("max_completion_tokens", low=1),
    Range("beam_width", low=1),
    Range("repetition_penalty", low=0, high=10, low_exclusive=True),
    # The contract's 0.01 is a float of 32 bits, which is a little less.
    Range("temperature", low=ctypes.c_float(0.01).value, high=2, besides=0),
    Range("top_p", low=0, high=1, low_exclusive=True),
    Range("top_k", low=0),
    Range("min_p", low=0, high=1, high_exclusive=True),
    Range("presence_penalty", low=-2, high=2),
    Range("frequency_penalty", low=-2, high=2),
    Range("seed", low=0),
    Range("min_tokens", low=0),
    Range("top_logprobs", low=0, high=20),
    Range("stream_options.max_delay_ms", low=0, high=10_000),
    Range("stream_options.max_tokens_per_message", low=1),
)

#: Neither may be asked for together with the other.
EXCLUSIONS = (
    ("max_tokens", "max_completion_tokens"),
    ("bad_words_list", "response_format"),
    ("min_tokens", "response_format"),
    *(
        ("beam_width", field)
        for field in ("temperature", "top_p", "top_k", "min_p", "seed", "stream_options")
    ),
)

#: The first means nothing without the second.
NEEDS = (
    ("top_p", "temperature"),
    ("top_k", "temperature"),
    ("min_p", "temperature"),
    ("top_logprobs", "logprobs"),
)

#: Values that ask for nothing: with them a field is as good as not set. Fields that are not here ask
#: for something whenever they are set.
NEUTRAL: dict[str, float] = {
    "beam_width": 1,
    "repetition_penalty": 1,
    "temperature": 0,
    "top_p": 1,
    "top_k": 0,
    "min_p": 0,
    "presence_penalty": 0,
    "frequency_penalty": 0,
    "min_tokens": 0,
    "logprobs": False,
    "top_logprobs": 0,
}

#: Everything that a caller may ask for, by name.
PARAMETERS = tuple(field.name for field in pb.ChatRequest.DESCRIPTOR.fields if field.name != "messages")


def asks_for(request: pb.ChatRequest, name: str) -> bool:
    """Whether a request asks for a parameter, that is: sets it to something that has an effect."""
    field = pb.ChatRequest.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated:
        return len(getattr(request, name)) > 0
    return request.HasField(name) and getattr(request, name) != NEUTRAL.get(name)


def violations(request: pb.ChatRequest, max_beam_width: int) -> Iterator[Violation]:
    """Every rule that the request breaks, as far as it can be told without tokenizing it."""
    yield from message_violations(request.messages)
    yield from _range_violations(request)
    if request.beam_width > max_beam_width:
        yield Violation("beam_width", f"must be at most {max_beam_width}, the limit of this server")
    for one, other in EXCLUSIONS:
        if asks_for(request, one) and asks_for(request, other):
            yield Violation(one, f"cannot be combined with {other}")
            yield Violation(other, f"cannot be combined with {one}")
    for field, needed in NEEDS:
        unset = not request.HasField(needed) or getattr(request, needed) is False
        if asks_for(request, field) and unset:
            yield Violation(field, f"has no effect without {needed}: set that too")
    yield from _word_violations("bad_words_list", request.bad_words_list, MAX_BAD_WORDS)
    yield from _word_violations("stop_words_list", request.stop_words_list, MAX_STOP_WORDS)
    for index, word in enumerate(request.bad_words_list):
        if "\0" in word:
            yield Violation(f"bad_words_list[{index}]", "must not hold U+0000")
    if request.HasField("response_format"):
        yield from _format_violations(request.response_format)


def message_violations(messages: Sequence[pb.Message]) -> Iterator[Violation]:
    """What is wrong with a conversation by itself; the chat template may still refuse it."""
    if not messages:
        yield Violation("messages", "must not be empty")
    if len(messages) > MAX_MESSAGES:
        yield Violation("messages", f"must be at most {MAX_MESSAGES:,}")
        return
    if sum(len(message.content) for message in messages) > MAX_CONTENT_CHARACTERS:
        yield Violation("messages", f"must hold at most {MAX_CONTENT_CHARACTERS:,} characters together")
        return
    for index, message in enumerate(messages):
        if message.role == pb.ROLE_UNSPECIFIED:
            yield Violation(f"messages[{index}].role", "must be set")
        elif message.role not in pb.Role.values():
            yield Violation(f"messages[{index}].role", f"has no meaning: {message.role}")
        if not message.content:
            yield Violation(f"messages[{index}].content", "must not be empty")


def _range_violations(request: pb.ChatRequest) -> Iterator[Violation]:
    for rule in RANGES:
        parent, _, name = rule.field.rpartition(".")
        holder = getattr(request, parent) if parent else request
        if holder.HasField(name) and not rule.holds(getattr(holder, name)):
            yield Violation(rule.field, str(rule))


def _word_violations(field: str, words: Sequence[str], most: int) -> Iterator[Violation]:
    if len(words) > most:
        yield Violation(field, f"must be at most {most:,} strings")
        return
    for index, word in enumerate(words):
        if not word:
            yield Violation(f"{field}[{index}]", "must not be empty")
        elif len(word) > MAX_WORD_CHARACTERS:
            yield Violation(f"{field}[{index}]", f"must be at most {MAX_WORD_CHARACTERS} characters long")


def _format_violations(response_format: pb.ResponseFormat) -> Iterator[Violation]:
    kind = response_format.WhichOneof("format")
    if kind is None:
        yield Violation("response_format", "must set one of json_schema, regex and grammar")
        return
    field, source = f"response_format.{kind}", getattr(response_format, kind)
    if not source:
        yield Violation(field, "must not be empty")
    elif len(source) > MAX_FORMAT_CHARACTERS:
        yield Violation(field, f"must be at most {MAX_FORMAT_CHARACTERS:,} characters long")
    elif "\0" in source:
        yield Violation(field, "must not hold U+0000")
    elif kind == "json_schema":
        for fault in json_schema.faults(source):
            yield Violation(field, fault)
