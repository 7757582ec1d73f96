"""Each parameter has its effect, and only that, on whichever executor answers.

Where an executor does not honour a parameter, it must say so in GetModel and refuse it: nothing is
skipped.
"""

import json
import re
from itertools import pairwise
from typing import Any

import grpc
import jsonschema
import pytest

from mistralchat import Answer, FinishReason, InvalidRequest
from mistralchat.v1 import chat_pb2, chat_pb2_grpc

from .conftest import Subject

CAPITAL = "What is the capital of France?"
WHALES = "Tell me something about whales."
REPETITIVE = "Repeat the word hello again and again: hello hello hello hello"
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 20}, "people": {"type": "integer"}},
    "required": ["city", "people"],
    "additionalProperties": False,
}


def tokens(answer: Answer) -> int:
    assert answer.usage is not None
    return answer.usage.completion_tokens


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def repeated(text: str) -> float:
    """The share of words that have occurred before."""
    said = words(text)
    return 1 - len(set(said)) / len(said)


def test_greedy_answers_do_not_vary(subject: Subject) -> None:
    first, second = (subject.ask(WHALES, max_completion_tokens=40).text for _ in range(2))
    assert first
    assert first == second


def test_concurrent_answers_are_those_of_single_calls(subject: Subject) -> None:
    questions = [CAPITAL, WHALES, REPETITIVE, "Name three colours."]
    alone = [subject.ask(question, max_completion_tokens=24).text for question in questions]
    streams = [subject.client.chat(question, max_completion_tokens=24) for question in questions]
    assert [stream.read() for stream in streams] == alone


class TestBudgets:
    def test_max_completion_tokens_counts_generated_tokens(self, subject: Subject) -> None:
        longer = subject.ask(WHALES, max_completion_tokens=30, min_tokens=30)
        shorter = subject.ask(WHALES, max_completion_tokens=10, min_tokens=10)
        assert (tokens(longer), tokens(shorter)) == (30, 10)
        assert shorter.finish_reason is FinishReason.LENGTH
        assert longer.text.startswith(shorter.text)

    def test_max_tokens_counts_the_prompt_too(self, subject: Subject) -> None:
        prompt = subject.client.count_tokens(WHALES)
        answer = subject.ask(WHALES, max_tokens=prompt + 8, min_tokens=8)
        assert answer.usage is not None
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt, 8)
        assert answer.usage.total_tokens == prompt + 8
        assert answer.finish_reason is FinishReason.LENGTH
        assert answer.text == subject.ask(WHALES, max_completion_tokens=8, min_tokens=8).text

    def test_the_documented_default_is_fifty_tokens_in_all(self, subject: Subject) -> None:
        explicit = subject.ask(CAPITAL, max_tokens=50)
        message = chat_pb2.Message(role=chat_pb2.ROLE_USER, content=CAPITAL)
        assert explicit.text == raw_text(subject, chat_pb2.ChatRequest(messages=[message]))

    def test_a_budget_below_the_prompt_gives_back_the_cut_prompt(self, subject: Subject) -> None:
        prompt = subject.client.count_tokens(WHALES)
        answer = subject.ask(WHALES, max_tokens=prompt - 3)
        assert answer.finish_reason is FinishReason.PROMPT_TRUNCATED
        assert tokens(answer) == 0
        shorter = subject.ask(WHALES, max_tokens=prompt - 6)
        assert answer.text.startswith(shorter.text)
        assert len(shorter.text) < len(answer.text)

    def test_min_tokens_keeps_the_model_from_ending(self, subject: Subject) -> None:
        natural = subject.ask(CAPITAL, max_completion_tokens=200)
        assert natural.finish_reason is FinishReason.STOP
        longer = subject.ask(CAPITAL, max_completion_tokens=200, min_tokens=tokens(natural) + 10)
        assert tokens(longer) >= tokens(natural) + 10
        same = subject.ask(CAPITAL, max_completion_tokens=200, min_tokens=1)
        assert same.text == natural.text


