"""Useful answers per second at ten times the load that the server can carry, over those at its peak.

    python tests/benchmarks/overload.py [--times 10] [--seconds 10]

The replay executor plays an engine with a fixed pace. Its peak is the better of two closed loops: as many
callers as it has slots, and a quarter more. Then calls arrive at random (Poisson) at a multiple of that
rate: once from callers that ignore RetryInfo, and once from callers that come back when they are told to.
What is counted is a window after the first seconds, in which a burst is still allowed to wait; the first
seconds are told apart. The load comes from a process of its own. Times to the first token are compared
with those of the closed loop in which nobody waits. Lines of JSON, then the ratio of useful answers.
"""

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import grpc

from mistralchat import Overloaded
from mistralchat._status import chat_error
from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from support.processes import Service, service
from support.script import close_with, parser, report

SLOTS = 24
STEP_SECONDS = 0.02
TOKENS = 32
#: What refused callers do about RetryInfo.
_KINDS = ("ignore", "honour")
#: At the start of each load; longer than the burst that the server lets wait, and its working off.
ONSET_SECONDS = 5.0
#: Of the figures to reach.
LEAST_GOODPUT, MOST_FIRST_TOKEN = 0.95, 2.0

_REQUEST = pb.ChatRequest(
    messages=[pb.Message(role=pb.ROLE_USER, content="x")],
    max_completion_tokens=TOKENS,
    min_tokens=TOKENS,
)


@dataclass
class Load:
    """What a load has met. Moments are seconds since its start."""

    #: Moment of the end and seconds to the first token of each whole answer.
    answers: list[tuple[float, float]] = field(default_factory=list)
    refusals: list[float] = field(default_factory=list)
    #: Microseconds from a call to its refusal.
    refusal_us: list[float] = field(default_factory=list)
    asked_to_wait: list[float] = field(default_factory=list)
    other_errors: dict[str, int] = field(default_factory=dict)


class Caller:
    """Makes calls and notes what becomes of them."""

    def __init__(self, channel: grpc.aio.Channel, load: Load) -> None:
        self._chat = chat_pb2_grpc.ChatServiceStub(channel)
        self._load = load
        self._started = time.perf_counter()

    @property
    def now(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._started

    async def call(self) -> float | None:
        """One call; the seconds after which to return if it was refused."""
        began, first = self.now, None
        try:
            async for _ in self._chat.Chat(_REQUEST):
                first = first or self.now
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED:
                self._load.refusals.append(self.now)
                self._load.refusal_us.append((self.now - began) * 1e6)
                self._load.asked_to_wait.append(_retry_delay(error))
                return self._load.asked_to_wait[-1]
            code = error.code().name
            self._load.other_errors[code] = self._load.other_errors.get(code, 0) + 1
        else:
            assert first is not None
            self._load.answers.append((self.now, first - began))
        return None

    async def until_answered(self) -> None:
        """Comes back as often as it is told to."""
        while (delay := await self.call()) is not None:  # noqa: ASYNC110  (the server names the delay)
            await asyncio.sleep(delay)


async def closed_loop(target: str, callers: int, seconds: float) -> Load:
    """So many callers, each with one call after another."""
    load = Load()
    async with grpc.aio.insecure_channel(target) as channel:
        caller = Caller(channel, load)

        async def repeat(delay: float) -> None:
            # Not all in step with each other.
            await asyncio.sleep(delay)
            while caller.now < seconds:
                await caller.call()

        step = TOKENS * STEP_SECONDS / callers
        await asyncio.gather(*(repeat(number * step) for number in range(callers)))
    return load


async def open_loop(target: str, rate: float, seconds: float, honour: bool) -> Load:
    """Calls that arrive at random, whatever becomes of those before them."""
    load = Load()
    tasks: set[asyncio.Task[Any]] = set()
    async with grpc.aio.insecure_channel(target) as channel:
        caller = Caller(channel, load)
        due = 0.0
        while (due := due + random.expovariate(rate)) < seconds:
            if (early := due - caller.now) > 0:
                await asyncio.sleep(early)
            task = asyncio.create_task(caller.until_answered() if honour else caller.call())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return load


def generate(kind: str, target: str, amount: float, seconds: float) -> Load:
    """A load from a process of its own."""
    command = [sys.executable, __file__, "load", kind, target, str(amount), str(seconds)]
    return Load(**json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout))


