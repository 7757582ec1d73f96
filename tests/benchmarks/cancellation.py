"""Engine steps from a caller's cancellation until its slot is free.

    python tests/benchmarks/cancellation.py [--streams 256] [--cancels 128] [--step-seconds 0.02]

The replay executor plays all streams, and notes when each of its steps has ended and when it was told of
each cancellation. Streams chosen at random are cancelled over the wire at random moments, each replaced by
a new one at once. A slot is free once the executor was told: the next step computes another request in it
(`tests/integration/test_engine_slots.py` shows it of OpenVINO). Counted are the steps that ended between the
caller's cancellation and that moment, the one in progress included, which cannot be interrupted. A
cancellation that is on its way when that one ends takes another. The first step without the request has ended
one later. The last line printed is the largest number over 2.
"""

import asyncio
import contextlib
import random
import sys
import time
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

from support.calls import connections, replay_request
from support.emission_log import emission_log, stream_name
from support.processes import Role, carry_out_orders, replay, service
from support.script import close_with, parser, report
from support.statistics import percentile

if TYPE_CHECKING:
    from support.calls import ChatCall

#: Longer than any measurement takes.
_TOKENS = 30_000
_CONNECTIONS = 4
#: Between two cancels, in steps.
_PAUSE_STEPS = 4.0


async def call(order: Any) -> dict[str, float]:
    """Role `client`: returns the moment of each cancel by the stream's name."""
    chosen = random.Random(1)
    cancelled: dict[str, float] = {}
    async with connections(order["target"], _CONNECTIONS) as server:

        async def read(name: str, call: "ChatCall") -> None:
            with contextlib.suppress(asyncio.CancelledError):
                async for _ in call:
                    if name not in cancelled:
                        playing[name] = call

        def open_stream(number: int) -> None:
            call = server.chat(replay_request(stream_name(number), _TOKENS))
            calls.append(call)
            readers.append(asyncio.create_task(read(stream_name(number), call)))

        playing: dict[str, ChatCall] = {}
        calls: list[ChatCall] = []
        readers: list[asyncio.Task[None]] = []
        for number in range(order["streams"]):
            open_stream(number)
        while len(playing) < order["streams"]:  # noqa: ASYNC110 - simple, and before the measurement
            await asyncio.sleep(0.01)
        for number in range(order["cancels"]):
            await asyncio.sleep(chosen.uniform(0, _PAUSE_STEPS) * order["step_seconds"])
            name = chosen.choice(list(playing))
            cancelled[name] = time.monotonic()
            playing.pop(name).cancel()
            open_stream(order["streams"] + number)
        for each in calls:
            each.cancel()
        await asyncio.gather(*readers)
    return cancelled


def main(streams: int, cancels: int, step_seconds: float) -> None:
    """Prints one line of JSON, then the ratio."""
    order = {"streams": streams, "cancels": cancels, "step_seconds": step_seconds}
    with emission_log() as log, Role("client") as client:
        with service(*replay(streams, step_seconds), environment=log.environment) as measured:
            cancelled = client.ask({"target": measured.address, **order})
        noted = log.read()
    steps, milliseconds = [], []
    for name, moment in cancelled.items():
        told = noted.cancelled[name]
        # Commands are taken between two steps.
        steps.append(bisect_right(noted.steps, told) - bisect_right(noted.steps, moment))
        milliseconds.append((told - moment) * 1_000)
    report(
        {
            "streams": streams,
            "cancels": cancels,
            "steps p50": percentile(steps, 50),
            "steps max": max(steps),
            "cancels of one step": steps.count(1),
            "until the executor is told p99 ms": round(percentile(milliseconds, 99), 1),
        }
    )
    close_with(max(steps) / 2)


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        with asyncio.Runner() as runner:
            carry_out_orders(lambda order: runner.run(call(order)))
    else:
        arguments = parser(__doc__)
        arguments.add_argument("--streams", type=int, default=256)
        arguments.add_argument("--cancels", type=int, default=128)
        arguments.add_argument("--step-seconds", type=float, default=0.02)
        main(**vars(arguments.parse_args()))
