"""What the service adds to each token at the rate of the published record for Mistral 7B on one H100.

    python tests/benchmarks/record_rate.py [--streams 512] [--tokens 128] [--rate 20404] [--answers 5]

The replay executor emits a token for each of its streams at every step, with some callers always waiting
so that its batch stays full. Arrivals are spread over the length of one answer. The executor process notes
when each step has ended, before it encodes and sends it; a client process notes when each message has
arrived; both by the machine's monotonic clock. The difference of the two, token by token, is the delay, so
it contains the way between the two processes, the front end, gRPC and the client's own reading. Delay,
rate and the front end's CPU are taken while every caller calls; that all tokens arrived, over the whole run.
The last line printed is the delay at p99 over the length of a step.
"""

import asyncio
import gc
import sys
import time
from typing import Any

from mistralchat.v1 import chat_pb2 as pb
from support.calls import Connections, connections, replay_request
from support.emission_log import Emissions, emission_log, stream_name
from support.processes import CpuMeter, Role, carry_out_orders, replay, service
from support.script import close_with, parser, report
from support.statistics import percentile

#: One caller more for so many streams, so that a slot that gets free is taken in the next step.
_STREAMS_PER_WAITING = 32
_CONNECTIONS = 8

#: A stream's messages as they arrived: the moment and the tokens of each.
Receipts = list[tuple[float, int]]


async def call(order: Any) -> dict[str, Receipts]:
    """Role `client`: all callers, each with a number of answers after one another."""
    raw: dict[str, list[tuple[float, bytes]]] = {}

    async def caller(number: int, server: Connections) -> None:
        await asyncio.sleep(order["ramp_seconds"] * number / order["callers"])
        for answer in range(order["answers"]):
            name = _name(number, answer, order["answers"])
            messages = raw[name] = []
            async for message in server.chat(replay_request(name, order["tokens"])):
                messages.append((time.monotonic(), message))  # noqa: PERF401 - a comprehension would note late

    async with connections(order["target"], _CONNECTIONS) as server:
        await asyncio.gather(*(caller(number, server) for number in range(order["callers"])))
    return {
        name: [(moment, len(pb.ChatResponse.FromString(message).text)) for moment, message in messages]
        for name, messages in raw.items()
    }


def _name(caller: int, answer: int, answers: int) -> str:
    return stream_name(caller * answers + answer)


def delays(emitted: Emissions, received: dict[str, Receipts], start: float, end: float) -> list[float]:
    """Seconds from emission to receipt of every token that was emitted between two moments."""
    return [
        arrival - emission
        for name, receipts in received.items()
        for emission, arrival in zip(
            emitted.tokens[name], (moment for moment, tokens in receipts for _ in range(tokens)), strict=False
        )
        if start <= emission < end
    ]


def main(streams: int, tokens: int, rate: float, answers: int) -> None:
    """Prints one line of JSON, then the ratio."""
    step = streams / rate
    callers = streams + -(-streams // _STREAMS_PER_WAITING)
    order = {"callers": callers, "answers": answers, "tokens": tokens, "ramp_seconds": tokens * step}
    with emission_log() as log, Role("client") as client:
        flags = replay(streams, step)
        with service(*flags, environment=log.environment) as measured, CpuMeter(measured) as meter:
            received = client.ask({"target": measured.address, **order})
        emitted = log.read()
    # While every caller calls: all have begun, none has begun its last answer.
    starts = [emitted.tokens[_name(caller, 0, answers)][0] for caller in range(callers)]
    last_starts = [emitted.tokens[_name(caller, answers - 1, answers)][0] for caller in range(callers)]
    start, end = max(starts), min(last_starts)
    sent = [moment for moments in emitted.tokens.values() for moment in moments if start <= moment < end]
    late = delays(emitted, received, start, end)
    arrived = sum(tokens for receipts in received.values() for _, tokens in receipts)
    report(
        {
            "streams": streams,
            "step ms": round(step * 1_000, 2),
            "tokens/s": round(len(sent) / (end - start)),
            "delivered": arrived / (callers * answers * tokens),
            "delay p50 ms": round(percentile(late, 50) * 1_000, 2),
            "delay p99 ms": round(percentile(late, 99) * 1_000, 2),
            "front end cores": round(meter.cores(start, end), 3),
        }
    )
    close_with(percentile(late, 99) / step)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        gc.disable()
        with asyncio.Runner() as runner:
            carry_out_orders(lambda order: runner.run(call(order)))
    else:
        arguments = parser(__doc__)
        arguments.add_argument("--streams", type=int, default=512)
        arguments.add_argument("--tokens", type=int, default=128, help="of one answer")
        arguments.add_argument(
            "--rate", type=float, default=20_404, help="tokens per second over all streams"
        )
        arguments.add_argument("--answers", type=int, default=5, help="of each caller, one after another")
        main(**vars(arguments.parse_args()))
