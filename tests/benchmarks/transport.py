"""Messages per second through the whole front end, over a bare grpc.aio server that streams equal messages.

    python tests/benchmarks/transport.py [STREAMS ...]

Every message holds one token: the replay executor runs without a pause, and max_tokens_per_message is 1.
Bare server and service are processes of their own and take turns with the same client. The last line
printed is the ratio at the last number of streams.
"""

import argparse
import asyncio
import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc

from mistralchat import AsyncChatClient
from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

ROUNDS = 5
#: Messages of one measurement, over all its streams.
MESSAGES = 60_000
WORD = "word"


class BareService(chat_pb2_grpc.ChatServiceServicer):
    """Streams `max_completion_tokens` messages of one word."""

    async def Chat(self, request: pb.ChatRequest, context: Any) -> AsyncIterator[pb.ChatResponse]:  # noqa: N802
        """The stream."""
        for _ in range(request.max_completion_tokens):
            yield pb.ChatResponse(text=WORD)

    GetModel = CountTokens = None  # type: ignore[assignment]


async def serve_bare() -> None:
    """Role `bare`: prints its port and serves until standard input ends."""
    server = grpc.aio.server()
    chat_pb2_grpc.add_ChatServiceServicer_to_server(BareService(), server)
    print(server.add_insecure_port("127.0.0.1:0"), flush=True)
    await server.start()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def measure(target: str, streams: int) -> float:
    """Messages per second that arrive over so many streams."""
    each = min(MESSAGES // streams, 20_000)
    request = pb.ChatRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=WORD)],
        max_completion_tokens=each,
        min_tokens=each,
        stream_options=pb.StreamOptions(max_tokens_per_message=1),
    )
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


def main(streams: list[int]) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("mistralchat")), "serve", "--executor", "replay"]
    options = ["--listen", target, "--replay.step-seconds", "0", "--replay.max-batch-size", "8192"]
    quiet = ["--max-open-calls", "8192", "--log-level", "WARNING"]
    with (
        subprocess.Popen(
            [sys.executable, __file__, "bare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as bare,
        subprocess.Popen([*command, *options, *quiet]) as service,
    ):
        assert bare.stdout is not None
        try:
            asyncio.run(compare(f"127.0.0.1:{bare.stdout.readline().strip()}", target, streams))
        finally:
            bare.communicate()
            service.terminate()


async def compare(bare_target: str, target: str, streams: list[int]) -> None:
    """Takes turns with the bare server and the service."""
    async with AsyncChatClient(target) as client:
        await client.wait_until_serving(30)
    result: dict[str, Any] = {}
    for count in streams:
        rates = [
            (await measure(bare_target, count), await measure(target, count)) for _ in range(ROUNDS + 1)
        ][1:]
        ratios = [through / alone for alone, through in rates]
        result = {
            "streams": count,
            "bare messages/s": round(statistics.median(alone for alone, _ in rates)),
            "service messages/s": round(statistics.median(through for _, through in rates)),
            "ratio": round(statistics.median(ratios), 3),
            "ratios": [round(ratio, 3) for ratio in ratios],
        }
        print(json.dumps(result), flush=True)
    print(f"ratio {result['ratio']}")


if __name__ == "__main__":
    if sys.argv[1:] == ["bare"]:
        asyncio.run(serve_bare())
    else:
        parser = argparse.ArgumentParser()
        parser.add_argument("streams", nargs="*", type=int, default=[1, 1_024, 256, 64])
        main(parser.parse_args().streams)
