"""Proves, by generating a few tokens with and without it, that each parameter has its effect.

Versions of the engine accept parameters and ignore them. Values far outside what callers may send
make the effect of one that is honoured certain, whatever the model.
"""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from msgspec.structs import replace

from ..messages import Constraint, ConstraintKind, FinishReason, Output, Request
from ..seam import RequestError, StartError
from .options import Documented

log = logging.getLogger(__name__)

_TOKENS = 12
#: A text that repeats itself goes on repeating itself, which is what penalties act against.
_PROMPT = "one two three one two three one two three one two"
#: Makes all tokens about equally likely: what still chooses the likeliest restricts the choice.
_HOT = 100.0
#: Next to greedy.
_COLD = 0.01
#: Warm enough for two seeds to choose differently.
_WARM = 10.0
_DIGITS = frozenset("0123456789- \n\t")
_NUMBERS = (
    Constraint(ConstraintKind.JSON_SCHEMA, ('{"type": "integer"}',)),
    Constraint(ConstraintKind.REGEX, ("[0-9]+",)),
    Constraint(ConstraintKind.GRAMMAR, ("root ::= [0-9]+",)),
)
_SAMPLER_REMEDY = (
    "TensorRT-LLM before 1.3.0rc26 honours it with trtllm.sampler TRTLLMSampler only, "
    "later versions by themselves"
)
_REMEDIES = {
    "bad_words_list": "it needs trtllm.guided_decoding xgrammar, and xgrammar 0.1.32 or later",
    "response_format": "it needs trtllm.guided_decoding xgrammar",
    "repetition_penalty": _SAMPLER_REMEDY,
    "presence_penalty": _SAMPLER_REMEDY,
    "frequency_penalty": _SAMPLER_REMEDY,
}
_OTHER_REMEDY = "another trtllm.sampler or version of TensorRT-LLM may honour it"
#: What callers cannot ask for together with beam search, or what has no meaning there.
_WITHOUT_BEAMS = ("temperature", "top_p", "top_k", "min_p", "seed")


@dataclass(frozen=True)
class Proof:
    """What the engine was seen to honour: for each parameter that it does not, why."""

    beam_widths: tuple[int, ...]
    unsupported: dict[str, str]
    unsupported_with_beam_search: dict[str, str]

    def require(self, max_beam_width: int, allowed: tuple[Documented, ...], version: str) -> None:
        """Logs what is not honoured; raises `StartError` if it is documented and not among `allowed`."""
        for parameter, reason in self.unsupported.items():
            log.warning("%s will be refused: %s", parameter, reason)
        for parameter, reason in self.unsupported_with_beam_search.items():
            log.warning("%s together with beam_width will be refused: %s", parameter, reason)
        faults = {name: self.unsupported[name] for name in get_args(Documented) if name in self.unsupported}
        if self.beam_widths != tuple(range(1, max_beam_width + 1)):
            served = ", ".join(map(str, self.beam_widths))
            faults["beam_width"] = (
                f"of the widths up to trtllm.max_beam_width {max_beam_width} it serves {served} only; "
                "set trtllm.max_beam_width 1, or take a version that serves them together (late 1.3 on)"
            )
        missing = [name for name in faults if name not in allowed]
        if missing:
            reasons = "; ".join(f"{name}: {faults[name]}" for name in missing)
            raise StartError(
                f"TensorRT-LLM {version} does not honour what callers are promised ({reasons}). To start "
                f"without, name the parameter in trtllm.allow_unsupported: {', '.join(missing)}."
            )


def prove(
    generate: Callable[[Request], list[Output]],
    tokenizer: Any,
    max_beam_width: int,
    constrained: bool,
) -> Proof:
    """Tries every parameter. `generate` gives one output per beam, or raises `RequestError`."""
    trial = _Trial(generate, tokenizer, constrained)
    widths = tuple(width for width in range(1, max_beam_width + 1) if trial.serves(width))
    if not widths:
        raise StartError("The TensorRT-LLM engine generates nothing: its own log says why.")
    unsupported = trial.faults(1) if 1 in widths else {}
    with_beams = trial.faults(widths[-1]) if widths[-1] > 1 else {}
    # What is refused anyway need not be refused again.
    with_beams = {name: reason for name, reason in with_beams.items() if name not in unsupported}
    return Proof(widths, unsupported, with_beams)


