"""Bearer tokens, what they allow, and what is open without."""

import json
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from smg_grpc_proto.generated import trtllm_service_pb2 as tl
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat import ChatClient, ChatError, PermissionDenied, Unauthenticated
from mistralchat.cli import main as cli
from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.executor.seam import StartError
from mistralchat_server.rpc.caller import caller
from mistralchat_server.rpc.chat import ChatService
from mistralchat_server.security import watched
from mistralchat_server.security.keys import line, new_key

from .conftest import Server, ask, refusal, user

_ALICE, _GATEWAY = new_key(), new_key()
_SIGNER = ed25519.Ed25519PrivateKey.generate()


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text(f"{line('alice', _ALICE)}\n{line('gateway', _GATEWAY)}\n")
    return path


@pytest.fixture
def jwks(tmp_path: Path) -> dict[str, Any]:
    path = tmp_path / "jwks.json"
    key = jwt.algorithms.OKPAlgorithm.to_jwk(_SIGNER.public_key(), as_dict=True)
    path.write_text(json.dumps({"keys": [{**key, "kid": "one"}]}))
    return {"jwks": path, "issuer": "https://issuer.example", "audience": "mistralchat"}


def _jwt(subject: str, seconds: float = 60) -> str:
    claims = {
        "iss": "https://issuer.example",
        "aud": "mistralchat",
        "sub": subject,
        "exp": time.time() + seconds,
    }
    return jwt.encode(claims, _SIGNER, "EdDSA", {"kid": "one"})


def _metadata(token: str) -> tuple[tuple[str, str]]:
    return (("authorization", f"Bearer {token}"),)


def test_a_key_lets_its_owner_call(serve: Callable[..., Server], keys: Path) -> None:
    server = serve(keys=keys)
    with ChatClient(server.address, token=_ALICE) as client:
        assert client.chat("Hello").read() == "Hello"
        assert client.model().name == "replay"


def test_so_does_a_json_web_token(serve: Callable[..., Server], keys: Path, jwks: dict[str, Any]) -> None:
    server = serve(keys=keys, jwt=jwks)
    for token in (_ALICE, _jwt("bob")):
        with ChatClient(server.address, token=token) as client:
            assert client.chat("Hello").read() == "Hello"
    late = ChatClient(server.address, token=_jwt("bob", -100))
    with late, pytest.raises(Unauthenticated, match="the token has expired"):
        late.model()


def test_the_service_knows_who_calls(
    serve: Callable[..., Server], jwks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    async def count_tokens(self: ChatService, request: Any, context: Any) -> Any:
        seen.append(caller(context))
        return pb.CountTokensResponse()

    async def chat(self: ChatService, request: Any, context: Any) -> AsyncIterator[Any]:
        seen.append(caller(context))
        yield pb.ChatResponse()

    monkeypatch.setattr(ChatService, "CountTokens", count_tokens)
    monkeypatch.setattr(ChatService, "Chat", chat)
    server = serve(jwt=jwks, load=False)
    for name in ("alice", "bob"):
        with ChatClient(server.address, token=_jwt(name)) as client:
            client.count_tokens("Hello")
            client.chat("Hello").read()
    assert seen == ["identity:jwt:alice", "identity:jwt:alice", "identity:jwt:bob", "identity:jwt:bob"]


_WRONG = [
    (),
    (("authorization", ""),),
    (("authorization", _ALICE),),
    (("authorization", f"Basic {_ALICE}"),),
    (("authorization", "Bearer"),),
    (("authorization", "Bearer "),),
    *(_metadata(wrong) for wrong in (new_key(), _ALICE[:-1], _ALICE.lower(), "mck_", "a.b.c", "x" * 4_000)),
    (*_metadata(_ALICE), *_metadata(_ALICE)),
    (*_metadata("wrong"), *_metadata(_ALICE)),
    (("x-authorization", f"Bearer {_ALICE}"),),
]


def test_without_a_valid_token_every_call_is_unauthenticated(
    serve: Callable[..., Server], keys: Path
) -> None:
    server = serve(keys=keys)
    tokens = trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)
    unknown: Any = server.channel.unary_unary("/mistralchat.v1.ChatService/Complete")
    reflect: Any = server.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    calls: list[Callable[[Any], object]] = [
        lambda metadata: server.chat.GetModel(pb.GetModelRequest(), metadata=metadata),
        lambda metadata: list(server.chat.Chat(ask(), metadata=metadata)),
        lambda metadata: list(tokens.Generate(tl.GenerateRequest(), metadata=metadata)),
        lambda metadata: unknown(b"", metadata=metadata),
        lambda metadata: list(reflect(iter([b""]), metadata=metadata)),
    ]
    told = set()
    for metadata in _WRONG:
        for call in calls:
            failed = refusal(lambda call=call, metadata=metadata: call(metadata))  # type: ignore[misc]
            assert failed.code is grpc.StatusCode.UNAUTHENTICATED
            told.add(failed.message)
    # Nothing else: not whether there is such a name, or how near a token was.
    assert told == {
        "send one header `authorization: Bearer TOKEN` with the call",
        "the authorization is not valid",
    }
    assert refusal(lambda: unknown(b"", metadata=_metadata(_ALICE))).code is grpc.StatusCode.UNIMPLEMENTED


