"""One process of callers of every kind: `python -m tests.soak.load ADDRESS SEED SECONDS EXECUTOR`.

Prints a line of JSON each second: how many calls of which kind ended how so far, and what was wrong.
"""

import asyncio
import contextlib
import json
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
from hpack import Encoder
from hyperframe.frame import DataFrame, HeadersFrame, SettingsFrame
from smg_grpc_proto.generated import trtllm_service_pb2 as tl
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

from ..bad_input.wire import PREFACE, headers, message

_CALLERS = 16
#: Seconds after which a call that has not ended counts as hanging.
_PATIENCE = 120.0
_ALPHABET = "abcdefghij ,.\néß日🎉"
#: What may become of any call while executors are killed and calls are too many.
_EXPECTED = {"OK", "CANCELLED", "DEADLINE_EXCEEDED", "UNAVAILABLE", "RESOURCE_EXHAUSTED"}


class Callers:
    """What they do, and what came of it."""

    def __init__(self, address: str, seed: int, *, replays: bool) -> None:
        self.ended: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._address = address
        self._random = random.Random(seed)
        self._replays = replays
        self._number = seed * 1_000_000
        self._channel = grpc.aio.insecure_channel(address)
        self._chat: Any = chat_pb2_grpc.ChatServiceStub(self._channel)
        self._tokens: Any = trtllm_service_pb2_grpc.TrtllmServiceStub(self._channel)
        usual: list[Callable[[], Awaitable[None]]] = [
            self._reads_all, self._reads_all, self._stops_at_a_word, self._cancels, self._has_a_deadline,
            self._reads_slowly, self._is_invalid, self._counts, self._reads_tokens, self._aborts_tokens,
            self._half_closes, self._leaves, self._searches_beams, self._comes_in_a_crowd,
        ]  # fmt: skip
        self._ways = usual if replays else [*usual, self._is_constrained, self._is_constrained]

    async def run(self, seconds: float) -> None:
        """Calls, in every way, until the time is over."""
        end = time.monotonic() + seconds
        async with self._channel:
            await asyncio.gather(*(self._caller(end) for _ in range(_CALLERS)))

    async def _caller(self, end: float) -> None:
        while time.monotonic() < end:
            way = self._random.choice(self._ways)
            try:
                await way()
            except grpc.aio.AioRpcError as error:
                self._note(way, error.code().name, error.details())
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    await asyncio.sleep(0.2)
            except asyncio.CancelledError:
                self._note(way, "CANCELLED")
            except AssertionError as error:
                self._note(way, "wrong", str(error))
            else:
                self._note(way, "OK")

    def _note(self, way: Callable[[], Awaitable[None]], status: str, details: str | None = "") -> None:
        name = way.__name__.strip("_").replace("_", " ")
        self.ended[f"{name}/{status}"] += 1
        allowed = {"INVALID_ARGUMENT", "UNAVAILABLE"} if way == self._is_invalid else _EXPECTED
        if status not in allowed:
            self.wrong.append(f"{name}: {status} {details}"[:300])

    def _content(self, most: int = 250) -> str:
        """No two are the same, so that a poisoned request is nobody's fault, and mixed streams are found."""
        self._number += 1
        length = self._random.randint(1, most)
        return f"{self._number:x}:" + "".join(self._random.choices(_ALPHABET, k=length))

    def _request(self, content: str, **fields: Any) -> pb.ChatRequest:
        if self._replays:
            fields.setdefault("max_completion_tokens", len(content.encode()))
        else:
            fields.setdefault("max_completion_tokens", self._random.randint(1, 24))
        return pb.ChatRequest(messages=[pb.Message(role=pb.ROLE_USER, content=content)], **fields)

    def _check(self, text: str, content: str, *, whole: bool) -> None:
        if self._replays:
            right = text == content if whole else content.startswith(text.rstrip("\ufffd"))
            assert right, f"{text!r} in place of {content!r}"

    async def _reads_all(self) -> None:
        content = self._content()
        whole = self._random.random() < 0.7
        budget = len(content.encode()) if whole else self._random.randint(1, len(content.encode()))
        fields = {"max_completion_tokens": budget} if self._replays else {}
        text = await self._read(self._chat.Chat(self._request(content, **fields), timeout=_PATIENCE))
        self._check(text, content.encode()[:budget].decode(errors="replace"), whole=True)

    async def _stops_at_a_word(self) -> None:
        content = self._content()
        start = self._random.randrange(len(content))
        word = content[start : start + self._random.randint(1, 4)]
        request = self._request(content, stop_words_list=[word])
        text = await self._read(self._chat.Chat(request, timeout=_PATIENCE))
        self._check(text, content[: content.index(word)], whole=True)
        assert word not in text

    async def _cancels(self) -> None:
        content = self._content(2_000)
        call = self._chat.Chat(self._request(content), timeout=_PATIENCE)
        text, messages = "", self._random.randint(0, 5)
        async for part in call:
            text += part.text
            messages -= 1
            if messages <= 0:
                call.cancel()
                break
        self._check(text, content, whole=False)
        raise asyncio.CancelledError

    async def _has_a_deadline(self) -> None:
        content = self._content(3_000)
        text = await self._read(self._chat.Chat(self._request(content), timeout=self._random.uniform(0, 0.3)))
        self._check(text, content, whole=True)

    async def _reads_slowly(self) -> None:
        content = self._content(300)
        pause = self._random.uniform(0.001, 0.02)
        call = self._chat.Chat(self._request(content), timeout=_PATIENCE)
        text = ""
        async for part in call:
            text += part.text
            await asyncio.sleep(pause)
        self._check(text, content, whole=True)

    async def _is_invalid(self) -> None:
        given: dict[str, Any] = self._random.choice(
            [
                {"max_tokens": 0},
                {"temperature": 9.0},
                {"stop_words_list": [""]},
                {"messages": []},
                {"top_k": 5},
            ]
        )
        request = pb.ChatRequest(**{"messages": [pb.Message(role=pb.ROLE_USER, content="x")], **given})
        await self._read(self._chat.Chat(request, timeout=_PATIENCE))

    async def _counts(self) -> None:
        content = self._content()
        messages = [pb.Message(role=pb.ROLE_USER, content=content)]
        counted = await self._chat.CountTokens(pb.CountTokensRequest(messages=messages), timeout=_PATIENCE)
        assert not self._replays or counted.prompt_tokens == len(content.encode())

    def _generate(self, most: int) -> tuple[tl.GenerateRequest, list[int]]:
        self._number += 1
        ids = [self._random.randrange(200) for _ in range(self._random.randint(5, most))]
        request = tl.GenerateRequest(
            request_id=f"soak-{self._number}",
            tokenized=tl.TokenizedInput(input_token_ids=ids),
            max_tokens=len(ids) if self._replays else 8,
            streaming=self._random.random() < 0.7,
        )
        return request, ids

    async def _reads_tokens(self) -> None:
        request, ids = self._generate(200)
        received: list[int] = []
        async for response in self._tokens.Generate(request, timeout=_PATIENCE):
            received += response.chunk.token_ids
            if response.HasField("complete"):
                received = list(response.complete.output_token_ids)
        assert not self._replays or received == ids, f"{received} in place of {ids}"

    async def _aborts_tokens(self) -> None:
        request, _ = self._generate(2_000)
        call = self._tokens.Generate(request, timeout=_PATIENCE)

        async def abort() -> None:
            await asyncio.sleep(self._random.uniform(0, 0.1))
            await self._tokens.Abort(tl.AbortRequest(request_id=request.request_id), timeout=_PATIENCE)

        aborting = asyncio.create_task(abort())
        try:
            async for _ in call:
                pass
        finally:
            with contextlib.suppress(grpc.aio.AioRpcError):
                await aborting

    async def _half_closes(self) -> None:
        """A connection whose caller sends no more, or vanishes, in the middle of a call."""
        host, _, port = self._address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        begin = HeadersFrame(1, Encoder().encode(headers()), flags=["END_HEADERS"])
        body = DataFrame(1, message(self._request(self._content(3_000)).SerializeToString()))
        if self._random.random() < 0.7:
            body.flags.add("END_STREAM")
        writer.write(PREFACE + b"".join(frame.serialize() for frame in (SettingsFrame(0), begin, body)))
        if self._random.random() < 0.5:
            writer.write_eof()
        with contextlib.suppress(TimeoutError, ConnectionError):
            await asyncio.wait_for(reader.read(1), self._random.uniform(0, 0.2))
            await asyncio.sleep(self._random.uniform(0, 0.2))
        writer.transport.abort()

    async def _leaves(self) -> None:
        """A channel that is closed in the middle of a call."""
        async with grpc.aio.insecure_channel(
            self._address, [("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            stub: Any = chat_pb2_grpc.ChatServiceStub(channel)
            call = stub.Chat(self._request(self._content(2_000)), timeout=_PATIENCE)
            await call.read()

    async def _searches_beams(self) -> None:
        content = self._content(100)
        request = self._request(content, beam_width=3)
        texts = Counter[int]()
        beams = {0: "", 1: "", 2: ""}
        async for part in self._chat.Chat(request, timeout=_PATIENCE):
            beams[part.beam_index] += part.text
            texts[part.beam_index] += 1
        assert len(texts) == 3
        self._check(beams[0], content, whole=True)

    async def _comes_in_a_crowd(self) -> None:
        if self._random.random() > 0.1:
            return
        calls = [self._chat.Chat(self._request(self._content(50)), timeout=_PATIENCE) for _ in range(60)]
        results = await asyncio.gather(*map(self._read, calls), return_exceptions=True)
        for result in results:
            if isinstance(result, grpc.aio.AioRpcError):
                self._note(self._comes_in_a_crowd, result.code().name, result.details())
            elif isinstance(result, BaseException):
                raise result

    async def _is_constrained(self) -> None:
        kinds: list[tuple[dict[str, Any], str]] = [
            ({"response_format": pb.ResponseFormat(regex="(yes|no)!")}, "(yes|no)!"),
            ({"response_format": pb.ResponseFormat(grammar='root ::= "red" | "blue"')}, "red|blue"),
            ({"bad_words_list": ["the", "is"]}, r"(?s)((?!the|is).)*"),
        ]
        given, pattern = self._random.choice(kinds)
        request = self._request(self._content(40), max_completion_tokens=24, **given)
        text = await self._read(self._chat.Chat(request, timeout=_PATIENCE))
        assert re.fullmatch(pattern, text), f"{text!r} is not {pattern}"

    @staticmethod
    async def _read(call: Any) -> str:
        return "".join([part.text async for part in call])


async def _main(address: str, seed: int, seconds: float, executor: str) -> None:
    callers = Callers(address, seed, replays=executor == "replay")

    async def report() -> None:
        while True:
            await asyncio.sleep(1)
            tell()

    def tell() -> None:
        sys.stdout.write(json.dumps({"ended": callers.ended, "wrong": callers.wrong[:20]}) + "\n")
        sys.stdout.flush()

    reporting = asyncio.create_task(report())
    await callers.run(seconds)
    reporting.cancel()
    tell()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]))