class _Trial:
    """Answers to one prompt, with a parameter and without."""

    def __init__(
        self, generate: Callable[[Request], list[Output]], tokenizer: Any, constrained: bool
    ) -> None:
        self._generate = generate
        self._decode: Callable[[list[int]], str] = tokenizer.decode
        self._end: int = tokenizer.eos_token_id
        self._constrained = constrained
        self._plain = Request(0, list(tokenizer.encode(_PROMPT)), _TOKENS, ())

    def serves(self, beam_width: int) -> bool:
        """Whether a search of that width gives so many beams."""
        try:
            return len(self._generate(replace(self._plain, beam_width=beam_width))) == beam_width
        except RequestError:
            return False

    def faults(self, beam_width: int) -> dict[str, str]:
        """For each parameter without its effect, in searches of that width, why and what would help."""
        self._plain = replace(self._plain, beam_width=beam_width)
        self._baseline = self._tokens()
        found = {}
        for parameter, has_effect in self._effects():
            if beam_width > 1 and parameter in _WITHOUT_BEAMS:
                continue
            try:
                fault = None if has_effect() else "TensorRT-LLM accepts it and ignores it"
            except RequestError as error:
                fault = f"TensorRT-LLM refuses it ({error})"
            if fault is not None:
                remedy = _REMEDIES.get(parameter, _OTHER_REMEDY)
                found[parameter] = f"{fault}; {remedy}"
        return found

    def _effects(self) -> Iterator[tuple[str, Callable[[], bool]]]:
        yield "repetition_penalty", lambda: self._differs(repetition_penalty=(100.0, 0.01))
        yield "presence_penalty", lambda: self._differs(presence_penalty=(100.0, -100.0))
        yield "frequency_penalty", lambda: self._differs(frequency_penalty=(100.0, -100.0))
        yield "min_tokens", self._holds_back_the_end
        yield "temperature", self._heats
        yield "seed", self._repeats_itself
        yield "top_k", lambda: self._first_is_likeliest(top_k=1)
        yield "top_p", lambda: self._first_is_likeliest(top_p=1e-6)
        yield "min_p", lambda: self._first_is_likeliest(min_p=1.0)
        yield "logprobs", self._gives_logprobs
        yield "top_logprobs", self._gives_top_logprobs
        if self._constrained:
            yield "bad_words_list", self._excludes
            yield "response_format", lambda: all(map(self._is_number, _NUMBERS))
        else:
            yield "bad_words_list", lambda: False
            yield "response_format", lambda: False

    def _answer(self, **parameters: Any) -> Output:
        return self._generate(replace(self._plain, **parameters))[0]

    def _tokens(self, **parameters: Any) -> list[int]:
        return self._answer(**parameters).token_ids

    def _differs(self, **extremes: tuple[float, float]) -> bool:
        """Discouraging what was there, or encouraging it, has to change an answer."""
        ((parameter, values),) = extremes.items()
        return any(self._tokens(**{parameter: value}) != self._baseline for value in values)

    def _holds_back_the_end(self) -> bool:
        end = self._baseline[1:2]
        without = self._answer(stop_token_ids=tuple(end))
        with_it = self._answer(stop_token_ids=tuple(end), min_new_tokens=_TOKENS // 2)
        return without.finish_reason is FinishReason.STOP and len(with_it.token_ids) >= _TOKENS // 2

    def _heats(self) -> bool:
        hot = self._tokens(temperature=_HOT, seed=1)
        cold = self._tokens(temperature=_COLD, seed=1)
        return hot != self._baseline and cold[:2] == self._baseline[:2]

    def _repeats_itself(self) -> bool:
        first, again, other = (self._tokens(temperature=_WARM, seed=seed) for seed in (1, 1, 2))
        # Late tokens could differ for a reason of their own: the engine's sums depend on the batch.
        return first[:4] == again[:4] and first != other

    def _first_is_likeliest(self, **restriction: float) -> bool:
        return self._tokens(temperature=_HOT, seed=3, **restriction)[:2] == self._baseline[:2]

    def _gives_logprobs(self) -> bool:
        answer = self._answer(logprobs=True)
        given = answer.logprobs
        return len(given) == len(answer.token_ids) and all(
            math.isfinite(value) and value <= 0 for value in given
        )

    def _gives_top_logprobs(self) -> bool:
        answer = self._answer(logprobs=True, top_logprobs=3)
        return len(answer.top_logprobs) == len(answer.token_ids) and all(
            len(position) == 3 for position in answer.top_logprobs
        )

    def _excludes(self) -> bool:
        letters = sorted({letter for letter in self._decode(self._baseline) if letter.isalpha()})
        banned = Constraint(ConstraintKind.EXCLUDED_STRINGS, tuple(letters))
        text = self._decode(self._tokens(constraint=banned))
        return bool(letters) and not any(letter in text for letter in letters)

    def _is_number(self, constraint: Constraint) -> bool:
        tokens = self._tokens(constraint=constraint, stop_token_ids=(self._end,))
        text = self._decode([token for token in tokens if token != self._end])
        return any(letter.isdigit() for letter in text) and _DIGITS.issuperset(text)
