"""Both clients against a server: what they ask, what they hand on, and how a call ends early."""

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import pytest

import mistralchat
from mistralchat import (
    AsyncChatClient,
    AsyncChatStream,
    Cancelled,
    ChatClient,
    ChatStream,
    DeadlineExceeded,
    FinishReason,
    Unavailable,
)
from mistralchat.v1 import chat_pb2

from .conftest import MODEL, FakeChatService, running, says

Run = Callable[..., tuple[list[str], mistralchat.Answer]]


def run_sync(
    target: str, messages: mistralchat.Messages = "hi", **keywords: object
) -> tuple[list[str], ChatStream]:
    with ChatClient(target) as client:
        stream = client.chat(messages, **keywords)  # type: ignore[arg-type]
        return list(stream), stream


def run_async(
    target: str, messages: mistralchat.Messages = "hi", **keywords: object
) -> tuple[list[str], AsyncChatStream]:
    async def run() -> tuple[list[str], AsyncChatStream]:
        async with AsyncChatClient(target) as client:
            stream = client.chat(messages, **keywords)  # type: ignore[arg-type]
            return [piece async for piece in stream], stream

    return asyncio.run(run())


@pytest.fixture(params=[run_sync, run_async], ids=["sync", "async"])
def run(request: pytest.FixtureRequest) -> Run:
    function: Run = request.param
    return function


def test_text_arrives_in_pieces(run: Run, target: str) -> None:
    pieces, stream = run(target)
    assert pieces == ["Hello", ", ", "world"]
    assert stream.text == "Hello, world"
    assert stream.finish_reason is FinishReason.STOP
    assert stream.stop_word is None
    assert stream.usage == mistralchat.Usage(5, None, 3, 8)
    assert stream.timings == mistralchat.Timings(0.25, 1.0, 2.0)
    assert stream.logprobs == ()
    assert len(stream.beams) == 1


def test_the_request_is_the_one_asked_for(run: Run, service: FakeChatService, target: str) -> None:
    run(target, [("system", "brief"), ("user", "hi")], temperature=0.5, stop_words_list=["END"])
    assert service.requests == [
        chat_pb2.ChatRequest(
            messages=[
                chat_pb2.Message(role=chat_pb2.ROLE_SYSTEM, content="brief"),
                chat_pb2.Message(role=chat_pb2.ROLE_USER, content="hi"),
            ],
            temperature=0.5,
            stop_words_list=["END"],
            max_completion_tokens=512,
        )
    ]


def test_beams(run: Run, service: FakeChatService, target: str) -> None:
    def script(_: chat_pb2.ChatRequest, __: object) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(
            text="best",
            finish_reason=chat_pb2.FINISH_REASON_STOP_WORD,
            stop_word="END",
            logprobs=[chat_pb2.TokenLogprob(token="best", logprob=-0.5)],
        )
        yield chat_pb2.ChatResponse(beam_index=1, finish_reason=chat_pb2.FINISH_REASON_STOP)
        yield chat_pb2.ChatResponse(
            beam_index=2, text="third", finish_reason=chat_pb2.FINISH_REASON_LENGTH, usage=chat_pb2.Usage()
        )

    service.script = script
    pieces, stream = run(target, beam_width=3, logprobs=True)
    assert pieces == ["best", "", "third"]
    assert [beam.text for beam in stream.beams] == pieces
    assert [beam.finish_reason for beam in stream.beams] == [
        FinishReason.STOP_WORD,
        FinishReason.STOP,
        FinishReason.LENGTH,
    ]
    assert (stream.text, stream.stop_word) == ("best", "END")
    assert [entry.token for entry in stream.logprobs] == ["best"]


def test_absent_figures_are_none(run: Run, service: FakeChatService, target: str) -> None:
    def script(_: chat_pb2.ChatRequest, __: object) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(
            text="cut",
            finish_reason=chat_pb2.FINISH_REASON_PROMPT_TRUNCATED,
            usage=chat_pb2.Usage(cached_prompt_tokens=0),
            timings=chat_pb2.Timings(),
        )

    service.script = script
    _, stream = run(target)
    assert stream.timings == mistralchat.Timings(None, None, 0.0)
    assert stream.usage is not None
    assert stream.usage.cached_prompt_tokens == 0


def test_finish_reasons_are_those_of_the_contract() -> None:
    prefix = "FINISH_REASON_"
    assert {prefix + reason.name: reason.value for reason in FinishReason} == dict(
        chat_pb2.FinishReason.items()
    )
    assert FinishReason(99) is FinishReason.UNSPECIFIED


