"""What the server tells about itself: the model, token counts, health, and the contract."""

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from mistralchat.v1 import chat_pb2 as pb

from .conftest import Server, answer, user

_SERVING = health_pb2.HealthCheckResponse.SERVING


def test_get_model_describes_the_replay_executor(replay_server: Server) -> None:
    model = replay_server.chat.GetModel(pb.GetModelRequest())
    assert (model.name, model.executor, model.context_length) == ("replay", "replay", 32_768)
    assert model.precision
    assert model.limits == pb.Limits(
        max_beam_width=4, max_batch_size=256, max_messages=1_024, max_bad_words=256, max_stop_words=64
    )
    assert model.server_version == version("mistralchat")


def test_get_model_describes_the_engine(openvino_server: Server) -> None:
    model = openvino_server.chat.GetModel(pb.GetModelRequest())
    assert model.name == "SmolLM2-135M-Instruct.Q4_1"
    assert (model.executor, model.precision, model.context_length) == ("openvino", "Q4_1", 8_192)


@pytest.mark.parametrize("server", ["replay_server", "openvino_server"])
def test_every_parameter_is_either_supported_or_not(server: str, request: pytest.FixtureRequest) -> None:
    chosen: Server = request.getfixturevalue(server)
    model = chosen.chat.GetModel(pb.GetModelRequest())
    supported = set(model.supported_parameters)
    refused = {p.name for p in model.unsupported_parameters if not p.with_beam_search_only}
    with_beams_only = {p.name for p in model.unsupported_parameters if p.with_beam_search_only}
    assert supported | refused == {field.name for field in pb.ChatRequest.DESCRIPTOR.fields} - {"messages"}
    assert not supported & refused
    assert with_beams_only <= supported
    assert all(p.reason for p in model.unsupported_parameters)


def test_the_operators_name_for_the_model_is_told(serve: Callable[..., Server]) -> None:
    server = serve(model_name="mistral-7b", replay={"context_length": 100, "max_beam_width": 2})
    model = server.chat.GetModel(pb.GetModelRequest())
    assert (model.name, model.context_length, model.limits.max_beam_width) == ("mistral-7b", 100, 2)


def test_a_model_is_named_as_its_directory(
    serve: Callable[..., Server], tmp_path: Path, tokenizer_directory: Callable[..., Path]
) -> None:
    server = serve(model=str(tokenizer_directory(tmp_path / "Mistral-7B-Instruct-v0.3")))
    assert server.chat.GetModel(pb.GetModelRequest()).name == "Mistral-7B-Instruct-v0.3"


_CONVERSATIONS = [
    [user("Hello")],
    [user("Zoë 🎉")],
    [user("one"), pb.Message(role=pb.ROLE_ASSISTANT, content="two"), user("three")],
    [pb.Message(role=pb.ROLE_SYSTEM, content="Be kind."), user("Hi")],
    [user("internationalization " * 200)],
]


@pytest.mark.parametrize("server", ["replay_server", "openvino_server"])
@pytest.mark.parametrize("messages", _CONVERSATIONS)
def test_tokens_are_counted_as_a_call_counts_them(
    server: str, messages: list[pb.Message], request: pytest.FixtureRequest
) -> None:
    chosen: Server = request.getfixturevalue(server)
    count = chosen.chat.CountTokens(pb.CountTokensRequest(messages=messages))
    stream = chosen.chat.Chat(pb.ChatRequest(messages=messages, max_completion_tokens=1), timeout=60)
    assert count.prompt_tokens == list(stream)[-1].usage.prompt_tokens
    assert count.context_length == chosen.chat.GetModel(pb.GetModelRequest()).context_length


def test_tokens_that_exceed_the_context_can_be_counted(serve: Callable[..., Server]) -> None:
    server = serve(replay={"context_length": 10})
    count = server.chat.CountTokens(pb.CountTokensRequest(messages=[user("x" * 100)]))
    assert (count.prompt_tokens, count.context_length) == (100, 10)


@pytest.mark.parametrize("service", ["", "mistralchat.v1.ChatService"])
def test_health_is_told_of_the_server_and_of_the_service(replay_server: Server, service: str) -> None:
    response = replay_server.health.Check(health_pb2.HealthCheckRequest(service=service))
    assert response.status == _SERVING


def test_the_health_of_an_unknown_service_is_not_found(replay_server: Server) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        replay_server.health.Check(health_pb2.HealthCheckRequest(service="mistralchat.v2.ChatService"))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


def test_an_unknown_method_is_unimplemented(replay_server: Server) -> None:
    call: Any = replay_server.channel.unary_unary("/mistralchat.v1.ChatService/Complete")
    with pytest.raises(grpc.RpcError) as caught:
        call(b"")
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


def _reflect(
    server: Server, version: str, request: reflection_pb2.ServerReflectionRequest
) -> reflection_pb2.ServerReflectionResponse:
    # Both versions have the same messages.
    ask = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (response,) = ask(iter([request]), timeout=60)
    assert isinstance(response, reflection_pb2.ServerReflectionResponse)
    return response


_VERSIONS = pytest.mark.parametrize("version", ["v1", "v1alpha"])


@_VERSIONS
def test_reflection_lists_the_services(replay_server: Server, version: str) -> None:
    response = _reflect(replay_server, version, reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = {service.name for service in response.list_services_response.service}
    assert listed >= {"mistralchat.v1.ChatService", "grpc.health.v1.Health"}
    assert any(name.startswith("grpc.reflection.") for name in listed)


@_VERSIONS
def test_reflection_gives_out_the_contract(replay_server: Server, version: str) -> None:
    wanted = reflection_pb2.ServerReflectionRequest(file_containing_symbol="mistralchat.v1.ChatService")
    response = _reflect(replay_server, version, wanted)
    files = [
        FileDescriptorProto.FromString(file)
        for file in response.file_descriptor_response.file_descriptor_proto
    ]
    assert "mistralchat/v1/chat.proto" in {file.name for file in files}


def test_reflection_can_be_switched_off(serve: Callable[..., Server]) -> None:
    server = serve(reflection=False)
    with pytest.raises(grpc.RpcError) as caught:
        _reflect(server, "v1alpha", reflection_pb2.ServerReflectionRequest(list_services=""))
    assert isinstance(caught.value, grpc.Call)
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert answer(server)
