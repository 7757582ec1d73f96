"""By how much constraints that are expensive to compile delay the streams of others.

    python tests/benchmarks/hostile_constraints.py [--streams N] [--seconds S] [--rounds R] [--target MS]

Callers stream long answers of the demo model, in rounds with and without somebody who submits hostile JSON
schemas, regular expressions, grammars and word lists beside them, each a new one. A gap is the time
between two messages of one stream. Prints the outcome of each hostile kind, then one line of JSON, then
the largest gap beyond the largest without hostility over the target.
"""

import argparse
import asyncio
import json
import random
import statistics
import string
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any

from mistralchat import AsyncChatClient, ChatError, ChatParameters
from support.processes import model_path, service
from support.script import close_with, parser, report
from support.statistics import percentile

TOKENS = 500
#: Seconds that a hostile call may take before its caller has seen enough.
PATIENCE = 20.0

_RANDOM = random.Random(0)


def _letters(length: int) -> str:
    return "".join(_RANDOM.choices(string.ascii_lowercase, k=length))


def _deep_schema(salt: str) -> ChatParameters:
    schema: dict[str, Any] = {"type": "string", "enum": [salt]}
    for level in range(30):
        schema = {"type": "object", "properties": {f"p{level}": schema}, "required": [f"p{level}"]}
    return _schema(schema)


def _huge_enum(salt: str) -> ChatParameters:
    return _schema({"enum": [f"{salt}{_letters(8)}" for _ in range(3_000)]})


def _many_optional_properties(salt: str) -> ChatParameters:
    properties = {f"{salt}{index}": {"type": "string", "pattern": "^[a-z]{2,9}$"} for index in range(900)}
    return _schema({"type": "object", "properties": properties, "additionalProperties": False})


def _long_bounds(salt: str) -> ChatParameters:
    item = {"type": "string", "minLength": 500, "maxLength": 4_000}
    return _schema({"type": "array", "items": item, "minItems": 200, "maxItems": 2_000, "title": salt})


def _nested_alternatives(salt: str) -> ChatParameters:
    schema: dict[str, Any] = {"type": "string", "const": salt}
    for _ in range(9):
        schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
    return _schema(schema)


def _schema(schema: dict[str, Any]) -> ChatParameters:
    return {"json_schema": json.dumps(schema, separators=(",", ":"))}


REGEXES: dict[str, Callable[[str], str]] = {
    "regex (a|aa)+": lambda salt: f"((a|aa)+(b|bb)+)+{salt}",
    "regex .{0,5000}": lambda salt: f".{{0,5000}}{salt}.{{0,5000}}",
    "regex nested repeats": lambda salt: f"((({salt}.{{0,30}}){{0,30}}x){{0,30}}y){{0,30}}",
    "regex optional chain": lambda salt: f"{'a?' * 2_000}{salt}{'a' * 2_000}",
    "regex of words": lambda salt: "|".join(f"{salt}{_letters(9)}" for _ in range(3_500)),
    "regex of lookalikes": lambda salt: "".join(f"({salt}|{salt}{salt}|.){{1,9}}" for _ in range(600)),
}


def _regex(make: Callable[[str], str]) -> Callable[[str], ChatParameters]:
    return lambda salt: {"regex": make(salt)}


def _ambiguous_grammar(salt: str) -> ChatParameters:
    return {"grammar": f'root ::= s\ns ::= s s | "{salt}" | "{salt}{salt}" | "a" s | s "a" | ""'}


def _long_grammar(salt: str) -> ChatParameters:
    rules = [f'r{index} ::= "{salt}" r{index + 1} | r{index + 1} "{_letters(4)}"' for index in range(1_200)]
    return {"grammar": "\n".join(["root ::= r0", *rules, 'r1200 ::= "x"'])}


def _near_equal_words(salt: str) -> ChatParameters:
    return {"bad_words_list": [f"{salt}{'a' * index}" for index in range(240)]}


def _long_words(salt: str) -> ChatParameters:
    return {"bad_words_list": [f"{_letters(200)}{salt}" for _ in range(256)]}


def _short_words(salt: str) -> ChatParameters:
    return {"bad_words_list": [salt, *sorted({_letters(2) for _ in range(255)})]}


