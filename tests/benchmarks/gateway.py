"""What the gateway adds to the time to the first token and takes from throughput, and gives with two workers.

    python tests/benchmarks/gateway.py first-token | throughput | workers

The replay executor answers, so nothing but the way there and back is measured. The same calls are made
over gRPC, straight to a server, and over HTTP through SMG, in turns. Everything shares this machine's
cores, the client too. The last line printed is one ratio.
"""

import asyncio
import random
import re
import signal
import statistics
import string
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import grpc

from mistralchat import AsyncChatClient
from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from support.calls import completion_lines
from support.processes import COMMAND, free_port
from support.script import close_with, parser, report

ROUNDS = 5
#: Tokens of an answer; the replay executor's tokens are bytes.
TOKENS = 256
_CONTENT = re.compile(rb'"content":"([^"]*)"')


class Call(NamedTuple):
    """What one call saw, in seconds."""

    first_token: float
    tokens: int


Caller = Callable[[str], Awaitable[Call]]


@contextmanager
def running(*commands: Sequence[str]) -> Iterator[None]:
    """Processes for the length of a `with`."""
    processes = [subprocess.Popen([COMMAND, *command]) for command in commands]
    try:
        yield
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        for process in processes:
            # The gateway would drain for some seconds; a second signal ends it at once.
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(30)


def worker(address: str, *flags: str) -> list[str]:
    """The command of a replay server."""
    quiet = ("--log-level", "WARNING", "--max-open-calls", "8192")
    return ["serve", "--executor", "replay", "--listen", address, *quiet, *flags]


def gateway(port: int, workers: Sequence[str]) -> list[str]:
    """The command of a gateway."""
    addresses = [part for address in workers for part in ("--worker", address)]
    smg = ("--prometheus-port", str(free_port()), "--log-level", "error")
    return ["gateway", *addresses, "--listen", f"127.0.0.1:{port}", "--", *smg]


def question() -> str:
    """Text whose answer has `TOKENS` tokens, with a prefix of its own."""
    return "".join(random.choices(string.ascii_letters, k=TOKENS))


def over_grpc(channel: grpc.aio.Channel) -> Caller:
    """Straight to a server."""
    stub = chat_pb2_grpc.ChatServiceStub(channel)

    async def call(content: str) -> Call:
        request = pb.ChatRequest(
            messages=[pb.Message(role=pb.ROLE_USER, content=content)], max_completion_tokens=TOKENS
        )
        started, first, tokens = time.perf_counter(), 0.0, 0
        async for message in stub.Chat(request):
            if message.text:
                first = first or time.perf_counter() - started
                tokens += len(message.text)
        return Call(first, tokens)

    return call


def over_http(port: int) -> Caller:
    """Through the gateway, with as little of a client as there can be."""

    async def call(content: str) -> Call:
        body = {"model": "replay", "temperature": 0, "max_tokens": TOKENS}
        messages = [{"role": "user", "content": content}]
        started, first, tokens = time.perf_counter(), 0.0, 0
        async for line in completion_lines(port, {**body, "messages": messages}):
            if (found := _CONTENT.search(line)) and found[1]:
                first = first or time.perf_counter() - started
                tokens += len(found[1])
        return Call(first, tokens)

    return call


async def first_token(call: Caller) -> float:
    """Median milliseconds to the first token, one call after another."""
    return statistics.median([(await call(question())).first_token for _ in range(50)]) * 1_000


async def tokens_per_second(call: Caller, streams: int, calls: int) -> float:
    """Over so many streams, each making so many calls."""

    async def stream() -> int:
        return sum([(await call(question())).tokens for _ in range(calls)])

    started = time.perf_counter()
    tokens = sum(await asyncio.gather(*(stream() for _ in range(streams))))
    assert tokens == streams * calls * TOKENS, f"{tokens} tokens of {streams * calls * TOKENS}"
    return tokens / (time.perf_counter() - started)


async def until_ready(call: Caller, times: int = 1) -> None:
    """Waits until so many calls in a row were answered."""
    answered = 0
    for _ in range(300):
        try:
            answered = answered + 1 if (await call(question())).tokens else 0
        except OSError:
            answered = 0
        if answered == times:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("the gateway did not become ready")


async def beside(measure: Callable[[Caller], Awaitable[float]], unit: str, *flags: str) -> float:
    """The median ratio of a figure through the gateway to the same straight from the server."""
    address, port = f"127.0.0.1:{free_port()}", free_port()
    with running(worker(address, *flags), gateway(port, [address])):
        async with AsyncChatClient(address) as client:
            await client.wait_until_serving(30)
        async with grpc.aio.insecure_channel(address) as channel:
            direct, through = over_grpc(channel), over_http(port)
            await until_ready(through)
            rounds = [(await measure(direct), await measure(through)) for _ in range(ROUNDS + 1)][1:]
    figures = [statistics.median(column) for column in zip(*rounds, strict=True)]
    report({f"direct {unit}": round(figures[0], 2), f"through the gateway {unit}": round(figures[1], 2)})
    return statistics.median(with_gateway / without for without, with_gateway in rounds)


async def of_first_token() -> float:
    """Milliseconds to the first token, through the gateway over straight."""
    return await beside(first_token, "ms", "--replay.step-seconds", "0.001")


async def of_throughput() -> float:
    """Tokens per second on 64 streams without a pause, through the gateway over straight."""
    return await beside(lambda call: tokens_per_second(call, 64, 4), "tokens/s", "--replay.step-seconds", "0")


async def of_workers() -> float:
    """Tokens per second of two workers over those of one; each has eight slots and steps of 20 ms."""
    rates = []
    for count in (1, 2):
        addresses = [f"127.0.0.1:{free_port()}" for _ in range(count)]
        port = free_port()
        flags = ("--replay.step-seconds", "0.02", "--replay.max-batch-size", "8")
        with running(*(worker(address, *flags) for address in addresses), gateway(port, addresses)):
            for address in addresses:
                async with AsyncChatClient(address) as client:
                    await client.wait_until_serving(30)
            call = over_http(port)
            await until_ready(call)
            await asyncio.sleep(3)  # the gateway registers a second worker a moment after the first
            rates.append(await tokens_per_second(call, 32, 3))
    report({"one worker tokens/s": round(rates[0]), "two workers tokens/s": round(rates[1])})
    return rates[1] / rates[0]


if __name__ == "__main__":
    measures = {"first-token": of_first_token, "throughput": of_throughput, "workers": of_workers}
    arguments = parser(__doc__)
    arguments.add_argument("what", choices=measures)
    close_with(asyncio.run(measures[arguments.parse_args().what]()))