def raw_text(subject: Subject, request: chat_pb2.ChatRequest) -> str:
    """The answer to a request as the wire has it, without what the client library adds."""
    with grpc.insecure_channel(subject.client.target) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        return "".join(message.text for message in stub.Chat(request, timeout=60))


class TestBeamSearch:
    def test_gives_each_beam_whole_and_the_best_first(self, subject: Subject) -> None:
        width = min(3, subject.model.limits.max_beam_width)
        asked = subject.client.chat(CAPITAL, beam_width=width, max_completion_tokens=12, timeout=60)
        texts = list(asked)
        assert len(texts) == width
        assert texts == [beam.text for beam in asked.beams]
        assert len(set(texts)) == width
        assert all(beam.finish_reason is not None for beam in asked.beams)

    def test_a_width_of_one_is_the_plain_answer(self, subject: Subject) -> None:
        plain = subject.ask(CAPITAL, max_completion_tokens=12).text
        assert subject.ask(CAPITAL, max_completion_tokens=12, beam_width=1).text == plain

    def test_beams_are_ordered_by_likelihood(self, subject: Subject) -> None:
        if not subject.honours("logprobs"):
            subject.refuses("logprobs", logprobs=True)
            return
        beams = subject.ask(CAPITAL, beam_width=3, max_completion_tokens=12, logprobs=True).beams
        scores = [sum(entry.logprob for entry in beam.logprobs) / len(beam.logprobs) for beam in beams]
        assert all(better > worse - 0.05 for better, worse in pairwise(scores)), scores

    def test_a_wider_search_than_the_limit_is_refused_with_the_limit(self, subject: Subject) -> None:
        limit = subject.model.limits.max_beam_width
        with pytest.raises(InvalidRequest) as refusal:
            subject.ask(CAPITAL, beam_width=limit + 1)
        assert [violation.field for violation in refusal.value.violations] == ["beam_width"]
        assert str(limit) in refusal.value.message

    def test_what_it_cannot_take_into_account_is_refused(self, subject: Subject) -> None:
        calls: dict[str, dict[str, Any]] = {
            "bad_words_list": {"bad_words_list": ["Paris"]},
            "response_format": {"regex": "yes|no"},
            "repetition_penalty": {"repetition_penalty": 1.5},
            "presence_penalty": {"presence_penalty": 1.0},
            "frequency_penalty": {"frequency_penalty": 1.0},
            "min_tokens": {"min_tokens": 4},
        }
        listed = {entry.name for entry in subject.model.unsupported_parameters if entry.with_beam_search_only}
        assert listed <= calls.keys()
        for name in listed:
            subject.refuses(name, beam_width=2, **calls[name])


class TestBadWords:
    @pytest.mark.parametrize(
        "banned",
        [
            ["Paris"],
            ["a"],
            ["e", "i"],
            [" "],
            ["Pa"],
            ["is Par"],
            ["Paris", "Par", "P"],
            ["capital of"],
            ["."],
        ],
    )
    def test_never_occur_whatever_tokens_would_spell_them(self, subject: Subject, banned: list[str]) -> None:
        if not subject.honours("bad_words_list"):
            subject.refuses("bad_words_list", bad_words_list=banned)
            return
        plain = subject.ask(CAPITAL, max_completion_tokens=30).text
        assert all(word in plain for word in banned if word in ("Paris", "a", " ", "Pa", "."))
        text = subject.ask(CAPITAL, max_completion_tokens=30, bad_words_list=banned).text
        assert text
        assert not [word for word in banned if word in text]

    def test_stay_out_when_sampling(self, subject: Subject) -> None:
        if not subject.honours("bad_words_list"):
            subject.refuses("bad_words_list", bad_words_list=["e"])
            return
        for seed in range(3):
            text = subject.ask(
                WHALES, max_completion_tokens=40, bad_words_list=["e", "wha"], temperature=1.0, seed=seed
            ).text
            assert text
            assert "e" not in text
            assert "wha" not in text

    def test_that_would_not_occur_change_nothing(self, subject: Subject) -> None:
        if not subject.honours("bad_words_list"):
            subject.refuses("bad_words_list", bad_words_list=["Lisbon"])
            return
        plain = subject.ask(CAPITAL, max_completion_tokens=30)
        banned = subject.ask(
            CAPITAL, max_completion_tokens=30, bad_words_list=["Lisbon", "paris", "日本", "🎉"]
        )
        assert (banned.text, banned.finish_reason) == (plain.text, plain.finish_reason)

    def test_may_be_many(self, subject: Subject) -> None:
        banned = [f"{letter}{other}" for letter in "PLMNOQ" for other in "aeiou"]
        if not subject.honours("bad_words_list"):
            subject.refuses("bad_words_list", bad_words_list=banned)
            return
        text = subject.ask(CAPITAL, max_completion_tokens=30, bad_words_list=banned).text
        assert not [word for word in banned if word in text]