def test_the_scheme_is_taken_in_any_case(serve: Callable[..., Server], keys: Path) -> None:
    server = serve(keys=keys)
    server.chat.GetModel(pb.GetModelRequest(), metadata=(("authorization", f"BEARER  {_ALICE}"),))


def test_a_refused_request_is_not_read(serve: Callable[..., Server], keys: Path) -> None:
    server = serve(keys=keys)
    request = pb.CountTokensRequest(messages=[user("x" * 20_000_000)])
    assert refusal(lambda: server.chat.CountTokens(request)).code is grpc.StatusCode.UNAUTHENTICATED


def test_health_is_open_to_probes(serve: Callable[..., Server], keys: Path) -> None:
    server = serve(keys=keys)
    assert server.serving
    watching = server.health.Watch(health_pb2.HealthCheckRequest())
    assert next(iter(watching)).status == health_pb2.HealthCheckResponse.SERVING
    watching.cancel()


def test_keys_are_exchanged_while_running(
    serve: Callable[..., Server], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "_INTERVAL", -1.0)
    server = serve(keys=keys)
    new, current = new_key(), [_ALICE]
    with ChatClient(server.address, token=lambda: current[0]) as client:
        client.model()
        keys.write_text(line("alice", new))
        with pytest.raises(Unauthenticated):
            client.model()
        current[0] = new
        client.model()
        # In the middle of being written.
        keys.write_text(line("alice", _ALICE)[:30])
        client.model()


_ACCESS = {"key:gateway": ["tokens"], "key:*": ["chat"]}


def test_an_identity_calls_what_it_may(
    serve: Callable[..., Server], keys: Path, jwks: dict[str, Any]
) -> None:
    server = serve(keys=keys, jwt=jwks, access=_ACCESS)
    tokens = trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)
    with ChatClient(server.address, token=_ALICE) as client:
        assert client.chat("Hello").read() == "Hello"
    tokens.HealthCheck(tl.HealthCheckRequest(), metadata=_metadata(_GATEWAY))
    denied = refusal(lambda: tokens.HealthCheck(tl.HealthCheckRequest(), metadata=_metadata(_ALICE)))
    assert denied.code is grpc.StatusCode.PERMISSION_DENIED
    assert denied.message == "key:alice may not call trtllm.TrtllmService"
    assert denied.details["ErrorInfo"].metadata["identity"] == "key:alice"
    # A subject that calls itself by a key's name is somebody else.
    for token in (_GATEWAY, _jwt("alice"), _jwt("key:alice")):
        with ChatClient(server.address, token=token) as client, pytest.raises(PermissionDenied):
            client.model()


def _reflects(channel: grpc.Channel) -> bool:
    ask = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    answers = ask(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=60)
    try:
        return bool(list(answers))
    except grpc.RpcError:
        if answers.code() is not grpc.StatusCode.UNIMPLEMENTED:
            raise
        return False


