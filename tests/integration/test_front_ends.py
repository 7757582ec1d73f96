"""Several front ends on one port, with one executor."""

import os
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc

from .command import REPLAY, Command
from .conftest import ask, eventually, refusal, text

_FRONT_ENDS = ["--front-ends", "2"]
#: Enough for the kernel to give each front end some, but for one time in a million.
_CONNECTIONS = 20
_PATIENCE = 60


def _siblings(command: Command) -> list[int]:
    lines = {pid: Path(f"/proc/{pid}/cmdline").read_bytes() for pid in command.executors()}
    return [pid for pid, line in lines.items() if b"mistralchat_server.siblings" in line]


def _end(head: list[pb.ChatResponse], stream: Iterator[pb.ChatResponse]) -> str | grpc.StatusCode:
    """The text of an answer, or what it ended with instead."""
    try:
        return text([*head, *stream])
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code


@pytest.fixture
def stubs() -> Iterator[Callable[[str], list[chat_pb2_grpc.ChatServiceStub]]]:
    """Makes stubs with a connection each."""
    with ExitStack() as stack:

        def connect(address: str) -> list[chat_pb2_grpc.ChatServiceStub]:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channels = [grpc.insecure_channel(address, options) for _ in range(_CONNECTIONS)]
            return [chat_pb2_grpc.ChatServiceStub(stack.enter_context(channel)) for channel in channels]

        yield connect


def test_they_share_port_and_executor_and_end_together(
    run: Callable[..., Command], stubs: Callable[[str], list[chat_pb2_grpc.ChatServiceStub]]
) -> None:
    command = run(*REPLAY, *_FRONT_ENDS)
    callers = stubs(command.address())
    request = ask("x" * 400, max_completion_tokens=500)
    streams = [iter(stub.Chat(request, timeout=_PATIENCE)) for stub in callers]
    first = [next(stream) for stream in streams]
    # Calls that run are answered to their end, whichever front end has them.
    command.process.send_signal(signal.SIGTERM)
    assert {text([head, *stream]) for head, stream in zip(first, streams, strict=True)} == {"x" * 400}
    assert command.exit_code() == 0
    assert command.executors() == []
    assert command.left_behind() == []
    assert "Traceback" not in command.said


def test_one_that_dies_takes_its_own_calls_alone_and_is_replaced(
    run: Callable[..., Command], stubs: Callable[[str], list[chat_pb2_grpc.ChatServiceStub]]
) -> None:
    command = run(*REPLAY, *_FRONT_ENDS, "--replay.max-batch-size", str(_CONNECTIONS))
    callers = stubs(command.address())
    (sibling,) = _siblings(command)
    request = ask("x" * 600, max_completion_tokens=1_000)
    streams = [iter(stub.Chat(request, timeout=_PATIENCE)) for stub in callers]
    first = [next(stream) for stream in streams]
    os.kill(sibling, signal.SIGKILL)
    ends = {_end([head], stream) for head, stream in zip(first, streams, strict=True)}
    assert ends == {grpc.StatusCode.UNAVAILABLE, "x" * 600}
    command.await_said("front end 2: serving")
    # The executor has given up what nobody reads any more: all its slots are free.
    again = [stub.Chat(request, timeout=_PATIENCE) for stub in callers]
    assert {text(list(stream)) for stream in again} == {"x" * 600}


def test_when_the_executor_dies_all_of_them_say_so_and_serve_the_next(
    run: Callable[..., Command], stubs: Callable[[str], list[chat_pb2_grpc.ChatServiceStub]]
) -> None:
    command = run(*REPLAY, *_FRONT_ENDS)
    callers = stubs(command.address())
    endless = ask(max_completion_tokens=30_000, min_tokens=30_000)
    streams = [stub.Chat(endless, timeout=_PATIENCE) for stub in callers]
    for stream in streams:
        next(iter(stream))
    children = Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children")
    for pid in map(int, children.read_text().split()):
        if b"executor.process" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGKILL)
    assert {refusal(partial(list, stream)).code for stream in streams} == {grpc.StatusCode.UNAVAILABLE}
    eventually(lambda: command.said.count("serving replay") == 4, "both serve again")
    assert {text(list(stub.Chat(ask("Hello"), timeout=_PATIENCE))) for stub in callers} == {"Hello"}


def test_when_the_first_is_killed_nothing_is_left(run: Callable[..., Command]) -> None:
    command = run(*REPLAY, *_FRONT_ENDS)
    command.address()
    command.process.kill()
    command.exit_code()
    eventually(lambda: not command.executors(), "sibling, executor and guardian have ended")
    eventually(lambda: not command.left_behind(), "their folder is gone")


def test_a_port_of_somebody_else_is_not_shared(run: Callable[..., Command]) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        command = run("--executor", "replay", "--listen", address, *_FRONT_ENDS)
        assert command.exit_code() == 1
    assert f"Cannot listen on {address}" in command.said


def test_a_socket_cannot_be_shared(run: Callable[..., Command], tmp_path: Path) -> None:
    command = run("--executor", "replay", "--listen", f"unix:{tmp_path}/socket", *_FRONT_ENDS)
    assert command.exit_code() == 2
    assert "front_ends" in command.said
