"""The bounds below the calls: connections, sizes, headers, pings."""

import contextlib
import gzip
import json
import socket
import struct
from collections.abc import Callable
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server.rpc.limits import Limits

from .conftest import Server, ask, eventually, refusal, user

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ENHANCE_YOUR_CALM = 11


def _frame(kind: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, 0, 0, 0, 0, 0)) + payload


def _raw(server: Server) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", server.app.port), timeout=20)
    with contextlib.suppress(ConnectionError):
        connection.sendall(_PREFACE + _frame(_SETTINGS))
    return connection


def _is_served(server: Server) -> bool:
    with _raw(server) as connection, contextlib.suppress(ConnectionError):
        return bool(connection.recv(1))
    return False


def _frames(connection: socket.socket) -> list[tuple[int, bytes]]:
    """All until the other side ends the connection."""
    data = b""
    try:
        while part := connection.recv(65_536):
            data += part
    except ConnectionError:
        pass
    frames = []
    while len(data) >= 9:
        length = int.from_bytes(data[:3])
        frames.append((data[3], data[9 : 9 + length]))
        data = data[9 + length :]
    return frames


def test_a_flood_of_pings_ends_the_connection(replay_server: Server) -> None:
    with _raw(replay_server) as connection:
        connection.sendall(_frame(_PING, b"12345678") * 10)
        reasons = [int.from_bytes(payload[4:8]) for kind, payload in _frames(connection) if kind == _GOAWAY]
    assert reasons[-1:] == [_ENHANCE_YOUR_CALM]
    replay_server.chat.GetModel(pb.GetModelRequest())


def test_connections_beyond_the_limit_are_closed(serve: Callable[..., Server]) -> None:
    # One is the server fixture's own.
    server = serve(load=False, limits={"connections": 3})
    server.serving  # noqa: B018
    with _raw(server) as first, _raw(server) as second:
        assert first.recv(1)
        assert second.recv(1)
        with _raw(server) as third:
            assert _frames(third) == []
    eventually(lambda: _is_served(server), "connections that have ended do not count")


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_request_beyond_the_limit_is_refused_before_it_is_unpacked(
    serve: Callable[..., Server], compression: grpc.Compression
) -> None:
    server = serve(load=False, limits={"message_bytes": 100_000})
    request = pb.CountTokensRequest(messages=[user("x" * 5_000_000)])
    assert len(gzip.compress(request.SerializeToString())) < 100_000
    failed = refusal(lambda: server.chat.CountTokens(request, compression=compression))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_headers_beyond_the_limit_are_refused(replay_server: Server) -> None:
    # Closes its connection with the next ones it refuses, so it gets one of its own.
    with grpc.insecure_channel(replay_server.address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        stub.GetModel(pb.GetModelRequest(), metadata=(("x-padding", "x" * 4_000),))
        failed = refusal(lambda: stub.GetModel(pb.GetModelRequest(), metadata=(("x-padding", "x" * 40_000),)))
    assert failed.code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_a_connection_of_age_takes_no_new_calls_and_cuts_no_answer(serve: Callable[..., Server]) -> None:
    server = serve(limits={"connection_age_seconds": 0.2}, replay={"step_seconds": 0.005})
    request = pb.ChatRequest(messages=[user("x" * 200)], max_completion_tokens=400)
    text = "".join(message.text for message in server.chat.Chat(request, timeout=60))
    assert text == "x" * 200


def test_a_conversation_is_bounded_in_characters(replay_server: Server) -> None:
    most = "x" * (1_048_576 - 1)
    count = replay_server.chat.CountTokens(pb.CountTokensRequest(messages=[user("y"), user(most)]))
    assert count.prompt_tokens >= 1_048_576
    failed = refusal(
        lambda: replay_server.chat.CountTokens(pb.CountTokensRequest(messages=[user("yy"), user(most)]))
    )
    assert failed.fields == ["messages"]
    assert "1,048,576 characters" in failed.message


def test_a_schema_that_would_hold_up_all_others_is_refused(openvino_server: Server) -> None:
    schema: dict[str, Any] = {"type": "string", "const": "x"}
    for _ in range(9):
        schema = {"anyOf": [schema, {"type": "array", "items": schema}]}
    form = pb.ResponseFormat(json_schema=json.dumps(schema))
    failed = refusal(lambda: list(openvino_server.chat.Chat(ask(response_format=form), timeout=60)))
    assert failed.fields == ["response_format.json_schema"]
    assert "keep all others waiting" in failed.message or "takes too long" in failed.message


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"message_bytes": 10}, {"streams_per_connection": 0}, {"pings": 1}]
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Limits(**wrong)
