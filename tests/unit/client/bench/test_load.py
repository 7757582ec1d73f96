"""Lengths, arrivals and the calls of a plan."""

import statistics
from itertools import islice, pairwise
from random import Random

import pytest

from mistralchat.bench.load import ClosedLoop, Fixed, LogNormal, OpenLoop, Uniform, arrivals, parse_lengths
from mistralchat.bench.plan import Plan, Requests
from mistralchat.bench.prompts import Prompts
from mistralchat.v1 import chat_pb2


@pytest.mark.parametrize(
    ("text", "lengths"),
    [
        ("128", Fixed(128)),
        ("uniform:64,512", Uniform(64, 512)),
        ("lognormal:200,0.8", LogNormal(200, 0.8)),
    ],
)
def test_lengths_are_read_and_told_alike(text: str, lengths: object) -> None:
    assert parse_lengths(text) == lengths
    assert str(lengths) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0",
        "-1",
        "1.5",
        "many",
        "128:",
        "128,5",
        "uniform:",
        "uniform:5",
        "uniform:9,3",
        "uniform:0,3",
        "lognormal:200",
        "lognormal:0,1",
        "lognormal:200,-1",
        "lognormal:nan,1",
        "lognormal:inf,1",
        "normal:1,1",
    ],
)
def test_other_lengths_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_lengths(text)


def test_uniform_lengths_reach_both_ends_and_no_further() -> None:
    random = Random(1)
    assert {Uniform(3, 6).draw(random) for _ in range(200)} == {3, 4, 5, 6}


def test_lognormal_lengths_have_their_median() -> None:
    random = Random(1)
    drawn = [LogNormal(200, 0.8).draw(random) for _ in range(2_000)]
    assert statistics.median(drawn) == pytest.approx(200, rel=0.1)
    assert statistics.mean(drawn) > 240
    assert min(LogNormal(1, 3).draw(random) for _ in range(200)) == 1


def test_arrivals_are_a_poisson_process_of_that_rate() -> None:
    times = list(islice(arrivals(50, Random(3)), 5_000))
    gaps = [later - earlier for earlier, later in pairwise(times)]
    assert min(gaps) > 0
    # In an exponential distribution mean and deviation are the same.
    assert statistics.mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    assert statistics.stdev(gaps) == pytest.approx(1 / 50, rel=0.05)


def plan(seed: int = 0, **changes: object) -> Plan:
    defaults: dict[str, object] = {
        "loads": [],
        "requests": 20,
        "prompt_tokens": Uniform(10, 60),
        "max_completion_tokens": Uniform(5, 90),
        "may_end_early": False,
        "warm_up": 0,
        "rounds": 1,
    }
    return Plan(seed=seed, **{**defaults, **changes})  # type: ignore[arg-type]


def requests_of(plan: Plan, load: OpenLoop, round_: int = 0, context: int = 4_096) -> list[bytes]:
    return Requests(plan, Prompts(len), context).make(plan.calls(load), plan.random_for(load, round_))


def test_a_seed_gives_the_same_schedule_and_the_same_requests() -> None:
    load = OpenLoop(5.0)
    first, again, other = (plan(seed) for seed in (7, 7, 8))
    assert first.due(load, first.random_for(load, 0)) == again.due(load, again.random_for(load, 0))
    assert requests_of(first, load) == requests_of(again, load)
    assert first.due(load, first.random_for(load, 0)) != other.due(load, other.random_for(load, 0))
    assert requests_of(first, load) != requests_of(other, load)


def test_no_prompt_comes_again_in_another_round_or_load() -> None:
    sets = [
        set(requests_of(plan(prompt_tokens=Fixed(200)), OpenLoop(rate), round_))
        for rate in (5.0, 6.0)
        for round_ in (0, 1)
    ]
    assert len(set.union(*sets)) == 4 * 20


def test_a_request_asks_for_its_lengths() -> None:
    exact = plan(max_completion_tokens=Fixed(30), prompt_tokens=Fixed(50))
    for encoded in requests_of(exact, OpenLoop(1.0)):
        request = chat_pb2.ChatRequest.FromString(encoded)
        assert (request.max_completion_tokens, request.min_tokens) == (30, 30)
        assert len(request.messages[0].content) == 50


def test_answers_may_end_early() -> None:
    early = plan(may_end_early=True)
    requests = [chat_pb2.ChatRequest.FromString(each) for each in requests_of(early, OpenLoop(1.0))]
    assert not any(request.HasField("min_tokens") for request in requests)


def test_the_prompt_gives_way_where_the_context_is_short() -> None:
    long = plan(max_completion_tokens=Fixed(30), prompt_tokens=Fixed(500))
    (prompts,) = {
        len(chat_pb2.ChatRequest.FromString(each).messages[0].content)
        for each in requests_of(long, OpenLoop(1.0), context=100)
    }
    assert prompts == 70


def test_calls_by_default() -> None:
    assert plan(requests=None).calls(ClosedLoop(1)) == 100
    assert plan(requests=None).calls(ClosedLoop(64)) == 256
    assert plan(requests=None).calls(OpenLoop(9)) == 100


@pytest.mark.parametrize(
    "count",
    [
        pytest.param(len, id="a token for each byte"),
        pytest.param(lambda text: 31 + len(text.split()), id="a token for each word, and a template"),
        pytest.param(lambda text: 7 + sum(1 + (len(word) > 5) for word in text.split()), id="mixed"),
    ],
)
def test_prompts_have_exactly_the_length_asked_for(count: object) -> None:
    assert callable(count)
    prompts = Prompts(count)
    random = Random(5)
    for tokens in range(prompts.least + 3, prompts.least + 120):
        assert count(prompts.prompt(tokens, random)) == tokens
    for tokens in (1, prompts.least):
        assert count(prompts.prompt(tokens, random)) == prompts.least
