"""Messages per second through the whole front end, over a bare grpc.aio server that streams equal messages.

    python tests/benchmarks/transport.py [STREAMS ...] [--messages 60000] [--rounds 5]

Every message holds one token: the replay executor runs without a pause, and max_tokens_per_message is 1.
Bare server and service are processes of their own and take turns with the same client. The last line
printed is the ratio at the last number of streams.
"""

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import grpc

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from support.calls import replay_request
from support.processes import Role, carry_out_orders, replay, service
from support.script import close_with, parser, report

_MOST_OF_ONE_STREAM = 20_000
WORD = "word"


class BareService(chat_pb2_grpc.ChatServiceServicer):
    """Streams `max_completion_tokens` messages of one word."""

    async def Chat(self, request: pb.ChatRequest, context: Any) -> AsyncIterator[pb.ChatResponse]:  # noqa: N802
        """The stream."""
        for _ in range(request.max_completion_tokens):
            yield pb.ChatResponse(text=WORD)

    GetModel = CountTokens = None  # type: ignore[assignment]


async def serve_bare() -> None:
    """Role `bare`: greets with its port and serves until there are no more orders."""
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(BareService(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    await asyncio.to_thread(carry_out_orders, lambda order: None, port)
    await server.stop(None)


async def measure(target: str, streams: int, most: int) -> float:
    """Messages per second that arrive over so many streams, of at most so many messages."""
    each = min(most // streams, _MOST_OF_ONE_STREAM)
    request = replay_request(WORD, each, tokens_per_message=1)
    async with grpc.aio.insecure_channel(target) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)

        async def count() -> int:
            messages = 0
            async for _ in stub.Chat(request):
                messages += 1
            return messages

        started = time.perf_counter()
        messages = sum(await asyncio.gather(*(count() for _ in range(streams))))
        elapsed = time.perf_counter() - started
    assert messages >= each * streams * 0.99, f"{messages} messages of {each * streams}"
    return messages / elapsed


def main(streams: list[int], messages: int, rounds: int) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    with Role("bare") as bare, service(*replay(max(streams), 0)) as through:
        asyncio.run(compare(f"127.0.0.1:{bare.greeting}", through.address, streams, messages, rounds))


async def compare(bare_target: str, target: str, streams: list[int], messages: int, rounds: int) -> None:
    """Takes turns with the bare server and the service, after one round to warm up."""
    result: dict[str, Any] = {}
    for count in streams:
        rates = [
            [await measure(address, count, messages) for address in (bare_target, target)]
            for _ in range(rounds + 1)
        ][1:]
        ratios = [through / alone for alone, through in rates]
        result = {
            "streams": count,
            "bare messages/s": round(statistics.median(alone for alone, _ in rates)),
            "service messages/s": round(statistics.median(through for _, through in rates)),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        report(result)
    close_with(result["ratio"])


if __name__ == "__main__":
    if sys.argv[1:] == ["bare"]:
        asyncio.run(serve_bare())
    else:
        arguments = parser(__doc__)
        arguments.add_argument("streams", nargs="*", type=int, default=[1, 1_024, 256, 64])
        arguments.add_argument(
            "--messages", type=int, default=60_000, help="of one measurement, over all streams"
        )
        arguments.add_argument("--rounds", type=int, default=5)
        main(**vars(arguments.parse_args()))
