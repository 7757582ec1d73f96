"""The time to the first token that the service adds over the same pipeline driven directly.

    python tests/benchmarks/first_token.py [--questions 40] [--words 64]

One caller, one question after another, the same questions to both, in turns. No question occurs twice, so
that on either side the prefix cache holds what the chat template says before each, and no more. Both times
begin with the question as text and end with the first token read. The last line printed is the service's
median over the pipeline's.
"""

import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence

import grpc

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from support.processes import Role, carry_out_orders, model_path, service
from support.script import close_with, parser, report

#: Of each answer; the first counts.
_TOKENS = 4
_WARM_UP = 5
_WORDS = (
    "ship",
    "sea",
    "wind",
    "rope",
    "sail",
    "star",
    "map",
    "gold",
    "storm",
    "island",
    "captain",
    "harbour",
)


def questions(count: int, words: int) -> list[str]:
    """The same in every run, of about the same length, different from their first words on."""
    chosen = random.Random(1)
    return [f"{number}: {' '.join(chosen.choices(_WORDS, k=words))}" for number in range(count)]


def drive_pipeline() -> None:
    """Role `direct`: answers a question with the seconds to its first token."""
    from support.pipeline import Pipeline

    pipeline = Pipeline()
    carry_out_orders(lambda question: pipeline.run([question], _TOKENS).to_first_token)


async def ask(stub: "chat_pb2_grpc.ChatServiceAsyncStub", question: str) -> float:
    """Seconds to the first message of an answer, which is then read to its end."""
    request = pb.ChatRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=question)],
        max_completion_tokens=_TOKENS,
        min_tokens=_TOKENS,
    )
    started, first = time.perf_counter(), 0.0
    async for _ in stub.Chat(request):
        first = first or time.perf_counter()
    return first - started


def call_service(target: str) -> None:
    """Role `client`: the same through the service."""
    with asyncio.Runner() as runner:

        async def connect() -> "chat_pb2_grpc.ChatServiceAsyncStub":
            return chat_pb2_grpc.ChatServiceStub(grpc.aio.insecure_channel(target))

        stub = runner.run(connect())
        carry_out_orders(lambda question: runner.run(ask(stub, question)))


def main(count: int, words: int) -> None:
    """Prints one line of JSON, then the ratio."""
    with (
        service("--model", str(model_path())) as measured,
        Role("direct") as direct,
        Role("client", measured.address) as client,
    ):
        pairs = [
            (direct.ask(question), client.ask(question)) for question in questions(count + _WARM_UP, words)
        ][_WARM_UP:]
    alone, through = (_milliseconds(column) for column in zip(*pairs, strict=True))
    added = _milliseconds([with_service - without for without, with_service in pairs])
    report({"direct ms": alone, "service ms": through, "added ms": added, "questions": count})
    close_with(through / alone)


def _milliseconds(seconds: Sequence[float]) -> float:
    return round(statistics.median(seconds) * 1_000, 2)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["direct"]:
            drive_pipeline()
        case ["client", target]:
            call_service(target)
        case _:
            arguments = parser(__doc__)
            arguments.add_argument("--questions", dest="count", type=int, default=40)
            arguments.add_argument("--words", type=int, default=64, help="of each question")
            main(**vars(arguments.parse_args()))
