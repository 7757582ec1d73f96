"""Messages per second of several front ends on one port over those of one, with one executor behind each.

    python tests/benchmarks/front_ends.py [--front-ends 4] [--clients 8] [--streams 1024] [--rounds 5]

Both services run beside each other and take turns. The replay executor does not pause and every message
holds one token. The clients are processes of their own with several connections each, which the kernel
spreads over the front ends, and they leave the messages as bytes, so that they do not bound the rate.
Needs a core for each front end and client and some more: on fewer than 8 it is skipped. The last line
printed is the ratio.
"""

import asyncio
import os
import statistics
import sys
import time
from contextlib import ExitStack
from typing import Any

from support.calls import Connections, connections, replay_request
from support.processes import Role, carry_out_orders, replay, service
from support.script import close_with, parser, report, skip

_LEAST_CORES = 8
#: Of each client. The kernel gives each to a front end by a hash: of few, one front end would get far more.
_CONNECTIONS = 32


async def call(order: Any) -> int:
    """Role `client`: the messages that arrived over all its streams."""
    request = replay_request("word", order["tokens"], tokens_per_message=1)

    async def stream(server: Connections) -> int:
        messages = 0
        async for _ in server.chat(request):
            messages += 1
        return messages

    async with connections(order["target"], _CONNECTIONS) as server:
        return sum(await asyncio.gather(*(stream(server) for _ in range(order["streams"]))))


def messages_per_second(clients: list[Role], target: str, streams: int, tokens: int) -> float:
    """Over all clients. Raises RuntimeError if messages are missing."""
    each = -(-streams // len(clients))
    started = time.perf_counter()
    for client in clients:
        client.begin({"target": target, "streams": each, "tokens": tokens})
    messages = sum(client.result() for client in clients)
    seconds = time.perf_counter() - started
    if messages != each * len(clients) * tokens:
        raise RuntimeError(f"{messages:,} messages of {each * len(clients) * tokens:,} arrived")
    return float(messages / seconds)


def main(front_ends: int, clients: int, streams: int, tokens: int, rounds: int, least_cores: int) -> None:
    """Prints one line of JSON, then the ratio."""
    cores = len(os.sched_getaffinity(0))
    if cores < least_cores:
        skip(f"needs {least_cores} cores; this machine has {cores}")
        return
    flags = replay(streams, 0)
    with (
        ExitStack() as stack,
        service(*flags, "--front-ends", "1") as one,
        service(*flags, "--front-ends", str(front_ends)) as several,
    ):
        roles = [stack.enter_context(Role("client")) for _ in range(clients)]
        rates = [
            [messages_per_second(roles, target.address, streams, tokens) for target in (one, several)]
            for _ in range(rounds + 1)
        ][1:]
    ratio = statistics.median(with_several / alone for alone, with_several in rates)
    report(
        {
            "front ends": front_ends,
            "cores": cores,
            "one, messages/s": round(statistics.median(alone for alone, _ in rates)),
            "several, messages/s": round(statistics.median(with_several for _, with_several in rates)),
            "ratio": round(ratio, 3),
        }
    )
    close_with(ratio)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        with asyncio.Runner() as runner:
            carry_out_orders(lambda order: runner.run(call(order)))
    else:
        arguments = parser(__doc__)
        arguments.add_argument("--front-ends", type=int, default=4)
        arguments.add_argument("--clients", type=int, default=8, help="processes")
        arguments.add_argument("--streams", type=int, default=1_024, help="over all clients")
        arguments.add_argument("--tokens", type=int, default=500, help="of each stream")
        arguments.add_argument("--rounds", type=int, default=5)
        arguments.add_argument(
            "--least-cores", type=int, default=_LEAST_CORES, help="with fewer it is skipped"
        )
        main(**vars(arguments.parse_args()))
