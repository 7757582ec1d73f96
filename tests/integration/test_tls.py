"""Encryption and callers' certificates, over real connections."""

import datetime
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mistralchat import TLS, AsyncChatClient, ChatClient, PermissionDenied, Unauthenticated, Unavailable
from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server import healthcheck
from mistralchat_server.security import watched

from .conftest import Server, ask, text

_HOUR = datetime.timedelta(hours=1)


@pytest.fixture(autouse=True)
def _look_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watched, "_INTERVAL", -1.0)


class Authority:
    """An authority, and files of what it issues."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        self._ca = trustme.CA()
        self.ca = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.ca))

    def issue(self, name: str, *identities: str, **more: Any) -> dict[str, Any]:
        """Writes NAME.pem and NAME.key. Returns their paths."""
        issued = self._ca.issue_cert(*identities, **more)
        files = {"certificate": self._folder / f"{name}.pem", "private_key": self._folder / f"{name}.key"}
        files["certificate"].write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
        files["private_key"].write_bytes(issued.private_key_pem.bytes())
        return files


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "stranger")


@pytest.fixture
def start(serve: Callable[..., Server], authority: Authority) -> Callable[..., Server]:
    """A server with a certificate; with `mutual`, callers need one too."""

    def start(*, mutual: bool = False, **settings: Any) -> Server:
        files = authority.issue("server", "127.0.0.1", "localhost")
        if mutual:
            files["client_ca"] = authority.ca
        own: dict[str, Any] = authority.issue("prober", common_name="prober") if mutual else {}
        credentials = TLS(authority.ca, **own).credentials()
        return serve(tls=files, credentials=credentials, **settings)

    return start


def test_answers_come_over_tls(start: Callable[..., Server], authority: Authority) -> None:
    server = start()
    with ChatClient(server.address, tls=TLS(authority.ca)) as client:
        assert client.chat("Hello").read() == "Hello"


async def test_and_to_the_asyncio_client(start: Callable[..., Server], authority: Authority) -> None:
    server = start()
    async with AsyncChatClient(server.address, tls=TLS(authority.ca)) as client:
        assert await client.chat("Hello").read() == "Hello"


def _cannot_connect(target: str, tls: bool | TLS) -> None:
    with ChatClient(target, tls=tls, timeout=20) as client, pytest.raises(Unavailable):
        client.model()


def test_a_client_that_trusts_another_authority_does_not_connect(
    start: Callable[..., Server], stranger: Authority
) -> None:
    server = start()
    _cannot_connect(server.address, TLS(stranger.ca))
    _cannot_connect(server.address, tls=True)


def test_a_certificate_for_another_name_is_not_taken(
    serve: Callable[..., Server], authority: Authority
) -> None:
    files = authority.issue("server", "chat.example")
    named = TLS(authority.ca, server_name="chat.example")
    server = serve(tls=files, load=False)
    _cannot_connect(server.address, TLS(authority.ca))
    with ChatClient(server.address, tls=named) as client, pytest.raises(Unavailable, match="being loaded"):
        client.model()


def test_plaintext_to_tls_and_tls_to_plaintext_fail(
    start: Callable[..., Server], replay_server: Server, authority: Authority
) -> None:
    _cannot_connect(start().address, tls=False)
    _cannot_connect(replay_server.address, TLS(authority.ca))


def test_the_certificate_says_who_calls(start: Callable[..., Server], authority: Authority) -> None:
    server = start(mutual=True, access={"cert:alice": ["chat"], "cert:spiffe://mesh/gateway": ["tokens"]})
    alice = TLS(authority.ca, **authority.issue("alice", "alice@chat.example", common_name="alice"))
    bob = TLS(authority.ca, **authority.issue("bob", common_name="bob"))
    nobody = TLS(authority.ca, **authority.issue("nobody", "nobody@chat.example"))
    with ChatClient(server.address, tls=alice) as client:
        assert client.chat("Hello").read() == "Hello"
        assert client.count_tokens("Hello") == 5
    with ChatClient(server.address, tls=bob) as client:
        with pytest.raises(PermissionDenied, match=r"cert:bob may not call mistralchat\.v1\.ChatService"):
            client.model()
        with pytest.raises(PermissionDenied):
            client.chat("Hello").read()
    with (
        ChatClient(server.address, tls=nobody) as client,
        pytest.raises(Unauthenticated, match="names nobody"),
    ):
        client.model()


def test_without_a_certificate_of_the_authority_nobody_connects(
    start: Callable[..., Server], authority: Authority, stranger: Authority
) -> None:
    server = start(mutual=True)
    past = datetime.datetime.now(tz=datetime.UTC) - _HOUR
    _cannot_connect(server.address, TLS(authority.ca))
    _cannot_connect(server.address, TLS(authority.ca, **stranger.issue("eve", common_name="eve")))
    late = authority.issue("late", common_name="late", not_before=past - _HOUR, not_after=past)
    _cannot_connect(server.address, TLS(authority.ca, **late))
    assert server.serving


def _connection(server: Server, ca: Path) -> grpc.Channel:
    """Which shares nothing with others."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.secure_channel(server.address, TLS(ca).credentials(), options)


