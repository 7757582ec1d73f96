"""Other ways to serve the same model file on this machine: llama.cpp's server, and SMG in front of this one.

    make .cache/llama-server/llama-server
    python tests/benchmarks/peers.py [STREAMS ...] [--tokens 64] [--rounds 3]

llama-server has as many threads as there are cores, a slot for each stream, and otherwise its defaults,
built for this very processor. It and SMG (the HTTP alternative to this service, with the same engine behind
it) answer ChatCompletions as server-sent events, this service answers gRPC. All get questions in
turns, equally long and all new, decode greedily and generate exactly the same number of tokens (through SMG,
which has no parameter for that, since the answers are long enough). The tokens of prompts and answers are
counted on every side and must be equal. The last line printed is tokens per second of this service over
llama-server's, at the last number of streams.
"""

import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from support.calls import completion_lines
from support.processes import COMMAND, Role, carry_out_orders, ending, free_port, model_path, service
from support.script import close_with, parser, report, skip
from support.statistics import percentile

_ROOT = Path(__file__).parents[2]
#: The longest prompt and answer of a stream, for which llama-server sets memory aside.
_CONTEXT = 1_024
_MODEL_NAME = "demo"
_START_SECONDS = 90.0
_DATA = b"data: "


class Answer(NamedTuple):
    """What a caller saw of one call."""

    first_token_seconds: float
    prompt_tokens: int
    tokens: int


Ask = Callable[[str, int], Awaitable[Answer]]


def questions(streams: int, number: int) -> list[str]:
    """One for each stream, equally long, different for each number."""
    return [
        f"{number:04d}-{stream:04d}: write a long story about a sailor who has many ships."
        for stream in range(streams)
    ]


def over_grpc(channel: grpc.aio.Channel) -> Ask:
    """This service."""
    stub = chat_pb2_grpc.ChatServiceStub(channel)

    async def ask(question: str, tokens: int) -> Answer:
        request = pb.ChatRequest(
            messages=[pb.Message(role=pb.ROLE_USER, content=question)],
            max_completion_tokens=tokens,
            min_tokens=tokens,
        )
        started, first, usage = time.perf_counter(), 0.0, pb.Usage()
        async for message in stub.Chat(request):
            if message.text:
                first = first or time.perf_counter() - started
            usage = message.usage
        return Answer(first, usage.prompt_tokens, usage.completion_tokens)

    return ask


def over_http(port: int, **extensions: object) -> Ask:
    """A server of ChatCompletions, with what it knows beyond OpenAI's parameters."""

    async def ask(question: str, tokens: int) -> Answer:
        body = {
            "model": _MODEL_NAME,
            "messages": [{"role": "user", "content": question}],
            "stream_options": {"include_usage": True},
            "temperature": 0,
            "max_tokens": tokens,
            **extensions,
        }
        started, first, usage = time.perf_counter(), 0.0, {"prompt_tokens": 0, "completion_tokens": 0}
        async for line in completion_lines(port, body):
            if line.startswith(_DATA) and not line.startswith(_DATA + b"[DONE]"):
                chunk = json.loads(line.removeprefix(_DATA))
                usage = chunk.get("usage") or usage
                if any(choice["delta"].get("content") for choice in chunk["choices"]):
                    first = first or time.perf_counter() - started
        return Answer(first, usage["prompt_tokens"], usage["completion_tokens"])

    return ask


async def round_of(ask: Ask, order: Any) -> dict[str, Any]:
    """All streams at once. Raises RuntimeError for an answer of another length."""
    started = time.perf_counter()
    asked = (ask(question, order["tokens"]) for question in questions(order["streams"], order["questions"]))
    answers = await asyncio.gather(*asked)
    seconds = time.perf_counter() - started
    if any(answer.tokens != order["tokens"] for answer in answers):
        raise RuntimeError(f"answers of {sorted({answer.tokens for answer in answers})} tokens")
    return {
        "tokens/s": sum(answer.tokens for answer in answers) / seconds,
        "first token ms": percentile([answer.first_token_seconds for answer in answers], 50) * 1_000,
        "prompt tokens": sum(answer.prompt_tokens for answer in answers),
    }


def call(server: str, address: str) -> None:
    """Role `client`: all calls of one round."""
    with asyncio.Runner() as runner:

        async def connect() -> Ask:
            port = int(address.rpartition(":")[2])
            match server:
                case "llama-server":
                    return over_http(port, ignore_eos=True)
                case "SMG":
                    return over_http(port)
                case _:
                    return over_grpc(grpc.aio.insecure_channel(address))

        ask = runner.run(connect())
        carry_out_orders(lambda order: runner.run(round_of(ask, order)))


