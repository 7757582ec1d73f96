"""A language model of a few lines: the likeliest next token is what followed the last one before."""

import json
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import regex
from tokenizers import Tokenizer

from .errors import RequestError
from .sampling_params import GuidedDecodingParams, SamplingParams

IGNORED = frozenset(filter(None, os.environ.get("STAND_IN_IGNORES", "").split(",")))

#: What a field counts as where it is ignored.
_DEFAULTS: dict[str, Any] = {field.name: field.default for field in fields(SamplingParams)}
_DEFAULTS |= {"temperature": 0.0, "top_p": 1.0}
_shared_random = np.random.default_rng(0)


class StandInTokenizer:
    """Reads tokenizer.json, as the library's own wrapper does."""

    def __init__(self, model: Path) -> None:
        self._tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
        config = json.loads((model / "tokenizer_config.json").read_text(encoding="utf-8"))
        self.eos_token_id = self._tokenizer.token_to_id(config["eos_token"])

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text).ids)

    def decode(self, token_ids: list[int]) -> str:
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False))

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())


class Sequence:
    """One sequence while it is generated."""

    def __init__(
        self, tokenizer: StandInTokenizer, prompt: list[int], params: SamplingParams, penalties: bool
    ) -> None:
        self.prompt = prompt
        self.token_ids: list[int] = []
        self.logprobs: list[dict[int, float]] = []
        self.score = 0.0
        self._tokenizer = tokenizer
        ignored = [name for name in IGNORED & _DEFAULTS.keys() if getattr(params, name) is not None]
        self._params = replace(params, **{name: _DEFAULTS[name] for name in ignored})
        self._penalties = penalties
        self._random = _shared_random if "seed" in IGNORED else np.random.default_rng(params.seed or 0)
        self._guide = None if "guided" in IGNORED else guide(params.guided_decoding)

    @property
    def end_reason(self) -> str | None:
        """Why no further token follows, if so."""
        ends = {self._params.end_id, *(self._params.stop_token_ids or ())}
        if self.token_ids and self.token_ids[-1] in ends:
            return "stop"
        return "length" if len(self.token_ids) >= self._params.max_tokens else None

    def distribution(self) -> Any:
        """The natural logarithms of the next token's probabilities, as greedy decoding sees them."""
        logits = self._logits()
        most = logits.max()
        return logits - most - np.log(np.sum(np.exp(logits - most)))

    def advance(self) -> None:
        logits = self._logits()
        logprobs = self.distribution()
        self.add(int(np.argmax(logits)) if self._params.greedy else self._sample(logits), logprobs)

    def add(self, token_id: int, logprobs: Any) -> None:
        self.token_ids.append(token_id)
        self.score += float(logprobs[token_id])
        if self._params.logprobs:
            best = np.argsort(logprobs)[::-1][: self._params.logprobs]
            self.logprobs.append({int(token): float(logprobs[token]) for token in (*best, token_id)})

    def branch(self) -> "Sequence":
        other = Sequence(self._tokenizer, self.prompt, self._params, self._penalties)
        other.token_ids, other.logprobs, other.score = self.token_ids[:], self.logprobs[:], self.score
        return other

    def _logits(self) -> Any:
        context = self.prompt + self.token_ids
        size = len(self._tokenizer)
        logits = np.random.default_rng(context[-1]).normal(0.0, 1.5, size)
        for position in range(len(context) - 2, -1, -1):
            if context[position] == context[-1]:
                logits[context[position + 1]] += 7.0
                break
        # It comes to an end after some dozens of tokens.
        logits[self._tokenizer.eos_token_id] += 0.25 * len(self.token_ids) - 3.0
        if self._penalties:
            self._penalize(logits, context)
        self._constrain(logits)
        return logits

    def _penalize(self, logits: Any, context: list[int]) -> None:
        params = self._params
        if params.repetition_penalty is not None:
            seen = np.unique(context)
            positive = logits[seen] > 0
            logits[seen] *= np.where(positive, 1 / params.repetition_penalty, params.repetition_penalty)
        tokens, counts = np.unique(np.array(self.token_ids, np.int64), return_counts=True)
        logits[tokens] -= (params.presence_penalty or 0.0) + (params.frequency_penalty or 0.0) * counts

    def _constrain(self, logits: Any) -> None:
        if len(self.token_ids) < (self._params.min_tokens or 0) and (self._params.end_id or -1) >= 0:
            logits[self._params.end_id] = -np.inf
        if self._guide is None:
            return
        end = self._tokenizer.eos_token_id
        text = self._tokenizer.decode(self.token_ids)
        for token in range(len(logits)):
            if token == end:
                allowed = self._guide(text, True)
            else:
                longer = self._tokenizer.decode([*self.token_ids, token])
                allowed = len(longer) > len(text) and self._guide(longer, False)
            if not allowed:
                logits[token] = -np.inf
        if np.isneginf(logits).all():
            logits[end] = 0.0

    def _sample(self, logits: Any) -> int:
        params = self._params
        weights = np.exp((logits - logits.max()) / (params.temperature or 1.0))
        weights /= weights.sum()
        order = np.argsort(weights)[::-1]
        keep = np.zeros(len(weights), bool)
        before = np.cumsum(weights[order]) - weights[order]
        # What the C++ sampler takes for a top_p that is not given is not all.
        keep[order] = before < (0.0 if params.top_p is None else params.top_p)
        keep[order[0]] = True
        if params.top_k:
            keep[order[params.top_k :]] = False
        keep &= weights >= weights.max() * (params.min_p or 0.0)
        weights = np.where(keep, weights, 0.0)
        return int(self._random.choice(len(weights), p=weights / weights.sum()))


def guide(params: GuidedDecodingParams | None) -> Any:
    """Whether a text may stand, and whether it may end there. Knows a few constraints only."""
    if params is None:
        return None
    if params.structural_tag is not None:
        tag = json.loads(params.structural_tag)
        assert tag["type"] == "structural_tag"
        assert tag["format"]["type"] == "any_text"
        excluded = tag["format"]["excludes"]
        return lambda text, ended: not any(word in text for word in excluded)
    if params.json is not None and json.loads(params.json) == {"type": "integer"}:
        return _matching("-?(0|[1-9][0-9]*)")
    if params.grammar == "root ::= [0-9]+":
        return _matching("[0-9]+")
    if params.regex is not None:
        return _matching(params.regex)
    raise RequestError("the stand-in's compiler failed at xgrammar/cpp/grammar_compiler.cc:42")


def _matching(pattern: str) -> Any:
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise RequestError("regex parser error at xgrammar/cpp/regex_converter.cc:42") from error
    return lambda text, ended: compiled.fullmatch(text, partial=not ended) is not None
