"""The asyncio client, a twin of the synchronous one."""

# A timeout here is the call's deadline, which the server is told; asyncio.timeout is not.
# ruff: noqa: ASYNC109

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Self, Unpack

import grpc

from mistralchat._connection import (
    CallMetadata,
    Token,
    channel_credentials,
    channel_options,
    pause_before_retry,
    target_or_default,
)
from mistralchat._status import chat_error
from mistralchat.answer import Answer
from mistralchat.errors import Cancelled, DeadlineExceeded, Unavailable
from mistralchat.messages import Messages, wire_messages
from mistralchat.parameters import ChatParameters, chat_request
from mistralchat.tls import TLS
from mistralchat.v1 import chat_pb2, chat_pb2_grpc


@contextmanager
def _chat_errors() -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        raise chat_error(error) from error
    except asyncio.CancelledError as error:
        # grpc.aio says this both for a task that is being cancelled and for a call that was ended here.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Cancelled(grpc.StatusCode.CANCELLED, "the call was cancelled here") from error


class AsyncChatStream(Answer, AsyncIterator[str]):
    """An answer that is arriving: iterate for its text, piece by piece.

    With `beam_width` above 1 each piece is the whole text of one beam, best first. What has arrived is
    also kept: `text`, `beams`, and at the end `finish_reason`, `usage` and `timings`.

    Leaving early ends the call, so that the server stops generating: use it in an `async with` statement,
    or call `cancel`, or cancel the task that reads it, or drop the last reference to it. Iteration raises
    a `ChatError` where the call fails.
    """

    def __init__(
        self,
        request: chat_pb2.ChatRequest,
        call: "grpc.aio.UnaryStreamCall[chat_pb2.ChatRequest, chat_pb2.ChatResponse]",
    ) -> None:
        super().__init__(request)
        self._call = call

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        with _chat_errors():
            # Not `async for`: its generator, asked again after a failure, ends as after a whole answer.
            while isinstance(response := await self._call.read(), chat_pb2.ChatResponse):
                text = self._take(response)
                if text is not None:
                    return text
        raise StopAsyncIteration

    async def read(self) -> str:
        """Waits for the end of the answer and returns `text`, the whole of the best beam."""
        async for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Ends the call. Further iteration raises `Cancelled`; what has arrived stays."""
        self._call.cancel()

    def __del__(self) -> None:
        # grpc.aio's own tasks hold the call, so that it does not end when nobody reads it any more.
        self.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()


class AsyncChatClient:
    """A connection to one mistralchat server, made when it is first needed. Make it inside the event loop.

    `target` is HOST:PORT or any gRPC target; by default the environment variable MISTRALCHAT_TARGET, or else
    localhost:50051. With `tls` the connection is encrypted; `TLS` says what to trust and what to show.
    `credentials`, instead, are gRPC's own. `token` is the bearer token that identifies the caller, or a
    function that returns the current one; do not send it unencrypted over a network. `timeout` is the
    default of every call, in seconds; None waits for as long as it takes. `metadata` goes with every call.

    Nothing is retried behind the caller's back; `Unavailable` and `Overloaded` say after how many seconds
    to ask again.
    """

    def __init__(
        self,
        target: str | None = None,
        *,
        tls: bool | TLS = False,
        token: Token | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        self._target = target_or_default(target)
        self._timeout = timeout
        self._metadata = CallMetadata(metadata, token)
        credentials, options = channel_credentials(credentials, tls), channel_options(tls)
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(self._target, options)
        else:
            self._channel = grpc.aio.secure_channel(self._target, credentials, options)
        self._stub = chat_pb2_grpc.ChatServiceStub(self._channel)

    @property
    def target(self) -> str:
        """Where this client connects to."""
        return self._target

    def chat(
        self, messages: Messages, *, timeout: float | None = None, **parameters: Unpack[ChatParameters]
    ) -> AsyncChatStream:
        """Asks for an answer to a question or a conversation; `ChatParameters` lists the keywords.

        `timeout` bounds the whole answer, in seconds. Raises TypeError or ValueError for what no request can
        carry; everything else is the server's to refuse, while the answer is read.
        """
        request = chat_request(messages, parameters)
        call = self._stub.Chat(request, timeout=self._deadline(timeout), metadata=self._metadata())
        return AsyncChatStream(request, call)

    async def model(self, *, timeout: float | None = None) -> chat_pb2.GetModelResponse:
        """The loaded model, its limits and the parameters that it honours. Raises `ChatError`."""
        return await self._model(self._deadline(timeout))

    async def count_tokens(self, messages: Messages, *, timeout: float | None = None) -> int:
        """How many tokens the conversation becomes as a prompt. Raises `ChatError`."""
        request = chat_pb2.CountTokensRequest(messages=wire_messages(messages))
        with _chat_errors():
            response = await self._stub.CountTokens(
                request, timeout=self._deadline(timeout), metadata=self._metadata()
            )
        return response.prompt_tokens

    async def wait_until_serving(self, timeout: float = 60.0) -> chat_pb2.GetModelResponse:
        """Waits until the server is there and ready, at most `timeout` seconds, and returns its model.

        Raises `DeadlineExceeded` if it is not by then, any other `ChatError` at once.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return await self._model(max(0.0, end - time.monotonic()), wait_for_ready=True)
            except Unavailable as error:
                if time.monotonic() >= end:
                    raise DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, str(error)) from error
                await asyncio.sleep(pause_before_retry(error, end - time.monotonic()))

    async def close(self) -> None:
        """Ends all open calls and the connection."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _model(self, timeout: float | None, wait_for_ready: bool = False) -> chat_pb2.GetModelResponse:
        request = chat_pb2.GetModelRequest()
        with _chat_errors():
            return await self._stub.GetModel(
                request, timeout=timeout, metadata=self._metadata(), wait_for_ready=wait_for_ready
            )

    def _deadline(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