def run_load(kind: str, target: str, amount: float, seconds: float) -> None:
    """What that process does."""
    if kind == "closed":
        load = asyncio.run(closed_loop(target, int(amount), seconds))
    else:
        load = asyncio.run(open_loop(target, amount, seconds, honour=kind == "honour"))
    print(json.dumps(asdict(load)))


def within(load: Load, begin: float, end: float) -> dict[str, Any]:
    """The figures of a window."""
    first = sorted(first for moment, first in load.answers if begin <= moment < end)
    refused = [us for moment, us in zip(load.refusals, load.refusal_us, strict=True) if begin <= moment < end]
    delays = [s for moment, s in zip(load.refusals, load.asked_to_wait, strict=True) if begin <= moment < end]
    return {
        "answers/s": round(len(first) / (end - begin), 1),
        "first token p50 ms": _percentile(first, 50) * 1e3,
        "first token p99 ms": _percentile(first, 99) * 1e3,
        "refusals/s": round(len(refused) / (end - begin), 1),
        "refused after p50 ms": _percentile(sorted(refused), 50) / 1e3,
        "asked to wait p50 s": _percentile(sorted(delays), 50),
        "other errors": load.other_errors,
    }


def measure(measured: Service, times: float, seconds: float) -> dict[str, Any]:
    """All loads, one after the other."""
    end = ONSET_SECONDS + seconds

    def under(kind: str, amount: float) -> tuple[dict[str, Any], dict[str, Any]]:
        """The figures of a load, and those of its first seconds."""
        before = measured.front_end_cpu_seconds()
        load = generate(kind, measured.address, amount, end)
        figures = within(load, ONSET_SECONDS, end)
        figures["front end's share of a core"] = round((measured.front_end_cpu_seconds() - before) / end, 3)
        return figures, within(load, 0, ONSET_SECONDS)

    without_wait, _ = under("closed", SLOTS)
    with_wait, _ = under("closed", SLOTS * 1.25)
    peak = max(without_wait["answers/s"], with_wait["answers/s"])
    result: dict[str, Any] = {"peak": without_wait, "a quarter more callers": with_wait}
    for kind in _KINDS:
        figures, onset = under(kind, peak * times)
        figures["goodput"] = round(figures["answers/s"] / peak, 3)
        for percentile in ("p50", "p99"):
            name = f"first token {percentile} ms"
            figures[f"first token {percentile} over peak"] = round(figures[name] / without_wait[name], 2)
        share = figures["front end's share of a core"] - without_wait["front end's share of a core"]
        figures["CPU µs of a refusal"] = round(share / figures["refusals/s"] * 1e6)
        result |= {kind: figures, f"{kind}, first seconds": onset}
        # Until the refusals are forgotten.
        time.sleep(3)
    return result


def main(times: float, seconds: float) -> None:
    """Serves, measures, prints."""
    pace = ("--replay.step-seconds", str(STEP_SECONDS), "--replay.max-batch-size", str(SLOTS))
    with service("--executor", "replay", *pace) as measured:
        result = measure(measured, times, seconds)
    report({key: value for key, value in result.items() if key not in _KINDS})
    for kind in _KINDS:
        figures = result[kind]
        report({"callers": kind, **figures})
        print(
            f"{times:g} times the peak, callers {kind} RetryInfo: goodput {figures['goodput']} "
            f"(at least {LEAST_GOODPUT}), first token p50 {figures['first token p50 over peak']}, "
            f"p99 {figures['first token p99 over peak']} of its value at peak (at most {MOST_FIRST_TOKEN}), "
            f"{figures['refusals/s']} refusals/s of {figures['CPU µs of a refusal']} µs each"
        )
    close_with(result["ignore"]["goodput"])


def _retry_delay(error: grpc.aio.AioRpcError) -> float:
    refusal = chat_error(error)
    assert isinstance(refusal, Overloaded), refusal
    assert refusal.retry_after is not None, "a refusal without RetryInfo"
    return refusal.retry_after


def _percentile(values: list[float], percent: int) -> float:
    """Of sorted values; 0 if there are none."""
    return round(values[min(len(values) * percent // 100, len(values) - 1)], 4) if values else 0.0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["load", kind, target, amount, seconds]:
            run_load(kind, target, float(amount), float(seconds))
        case _:
            arguments = parser(__doc__)
            arguments.add_argument("--times", type=float, default=10)
            arguments.add_argument("--seconds", type=float, default=10)
            main(**vars(arguments.parse_args()))