def _status(server: Server, ca: Path) -> Any:
    with _connection(server, ca) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        return health.Check(health_pb2.HealthCheckRequest(), timeout=20).status


def test_certificates_are_exchanged_while_an_answer_is_running(
    start: Callable[..., Server], authority: Authority, stranger: Authority
) -> None:
    server = start(replay={"step_seconds": 0.005})
    with _connection(server, authority.ca) as channel:
        stub = chat_pb2_grpc.ChatServiceStub(channel)
        stream = stub.Chat(ask("x" * 400, max_completion_tokens=800), timeout=60)
        first = next(iter(stream))
        ours = authority.ca.parent
        theirs = stranger.issue("server", "127.0.0.1")
        theirs["certificate"].replace(ours / "server.pem")
        theirs["private_key"].replace(ours / "server.key")
        assert _status(server, stranger.ca) == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError):
            _status(server, authority.ca)
        assert text([first, *stream]) == "x" * 400
        # The open connection takes further calls, too.
        assert text(list(stub.Chat(ask("Hello"), timeout=60))) == "Hello"


@pytest.mark.parametrize("damage", ["half", "mismatch", "gone", "prose"])
def test_files_that_cannot_be_used_leave_the_old_ones_in_use(
    start: Callable[..., Server], authority: Authority, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    server = start()
    certificate = authority.ca.parent / "server.pem"
    match damage:
        case "half":
            certificate.write_bytes(certificate.read_bytes()[:300])
        case "mismatch":
            authority.issue("other", "127.0.0.1")["certificate"].replace(certificate)
        case "gone":
            certificate.unlink()
        case "prose":
            certificate.write_text("in the middle of something")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert _status(server, authority.ca) == health_pb2.HealthCheckResponse.SERVING
    (record,) = caplog.records
    assert "server.pem" in record.getMessage()
    assert "stays in force" in record.getMessage()
    # The second half arrives.
    authority.issue("server", "127.0.0.1")
    with caplog.at_level(logging.INFO):
        assert _status(server, authority.ca) == health_pb2.HealthCheckResponse.SERVING
    assert "read again" in caplog.text


def test_who_says_nothing_does_not_keep_others_out(
    start: Callable[..., Server], authority: Authority
) -> None:
    server = start()
    with socket.create_connection(("127.0.0.1", server.app.port)) as silent:
        assert _status(server, authority.ca) == health_pb2.HealthCheckResponse.SERVING
        silent.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert _status(server, authority.ca) == health_pb2.HealthCheckResponse.SERVING


def test_the_health_check_of_containers_speaks_tls(
    start: Callable[..., Server], authority: Authority, capsys: pytest.CaptureFixture[str]
) -> None:
    server = start(mutual=True)
    own = authority.issue("kubelet", common_name="kubelet")
    shown = ["--certificate", str(own["certificate"]), "--key", str(own["private_key"])]
    assert healthcheck.main([server.address, "--ca", str(authority.ca), *shown]) == 0
    assert healthcheck.main([server.address, "--ca", str(authority.ca)]) == 1
    assert healthcheck.main([server.address, "--ca", "missing.pem"]) == 1
    assert "missing.pem" in capsys.readouterr().err
