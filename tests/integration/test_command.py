"""`mistralchat serve` as a process of its own: signals, what it leaves behind, what it says when it fails."""

import os
import signal
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2_grpc

from .command import REPLAY, Command
from .conftest import ask, eventually, refusal, text


def test_a_folder_whose_path_is_too_long_for_a_socket_is_told(
    run: Callable[..., Command], tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    _assert_one_sentence(run(*REPLAY, TMPDIR=str(folder)), 1, "TMPDIR", str(folder))
    assert list(folder.iterdir()) == []


def test_a_signal_lets_a_running_answer_finish(run: Callable[..., Command]) -> None:
    command = run(*REPLAY)
    stream = command.stub().Chat(ask("x" * 200, max_completion_tokens=500), timeout=60)
    first = next(iter(stream))
    command.process.send_signal(signal.SIGTERM)
    assert text([first, *stream]) == "x" * 200
    assert command.exit_code() == 0
    assert command.left_behind() == []
    assert command.executors() == []
    assert "Traceback" not in command.said


def test_a_second_signal_ends_everything_at_once(run: Callable[..., Command]) -> None:
    command = run(*REPLAY)
    stream = command.stub().Chat(ask(max_completion_tokens=30_000, min_tokens=30_000), timeout=60)
    next(iter(stream))
    command.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in command.said, "the first signal has been taken")
    command.process.send_signal(signal.SIGINT)
    assert command.exit_code() == 1
    eventually(lambda: not command.executors(), "the executor has ended")
    eventually(lambda: not command.left_behind(), "its folder is gone")


def test_a_front_end_that_is_killed_leaves_nothing_behind(run: Callable[..., Command]) -> None:
    command = run(*REPLAY)
    stream = command.stub().Chat(ask(max_completion_tokens=30_000, min_tokens=30_000), timeout=60)
    next(iter(stream))
    # And its guardian.
    assert len(command.executors()) == 2
    assert len(command.left_behind()) == 1
    command.process.kill()
    command.process.wait()
    eventually(lambda: not command.executors(), "the executor has ended")
    eventually(lambda: not command.left_behind(), "its folder is gone")


def test_while_it_stops_the_port_is_closed_and_running_answers_go_on(run: Callable[..., Command]) -> None:
    command = run(*REPLAY)
    address = command.address()
    with grpc.insecure_channel(address) as channel:
        chat = chat_pb2_grpc.ChatServiceStub(channel).Chat
        stream = iter(chat(ask("x" * 400, max_completion_tokens=500), timeout=60))
        first = next(stream)
        command.process.send_signal(signal.SIGTERM)
        eventually(lambda: not _accepts_connections(address), "the port is closed")
        # GOAWAY has sent the channel to look for a connection elsewhere.
        refused = refusal(lambda: list(chat(ask(), timeout=60)))
        assert refused.code == grpc.StatusCode.UNAVAILABLE
        assert command.process.poll() is None
        assert text([first, *stream]) == "x" * 400
    assert command.exit_code() == 0


def _accepts_connections(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (ConnectionRefusedError, ConnectionResetError):
        # Reset: it was in the queue of the port in the moment in which that was closed.
        return False
    return True


def test_calls_around_the_signal_are_answered_whole_or_told_to_go_elsewhere(
    run: Callable[..., Command],
) -> None:
    command = run(*REPLAY)
    address = command.address()

    def call_until_refused() -> tuple[list[str], grpc.StatusCode]:
        answers = []
        with grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)]) as channel:
            chat = chat_pb2_grpc.ChatServiceStub(channel).Chat
            while True:
                try:
                    answers.append(text(list(chat(ask("Hello"), timeout=60))))
                except grpc.RpcError as error:
                    return answers, error.code()

    with ThreadPoolExecutor(16) as callers:
        calls = [callers.submit(call_until_refused) for _ in range(16)]
        stub = chat_pb2_grpc.ChatServiceStub(grpc.insecure_channel(address))
        assert text(list(stub.Chat(ask("x" * 40, max_completion_tokens=100), timeout=60))) == "x" * 40
        command.process.send_signal(signal.SIGTERM)
        results = [call.result(60) for call in calls]
    assert {code for _, code in results} == {grpc.StatusCode.UNAVAILABLE}
    assert {text for answers, _ in results for text in answers} == {"Hello"}
    assert command.exit_code() == 0


