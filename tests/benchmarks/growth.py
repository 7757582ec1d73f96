"""What many open streams cost the front end: CPU for each token, and memory for each stream.

    python tests/benchmarks/growth.py [STREAMS ...] [--rate 4000] [--seconds 8]
    python tests/benchmarks/growth.py --memory 10000

CPU: the replay executor emits so many tokens per second over all streams, however many these are, so only
their number differs. Each number of streams gets a service of its own, and what is counted lies between
the first token of the last stream and the end of the measured seconds: the cost of opening is not in it.
The last line printed is the largest deviation of the CPU time per token from that at 64 streams, among
the larger numbers, as a ratio.

Memory: growth of the front end's resident memory for each open stream. Idle streams wait in the
executor's queue and have seen no token; active ones all get a token at each step. The last line printed
is the memory of an active stream over that of an idle one.
"""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc

from mistralchat.v1 import chat_pb2 as pb
from support.calls import connections, replay_request
from support.processes import Role, Service, carry_out_orders, replay, service
from support.script import close_with, parser, report

#: Longer than any measurement takes.
_TOKENS = 32_000
_STREAMS_PER_CONNECTION = 128
#: So many streams are opened at the same time, and the next so much later.
_OPENING = 256
_OPENING_SECONDS = 0.1
_REFERENCE_STREAMS = 64
#: Opened and closed beforehand, so that what the first calls leave behind is not counted.
_WARM_UP_STREAMS = 256
#: Steps of active streams: slow enough that every token finds its way before the next.
_ACTIVE_STEP_SECONDS = 3.0
_PATIENCE = 120.0


class Caller:
    """Role `client`: opens streams, counts tokens, closes the streams."""

    def __init__(self) -> None:
        self._stack = AsyncExitStack()
        self._calls: list[grpc.aio.UnaryStreamCall[pb.ChatRequest, bytes]] = []
        self._readers: list[asyncio.Task[None]] = []
        self._with_token = 0
        self._tokens = 0

    async def carry_out(self, order: dict[str, Any]) -> Any:
        """Orders: `open` so many streams; `await` a token on so many; `count` for seconds; `close` all."""
        match order:
            case {"open": streams, "target": target}:
                await self._open(target, streams)
            case {"await": streams}:
                async with asyncio.timeout(_PATIENCE):
                    while self._with_token < streams:  # noqa: ASYNC110 - costs the streams nothing
                        await asyncio.sleep(0.01)
            case {"count": seconds}:
                before = self._tokens
                await asyncio.sleep(seconds)
                return self._tokens - before
            case {"close": True}:
                await self._close()
        return None

    async def _open(self, target: str, streams: int) -> None:
        count = -(-streams // _STREAMS_PER_CONNECTION)
        server = await self._stack.enter_async_context(connections(target, count))
        request = replay_request("word", _TOKENS)
        for first in range(0, streams, _OPENING):
            opened = [server.chat(request) for _ in range(first, min(first + _OPENING, streams))]
            self._calls += opened
            self._readers += [asyncio.create_task(self._read(call)) for call in opened]
            # Nothing comes back from a stream that waits, so there is nothing to wait for but time.
            await asyncio.sleep(_OPENING_SECONDS)

    async def _read(self, call: "grpc.aio.UnaryStreamCall[pb.ChatRequest, bytes]") -> None:
        seen = 0
        try:
            async for message in call:
                tokens = len(pb.ChatResponse.FromString(message).text)
                self._with_token += not seen
                seen += tokens
                self._tokens += tokens
        except asyncio.CancelledError:
            # By `_close`: nobody else does.
            return

    async def _close(self) -> None:
        for call in self._calls:
            call.cancel()
        await asyncio.gather(*self._readers)
        await self._stack.aclose()
        self.__init__()  # type: ignore[misc]


def cpu_per_token(client: Role, streams: int, rate: float, seconds: float) -> float:
    """CPU seconds of the front end for each token."""
    with service(*replay(streams, streams / rate)) as measured:
        client.ask({"open": streams, "target": measured.address})
        client.ask({"await": streams})
        client.begin({"count": seconds})
        before = measured.front_end_cpu_seconds()
        tokens = client.result()
        used = measured.front_end_cpu_seconds() - before
        client.ask({"close": True})
    return float(used / tokens)


def resident_bytes_per_stream(client: Role, streams: int, active: bool) -> float:
    """Growth of the front end's memory for each stream."""
    # Without slots for all, one stream plays and the others wait behind it.
    flags = replay(streams, _ACTIVE_STEP_SECONDS) if active else replay(1, 0.05)
    with service(*flags) as measured:
        _open(client, measured, _WARM_UP_STREAMS, 1)
        client.ask({"close": True})
        _settle(measured)
        before = measured.front_end_resident_bytes()
        _open(client, measured, streams, streams if active else 1)
        _settle(measured)
        grown = measured.front_end_resident_bytes() - before
        client.ask({"close": True})
    return grown / streams


def main(streams: list[int], rate: float, seconds: float, memory: int) -> None:
    """Prints one line of JSON for each number of streams, then the ratio."""
    with Role("client") as client:
        if memory:
            idle, active = (resident_bytes_per_stream(client, memory, active) for active in (False, True))
            report(
                {
                    "streams": memory,
                    "KB per idle stream": round(idle / 1_000, 1),
                    "KB per active stream": round(active / 1_000, 1),
                }
            )
            close_with(active / idle)
            return
        spent = {}
        for count in streams:
            spent[count] = cpu_per_token(client, count, rate, seconds)
            report({"streams": count, "front-end µs per token": round(spent[count] * 1e6, 1)})
    larger = {count: cpu for count, cpu in spent.items() if count >= _REFERENCE_STREAMS}
    reference = larger[min(larger)] if larger else spent[max(spent)]
    deviation = max((abs(cpu / reference - 1) for cpu in larger.values()), default=0.0)
    report({"largest deviation": round(deviation, 3)})
    close_with(deviation)


def _open(client: Role, measured: Service, streams: int, with_token: int) -> None:
    client.ask({"open": streams, "target": measured.address})
    client.ask({"await": with_token})


def _settle(measured: Service) -> None:
    """Waits until the front end does nothing but tick along."""
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end:
        before = measured.front_end_cpu_seconds()
        time.sleep(0.5)
        if measured.front_end_cpu_seconds() - before < 0.1:
            return
    raise TimeoutError("the front end does not come to rest")


if __name__ == "__main__":
    if sys.argv[1:] == ["client"]:
        with asyncio.Runner() as runner:
            caller = runner.run(asyncio.sleep(0, Caller()))
            carry_out_orders(lambda order: runner.run(caller.carry_out(order)))
    else:
        arguments = parser(__doc__)
        arguments.add_argument("streams", nargs="*", type=int, default=[1, 64, 256, 1_024, 4_096])
        arguments.add_argument("--rate", type=float, default=4_000, help="tokens per second over all streams")
        arguments.add_argument("--seconds", type=float, default=8, help="to measure each number of streams")
        arguments.add_argument(
            "--memory", type=int, default=0, metavar="STREAMS", help="measure memory instead"
        )
        main(**vars(arguments.parse_args()))