@contextmanager
def http_server(command: Sequence[str], port: int) -> Iterator[str]:
    """A server of ChatCompletions that answers. Raises RuntimeError if it does not."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ending(process):
        end = time.monotonic() + _START_SECONDS
        while not asyncio.run(_answers(port)):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"{command[0]} did not start")
            time.sleep(0.2)
        yield f"127.0.0.1:{port}"


async def _answers(port: int) -> bool:
    try:
        return (await over_http(port)("Hello?", 1)).tokens == 1
    except (OSError, KeyError, ValueError):
        # It does not listen yet, or says that it is still loading.
        return False


def llama_server(program: Path, port: int, streams: int) -> list[str]:
    """The command of llama.cpp's server."""
    threads = str(os.cpu_count())
    size = ("--parallel", str(streams), "--ctx-size", str(streams * _CONTEXT), "--cont-batching")
    where = ("--host", "127.0.0.1", "--port", str(port))
    return [str(program), "--model", str(model_path()), "--threads", threads, *size, *where]


def smg(port: int, worker: str) -> list[str]:
    """The command of the gateway in front of this service."""
    own = ("--prometheus-port", str(free_port()), "--log-level", "error")
    return [COMMAND, "gateway", "--worker", worker, "--listen", f"127.0.0.1:{port}", "--", *own]


def measure(clients: dict[str, Role], streams: int, tokens: int, rounds: int) -> dict[str, Any]:
    """Medians of each server by its name, after a round to warm up."""
    seen: dict[str, list[dict[str, Any]]] = {name: [] for name in clients}
    for number in range(rounds + 1):
        for place, (name, client) in enumerate(clients.items()):
            # Questions of its own, since SMG's callers end at the same engine: it would know the prompts.
            order = {"streams": streams, "tokens": tokens, "questions": number * len(clients) + place}
            seen[name].append(client.ask(order))
        prompts = {name: results[-1]["prompt tokens"] for name, results in seen.items()}
        if len(set(prompts.values())) > 1:
            raise RuntimeError(f"prompts differ: {prompts}")
    medians = {
        f"{name} {figure}": round(statistics.median(result[figure] for result in results[1:]), 1)
        for name, results in seen.items()
        for figure in ("tokens/s", "first token ms")
    }
    ratios = {
        f"over {name}, {figure}": round(_ratio(figure, seen["service"][1:], seen[name][1:]), 3)
        for name in clients
        if name != "service"
        for figure in ("tokens/s", "first token ms")
    }
    return {"streams": streams, **medians, **ratios}


def _ratio(figure: str, ours: list[dict[str, Any]], theirs: list[dict[str, Any]]) -> float:
    ratios = [our[figure] / their[figure] for our, their in zip(ours, theirs, strict=True)]
    return float(statistics.median(ratios))


def main(streams: list[int], tokens: int, rounds: int, llama: Path) -> None:
    """Prints one line of JSON for each number of streams, then the last ratio."""
    if not llama.exists():
        skip(f"{llama} is not built: make .cache/llama-server/llama-server")
        return
    llama_port, smg_port, result = free_port(), free_port(), {}
    with (
        service("--model", str(model_path()), "--model-name", _MODEL_NAME) as measured,
        http_server(smg(smg_port, measured.address), smg_port) as gateway,
        http_server(llama_server(llama, llama_port, max(streams)), llama_port) as peer,
        ExitStack() as stack,
    ):
        addresses = {"service": measured.address, "llama-server": peer, "SMG": gateway}
        clients = {
            name: stack.enter_context(Role("client", name, address)) for name, address in addresses.items()
        }
        for count in streams:
            result = measure(clients, count, tokens, rounds)
            report(result)
    close_with(result["over llama-server, tokens/s"])


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["client", server, address]:
            call(server, address)
        case _:
            arguments = parser(__doc__)
            arguments.add_argument("streams", nargs="*", type=int, default=[1, 8, 32])
            arguments.add_argument("--tokens", type=int, default=64, help="of each answer")
            arguments.add_argument("--rounds", type=int, default=3)
            arguments.add_argument(
                "--llama", type=Path, default=_ROOT / ".cache/llama-server/llama-server", metavar="PROGRAM"
            )
            main(**vars(arguments.parse_args()))
