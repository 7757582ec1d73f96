"""Each status with its details becomes the exception that tells it."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from mistralchat import (
    AsyncChatClient,
    Cancelled,
    ChatClient,
    ChatError,
    DeadlineExceeded,
    InvalidRequest,
    Overloaded,
    PermissionDenied,
    ServerFault,
    Unauthenticated,
    Unavailable,
    Unsupported,
    Violation,
)
from mistralchat.v1 import chat_pb2

from .conftest import FakeChatService, Script, fails, packed, packed_raw

Code = grpc.StatusCode

BAD_REQUEST = error_details_pb2.BadRequest(
    field_violations=[
        {"field": "temperature", "description": "at most 2"},
        {"field": "top_k", "description": "at least 0"},
    ]
)
RETRY = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000))
QUOTA = error_details_pb2.QuotaFailure(violations=[{"subject": "caller", "description": "share used"}])
UNSUPPORTED = error_details_pb2.ErrorInfo(reason="PARAMETER_NOT_SUPPORTED", metadata={"parameter": "min_p"})
REQUEST = error_details_pb2.RequestInfo(request_id="r-17")


@pytest.fixture(params=["sync", "async"])
def failure(request: pytest.FixtureRequest, service: FakeChatService, target: str):  # type: ignore[no-untyped-def]
    """The error that a call ends with when the server runs a script."""

    async def ask_async() -> None:
        async with AsyncChatClient(target) as client:
            await client.chat("hi").read()

    def ask_sync() -> None:
        with ChatClient(target) as client:
            client.chat("hi").read()

    def failure(script: Script) -> ChatError:
        service.script = script
        with pytest.raises(ChatError) as caught:
            ask_sync() if request.param == "sync" else asyncio.run(ask_async())
        return caught.value

    return failure


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Code.INVALID_ARGUMENT, InvalidRequest),
        (Code.UNIMPLEMENTED, Unsupported),
        (Code.RESOURCE_EXHAUSTED, Overloaded),
        (Code.UNAVAILABLE, Unavailable),
        (Code.DEADLINE_EXCEEDED, DeadlineExceeded),
        (Code.CANCELLED, Cancelled),
        (Code.UNAUTHENTICATED, Unauthenticated),
        (Code.PERMISSION_DENIED, PermissionDenied),
        (Code.INTERNAL, ServerFault),
        (Code.UNKNOWN, ServerFault),
        (Code.OUT_OF_RANGE, ChatError),
    ],
)
def test_the_class_tells_the_status(failure, code: Code, kind: type[ChatError]) -> None:  # type: ignore[no-untyped-def]
    error = failure(fails(code, "the sentence"))
    assert type(error) is kind
    assert (error.code, error.message, error.details) == (code, "the sentence", ())
    assert str(error) == "the sentence"


def test_invalid_request(failure) -> None:  # type: ignore[no-untyped-def]
    error = failure(fails(Code.INVALID_ARGUMENT, "the request is invalid", BAD_REQUEST))
    assert error.violations == [Violation("temperature", "at most 2"), Violation("top_k", "at least 0")]
    assert str(error) == "the request is invalid (temperature: at most 2; top_k: at least 0)"
    assert error.details == (BAD_REQUEST,)


def test_a_sentence_is_not_said_twice(failure) -> None:  # type: ignore[no-untyped-def]
    sentence = "temperature: at most 2; top_k: at least 0"
    assert str(failure(fails(Code.INVALID_ARGUMENT, sentence, BAD_REQUEST))) == sentence


def test_overloaded(failure) -> None:  # type: ignore[no-untyped-def]
    error = failure(fails(Code.RESOURCE_EXHAUSTED, "too many calls are open", RETRY, QUOTA))
    assert error.retry_after == 1.5
    assert error.details == (RETRY, QUOTA)
    assert str(error) == "too many calls are open (retry in 1.5 s)"
    assert failure(fails(Code.RESOURCE_EXHAUSTED, "too large")).retry_after is None


def test_unavailable(failure) -> None:  # type: ignore[no-untyped-def]
    assert failure(fails(Code.UNAVAILABLE, "draining", RETRY)).retry_after == 1.5
    negative = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=-3))
    assert failure(fails(Code.UNAVAILABLE, "draining", negative)).retry_after == 0.0


def test_unsupported(failure) -> None:  # type: ignore[no-untyped-def]
    error = failure(fails(Code.UNIMPLEMENTED, "openvino cannot honour it", UNSUPPORTED))
    assert error.parameter == "min_p"
    assert str(error) == "openvino cannot honour it (min_p)"
    assert failure(fails(Code.UNIMPLEMENTED, "no such method")).parameter is None


def test_server_fault(failure) -> None:  # type: ignore[no-untyped-def]
    error = failure(fails(Code.INTERNAL, "a fault", REQUEST))
    assert error.request_id == "r-17"
    assert str(error) == "a fault (request r-17)"
    assert str(failure(fails(Code.INTERNAL, "a fault, see r-17", REQUEST))) == "a fault, see r-17"


def test_failure_after_some_text(service: FakeChatService, target: str) -> None:
    service.script = fails(Code.INTERNAL, "a fault", REQUEST, after=("one", "two"))
    with ChatClient(target) as client:
        stream = client.chat("hi")
        assert [next(stream), next(stream)] == ["one", "two"]
        with pytest.raises(ServerFault):
            next(stream)
        assert (stream.text, stream.finish_reason) == ("onetwo", None)

    async def ask() -> None:
        async with AsyncChatClient(target) as client:
            stream = client.chat("hi")
            assert [await anext(stream), await anext(stream)] == ["one", "two"]
            with pytest.raises(ServerFault):
                await anext(stream)

    asyncio.run(ask())


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"\xff\xff no protobuf",
        packed_raw("type.googleapis.com/google.rpc.BadRequest", b"\xff\xff"),
        packed_raw("type.googleapis.com/google.rpc.Unheard", b"\x0a\x01x"),
        packed_raw("no url", b""),
        packed_raw("", b""),
        packed(Code.NOT_FOUND, "another status", error_details_pb2.DebugInfo(detail="inside")),
    ],
)
def test_malformed_details_are_left_out(failure, blob: bytes) -> None:  # type: ignore[no-untyped-def]
    def script(_: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        context.set_trailing_metadata((("grpc-status-details-bin", blob),))
        context.abort(Code.INVALID_ARGUMENT, "the sentence")
        yield chat_pb2.ChatResponse()

    error = failure(script)
    assert type(error) is InvalidRequest
    assert (str(error), error.violations, error.details) == ("the sentence", [], ())


def test_no_sentence_at_all(failure) -> None:  # type: ignore[no-untyped-def]
    assert str(failure(fails(Code.INTERNAL, ""))) == "INTERNAL"


def test_no_server() -> None:
    with ChatClient("127.0.0.1:1") as client, pytest.raises(Unavailable) as caught:
        client.count_tokens("hi")
    assert caught.value.retry_after is None
