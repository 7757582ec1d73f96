"""Everything that fuzzing has kept, and a few mutations of it, once more; without atheris."""

import random
from pathlib import Path

import grpc
import pytest

from mistralchat_server.rpc.errors import CallError, Violation, invalid

from . import targets
from .mutation import mutated, parsed
from .seeds import CORPUS, seeds

_INPUTS = sorted(path for path in CORPUS.rglob("*") if path.is_file())


@pytest.mark.parametrize("target", targets.TARGETS)
def test_the_corpus_finds_nothing(target: str) -> None:
    inputs = [path for path in _INPUTS if path.parent.name == target]
    assert inputs
    for path in inputs:
        targets.check(target, path.read_bytes())


@pytest.mark.parametrize("target", targets.TARGETS)
def test_mutations_find_nothing(target: str) -> None:
    kind, _ = targets.TARGETS[target]
    inputs = [path.read_bytes() for path in _INPUTS if path.parent.name == target]
    random_ = random.Random(1)
    for _ in range(500):
        targets.check(target, mutated(parsed(kind, random_.choice(inputs)), random_))


def test_the_seeds_reach_the_executor() -> None:
    reached = set()
    for target, name, message in seeds():
        for tokenizer in targets.tokenizers():
            submission = targets.TARGETS[target][1](message.SerializeToString(), tokenizer)
            reached |= {(target, name)} if submission is not None else set()
    answered_without = {("chat", "truncated"), ("count_tokens", "conversation")}
    assert reached == {(target, name) for target, name, _ in seeds()} - answered_without


def test_the_oracle_sees_what_it_is_for() -> None:
    with pytest.raises(targets.FindingError, match="UNAVAILABLE"):
        targets._check_refusal(CallError(grpc.StatusCode.UNAVAILABLE, "no"))
    with pytest.raises(targets.FindingError, match="bytes"):
        targets._check_refusal(invalid([Violation(f"{i}" * 200, "x" * 500) for i in range(50)]))


def test_the_corpus_stays_small() -> None:
    assert sum(Path(path).stat().st_size for path in _INPUTS) < 200_000
