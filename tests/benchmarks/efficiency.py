"""Tokens per second through the service over the same pipeline driven directly, in one run.

    python tests/benchmarks/efficiency.py [STREAMS ...] [--rounds 9]

Three processes: this one is the service's front end, with a heartbeat on its event loop; one drives
OpenVINO GenAI's pipeline in a bare loop; one is the client. The latter two take turns, so that both see
the same machine. The last line printed is the ratio at the last number of streams.
"""

import asyncio
import statistics
import sys
import time
from typing import Any

from mistralchat import AsyncChatClient
from mistralchat_server.app import App
from mistralchat_server.settings import Settings
from support.processes import Role, carry_out_orders, model_path
from support.script import close_with, parser, report
from support.statistics import percentile

TOKENS = 128
HEARTBEAT_SECONDS = 0.02


def questions(streams: int) -> list[str]:
    """One for each stream, all different, of about the same length."""
    return [f"Write a long story about a sailor who has {number + 2} ships." for number in range(streams)]


def drive_pipeline() -> None:
    """Role `direct`: answers a number of streams with tokens per second."""
    from support.pipeline import Pipeline

    pipeline = Pipeline()

    def work(streams: int) -> float:
        run = pipeline.run(questions(streams), TOKENS)
        return run.tokens / run.total

    carry_out_orders(work)


def call_service(target: str) -> None:
    """Role `client`: the same through the service."""

    async def ask(client: AsyncChatClient, question: str) -> int:
        stream = client.chat(question, max_completion_tokens=TOKENS, min_tokens=TOKENS)
        await stream.read()
        assert stream.usage is not None
        return stream.usage.completion_tokens

    async def work(client: AsyncChatClient, streams: int) -> float:
        started = time.perf_counter()
        tokens = sum(await asyncio.gather(*(ask(client, question) for question in questions(streams))))
        return tokens / (time.perf_counter() - started)

    async def connect() -> AsyncChatClient:
        return AsyncChatClient(target)

    with asyncio.Runner() as runner:
        client = runner.run(connect())
        carry_out_orders(lambda streams: runner.run(work(client, streams)))


async def heartbeat(lags: list[float]) -> None:
    """Notes by how many milliseconds the event loop is late, over and over."""
    while True:
        due = time.perf_counter() + HEARTBEAT_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
        lags.append((time.perf_counter() - due) * 1_000)


async def measure(streams: int, rounds: int, direct: Role, client: Role) -> dict[str, Any]:
    """Alternates between both, after one round to warm up."""
    direct_rates, service_rates, lags = [], [], list[float]()
    for _ in range(rounds + 1):
        direct_rates.append(await asyncio.to_thread(direct.ask, streams))
        beating = asyncio.create_task(heartbeat(lags))
        service_rates.append(await asyncio.to_thread(client.ask, streams))
        beating.cancel()
    ratios = [service / alone for service, alone in zip(service_rates, direct_rates, strict=True)][1:]
    return {
        "streams": streams,
        "direct tokens/s": round(statistics.median(direct_rates[1:])),
        "service tokens/s": round(statistics.median(service_rates[1:])),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "front end lag p50 ms": round(percentile(lags, 50), 2),
        "front end lag p99 ms": round(percentile(lags, 99), 2),
    }


async def main(streams: list[int], rounds: int) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    app = App(Settings(model=str(model_path()), listen="127.0.0.1:0", grace_seconds=1))
    await app.start()
    running = asyncio.create_task(app.run())
    result: dict[str, Any] = {}
    try:
        async with AsyncChatClient(f"127.0.0.1:{app.port}") as ready:
            await ready.wait_until_serving()
        with (
            await asyncio.to_thread(Role, "direct") as direct,
            await asyncio.to_thread(Role, "client", f"127.0.0.1:{app.port}") as client,
        ):
            for count in streams:
                result = await measure(count, rounds, direct, client)
                report(result)
    finally:
        app.stop()
        await running
    close_with(result["ratio"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["direct"]:
            drive_pipeline()
        case ["client", target]:
            call_service(target)
        case _:
            arguments = parser(__doc__)
            arguments.add_argument("streams", nargs="*", type=int, default=[1, 64, 16])
            arguments.add_argument("--rounds", type=int, default=9)
            asyncio.run(main(**vars(arguments.parse_args())))