def test_metadata_goes_with_every_call(service: FakeChatService, target: str) -> None:
    with ChatClient(target, metadata={"Authorization": "Bearer x"}) as client:
        client.chat("hi").read()
    assert service.metadata["authorization"] == "Bearer x"
    assert str(service.metadata["user-agent"]).startswith("mistralchat-python/")

    async def ask() -> None:
        async with AsyncChatClient(target, metadata={"authorization": "Bearer y"}) as client:
            await client.chat("hi").read()

    asyncio.run(ask())
    assert service.metadata["authorization"] == "Bearer y"


def test_model_and_count(target: str) -> None:
    with ChatClient(target) as client:
        assert client.model() == MODEL
        assert client.count_tokens("one two three") == 3

    async def ask() -> None:
        async with AsyncChatClient(target) as client:
            assert await client.model() == MODEL
            assert await client.count_tokens([("user", "one two")]) == 2

    asyncio.run(ask())


def test_the_default_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRALCHAT_TARGET", raising=False)
    assert ChatClient().target == "localhost:50051"
    monkeypatch.setenv("MISTRALCHAT_TARGET", "elsewhere:1")
    assert ChatClient().target == "elsewhere:1"
    assert ChatClient("here:2").target == "here:2"


# Leaving early: the server must see the end of the call while the client and its connection live on, and
# the stream too where it is given back: dropping it is a way of its own.


def leave_by_with(client: ChatClient) -> ChatStream:
    with client.chat("hi") as stream:
        assert next(stream) == "partial"
    assert stream.text == "partial"
    return stream


def leave_by_cancel(client: ChatClient) -> ChatStream:
    stream = client.chat("hi")
    assert next(stream) == "partial"
    stream.cancel()
    with pytest.raises(Cancelled):
        next(stream)
    return stream


def leave_by_break(client: ChatClient) -> None:
    for piece in client.chat("hi"):
        assert piece == "partial"
        break


@pytest.mark.parametrize("leave", [leave_by_with, leave_by_cancel, leave_by_break])
def test_leaving_ends_the_call(
    service: FakeChatService, target: str, leave: Callable[[ChatClient], ChatStream | None]
) -> None:
    service.script = service.until_cancelled
    with ChatClient(target) as client:
        _stream = leave(client)
        assert service.ended.wait(3)


async def aleave_by_with(client: AsyncChatClient) -> AsyncChatStream:
    async with client.chat("hi") as stream:
        assert await anext(stream) == "partial"
    assert stream.text == "partial"
    return stream


async def aleave_by_cancel(client: AsyncChatClient) -> AsyncChatStream:
    stream = client.chat("hi")
    assert await anext(stream) == "partial"
    stream.cancel()
    with pytest.raises(Cancelled):
        await anext(stream)
    return stream


async def aleave_by_break(client: AsyncChatClient) -> None:
    async for piece in client.chat("hi"):
        assert piece == "partial"
        break


async def aleave_by_task(client: AsyncChatClient) -> AsyncChatStream:
    stream = client.chat("hi")
    assert await anext(stream) == "partial"
    task = asyncio.create_task(stream.read())
    await asyncio.sleep(0.05)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    return stream


async def aleave_by_timeout(client: AsyncChatClient) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await client.chat("hi").read()


@pytest.mark.parametrize(
    "leave", [aleave_by_with, aleave_by_cancel, aleave_by_break, aleave_by_task, aleave_by_timeout]
)
def test_leaving_ends_the_call_async(
    service: FakeChatService, target: str, leave: Callable[[AsyncChatClient], object]
) -> None:
    service.script = service.until_cancelled

    async def run() -> None:
        async with AsyncChatClient(target) as client:
            _stream = await leave(client)  # type: ignore[misc]
            assert await asyncio.to_thread(service.ended.wait, 3)

    asyncio.run(run())


def test_cancel_from_another_thread(service: FakeChatService, target: str) -> None:
    service.script = service.until_cancelled
    with ChatClient(target) as client:
        stream = client.chat("hi")
        assert next(stream) == "partial"
        threading.Timer(0.1, stream.cancel).start()
        with pytest.raises(Cancelled):
            stream.read()
    assert stream.text == "partial"