def test_a_signal_while_the_model_is_loaded_ends_it_at_once(run: Callable[..., Command]) -> None:
    command = run(*REPLAY, before=_executor("import time; process.load = lambda settings: time.sleep(3_600)"))
    eventually(lambda: len(command.executors()) == 2, "the executor and its guardian are there")
    command.process.send_signal(signal.SIGTERM)
    assert command.exit_code() == 0
    assert command.left_behind() == []
    eventually(lambda: not command.executors(), "the executor has ended")
    assert "Traceback" not in command.said


def test_a_signal_while_the_executor_is_away_ends_it(run: Callable[..., Command]) -> None:
    away = "from mistralchat_server import supervisor; supervisor._BACK_OFF = (3_600.0,)"
    command = run(*REPLAY, before=away)
    command.address()
    for pid in command.executors():
        os.kill(pid, signal.SIGKILL)
    command.await_said("starting it again")
    command.process.send_signal(signal.SIGTERM)
    assert command.exit_code() == 0
    assert command.left_behind() == []
    assert command.executors() == []


def _hung(run: Callable[..., Command], *arguments: str) -> Command:
    """One whose executor stands still in a step, with Python's global lock."""
    hang = "import ctypes; process.ReplayExecutor.step = lambda self: ctypes.PyDLL(None).sleep(3_600)"
    short = "from mistralchat_server.executor import child; child._CLOSE_SECONDS = 0.5"
    command = run(*REPLAY, *arguments, before=f"{_executor(hang)}\n{short}")
    stream = command.stub().Chat(ask(), timeout=0.5)
    assert refusal(lambda: list(stream)).code == grpc.StatusCode.DEADLINE_EXCEEDED
    return command


def test_a_signal_ends_it_though_the_executor_hangs(run: Callable[..., Command]) -> None:
    command = _hung(run)
    command.process.send_signal(signal.SIGTERM)
    assert command.exit_code() == 0
    assert command.left_behind() == []
    eventually(lambda: not command.executors(), "the executor has ended")


def test_a_front_end_that_is_killed_while_the_executor_hangs_leaves_nothing_behind(
    run: Callable[..., Command],
) -> None:
    command = _hung(run)
    assert command.executors()
    command.process.kill()
    command.process.wait()
    eventually(lambda: not command.executors(), "the executor has ended")
    eventually(lambda: not command.left_behind(), "its folder is gone")


def test_signals_to_all_processes_are_the_front_ends_to_heed(run: Callable[..., Command]) -> None:
    # As a service manager sends them.
    command = run(*REPLAY)
    stream = iter(command.stub().Chat(ask("x" * 200, max_completion_tokens=500), timeout=60))
    first = next(stream)
    for pid in [*command.executors(), command.process.pid]:
        os.kill(pid, signal.SIGTERM)
    assert text([first, *stream]) == "x" * 200
    assert command.exit_code() == 0


