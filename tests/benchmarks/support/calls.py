"""Clients that cost little: gRPC calls whose messages stay bytes, and completions over HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import grpc

from mistralchat.v1 import chat_pb2 as pb

if TYPE_CHECKING:
    # Generic for a type checker only.
    ChatCall = grpc.aio.UnaryStreamCall[pb.ChatRequest, bytes]

_METHOD = "/mistralchat.v1.ChatService/Chat"


def replay_request(text: str, tokens: int, tokens_per_message: int | None = None) -> pb.ChatRequest:
    """Asks the replay executor to repeat `text`, each of its bytes a token, up to so many tokens."""
    return pb.ChatRequest(
        messages=[pb.Message(role=pb.ROLE_USER, content=text)],
        max_completion_tokens=tokens,
        min_tokens=tokens,
        stream_options=pb.StreamOptions(max_tokens_per_message=tokens_per_message),
    )


class Connections:
    """Some connections to one server, which calls use in turn."""

    def __init__(self, channels: list[grpc.aio.Channel]) -> None:
        self._methods: Iterator[Any] = cycle(
            [
                channel.unary_stream(
                    _METHOD, request_serializer=pb.ChatRequest.SerializeToString, response_deserializer=None
                )
                for channel in channels
            ]
        )

    def chat(self, request: pb.ChatRequest) -> "ChatCall":
        """One call; its messages are serialized `ChatResponse`s."""
        call: ChatCall = next(self._methods)(request)
        return call


@asynccontextmanager
async def connections(target: str, count: int) -> AsyncIterator[Connections]:
    """Connects for the length of a `with`, each time anew."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.aio.insecure_channel(target, options) for _ in range(count)]
    try:
        yield Connections(channels)
    finally:
        await asyncio.gather(*(channel.close() for channel in channels))


async def completion_lines(port: int, body: dict[str, Any]) -> AsyncIterator[bytes]:
    """The lines of a streamed ChatCompletions response. Raises OSError where nobody listens."""
    data = json.dumps({**body, "stream": True}).encode()
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
        f"content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
    )
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(head.encode() + data)
        async for line in reader:
            yield line
    finally:
        writer.close()