def test_closing_the_client_ends_its_calls(service: FakeChatService, target: str) -> None:
    service.script = service.until_cancelled

    async def run() -> None:
        client = AsyncChatClient(target)
        stream = client.chat("hi")
        assert await anext(stream) == "partial"
        await client.close()
        with pytest.raises(Cancelled):
            await stream.read()

    asyncio.run(run())
    assert service.ended.wait(3)

    service.ended.clear()
    client = ChatClient(target)
    stream = client.chat("hi")
    assert next(stream) == "partial"
    client.close()
    with pytest.raises(Cancelled):
        stream.read()
    assert service.ended.wait(3)


def test_deadline_of_a_call(run: Run, service: FakeChatService, target: str) -> None:
    service.script = service.until_cancelled
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        run(target, timeout=0.3)
    assert 0.2 < time.monotonic() - began < 3
    assert service.ended.wait(3)


def test_deadline_of_the_client(service: FakeChatService, target: str) -> None:
    service.script = service.until_cancelled
    with ChatClient(target, timeout=0.2) as client, pytest.raises(DeadlineExceeded):
        client.chat("hi").read()
    assert service.ended.wait(3)
    service.ended.clear()

    async def ask() -> None:
        async with AsyncChatClient(target, timeout=0.2) as client:
            await client.chat("hi").read()

    with pytest.raises(DeadlineExceeded):
        asyncio.run(ask())


@pytest.mark.parametrize("twin", ["sync", "async"])
def test_waits_until_the_server_serves(service: FakeChatService, twin: str) -> None:
    with running(FakeChatService()) as target:
        port = int(target.rpartition(":")[2])
    service.starting = 2
    served = threading.Event()

    def serve() -> None:
        time.sleep(0.3)
        with running(service, port):
            served.wait(10)

    async def wait() -> chat_pb2.GetModelResponse:
        async with AsyncChatClient(target) as client:
            return await client.wait_until_serving(10)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        if twin == "sync":
            with ChatClient(target) as client:
                assert client.wait_until_serving(10) == MODEL
        else:
            assert asyncio.run(wait()) == MODEL
    finally:
        served.set()
        thread.join()
    assert service.starting == 0


def test_does_not_wait_forever(service: FakeChatService) -> None:
    with running(service) as target, ChatClient(target) as client:
        service.starting = 1000
        with pytest.raises(DeadlineExceeded):
            client.wait_until_serving(0.5)
    with ChatClient(target) as client:
        with pytest.raises(DeadlineExceeded):
            client.wait_until_serving(0.3)
        with pytest.raises(Unavailable):
            client.model()


def test_nothing_is_retried(service: FakeChatService, target: str) -> None:
    def script(_: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        context.abort(grpc.StatusCode.UNAVAILABLE, "draining")
        yield chat_pb2.ChatResponse()

    service.script = script
    with ChatClient(target) as client, pytest.raises(Unavailable):
        client.chat("hi").read()
    assert len(service.requests) == 1


def test_a_client_serves_several_calls_at_once(service: FakeChatService, target: str) -> None:
    with ChatClient(target) as client:
        service.script = service.until_cancelled
        with client.chat("one") as waiting:
            assert next(waiting) == "partial"
            service.script = says("two")
            assert client.chat("two").read() == "two"


def surface(kind: type) -> dict[str, object]:
    special = {
        "__aenter__": "__enter__",
        "__aexit__": "__exit__",
        "__aiter__": "__iter__",
        "__anext__": "__next__",
    }
    found: dict[str, object] = {}
    for name, member in inspect.getmembers(kind):
        name = special.get(name, name)
        if name.startswith("_") and name not in {*special.values(), "__init__"}:
            continue
        if isinstance(member, property):
            found[name] = "property"
        elif name.startswith("__") and name != "__init__":
            found[name] = "special"
        else:
            # The twins differ in what is awaited, hence not in the parameters.
            signature = inspect.signature(member)
            found[name] = [
                (parameter.name, parameter.kind, parameter.default, parameter.annotation)
                for parameter in signature.parameters.values()
                if parameter.name != "call"
            ]
    return found


@pytest.mark.parametrize(("one", "other"), [(ChatClient, AsyncChatClient), (ChatStream, AsyncChatStream)])
def test_the_twins_are_equal(one: type, other: type) -> None:
    assert surface(one) == surface(other)
    assert "close" in surface(ChatClient)
    assert "read" in surface(ChatStream)


def test_all_names_are_there() -> None:
    assert all(hasattr(mistralchat, name) for name in mistralchat.__all__)
