"""The replay executor: every answer repeats its own prompt, token by token, at a set pace.

It needs no model, so tests and load generators can drive everything around an engine with answers
that they know beforehand.
"""

import time
from collections import deque
from dataclasses import dataclass
from itertools import islice

from pydantic import BaseModel, Field

from .messages import Description, FailureKind, FinishReason, Output, Request
from .seam import RequestError, StepResult

_NO_MODEL = "the replay executor has no model to sample from"
_UNSUPPORTED = dict.fromkeys(
    (
        "bad_words_list",
        "repetition_penalty",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "logprobs",
        "top_logprobs",
        "response_format",
    ),
    _NO_MODEL,
)


class ReplayOptions(BaseModel, extra="forbid", frozen=True):
    """The pace and the size of the engine that is played."""

    step_seconds: float = Field(0.02, ge=0, description="From one step to the next; 0 runs without a pause.")
    max_batch_size: int = Field(
        256, ge=1, description="Most requests that run at the same time; others wait."
    )
    max_beam_width: int = Field(4, ge=1, description="Widest beam search that is allowed.")
    context_length: int = Field(32_768, ge=2, description="Most tokens of prompt and answer together.")


@dataclass(slots=True)
class _Playing:
    request: Request
    position: int = 0
    started: bool = False

    @property
    def length(self) -> int:
        """Tokens of the whole answer: the prompt once, more if `min_new_tokens` wants more."""
        request = self.request
        return min(request.max_new_tokens, max(len(request.prompt_token_ids), request.min_new_tokens))

    @property
    def finish_reason(self) -> FinishReason:
        return FinishReason.LENGTH if self.length == self.request.max_new_tokens else FinishReason.STOP

    def token(self, position: int) -> int:
        prompt = self.request.prompt_token_ids
        return prompt[position % len(prompt)]


class ReplayExecutor:
    """Answers with the prompt's own tokens. Beam n begins n tokens later."""

    def __init__(self, options: ReplayOptions) -> None:
        self._options = options
        self._playing: dict[int, _Playing] = {}
        self._cancelled = 0
        self._next_step = 0.0

    def describe(self) -> Description:
        return Description(
            executor="replay",
            precision="none",
            context_length=self._options.context_length,
            max_beam_width=self._options.max_beam_width,
            max_batch_size=self._options.max_batch_size,
            unsupported=_UNSUPPORTED,
        )

    @property
    def active(self) -> int:
        return len(self._playing) + self._cancelled

    def submit(self, request: Request) -> None:
        penalized = request.presence_penalty or request.frequency_penalty or request.repetition_penalty != 1
        if request.constraint is not None or request.logprobs or request.temperature > 0 or penalized:
            raise RequestError(FailureKind.UNSUPPORTED, _NO_MODEL)
        self._playing[request.id] = _Playing(request)

    def cancel(self, request_id: int) -> None:
        if self._playing.pop(request_id, None) is not None:
            self._cancelled += 1

    def step(self) -> StepResult:
        self._wait()
        self._cancelled = 0
        result = StepResult()
        ended: deque[int] = deque()
        for playing in islice(self._playing.values(), self._options.max_batch_size):
            if not playing.started:
                playing.started = True
                result.started.append((playing.request.id, time.monotonic()))
            if self._advance(playing, result.outputs):
                ended.append(playing.request.id)
        for request_id in ended:
            del self._playing[request_id]
        return result

    def close(self) -> None:
        self._playing.clear()

    def _wait(self) -> None:
        if self._options.step_seconds:
            now = time.monotonic()
            if now < self._next_step:
                time.sleep(self._next_step - now)
                now = self._next_step
            self._next_step = now + self._options.step_seconds

    def _advance(self, playing: _Playing, outputs: list[Output]) -> bool:
        """Plays one token; true if it was the last."""
        request, position = playing.request, playing.position
        playing.position += 1
        ends = playing.position == playing.length
        finish_reason = playing.finish_reason if ends else None
        if request.beam_width == 1:
            outputs.append(
                Output(request.id, [playing.token(position)], finish_reason=finish_reason, last=ends)
            )
        elif ends:
            outputs.extend(
                Output(
                    request.id,
                    [playing.token(beam + at) for at in range(playing.length)],
                    beam_index=beam,
                    finish_reason=finish_reason,
                    last=beam == request.beam_width - 1,
                )
                for beam in range(request.beam_width)
            )
        return ends
