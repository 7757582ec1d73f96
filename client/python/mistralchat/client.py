"""The synchronous client."""

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

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
from mistralchat.errors import DeadlineExceeded, Unavailable
from mistralchat.messages import Messages, wire_messages
from mistralchat.parameters import ChatParameters, chat_request
from mistralchat.tls import TLS
from mistralchat.v1 import chat_pb2, chat_pb2_grpc

if TYPE_CHECKING:
    from grpc import _CallIterator


class ChatStream(Answer, Iterator[str]):
    """An answer that is arriving: iterate for its text, piece by piece.

    With `beam_width` above 1 each piece is the whole text of one beam, best first. What has arrived is
    also kept: `text`, `beams`, and at the end `finish_reason`, `usage` and `timings`.

    Leaving early ends the call, so that the server stops generating: use it in a `with` statement, or call
    `cancel`, or drop the last reference to it. Iteration raises a `ChatError` where the call fails.
    """

    def __init__(self, request: chat_pb2.ChatRequest, call: "_CallIterator[chat_pb2.ChatResponse]") -> None:
        super().__init__(request)
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        try:
            for response in self._call:
                text = self._take(response)
                if text is not None:
                    return text
        except grpc.RpcError as error:
            raise chat_error(error) from error
        raise StopIteration

    def read(self) -> str:
        """Waits for the end of the answer and returns `text`, the whole of the best beam."""
        for _ in self:
            pass
        return self.text

    def cancel(self) -> None:
        """Ends the call. Further iteration raises `Cancelled`; what has arrived stays."""
        self._call.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cancel()


class ChatClient:
    """A connection to one mistralchat server, made when it is first needed. Threads can share it.

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
            self._channel = grpc.insecure_channel(self._target, options)
        else:
            self._channel = grpc.secure_channel(self._target, credentials, options)
        self._stub = chat_pb2_grpc.ChatServiceStub(self._channel)

    @property
    def target(self) -> str:
        """Where this client connects to."""
        return self._target

    def chat(
        self, messages: Messages, *, timeout: float | None = None, **parameters: Unpack[ChatParameters]
    ) -> ChatStream:
        """Asks for an answer to a question or a conversation; `ChatParameters` lists the keywords.

        `timeout` bounds the whole answer, in seconds. Raises TypeError or ValueError for what no request can
        carry; everything else is the server's to refuse, while the answer is read.
        """
        request = chat_request(messages, parameters)
        return ChatStream(request, self._stub.Chat(request, self._deadline(timeout), self._metadata()))

    def model(self, *, timeout: float | None = None) -> chat_pb2.GetModelResponse:
        """The loaded model, its limits and the parameters that it honours. Raises `ChatError`."""
        return self._model(self._deadline(timeout))

    def count_tokens(self, messages: Messages, *, timeout: float | None = None) -> int:
        """How many tokens the conversation becomes as a prompt. Raises `ChatError`."""
        request = chat_pb2.CountTokensRequest(messages=wire_messages(messages))
        try:
            return self._stub.CountTokens(request, self._deadline(timeout), self._metadata()).prompt_tokens
        except grpc.RpcError as error:
            raise chat_error(error) from error

    def wait_until_serving(self, timeout: float = 60.0) -> chat_pb2.GetModelResponse:
        """Waits until the server is there and ready, at most `timeout` seconds, and returns its model.

        Raises `DeadlineExceeded` if it is not by then, any other `ChatError` at once.
        """
        end = time.monotonic() + timeout
        while True:
            try:
                return self._model(max(0.0, end - time.monotonic()), wait_for_ready=True)
            except Unavailable as error:
                if time.monotonic() >= end:
                    raise DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, str(error)) from error
                time.sleep(pause_before_retry(error, end - time.monotonic()))

    def close(self) -> None:
        """Ends all open calls and the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _model(self, timeout: float | None, wait_for_ready: bool = False) -> chat_pb2.GetModelResponse:
        request = chat_pb2.GetModelRequest()
        try:
            return self._stub.GetModel(request, timeout, self._metadata(), wait_for_ready=wait_for_ready)
        except grpc.RpcError as error:
            raise chat_error(error) from error

    def _deadline(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