HOSTILE: dict[str, Callable[[str], ChatParameters]] = {
    "schema 30 objects deep": _deep_schema,
    "schema with a huge enum": _huge_enum,
    "schema with 900 optional properties": _many_optional_properties,
    "schema with long bounds": _long_bounds,
    "schema of nested alternatives": _nested_alternatives,
    **{name: _regex(make) for name, make in REGEXES.items()},
    "grammar, ambiguous": _ambiguous_grammar,
    "grammar of 1,200 rules": _long_grammar,
    "near-equal bad words": _near_equal_words,
    "long bad words": _long_words,
    "short bad words": _short_words,
}


@dataclass
class Attack:
    """Hostile calls, one after the other: the one that is open, how each went, and the gaps beside it."""

    open: str = ""
    outcomes: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    largest_gap: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def __post_init__(self) -> None:
        self._kinds = cycle(HOSTILE)

    async def run(self, client: AsyncChatClient) -> None:
        """Goes on where it was ended before."""
        while True:
            self.open = next(self._kinds)
            started = time.perf_counter()
            # Some tokens, so that generation under the constraint counts too.
            parameters: ChatParameters = {**HOSTILE[self.open](_letters(6)), "max_completion_tokens": 8}
            try:
                await client.chat("Go on.", timeout=PATIENCE, **parameters).read()
                outcome = "answered"
            except ChatError as error:
                outcome = error.code.name
            self.outcomes[self.open].append(f"{outcome} after {time.perf_counter() - started:.1f} s")

    def note(self, gap: float) -> None:
        """Counts a gap against the open call."""
        self.largest_gap[self.open] = max(gap, self.largest_gap[self.open])


async def stream(client: AsyncChatClient, number: int, note: Callable[[float], None]) -> None:
    """Answers, one after the other, whose gaps are noted in milliseconds."""
    while True:
        question = f"Write a long story about a sailor who has {number + 2} ships."
        last = None
        async for _ in client.chat(question, max_completion_tokens=TOKENS, min_tokens=TOKENS):
            now = time.perf_counter()
            if last is not None:
                note((now - last) * 1_000)
            last = now


async def _for(seconds: float, *coroutines: Any) -> None:
    """Lets them run for so long, and no longer."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


def _summary(gaps: list[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(gaps), 1),
        "p99": round(percentile(gaps, 99), 1),
        "largest": round(max(gaps), 1),
    }


async def main(options: argparse.Namespace) -> None:
    """Measures and prints."""
    quiet, hostile = list[float](), list[float]()
    attack = Attack()

    def under_attack(gap: float) -> None:
        hostile.append(gap)
        attack.note(gap)

    with service("--model", str(model_path())) as measured:
        target = measured.address
        async with AsyncChatClient(target) as client, AsyncChatClient(target) as attacker:

            def streams(note: Callable[[float], None]) -> list[Any]:
                return [stream(client, number, note) for number in range(options.streams)]

            await _for(5, *streams(lambda _: None))
            for _ in range(options.rounds):
                await _for(options.seconds, *streams(quiet.append))
                await _for(options.seconds, *streams(under_attack), attack.run(attacker))
    for kind in HOSTILE:
        outcomes = ", ".join(attack.outcomes[kind]) or "not ended in the time"
        print(f"{kind:36} gap {attack.largest_gap[kind]:4.0f} ms  {outcomes}")
    extra = max(0.0, max(hostile) - max(quiet))
    result: dict[str, Any] = {
        "streams": options.streams,
        "hostile calls": sum(map(len, attack.outcomes.values())),
        "gaps ms, quiet": _summary(quiet),
        "gaps ms, hostile": _summary(hostile),
        "largest extra gap ms": round(extra, 1),
        "target ms": options.target,
    }
    report(result)
    close_with(extra / options.target)


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--streams", type=int, default=8)
    arguments.add_argument("--seconds", type=float, default=20.0, help="length of a round")
    arguments.add_argument("--rounds", type=int, default=3, help="pairs of rounds, quiet and hostile")
    arguments.add_argument("--target", type=float, default=100.0, help="in milliseconds")
    asyncio.run(main(arguments.parse_args()))
