"""The token-level service over the wire, on the replay executor."""

import hashlib
import threading
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import common_pb2, trtllm_service_pb2_grpc
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

from ...conftest import Server, eventually

_TOKENIZER = byte_tokenizer()
_ENDLESS = tl.SamplingConfig(min_tokens=32_000)


def _stub(server: Server) -> Any:
    return trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)


def _request(text: str = "Hello", **fields: Any) -> tl.GenerateRequest:
    ids = _TOKENIZER.backend.encode(text, add_special_tokens=False).ids
    tokenized = tl.TokenizedInput(input_token_ids=ids)
    defaults: dict[str, Any] = {"request_id": "r", "tokenized": tokenized, "max_tokens": 100}
    return tl.GenerateRequest(**{**defaults, **fields})


def _refusal(call: Any) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as failure:
        list(call)
    return failure.value.code(), str(failure.value.details())


def _text(token_ids: Any) -> str:
    return _TOKENIZER.decode(list(token_ids))


def test_an_answer_streams_and_is_whole_at_the_end(replay_server: Server) -> None:
    *chunks, last = _stub(replay_server).Generate(_request(streaming=True))
    assert _text(token for message in chunks for token in message.chunk.token_ids) == "Hello"
    assert _text(last.complete.output_token_ids) == "Hello"


def test_an_answer_in_one_message(replay_server: Server) -> None:
    (message,) = _stub(replay_server).Generate(_request("a STOP b", stop=["STOP"]))
    assert _text(message.complete.output_token_ids) == "a "


@pytest.mark.parametrize(
    ("fields", "code", "said"),
    [
        ({"max_tokens": 0}, grpc.StatusCode.INVALID_ARGUMENT, "max_tokens: must be at least 1"),
        ({"cache_salt_id": 1}, grpc.StatusCode.UNIMPLEMENTED, "cache_salt_id"),
        ({"bad": ["x"]}, grpc.StatusCode.UNIMPLEMENTED, "bad is not supported"),
        (
            {"sampling_config": tl.SamplingConfig(temperature=1)},
            grpc.StatusCode.UNIMPLEMENTED,
            "temperature is not supported",
        ),
        (
            {"sampling_config": tl.SamplingConfig(min_tokens=200)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "min_tokens: exceeds the 100 tokens that max_tokens",
        ),
        (
            {"tokenized": tl.TokenizedInput(input_token_ids=[1] * 40_000)},
            grpc.StatusCode.INVALID_ARGUMENT,
            "input_token_ids: become 40,000 tokens",
        ),
    ],
)
def test_refusals(replay_server: Server, fields: Any, code: grpc.StatusCode, said: str) -> None:
    found, details = _refusal(_stub(replay_server).Generate(_request(**fields)))
    assert found is code
    assert said in details


def test_methods_without_a_meaning_here_are_unimplemented(replay_server: Server) -> None:
    stub = _stub(replay_server)
    with pytest.raises(grpc.RpcError) as failure:
        stub.Embed(tl.EmbedRequest())
    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED
    code, _ = _refusal(stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()))
    assert code is grpc.StatusCode.UNIMPLEMENTED


def test_abort_ends_a_call_and_frees_its_slot(replay_server: Server) -> None:
    stub = _stub(replay_server)
    call = stub.Generate(_request(streaming=True, max_tokens=32_000, sampling_config=_ENDLESS))
    next(call)
    assert stub.Abort(tl.AbortRequest(request_id="r")).success
    assert _refusal(call)[0] is grpc.StatusCode.CANCELLED
    replay_server.await_idle()
    answer = stub.Abort(tl.AbortRequest(request_id="r"))
    assert (answer.success, answer.message) == (False, "no open request has this id")


def test_abort_reaches_a_call_whose_caller_does_not_read(replay_server: Server) -> None:
    stub = _stub(replay_server)
    call = stub.Generate(_request(streaming=False, max_tokens=32_000, sampling_config=_ENDLESS))
    eventually(lambda: replay_server.executor.open_streams == 1, "the call is open")
    assert stub.Abort(tl.AbortRequest(request_id="r")).success
    assert _refusal(call)[0] is grpc.StatusCode.CANCELLED
    replay_server.await_idle()


def test_a_caller_that_leaves_frees_its_slot(replay_server: Server) -> None:
    call = _stub(replay_server).Generate(
        _request(streaming=True, max_tokens=32_000, sampling_config=_ENDLESS)
    )
    next(call)
    call.cancel()
    replay_server.await_idle()


def test_a_deadline_frees_the_slot(replay_server: Server) -> None:
    request = _request(max_tokens=32_000, sampling_config=_ENDLESS)
    assert _refusal(_stub(replay_server).Generate(request, timeout=0.2))[0] is (
        grpc.StatusCode.DEADLINE_EXCEEDED
    )
    replay_server.await_idle()


def test_chat_and_tokens_share_the_admission(serve: Callable[..., Server]) -> None:
    server = serve(max_open_calls=1)
    chat = server.chat.Chat(
        pb.ChatRequest(
            messages=[pb.Message(role=pb.ROLE_USER, content="x")],
            max_completion_tokens=32_000,
            min_tokens=32_000,
        )
    )
    next(iter(chat))
    assert _refusal(_stub(server).Generate(_request()))[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
    chat.cancel()


def test_while_the_model_loads(serve: Callable[..., Server]) -> None:
    stub = _stub(serve(load=False))
    for call in (
        lambda: stub.HealthCheck(tl.HealthCheckRequest()),
        lambda: stub.GetModelInfo(tl.GetModelInfoRequest()),
        lambda: list(stub.GetTokenizer(common_pb2.GetTokenizerRequest())),
        lambda: list(stub.Generate(_request())),
    ):
        with pytest.raises(grpc.RpcError) as failure:
            call()
        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE
        assert failure.value.details() == "the model is still being loaded"


def test_what_the_server_says_of_itself(replay_server: Server) -> None:
    stub = _stub(replay_server)
    assert stub.HealthCheck(tl.HealthCheckRequest()).status == "OK"
    info = stub.GetModelInfo(tl.GetModelInfoRequest())
    assert (info.model_id, info.max_seq_len, info.vocab_size) == ("replay", 32_768, 257)
    assert list(info.supported_features) == ["beam_search"]
    assert stub.GetServerInfo(tl.GetServerInfoRequest()).backend == "replay"


def test_the_tokenizer_comes_with_its_fingerprint(replay_server: Server) -> None:
    chunks = list(_stub(replay_server).GetTokenizer(common_pb2.GetTokenizerRequest()))
    archive = b"".join(chunk.data for chunk in chunks)
    assert [chunk.sha256 for chunk in chunks] == [""] * (len(chunks) - 1) + [
        hashlib.sha256(archive).hexdigest()
    ]


def test_many_calls_at_once(replay_server: Server) -> None:
    texts = [f"text number {i}" for i in range(32)]
    answers = dict.fromkeys(texts, "")

    def ask(text: str) -> None:
        (message,) = _stub(replay_server).Generate(_request(text, request_id=text))
        answers[text] = _text(message.complete.output_token_ids)

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {text: text for text in texts}
