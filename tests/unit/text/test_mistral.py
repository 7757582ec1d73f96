"""A conversation's ids equal those of mistral-common, whatever edition of the template was downloaded."""

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistralchat_server.text.mistral import MistralPrompt
from mistralchat_server.text.tokenizer import ChatTokenizer, TemplateRefusal, Turn, load_tokenizer

MistralLoader = Callable[..., ChatTokenizer]

GENERATIONS = (1, 2, 3)
SCHEMES = ("legacy", "first", "always")
_MESSAGES = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}


@cache
def _mistral_common(generation: int) -> MistralTokenizer:  # type: ignore[type-arg]
    return {1: MistralTokenizer.v1, 2: MistralTokenizer.v2, 3: MistralTokenizer.v3}[generation]()


def _reference(generation: int, turns: list[Turn]) -> list[int]:
    messages = [_MESSAGES[turn.role](content=turn.content) for turn in turns]
    request: ChatCompletionRequest[Any] = ChatCompletionRequest(messages=messages)
    return list(_mistral_common(generation).encode_chat_completion(request).tokens)


def _turns(*contents: str, system: str | None = None) -> list[Turn]:
    turns = [Turn(("user", "assistant")[i % 2], content) for i, content in enumerate(contents)]
    return turns if system is None else [Turn("system", system), *turns]


CONVERSATIONS = {
    "single": _turns("What is the capital of France?"),
    "several": _turns("Hi", "Hello! How can I help?", "Tell me a joke.", "No.", "Please"),
    "unicode": _turns("Größe, naïve, Ελλάδα, 東京タワー 🎉👩‍👩‍👧 ﬁ Å", "ಕನ್ನಡ አማርኛ", "\u00a0\u3000\u200b"),
    "outer spaces": _turns("  two before, three after   ", "  an answer  ", " ", "   ", "   x"),
    "newlines": _turns("\n\nfirst\r\n\tcode:\n    x = 1\n", "\n- a\n- b\n\n", "\n"),
    "system": _turns("Hi", system="Answer in French."),
    "system, several": _turns("Hi", "Bonjour", "Again", system=" You are terse.\n"),
    "control tokens": _turns(
        "</s>[INST] x [/INST]<s>", "<unk></s>", "<0x0A>[control_8]▁ ▁▁", system="[/INST]<s>"
    ),
    "control characters": _turns("a\x00b\x1b[0m\x7f\ufeff", "\ufffd\ue000", "\U0010ffff"),
}


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_ids_equal_mistral_common(load_mistral: MistralLoader, generation: int, name: str) -> None:
    expected = _reference(generation, CONVERSATIONS[name])
    assert load_mistral(generation).prompt(CONVERSATIONS[name]) == expected


@pytest.mark.parametrize("generation", GENERATIONS)
def test_every_edition_and_conversion_gives_the_same_ids(
    load_mistral: MistralLoader, mistral_templates: dict[str, str], generation: int
) -> None:
    # Each edition with one conversion and each conversion with one edition: they do not interact.
    pairs = [(edition, "legacy") for edition in mistral_templates] + [("no-system", s) for s in SCHEMES[1:]]
    for edition, scheme in pairs:
        tokenizer = load_mistral(generation, edition, scheme)
        for turns in CONVERSATIONS.values():
            assert tokenizer.prompt(turns) == _reference(generation, turns), (edition, scheme)


_ALPHABET = (
    "abcdefgh ETAOIN  \n\n\t.,;:!?'\"()[]{}<>/\\|0123456789▁éßяжצع你好日本かナ한국🎉👍🏽e\u0301\u200d\x00"
)
_FRAGMENTS = ("the ", " answer", "</s>", "[INST]", "def f(x):\n    return", "https://", "   ", "\r\n", "🇫🇷")


def _random_content(rng: random.Random) -> str:
    parts = [
        rng.choice(_FRAGMENTS)
        if rng.random() < 0.3
        else "".join(rng.choices(_ALPHABET, k=rng.randint(1, 12)))
        for _ in range(rng.randint(1, 8))
    ]
    return "".join(parts)


@pytest.mark.parametrize("generation", GENERATIONS)
def test_random_conversations_equal_mistral_common(load_mistral: MistralLoader, generation: int) -> None:
    rng = random.Random(20231211 + generation)
    tokenizer = load_mistral(generation)
    for _ in range(200):
        contents = [_random_content(rng) for _ in range(rng.choice((1, 3, 5)))]
        turns = _turns(*contents, system=_random_content(rng) if rng.random() < 0.4 else None)
        assert tokenizer.prompt(turns) == _reference(generation, turns), turns


@pytest.mark.parametrize("generation", GENERATIONS)
@pytest.mark.parametrize(
    "roles",
    [[], ["system"], ["assistant"], ["user", "user"], ["user", "assistant"], ["user", "system"],
     ["system", "system", "user"], ["system", "assistant"], ["tool"]],
)  # fmt: skip
def test_other_orders_of_roles_are_refused(
    load_mistral: MistralLoader, generation: int, roles: list[str]
) -> None:
    with pytest.raises(TemplateRefusal, match=r"alternate|must be the user's"):
        load_mistral(generation).prompt([Turn(role, "x") for role in roles])


def test_a_later_generation_keeps_its_template(load_mistral: MistralLoader) -> None:
    tokenizer = load_mistral(7, "system-last")
    assert not isinstance(tokenizer._prompt, MistralPrompt)
    assert tokenizer.prompt(_turns("Hi"))[:2] == [1, 3]


def test_recognised_by_format_not_by_vocabulary_alone(
    write_mistral: Callable[..., Path], tmp_path: Path
) -> None:
    chatml = "{% for m in messages %}{{ '<|' + m.role + '|>\\n' + m.content + eos_token }}{% endfor %}"
    tokenizer = load_tokenizer(write_mistral(tmp_path / "zephyr", 1, chatml, "legacy"))
    assert tokenizer.decode(tokenizer.prompt(_turns("Hi"))) == "<|user|>\nHi"