@pytest.mark.parametrize(
    ("settings", "reflects"),
    [
        ({}, True),
        ({"reflection": False}, False),
        ({"listen": "0.0.0.0:0", "insecure_listen": True}, False),
        ({"listen": "0.0.0.0:0", "insecure_listen": True, "reflection": True}, True),
    ],
)
def test_reflection_is_for_this_machine_unless_asked_for(
    serve: Callable[..., Server], settings: dict[str, Any], reflects: bool
) -> None:
    assert _reflects(serve(load=False, **settings).channel) is reflects


@pytest.mark.parametrize(
    "service", ["grpc.channelz.v1.Channelz", "envoy.service.status.v3.ClientStatusDiscoveryService"]
)
def test_there_is_no_debugging_service(replay_server: Server, service: str) -> None:
    call: Any = replay_server.channel.unary_unary(f"/{service}/GetServers")
    assert refusal(lambda: call(b"")).code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0"])
@pytest.mark.parametrize("with_keys", [False, True])
def test_it_does_not_listen_to_others_unprotected(
    serve: Callable[..., Server], keys: Path, listen: str, with_keys: bool
) -> None:
    protection = {"keys": keys} if with_keys else {}
    lacks = "has no TLS\\." if with_keys else "has no TLS and no credentials\\."
    with pytest.raises(StartError, match=lacks):
        serve(load=False, listen=listen, **protection)
    with pytest.raises(StartError, match="no TLS and no credentials"):
        serve(load=False, token_listen=listen, **protection)


def test_a_name_without_an_address_is_told(serve: Callable[..., Server]) -> None:
    with pytest.raises(StartError, match="no address"):
        serve(load=False, listen="no-such-name.invalid:0")


def test_the_token_level_service_has_a_listener_of_its_own(serve: Callable[..., Server], keys: Path) -> None:
    server = serve(keys=keys, token_listen="127.0.0.1:0")
    _, address = server.app.addresses
    with grpc.insecure_channel(address) as channel:
        tokens = trtllm_service_pb2_grpc.TrtllmServiceStub(channel)
        # As the gateway calls: without credentials.
        assert tokens.HealthCheck(tl.HealthCheckRequest()).status == "OK"
        chat: Any = channel.unary_unary("/mistralchat.v1.ChatService/GetModel")
        assert refusal(lambda: chat(b"")).code is grpc.StatusCode.UNIMPLEMENTED
        assert _reflects(channel)
    elsewhere = trtllm_service_pb2_grpc.TrtllmServiceStub(server.channel)
    absent = refusal(lambda: elsewhere.HealthCheck(tl.HealthCheckRequest(), metadata=_metadata(_ALICE)))
    assert absent.code is grpc.StatusCode.UNIMPLEMENTED


def test_it_listens_on_a_socket(serve: Callable[..., Server], tmp_path: Path) -> None:
    path = tmp_path / "socket"
    server = serve(load=False, listen=f"unix:{path}")
    with ChatClient(f"unix:{path}") as client, pytest.raises(ChatError, match="being loaded"):
        client.model()
    server.stop()
    assert not path.exists()


def test_the_command_line_sends_a_token(
    serve: Callable[..., Server],
    keys: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = serve(keys=keys)
    ask = ["chat", "--target", server.address, "Hello"]
    assert cli(ask) == 1
    assert "authorization" in capsys.readouterr().err
    (tmp_path / "token").write_text(f"{_ALICE}\n")
    assert cli([*ask, "--token-file", str(tmp_path / "token")]) == 0
    monkeypatch.setenv("MISTRALCHAT_TOKEN", _ALICE)
    assert cli(ask) == 0
    assert capsys.readouterr().out == "Hello\nHello\n"
    for wrong in (["--token-file", str(tmp_path / "none")], ["--ca", str(tmp_path / "none")], ["--key", "a"]):
        with pytest.raises(SystemExit) as caught:
            cli([*ask, *wrong])
        assert caught.value.code == 2
