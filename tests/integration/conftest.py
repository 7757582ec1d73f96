"""Questions to ask of a server, and what is to be learnt of a refusal."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server.text.byte_tokenizer import byte_tokenizer

from ..conftest import Server, eventually
from .command import Command

__all__ = ["Refusal", "Server", "answer", "ask", "eventually", "refusal", "text", "user"]

#: What an error text would hold if it told of the inside: paths, sources, engines, exceptions.
_INSIDE = ("/", "Traceback", ".py", ".cc", ".cpp", "Check failed", "openvino", "xgrammar", "Exception")
_DETAILS = (
    error_details_pb2.BadRequest,
    error_details_pb2.ErrorInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.RequestInfo,
    error_details_pb2.RetryInfo,
)


class Refusal(NamedTuple):
    """How a call failed."""

    code: grpc.StatusCode
    message: str
    details: dict[str, Any]  # by the name of their type

    @property
    def fields(self) -> list[str]:
        """Those that broke a rule."""
        if "BadRequest" not in self.details:
            return []
        return sorted(violation.field for violation in self.details["BadRequest"].field_violations)

    @property
    def retry_seconds(self) -> float:
        return float(self.details["RetryInfo"].retry_delay.ToNanoseconds() / 1e9)


def user(content: str) -> pb.Message:
    return pb.Message(role=pb.ROLE_USER, content=content)


def ask(content: str = "Hello", **fields: Any) -> pb.ChatRequest:
    """A request with one message."""
    return pb.ChatRequest(messages=[user(content)], **fields)


def answer(server: Server, content: str = "Hello", **fields: Any) -> list[pb.ChatResponse]:
    """The messages that answer `ask(content, **fields)`."""
    return list(server.chat.Chat(ask(content, **fields), timeout=60))


def text(messages: list[pb.ChatResponse], beam_index: int = 0) -> str:
    return "".join(message.text for message in messages if message.beam_index == beam_index)


def refusal(call: Callable[[], object]) -> Refusal:
    """How the call fails. Whatever the failure, its text must not tell of the server's inside."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error = caught.value
    assert isinstance(error, grpc.Call)
    message, status = error.details() or "", status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
            assert (status.code, status.message) == (error.code().value[0], message)
    details = dict(_unpacked(detail) for detail in status.details)
    told = [message, *(said for detail in details.values() for said in _strings(detail))]
    assert not [(part, said) for part in _INSIDE for said in told if part in said]
    return Refusal(error.code(), message, details)


def _unpacked(detail: Any) -> tuple[str, Message]:
    for kind in _DETAILS:
        if detail.Is(kind.DESCRIPTOR):
            unpacked = kind()
            detail.Unpack(unpacked)
            return kind.DESCRIPTOR.name, unpacked
    pytest.fail(f"an unknown detail: {detail.type_url}")


def _strings(detail: Any) -> list[str]:
    match detail:
        case error_details_pb2.BadRequest():
            return [violation.description for violation in detail.field_violations]
        case error_details_pb2.QuotaFailure():
            return [violation.description for violation in detail.violations]
        case error_details_pb2.ErrorInfo():
            return list(detail.metadata.values())
        case _:
            return []


@pytest.fixture
def tokenizer_directory() -> Callable[..., Path]:
    """Writes the byte tokenizer's files, as if downloaded, with another template."""

    def write(path: Path, template: str = "{{ messages[-1]['content'] }}") -> Path:
        path.mkdir(exist_ok=True)
        byte_tokenizer().backend.save(str(path / "tokenizer.json"))
        config = {"eos_token": "<|end|>", "chat_template": template}
        (path / "tokenizer_config.json").write_text(json.dumps(config))
        return path

    return write


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts the command; whatever is left of it ends with the test."""
    commands: list[Command] = []

    def start(*arguments: str, **options: str) -> Command:
        # A short name: the path of a socket is bounded to some hundred characters.
        commands.append(Command(tmp_path_factory.mktemp("c"), *arguments, **options))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()
