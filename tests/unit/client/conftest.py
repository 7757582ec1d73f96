"""A server with canned answers on a free loopback port, for the client's tests."""

# The methods are named by the contract.
# ruff: noqa: N802

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import status_pb2

from mistralchat.v1 import chat_pb2, chat_pb2_grpc

Script = Callable[[chat_pb2.ChatRequest, grpc.ServicerContext], Iterator[chat_pb2.ChatResponse]]

USAGE = chat_pb2.Usage(prompt_tokens=5, completion_tokens=3, total_tokens=8)
TIMINGS = chat_pb2.Timings(
    queued=Duration(nanos=250_000_000), time_to_first_token=Duration(seconds=1), total=Duration(seconds=2)
)
MODEL = chat_pb2.GetModelResponse(
    name="fake-7b",
    context_length=32768,
    precision="Q4_1",
    executor="replay",
    limits=chat_pb2.Limits(max_beam_width=4),
    server_version="0.1.0",
)


def says(*pieces: str) -> Script:
    """An answer in these pieces, complete."""

    def script(request: chat_pb2.ChatRequest, _: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        for piece in pieces:
            yield chat_pb2.ChatResponse(text=piece)
        yield chat_pb2.ChatResponse(finish_reason=chat_pb2.FINISH_REASON_STOP, usage=USAGE, timings=TIMINGS)

    return script


def fails(code: grpc.StatusCode, message: str, *details: Message, after: tuple[str, ...] = ()) -> Script:
    """A failure with details, perhaps after some text."""

    def script(_: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        for piece in after:
            yield chat_pb2.ChatResponse(text=piece)
        context.set_trailing_metadata((("grpc-status-details-bin", packed(code, message, *details)),))
        context.abort(code, message)

    return script


def packed(code: grpc.StatusCode, message: str, *details: Message) -> bytes:
    status = status_pb2.Status(code=code.value[0], message=message)
    for detail in details:
        status.details.add().Pack(detail)
    return bytes(status.SerializeToString())


def packed_raw(type_url: str, value: bytes) -> bytes:
    return bytes(status_pb2.Status(details=[Any(type_url=type_url, value=value)]).SerializeToString())


class FakeChatService(chat_pb2_grpc.ChatServiceServicer):
    """Answers by its `script`; keeps what it was asked."""

    def __init__(self) -> None:
        self.script: Script = says("Hello", ", ", "world")
        self.requests: list[chat_pb2.ChatRequest] = []
        self.metadata: dict[str, str | bytes] = {}
        # Calls that are still to be told UNAVAILABLE, as by a server that is starting.
        self.starting = 0
        self.ended = threading.Event()

    def Chat(
        self, request: chat_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.ChatResponse]:
        self.requests.append(request)
        self.metadata = dict(context.invocation_metadata())
        context.add_callback(self.ended.set)
        return self.script(request, context)

    def GetModel(
        self, request: chat_pb2.GetModelRequest, context: grpc.ServicerContext
    ) -> chat_pb2.GetModelResponse:
        if self.starting:
            self.starting -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "the executor is loading")
        return MODEL

    def CountTokens(
        self, request: chat_pb2.CountTokensRequest, context: grpc.ServicerContext
    ) -> chat_pb2.CountTokensResponse:
        count = sum(len(message.content.split()) for message in request.messages)
        return chat_pb2.CountTokensResponse(prompt_tokens=count, context_length=32768)

    def until_cancelled(
        self, _: chat_pb2.ChatRequest, context: grpc.ServicerContext
    ) -> Iterator[chat_pb2.ChatResponse]:
        """A script: one piece, then silence until the call ends; `ended` tells when."""
        yield chat_pb2.ChatResponse(text="partial")
        self.ended.wait(10)


@contextmanager
def running(service: FakeChatService, port: int = 0) -> Iterator[str]:
    """Serves, and yields the target."""
    # Without SO_REUSEPORT a port in use is an error and not a second server.
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    chat_pb2_grpc.add_ChatServiceServicer_to_server(service, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        service.ended.set()
        server.stop(0).wait(5)


@pytest.fixture
def service() -> FakeChatService:
    return FakeChatService()


@pytest.fixture
def target(service: FakeChatService) -> Iterator[str]:
    with running(service) as target:
        yield target
