"""What an answer holds: the beams with their texts, why they ended, what the call took."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Self

from mistralchat._duration import seconds
from mistralchat.v1 import chat_pb2


class FinishReason(Enum):
    """Why a beam ended."""

    UNSPECIFIED = chat_pb2.FINISH_REASON_UNSPECIFIED
    """The server named a reason that this version of the client does not know."""
    STOP = chat_pb2.FINISH_REASON_STOP
    """The model ended its answer, or the answer is complete under the format asked for."""
    LENGTH = chat_pb2.FINISH_REASON_LENGTH
    """The token budget or the model's context ended it."""
    STOP_WORD = chat_pb2.FINISH_REASON_STOP_WORD
    """A string of `stop_words_list` occurred."""
    PROMPT_TRUNCATED = chat_pb2.FINISH_REASON_PROMPT_TRUNCATED
    """`max_tokens` was smaller than the prompt: the text is the cut prompt, nothing was generated."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        return cls(0) if isinstance(value, int) else None


@dataclass(frozen=True, slots=True)
class Beam:
    """One answer of a search, or the only one."""

    text: str
    finish_reason: FinishReason | None
    """None while the beam goes on."""
    stop_word: str | None
    """The string that ended the beam, with `FinishReason.STOP_WORD`."""
    logprobs: tuple[chat_pb2.TokenLogprob, ...]
    """One entry per generated token, where `logprobs` was asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the call took."""

    prompt_tokens: int
    cached_prompt_tokens: int | None
    """None where the server does not tell."""
    completion_tokens: int
    """Over all beams."""
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds by the server's clock, from the moment that it had read the request."""

    queued: float | None
    """Until the executor took the request up."""
    time_to_first_token: float | None
    """Until the first generated token."""
    total: float
    """Until the last token."""


@dataclass(slots=True)
class _GrowingBeam:
    pieces: list[str] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    stop_word: str | None = None
    logprobs: list[chat_pb2.TokenLogprob] = field(default_factory=list)

    def snapshot(self) -> Beam:
        return Beam("".join(self.pieces), self.finish_reason, self.stop_word, tuple(self.logprobs))


class Answer:
    """All that has arrived so far. Complete once the stream has ended."""

    def __init__(self, request: chat_pb2.ChatRequest) -> None:
        self._beam_search = request.beam_width > 1
        self._growing: dict[int, _GrowingBeam] = {}
        self._usage: Usage | None = None
        self._timings: Timings | None = None

    @property
    def beams(self) -> list[Beam]:
        """All beams, best first. One, unless `beam_width` was above 1; none before the first text."""
        return [growing.snapshot() for _, growing in sorted(self._growing.items())]

    @property
    def text(self) -> str:
        """The text of the best beam."""
        return self._best.text

    @property
    def finish_reason(self) -> FinishReason | None:
        """Why the best beam ended. None before it has."""
        return self._best.finish_reason

    @property
    def stop_word(self) -> str | None:
        """The string of `stop_words_list` that ended the best beam, if one did."""
        return self._best.stop_word

    @property
    def logprobs(self) -> tuple[chat_pb2.TokenLogprob, ...]:
        """One entry per token of the best beam, where `logprobs` was asked for."""
        return self._best.logprobs

    @property
    def usage(self) -> Usage | None:
        """Tokens that the call took. None before its end."""
        return self._usage

    @property
    def timings(self) -> Timings | None:
        """Where the call's time went. None before its end."""
        return self._timings

    @property
    def _best(self) -> Beam:
        return self._growing.get(0, _GrowingBeam()).snapshot()

    def _take(self, response: chat_pb2.ChatResponse) -> str | None:
        """Adds what has arrived; returns the text to hand on, if there is one."""
        beam = self._growing.setdefault(response.beam_index, _GrowingBeam())
        beam.pieces.append(response.text)
        beam.logprobs.extend(response.logprobs)
        if response.finish_reason:
            beam.finish_reason = FinishReason(response.finish_reason)
        if response.HasField("stop_word"):
            beam.stop_word = response.stop_word
        if response.HasField("usage"):
            self._usage = _usage(response.usage)
        if response.HasField("timings"):
            self._timings = _timings(response.timings)
        # Each beam of a search is one text, also where it is empty.
        return response.text if response.text or self._beam_search else None


def _usage(usage: chat_pb2.Usage) -> Usage:
    cached = usage.cached_prompt_tokens if usage.HasField("cached_prompt_tokens") else None
    return Usage(usage.prompt_tokens, cached, usage.completion_tokens, usage.total_tokens)


def _timings(timings: chat_pb2.Timings) -> Timings:
    return Timings(
        queued=seconds(timings.queued) if timings.HasField("queued") else None,
        time_to_first_token=(
            seconds(timings.time_to_first_token) if timings.HasField("time_to_first_token") else None
        ),
        total=seconds(timings.total),
    )
