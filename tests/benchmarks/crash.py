"""How fast callers and probes learn that the executor has died, or hangs, under 64 streams.

    python tests/benchmarks/crash.py [--rounds 4] [--streams 64]

Each round kills the executor process of a server with the replay executor, at a random moment of running
streams, and measures how long it takes until every stream has ended with UNAVAILABLE and RetryInfo, until
health says NOT_SERVING, until it says SERVING again, and how long calls made meanwhile take to be refused.
A last round stops the process instead of killing it: a hang, as the watchdog sees it. The last line is the
longest time until all streams had ended over the target of one second.
"""

import asyncio
import os
import random
import signal
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mistralchat import Unavailable
from mistralchat._status import chat_error
from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server import supervisor
from mistralchat_server.app import App
from mistralchat_server.settings import Settings
from support.script import close_with, parser, report

#: Seconds within which every stream has to have ended.
TARGET = 1.0
#: Seconds that one step may take in the round with a hang.
STEP_TIMEOUT = 2.0
_SERVING = health_pb2.HealthCheckResponse.SERVING


@dataclass(frozen=True)
class Round:
    """Seconds from the fault on; `refused_after` of each call that was made meanwhile."""

    streams_ended: float
    not_serving: float
    serving_again: float
    refused_after: list[float]


class Bench:
    """A server in this process, its clients, and every request different from all before.

    Equal requests would be suspects of having ended the executor (`executor/suspects.py`).
    """

    def __init__(self, app: App, channel: grpc.aio.Channel, streams: int) -> None:
        self._app = app
        self._chat = chat_pb2_grpc.ChatServiceStub(channel)
        self._health: Any = health_pb2_grpc.HealthStub(channel)
        self._streams = streams
        self._numbers: Iterator[int] = count()

    async def round(self, fault: signal.Signals) -> Round:
        """Runs streams, does `fault` to the executor process, and waits until it serves again."""
        ready = [asyncio.Event() for _ in range(self._streams)]
        streams = [asyncio.create_task(self._stream(event)) for event in ready]
        for event in ready:
            await event.wait()
        await asyncio.sleep(random.uniform(0, 0.2))
        assert self._app.executor is not None
        began = time.monotonic()
        os.kill(self._app.executor.pid, fault)
        not_serving = asyncio.create_task(self._until(serving=False))
        ended = max(await asyncio.gather(*streams))
        unhealthy = await not_serving
        back = asyncio.create_task(self._until(serving=True))
        refused_after = []
        while not back.done():
            asked = time.monotonic()
            if (refused := await self._refused()) is not None:
                refused_after.append(refused - asked)
            await asyncio.sleep(0.01)
        return Round(ended - began, unhealthy - began, await back - began, refused_after)

    def _request(self) -> pb.ChatRequest:
        message = pb.Message(role=pb.ROLE_USER, content=f"stream {next(self._numbers)}")
        return pb.ChatRequest(messages=[message], max_completion_tokens=30_000, min_tokens=30_000)

    async def _stream(self, ready: asyncio.Event) -> float:
        """Reads a stream to its end, which must be UNAVAILABLE with RetryInfo. Returns when that was."""
        try:
            async for _ in self._chat.Chat(self._request()):
                ready.set()
        except grpc.aio.AioRpcError as error:
            _require_retry_info(error)
            return time.monotonic()
        raise AssertionError("a stream has ended without an error")

    async def _refused(self) -> float | None:
        """Makes a call, and returns when it was refused; None if it is served."""
        call = self._chat.Chat(self._request())
        try:
            async for _ in call:
                call.cancel()
                return None
        except grpc.aio.AioRpcError as error:
            _require_retry_info(error)
        return time.monotonic()

    async def _until(self, *, serving: bool) -> float:
        async for response in self._health.Watch(health_pb2.HealthCheckRequest()):
            if (response.status == _SERVING) is serving:
                return time.monotonic()
        raise AssertionError("the watch has ended")

    async def until_serving(self) -> None:
        """Waits for the first start."""
        await self._until(serving=True)


def _require_retry_info(error: grpc.aio.AioRpcError) -> None:
    refusal = chat_error(error)
    assert isinstance(refusal, Unavailable), refusal
    assert refusal.retry_after is not None, refusal


async def main(rounds: int, streams: int) -> None:
    """Prints one line of JSON, then the ratio."""
    settings = Settings(
        executor="replay",
        listen="127.0.0.1:0",
        max_open_calls=2 * streams + 16,
        replay={"step_seconds": 0.005},
        step_timeout_seconds=STEP_TIMEOUT,
    )
    # Every round is a first crash, and no part of a loop of them.
    supervisor._WELL = 0.0
    app = App(settings)
    await app.start()
    running = asyncio.create_task(app.run())
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{app.port}") as channel:
            bench = Bench(app, channel, streams)
            await bench.until_serving()
            killed = [await bench.round(signal.SIGKILL) for _ in range(rounds)]
            stopped = await bench.round(signal.SIGSTOP)
    finally:
        app.stop()
        await running
    longest = max(each.streams_ended for each in killed)
    refusals = [seconds for each in killed for seconds in each.refused_after]
    result: dict[str, Any] = {
        "streams": streams,
        "rounds": rounds,
        "streams ended, longest s": round(longest, 3),
        "not serving, longest s": round(max(each.not_serving for each in killed), 3),
        "streams ended s": [round(each.streams_ended, 3) for each in killed],
        "not serving s": [round(each.not_serving, 3) for each in killed],
        "serving again s": [round(each.serving_again, 3) for each in killed],
        "calls meanwhile": len(refusals),
        "refused after ms, median": round(1e3 * statistics.median(refusals), 1),
        "refused after ms, max": round(1e3 * max(refusals), 1),
        "step timeout s": STEP_TIMEOUT,
        "hang: streams ended s": round(stopped.streams_ended, 3),
        "hang: serving again s": round(stopped.serving_again, 3),
    }
    report(result)
    close_with(longest / TARGET)


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--rounds", type=int, default=4)
    arguments.add_argument("--streams", type=int, default=64)
    asyncio.run(main(**vars(arguments.parse_args())))
