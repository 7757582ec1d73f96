"""What can go wrong around a call, a row for each: what callers see, what probes see, and that it passes.

`docs/faults.md` is the same table for operators.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat_server import supervisor
from mistralchat_server.executor.child import ExecutorProcess

from . import faulty_executor
from .conftest import Server, answer, ask, eventually, refusal, text

_ENDLESS: dict[str, Any] = {"max_completion_tokens": 32_000, "min_tokens": 32_000}
_STREAMS = 8


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """An executor that ends is started again soon, and not so soon that nobody notices its absence."""
    monkeypatch.setattr(supervisor, "_BACK_OFF", (0.5, 0.5, 0.5))
    monkeypatch.setattr(ExecutorProcess, "command", faulty_executor.COMMAND)


@pytest.fixture
def server(serve: Callable[..., Server]) -> Server:
    return serve(step_timeout_seconds=1)


def _kill(number: signal.Signals, server: Server) -> None:
    os.kill(server.executor_pid, number)


def _hang(server: Server) -> object:
    return server.chat.Chat(ask(max_completion_tokens=faulty_executor.HANGS), timeout=60)


def _cut_the_connection(server: Server) -> None:
    """The front end's end of the socket is one of this process's: its servers run in it."""
    endpoint = server.executor.endpoint
    with Path("/proc/net/unix").open() as table:
        inodes = {line.split()[6] for line in table if line.rstrip().endswith(endpoint)}
    for entry in Path("/proc/self/fd").iterdir():
        try:
            found = re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink()))
        except FileNotFoundError:
            continue
        if found and found[1] in inodes:
            with socket.socket(fileno=os.dup(int(entry.name))) as end:
                # A listening socket, which is another with this path, must go on listening.
                if not end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    end.shutdown(socket.SHUT_RDWR)


_FAULTS: dict[str, tuple[Callable[[Server], object], str]] = {
    "killed": (partial(_kill, signal.SIGKILL), "signal 9"),
    "crashed": (partial(_kill, signal.SIGSEGV), "signal 11"),
    "stopped": (partial(_kill, signal.SIGSTOP), "no step came to its end within 1 s"),
    "step that never ends": (_hang, "no step came to its end within 1 s"),
    "connection cut": (_cut_the_connection, "it did not end by itself"),
}


@pytest.mark.parametrize(("cause", "told"), _FAULTS.values(), ids=_FAULTS)
def test_an_executor_that_is_lost_ends_calls_with_unavailable_and_is_started_again(
    server: Server, caplog: pytest.LogCaptureFixture, cause: Callable[[Server], object], told: str
) -> None:
    streams = [server.chat.Chat(ask(**_ENDLESS), timeout=60) for _ in range(_STREAMS)]
    for stream in streams:
        next(iter(stream))
    lost, pid = server.executor, server.executor_pid
    # A call that nobody holds would be cancelled.
    held = cause(server)
    for stream in streams:
        refused = refusal(partial(list, stream))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert refused.retry_seconds > 0
    eventually(lambda: not server.serving, "probes know")
    del held
    # What was open may have ended the executor, so this asks for something else.
    refused = refusal(lambda: answer(server, "Meanwhile"))
    assert refused.code == grpc.StatusCode.UNAVAILABLE
    assert 0 < refused.retry_seconds < 60
    server.await_another(lost)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert text(answer(server, "Hello")) == "Hello"
    assert any(told in record.getMessage() for record in caplog.records)


def test_a_hang_is_noticed_without_a_call_and_says_where_it_was(
    serve: Callable[..., Server], capfd: pytest.CaptureFixture[str]
) -> None:
    server = serve(step_timeout_seconds=1)
    # Its caller does not wait for so long.
    stream = server.chat.Chat(ask(max_completion_tokens=faulty_executor.HANGS), timeout=0.2)
    assert refusal(partial(list, stream)).code == grpc.StatusCode.DEADLINE_EXCEEDED
    first = server.executor
    server.await_another(first)
    # Who hung it is known though the caller had left.
    second = server.executor
    refused = refusal(lambda: answer(server, max_completion_tokens=faulty_executor.HANGS))
    assert refused.code == grpc.StatusCode.UNAVAILABLE
    server.await_another(second)
    refused = refusal(lambda: answer(server, max_completion_tokens=faulty_executor.HANGS))
    assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
    said = capfd.readouterr().err
    assert "most recent call first" in said
    assert re.search(r"faulty_executor\.py.* in step", said)


def test_a_request_that_ends_the_executor_twice_is_refused_the_third_time(server: Server) -> None:
    for _ in range(2):
        executor = server.executor
        other = server.chat.Chat(ask("Other", **_ENDLESS), timeout=60)
        next(iter(other))
        refused = refusal(lambda: answer(server, max_completion_tokens=faulty_executor.DIES))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert refusal(partial(list, other)).code == grpc.StatusCode.UNAVAILABLE
        server.await_another(executor)
    _assert_refused_for_good(server, max_completion_tokens=faulty_executor.DIES)
    # Whoever was open beside it is not.
    other = server.chat.Chat(ask("Other", **_ENDLESS), timeout=60)
    next(iter(other))
    other.cancel()
    assert text(answer(server, "Hello")) == "Hello"


def test_one_that_ends_it_in_the_midst_of_its_answer_is_refused_too(server: Server) -> None:
    poison: dict[str, Any] = {"max_completion_tokens": faulty_executor.DIES_LATER, "min_tokens": 100}
    for _ in range(2):
        executor = server.executor
        stream = iter(server.chat.Chat(ask(**poison), timeout=60))
        next(stream)
        assert refusal(partial(list, stream)).code == grpc.StatusCode.UNAVAILABLE
        server.await_another(executor)
    _assert_refused_for_good(server, **poison)
    assert text(answer(server, "Hello")) == "Hello"


def _assert_refused_for_good(server: Server, **fields: Any) -> None:
    executor = server.executor
    refused = refusal(lambda: answer(server, **fields))
    assert refused.code == grpc.StatusCode.FAILED_PRECONDITION
    assert refused.details["ErrorInfo"].reason == "REQUEST_ENDS_EXECUTOR"
    assert server.executor is executor
    assert server.serving


def test_an_executor_that_is_slow_is_let_be(serve: Callable[..., Server]) -> None:
    server = serve(step_timeout_seconds=2, replay={"step_seconds": 0.5})
    pid = server.executor_pid
    late = server.chat.Chat(ask("x" * 50, max_completion_tokens=50), timeout=0.3)
    assert refusal(partial(list, late)).code == grpc.StatusCode.DEADLINE_EXCEEDED
    assert text(answer(server, "12345")) == "12345"
    assert server.serving
    assert server.executor_pid == pid


def test_a_full_server_refuses_and_stays_healthy(serve: Callable[..., Server]) -> None:
    server = serve(max_open_calls=1)
    stream = server.chat.Chat(ask(**_ENDLESS), timeout=60)
    next(iter(stream))
    refused = refusal(lambda: answer(server))
    assert refused.code == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refused.retry_seconds > 0
    assert server.serving
    stream.cancel()
    server.await_idle()
    assert text(answer(server, "Hello")) == "Hello"


def test_a_socket_file_that_is_deleted_is_not_missed(server: Server) -> None:
    stream = iter(server.chat.Chat(ask("x" * 300, max_completion_tokens=500), timeout=60))
    first = next(stream)
    Path(server.executor.endpoint).unlink()
    assert text([first, *stream]) == "x" * 300
    assert text(answer(server, "Hello")) == "Hello"
    # And not by the next executor either, which has a folder of its own.
    lost = server.executor
    os.kill(server.executor_pid, signal.SIGKILL)
    server.await_another(lost)
    assert text(answer(server, "Hello")) == "Hello"


def test_a_jump_of_the_clock_is_not_noticed(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    executor = server.executor
    stream = iter(server.chat.Chat(ask("x" * 2_000, max_completion_tokens=3_000)))
    messages = [next(stream)]
    for days in (365, -365):
        monkeypatch.setattr(time, "time", lambda days=days: time.clock_gettime(0) + days * 86_400)
        messages.append(next(stream))
        # Without a deadline, which this process, as the client, would reckon by the clock.
        assert text(list(server.chat.Chat(ask("Hello")))) == "Hello"
    messages += stream
    assert text(messages) == "x" * 2_000
    timings = messages[-1].timings
    assert 0 <= timings.total.ToMilliseconds() < 60_000
    monkeypatch.undo()
    assert server.serving
    assert server.executor is executor


def test_a_crash_loop_ends_the_server(serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_BACK_OFF", (0.01, 0.01))
    server = serve()
    monkeypatch.setattr(ExecutorProcess, "command", (sys.executable, "-c", "raise SystemExit(3)"))
    os.kill(server.executor_pid, signal.SIGKILL)
    eventually(lambda: server.ended, "the server has ended")
    assert server._running is not None
    message = str(server._running.exception())
    assert "does not keep running" in message
    assert "3 times" in message
    assert "exit code 3" in message


def test_logs_that_cannot_be_written_harm_nobody(tmp_path: Path, free_port: int) -> None:
    command = [
        sys.executable,
        "-c",
        "import sys; from mistralchat.cli import main; sys.exit(main())",
        "serve",
    ]
    options = ["--executor", "replay", "--listen", f"127.0.0.1:{free_port}", "--log-level", "DEBUG"]
    with (
        Path("/dev/full").open("wb") as full,
        subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=full, stderr=full) as process,
    ):
        try:
            with grpc.insecure_channel(f"127.0.0.1:{free_port}") as channel:
                grpc.channel_ready_future(channel).result(60)
                chat = _patient(channel)
                assert text(list(chat(ask("Hello")))) == "Hello"
                assert refusal(lambda: list(chat(ask(max_tokens=0)))).code == grpc.StatusCode.INVALID_ARGUMENT
                assert text(list(chat(ask("Hello")))) == "Hello"
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
        finally:
            process.kill()


def _patient(channel: grpc.Channel) -> Callable[[pb.ChatRequest], Any]:
    """Chat over a channel whose server may still be loading."""
    from mistralchat.v1 import chat_pb2_grpc

    stub = chat_pb2_grpc.ChatServiceStub(channel)

    def answers() -> bool:
        try:
            stub.GetModel(pb.GetModelRequest(), timeout=5)
        except grpc.RpcError:
            return False
        return True

    eventually(answers, "it serves")
    return lambda request: stub.Chat(request, timeout=60)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
