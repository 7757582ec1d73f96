"""Tokens per second that all arrive when the executor runs far ahead of the front end.

    python tests/benchmarks/coalescing.py [STREAMS ...] [--tokens 2000] [--rounds 3]

The replay executor runs without a pause. Once each message holds whatever has gathered, as is usual, and
once one token alone, in turns. What is counted is the text that has arrived, each of its bytes a token;
every round must bring all of it. The last line printed is the tokens per CPU second of the front end, with
tokens gathered over one at a time, at the last number of streams.
"""

import asyncio
import statistics
import sys
import time
from typing import Any, NamedTuple

from mistralchat.v1 import chat_pb2 as pb
from support.calls import Connections, connections, replay_request
from support.processes import Role, Service, carry_out_orders, replay, service
from support.script import close_with, parser, report

_CONNECTIONS = 8
_TEXT = "word"
#: One token a message costs so much more that fewer are enough.
_FEWER = 16


class Round(NamedTuple):
    """What one round saw."""

    tokens_per_second: float
    tokens_per_cpu_second: float
    tokens_per_message: float


async def call(order: Any) -> dict[str, float]:
    """Role `client`: all streams at once."""
    request = replay_request(_TEXT, order["tokens"], order["tokens_per_message"])

    async def stream(server: Connections) -> list[bytes]:
        return [message async for message in server.chat(request)]

    async with connections(order["target"], _CONNECTIONS) as server:
        started = time.perf_counter()
        streams = await asyncio.gather(*(stream(server) for _ in range(order["streams"])))
        seconds = time.perf_counter() - started
    tokens = sum(
        len(pb.ChatResponse.FromString(message).text) for messages in streams for message in messages
    )
    return {"seconds": seconds, "tokens": tokens, "messages": sum(map(len, streams))}


def measure(
    measured: Service, client: Role, streams: int, tokens: int, tokens_per_message: int | None
) -> Round:
    """One round. Raises RuntimeError if tokens are missing."""
    before = measured.front_end_cpu_seconds()
    order = {"target": measured.address, "streams": streams, "tokens": tokens}
    seen = client.ask({**order, "tokens_per_message": tokens_per_message})
    used = measured.front_end_cpu_seconds() - before
    if seen["tokens"] != streams * tokens:
        raise RuntimeError(f"{seen['tokens']:,} tokens of {streams * tokens:,} arrived")
    return Round(seen["tokens"] / seen["seconds"], seen["tokens"] / used, seen["tokens"] / seen["messages"])


def main(streams: list[int], tokens: int, rounds: int) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    ratio = 0.0
    with Role("client") as client, service(*replay(max(streams), 0)) as measured:
        for count in streams:
            gathered, single = [], []
            # The first round warms up.
            for _ in range(rounds + 1):
                gathered.append(measure(measured, client, count, tokens, None))
                single.append(measure(measured, client, count, max(1, tokens // _FEWER), 1))
            columns = [statistics.median(column) for column in zip(*gathered[1:], strict=True)]
            alone = statistics.median(each.tokens_per_cpu_second for each in single[1:])
            report(
                {
                    "streams": count,
                    "tokens/s": round(columns[0]),
                    "tokens/s per front-end core": round(columns[1]),
                    "tokens per message": round(columns[2], 1),
                    "one at a time, tokens/s per front-end core": round(alone),
                    "delivered": 1.0,
                }
            )
            ratio = columns[1] / alone
    close_with(ratio)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        with asyncio.Runner() as runner:
            carry_out_orders(lambda order: runner.run(call(order)))
    else:
        arguments = parser(__doc__)
        arguments.add_argument("streams", nargs="*", type=int, default=[256, 512])
        arguments.add_argument("--tokens", type=int, default=2_000, help="of each stream")
        arguments.add_argument("--rounds", type=int, default=3)
        main(**vars(arguments.parse_args()))