def test_a_crash_loop_ends_it_with_a_line_that_says_why(run: Callable[..., Command]) -> None:
    command = run(
        *REPLAY,
        before="from mistralchat_server import supervisor; supervisor._BACK_OFF = (0.01, 0.01)\n"
        + _executor("import os; process.ReplayExecutor.step = lambda self: os._exit(9)"),
    )
    stub = command.stub()
    codes = []
    while command.process.poll() is None:
        codes.append(refusal(lambda: list(stub.Chat(ask(f"{time.monotonic()}"), timeout=60))).code)
    # gRPC cancels the call that arrives in the moment in which the port is closed.
    assert codes.count(grpc.StatusCode.CANCELLED) <= 1
    assert set(codes) <= {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert command.exit_code() == 1
    last = command.said.splitlines()[-1]
    assert "ERROR" in last
    assert "ended 3 times in a row, last with exit code 9" in last


def _executor(change: str) -> str:
    """Code that gives the server another executor process: the usual one, changed."""
    module = "mistralchat_server.executor"
    program = f"import sys; from {module} import process; {change}; sys.exit(process.main())"
    command = f"(sys.executable, '-c', {program!r})"
    return f"import sys; from {module} import child; child.ExecutorProcess.command = {command}"


def _maps_the_engine(processes: list[int]) -> bool:
    return any(b"openvino_genai" in Path(f"/proc/{pid}/maps").read_bytes() for pid in processes)


def test_a_front_end_with_the_engine_that_is_killed_leaves_nothing_behind(
    run: Callable[..., Command], model_path: Path
) -> None:
    command = run("--model", str(model_path), "--listen", "127.0.0.1:0")
    eventually(lambda: _maps_the_engine(command.executors()), "the executor loads the engine")
    assert command.left_behind()
    command.process.kill()
    command.process.wait()
    eventually(lambda: not command.executors(), "the executor and its rehearsal have ended")
    eventually(lambda: not command.left_behind(), "its folders are gone")


def _assert_one_sentence(command: Command, exit_code: int, *parts: str) -> None:
    assert command.exit_code() == exit_code, command.said
    assert "Traceback" not in command.said
    # Libraries may have something to say too.
    lines = command.said.splitlines()
    told = [line for line in lines if "ERROR" in line or line.startswith("mistralchat serve:")]
    assert len(told) == 1, command.said
    for part in parts:
        assert part in told[0]
    assert command.left_behind() == []
    eventually(lambda: not command.executors(), "no process is left")


def test_a_port_that_is_taken_is_told(run: Callable[..., Command]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        _assert_one_sentence(run("--executor", "replay", "--listen", address), 1, address)


@pytest.mark.parametrize("executor", ["replay", "openvino"])
def test_a_model_that_is_not_there_is_told(
    run: Callable[..., Command], tmp_path: Path, executor: str
) -> None:
    missing = tmp_path / "missing.gguf"
    command = run("--executor", executor, "--model", str(missing), "--listen", "127.0.0.1:0")
    _assert_one_sentence(command, 1, str(missing))


def _nothing(path: Path, model: Path) -> None:
    path.write_bytes(b"")


def _prose(path: Path, model: Path) -> None:
    path.write_bytes(b"This is not a model. " * 100)


def _a_beginning(path: Path, model: Path) -> None:
    with model.open("rb") as file:
        path.write_bytes(file.read(1 << 20))


def _half_the_weights(path: Path, model: Path) -> None:
    with model.open("rb") as file:
        path.write_bytes(file.read(20 << 20))


@pytest.mark.parametrize(
    "content",
    [
        _nothing,
        _prose,
        _a_beginning,
        pytest.param(
            _half_the_weights,
        ),
    ],
)
def test_a_broken_model_file_is_told(
    run: Callable[..., Command], tmp_path: Path, model_path: Path, content: Callable[[Path, Path], None]
) -> None:
    path = tmp_path / "broken.gguf"
    content(path, model_path)
    _assert_one_sentence(run("--model", str(path), "--listen", "127.0.0.1:0"), 1, "broken.gguf")


def test_a_directory_that_is_no_model_is_told(run: Callable[..., Command], tmp_path: Path) -> None:
    path = tmp_path / "weights"
    path.mkdir()
    _assert_one_sentence(run("--model", str(path), "--listen", "127.0.0.1:0"), 1, "weights")


def test_a_directory_without_the_engines_format_is_told(
    run: Callable[..., Command], tmp_path: Path, tokenizer_directory: Callable[..., Path]
) -> None:
    path = tokenizer_directory(tmp_path / "weights")
    command = run("--model", str(path), "--listen", "127.0.0.1:0")
    _assert_one_sentence(command, 1, "openvino_model.xml")


def test_an_address_for_others_without_protection_is_refused(run: Callable[..., Command]) -> None:
    command = run("--executor", "replay", "--listen", "0.0.0.0:0")
    _assert_one_sentence(command, 1, "0.0.0.0:0", "no TLS and no credentials", "--keys", "--insecure-listen")


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--tls.certificate", "none.pem", "--tls.private-key", "none.key"], "none.pem"),
        (["--keys", "none"], "none"),
        (["--jwt.jwks", "none.json", "--jwt.issuer", "i", "--jwt.audience", "a"], "none.json"),
    ],
)
def test_security_files_that_are_not_there_are_told(
    run: Callable[..., Command], flags: list[str], names: str
) -> None:
    _assert_one_sentence(run(*REPLAY, *flags), 1, f"Cannot read {names}: No such file")


@pytest.mark.parametrize(
    ("arguments", "environment", "parts"),
    [
        (["--max-open-calls", "0"], {}, ["max_open_calls"]),
        (["--executor", "gpu"], {}, ["executor"]),
        ([], {"MISTRALCHAT_LISTEN": "nowhere"}, ["listen", "nowhere"]),
        ([], {"MISTRALCHAT_EXECUTOR": "openvino"}, ["--model"]),
        (["--config", "none.yaml"], {}, ["none.yaml"]),
    ],
)
def test_a_wrong_setting_is_told(
    run: Callable[..., Command], arguments: list[str], environment: dict[str, Any], parts: list[str]
) -> None:
    _assert_one_sentence(run(*arguments, **environment), 2, *parts)
