"""One call, and what is noted of it."""

import math
import time

import grpc

from mistralchat._connection import CallMetadata
from mistralchat._duration import seconds
from mistralchat._status import chat_error
from mistralchat.bench.recording import Recording
from mistralchat.v1 import chat_pb2

METHOD = "/mistralchat.v1.ChatService/Chat"
#: In place of a status, for a stream that ended well without a message.
NO_ANSWER = "OK, BUT NO ANSWER"

ChatMethod = grpc.aio.UnaryStreamMultiCallable[bytes, bytes]


class Caller:
    """Makes calls and notes how they went."""

    def __init__(self, timeout: float | None, metadata: CallMetadata, recording: Recording) -> None:
        self._timeout = timeout
        self._metadata = metadata
        self._recording = recording

    async def call(self, method: ChatMethod, request: bytes, due: float | None = None) -> None:
        """One call with a serialized request, which was due at that time by `time.perf_counter`, or now."""
        # The messages stay bytes: for each there is one entry in a list. Only the last is read, at the end.
        received: list[float] = []
        note, clock = received.append, time.perf_counter
        message = b""
        sent = clock()
        try:
            async for message in method(request, timeout=self._timeout, metadata=self._metadata()):  # noqa: B007
                note(clock())
        except grpc.RpcError as error:
            failure = chat_error(error)
            self._failed(failure.code.name, str(failure))
        else:
            if received:
                self._answered(sent if due is None else due, sent, received, clock(), message)
            else:
                self._failed(NO_ANSWER, "the stream ended without a message")

    def _failed(self, status: str, reason: str) -> None:
        self._recording.failures[status] += 1
        self._recording.reasons.setdefault(status, reason)

    def _answered(self, due: float, sent: float, received: list[float], ended: float, last: bytes) -> None:
        recording = self._recording
        response = chat_pb2.ChatResponse.FromString(last)
        timings = response.timings
        recording.due.append(due)
        recording.sent.append(sent)
        recording.ended.append(ended)
        recording.messages.append(len(received))
        recording.received.extend(received)
        recording.prompt_tokens.append(response.usage.prompt_tokens)
        recording.completion_tokens.append(response.usage.completion_tokens)
        recording.queued.append(seconds(timings.queued) if timings.HasField("queued") else math.nan)
        recording.server_time_to_first_token.append(
            seconds(timings.time_to_first_token) if timings.HasField("time_to_first_token") else math.nan
        )