class TestStopWords:
    def test_end_the_answer_and_are_not_sent(self, subject: Subject) -> None:
        plain = subject.ask(WHALES, max_completion_tokens=60).text
        # Stop words that begin in one word and end in the next span tokens on every tokenizer.
        for begin in (5, 11, len(plain) // 2):
            stop = plain[begin : begin + 6]
            answer = subject.ask(WHALES, max_completion_tokens=60, stop_words_list=["never said", stop])
            assert answer.text == plain[: plain.index(stop)]
            assert answer.finish_reason is FinishReason.STOP_WORD
            assert answer.stop_word == stop

    def test_no_part_of_one_is_sent_before_it_is_complete(self, subject: Subject) -> None:
        plain = subject.ask(WHALES, max_completion_tokens=60).text
        stop = plain[8:20]
        pieces = subject.pieces(WHALES, max_completion_tokens=60, stop_words_list=[stop])
        assert "".join(pieces) == plain[:8]

    def test_that_do_not_occur_change_nothing(self, subject: Subject) -> None:
        plain = subject.ask(WHALES, max_completion_tokens=40)
        # The first is nearly said: what was held back for it must come in the end.
        almost = plain.text[-4:] + "#"
        answer = subject.ask(WHALES, max_completion_tokens=40, stop_words_list=[almost, "never said"])
        assert (answer.text, answer.finish_reason) == (plain.text, plain.finish_reason)
        assert answer.stop_word is None

    def test_end_every_beam_by_itself(self, subject: Subject) -> None:
        beams = subject.ask(CAPITAL, beam_width=2, max_completion_tokens=12, stop_words_list=["is"]).beams
        assert len(beams) == 2
        assert all("is" not in beam.text for beam in beams)
        assert beams[0].finish_reason is FinishReason.STOP_WORD


class TestPenalties:
    @pytest.mark.parametrize(
        ("name", "strong", "neutral"),
        [
            ("repetition_penalty", 1.8, 1.0),
            ("presence_penalty", 2.0, 0.0),
            ("frequency_penalty", 2.0, 0.0),
        ],
    )
    def test_discourage_what_was_said(
        self, subject: Subject, name: str, strong: float, neutral: float
    ) -> None:
        penalty: dict[str, Any] = {name: strong}
        none: dict[str, Any] = {name: neutral}
        plain = subject.ask(REPETITIVE, max_completion_tokens=60, min_tokens=60).text
        assert subject.ask(REPETITIVE, max_completion_tokens=60, min_tokens=60, **none).text == plain
        if not subject.honours(name):
            subject.refuses(name, **penalty)
            return
        penalized = subject.ask(REPETITIVE, max_completion_tokens=60, min_tokens=60, **penalty).text
        assert repeated(penalized) < repeated(plain) - 0.1, (plain, penalized)

    def test_repetition_penalty_counts_the_prompt_and_the_others_do_not(self, subject: Subject) -> None:
        if not subject.honours("repetition_penalty"):
            subject.refuses("repetition_penalty", repetition_penalty=5.0)
            return
        # A line that begins with the answer's first word holds the very token, without a space before it.
        first = subject.ask(CAPITAL, max_completion_tokens=1).text
        question = f"{first}\n{first}\n{CAPITAL}"
        assert subject.ask(question, max_completion_tokens=1).text == first
        assert subject.ask(question, max_completion_tokens=1, presence_penalty=2.0).text == first
        assert subject.ask(question, max_completion_tokens=1, frequency_penalty=2.0).text == first
        assert subject.ask(question, max_completion_tokens=1, repetition_penalty=10.0).text != first


class TestSampling:
    def test_a_seed_decides_the_answer(self, subject: Subject) -> None:
        if not subject.honours("temperature"):
            subject.refuses("temperature", temperature=1.0)
            return
        answers = [
            subject.ask(WHALES, max_completion_tokens=20, temperature=1.0, seed=seed).text
            for seed in (1, 1, 2, 3)
        ]
        assert answers[0] == answers[1]
        assert len(set(answers)) > 1

    def test_without_a_seed_answers_vary(self, subject: Subject) -> None:
        if not subject.honours("temperature"):
            subject.refuses("temperature", temperature=2.0)
            return
        answers = {subject.ask(WHALES, max_completion_tokens=20, temperature=2.0).text for _ in range(4)}
        assert len(answers) > 1

    def test_temperature_zero_is_greedy(self, subject: Subject) -> None:
        plain = subject.ask(WHALES, max_completion_tokens=20).text
        assert subject.ask(WHALES, max_completion_tokens=20, temperature=0.0).text == plain

    def test_a_higher_temperature_is_wilder(self, subject: Subject) -> None:
        if not subject.honours("temperature"):
            subject.refuses("temperature", temperature=0.1)
            return
        plain = subject.ask(WHALES, max_completion_tokens=8).text

        def agreeing(temperature: float) -> int:
            return sum(
                subject.ask(WHALES, max_completion_tokens=8, temperature=temperature, seed=seed).text == plain
                for seed in range(8)
            )

        assert agreeing(0.05) > agreeing(2.0)

    @pytest.mark.parametrize("narrow", [{"top_k": 1}, {"top_p": 0.000001}, {"min_p": 0.999}])
    def test_the_narrowest_choice_is_the_greedy_one(self, subject: Subject, narrow: dict[str, Any]) -> None:
        (name,) = narrow
        if not subject.honours(name):
            subject.refuses(name, temperature=0.0, **narrow)
            return
        plain = subject.ask(WHALES, max_completion_tokens=16).text
        wild = subject.ask(WHALES, max_completion_tokens=16, temperature=2.0, seed=5).text
        assert wild != plain
        assert subject.ask(WHALES, max_completion_tokens=16, temperature=2.0, seed=5, **narrow).text == plain


class TestLogprobs:
    def test_there_is_one_for_each_token_of_the_text(self, subject: Subject) -> None:
        if not subject.honours("logprobs"):
            subject.refuses("logprobs", logprobs=True)
            return
        plain = subject.ask(CAPITAL, max_completion_tokens=30)
        answer = subject.ask(CAPITAL, max_completion_tokens=30, logprobs=True)
        assert answer.text == plain.text
        assert len(answer.logprobs) == tokens(answer)
        assert "".join(entry.token for entry in answer.logprobs) == answer.text
        assert all(entry.logprob <= 0 for entry in answer.logprobs)

    def test_they_are_the_models_own(self, subject: Subject) -> None:
        """Before temperature: a sampled token's is what the greedy answer had for it."""
        if not subject.honours("logprobs"):
            subject.refuses("logprobs", logprobs=True)
            return
        (greedy,) = subject.ask(CAPITAL, max_completion_tokens=1, logprobs=True).logprobs
        sampled = [
            subject.ask(CAPITAL, max_completion_tokens=1, logprobs=True, temperature=0.3, seed=s).logprobs[0]
            for s in range(6)
        ]
        same = [entry.logprob for entry in sampled if entry.token_id == greedy.token_id]
        assert same
        assert same == pytest.approx([greedy.logprob] * len(same), abs=0.05)

    def test_a_stop_word_takes_its_tokens_along(self, subject: Subject) -> None:
        if not subject.honours("logprobs"):
            subject.refuses("logprobs", logprobs=True)
            return
        answer = subject.ask(CAPITAL, max_completion_tokens=30, logprobs=True, stop_words_list=["is Par"])
        assert "".join(entry.token for entry in answer.logprobs).strip() == answer.text.strip()

    def test_alternatives_are_as_many_as_asked_for(self, subject: Subject) -> None:
        if not subject.honours("logprobs"):
            subject.refuses("logprobs", logprobs=True, top_logprobs=2)
            return
        if not subject.honours("top_logprobs"):
            subject.refuses("top_logprobs", logprobs=True, top_logprobs=2)
            return
        answer = subject.ask(CAPITAL, max_completion_tokens=5, logprobs=True, top_logprobs=2)
        for entry in answer.logprobs:
            assert len(entry.top_logprobs) == 2
            assert entry.top_logprobs[0].logprob >= entry.top_logprobs[1].logprob
            assert entry.top_logprobs[0].token_id == entry.token_id


class TestResponseFormat:
    def test_json_conforms_to_its_schema(self, subject: Subject) -> None:
        if not subject.honours("response_format"):
            subject.refuses("response_format", json_schema=SCHEMA)
            return
        for question in (CAPITAL, WHALES):
            answer = subject.ask(question, json_schema=SCHEMA, max_completion_tokens=200)
            assert answer.finish_reason is FinishReason.STOP
            jsonschema.validate(json.loads(answer.text), SCHEMA)

    @pytest.mark.parametrize("regex", ["yes|no|maybe", r"[A-Z]{3}-\d{4}", "(ab){2,5}c", "[あ-ん]{4}"])
    def test_the_whole_answer_matches_a_regex(self, subject: Subject, regex: str) -> None:
        if not subject.honours("response_format"):
            subject.refuses("response_format", regex=regex)
            return
        answer = subject.ask(WHALES, regex=regex, max_completion_tokens=60)
        assert answer.finish_reason is FinishReason.STOP
        assert re.fullmatch(regex, answer.text)

    def test_the_answer_follows_a_grammar(self, subject: Subject) -> None:
        grammar = 'root ::= animal " " number\nanimal ::= "whale" | "shark"\nnumber ::= [0-9] [0-9]'
        if not subject.honours("response_format"):
            subject.refuses("response_format", grammar=grammar)
            return
        answer = subject.ask(WHALES, grammar=grammar, max_completion_tokens=60)
        assert re.fullmatch(r"(whale|shark) \d\d", answer.text)


class TestStreamOptions:
    def test_bound_the_tokens_of_a_message(self, subject: Subject) -> None:
        plain = subject.pieces(WHALES, max_completion_tokens=24, min_tokens=24)
        joined = subject.pieces(
            WHALES, max_completion_tokens=24, min_tokens=24, max_delay_ms=5_000, max_tokens_per_message=6
        )
        assert "".join(joined) == "".join(plain)
        assert 4 <= len(joined) < len(plain)

    def test_without_delay_text_is_sent_as_it_comes(self, subject: Subject) -> None:
        pieces = subject.pieces(WHALES, max_completion_tokens=24, min_tokens=24, max_tokens_per_message=1)
        assert len(pieces) >= 20


class TestDescription:
    def test_every_parameter_is_either_honoured_or_not(self, subject: Subject) -> None:
        fields = {field.name for field in chat_pb2.ChatRequest.DESCRIPTOR.fields} - {"messages"}
        supported = set(subject.model.supported_parameters)
        unsupported = {
            entry.name for entry in subject.model.unsupported_parameters if not entry.with_beam_search_only
        }
        assert supported | unsupported == fields
        assert not supported & unsupported

    def test_the_documented_parameters_are_honoured(self, subject: Subject) -> None:
        if subject.model.executor == "replay":
            pytest.skip("the replay executor has no model: it honours what needs none")
        documented = {"max_tokens", "beam_width", "bad_words_list", "stop_words_list", "repetition_penalty"}
        assert documented <= set(subject.model.supported_parameters)

    def test_limits_are_stated(self, subject: Subject) -> None:
        assert subject.model.context_length > 0
        assert subject.model.limits.max_beam_width >= 1
        assert subject.model.limits.max_batch_size >= 1
        assert subject.model.name
