"""`mistralchat serve` as a process of its own: signals, what it leaves behind, what it says when it fails."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2_grpc

from .conftest import ask, eventually, text

_COMMAND = [sys.executable, "-c", "import sys; from mistralchat.cli import main; sys.exit(main())", "serve"]
_REPLAY = ["--executor", "replay", "--listen", "127.0.0.1:0", "--replay.step-seconds", "0.005"]


class Command:
    """A started `mistralchat serve`, and what it has said."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        self._said = folder / "said"
        #: Where it and its executor make their temporary files, and nobody else.
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [*_COMMAND, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd=folder,
                env={**os.environ, "TMPDIR": str(self.temporary), **environment},
            )

    @property
    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")

    def exit_code(self) -> int:
        return self.process.wait(60)

    def stub(self) -> chat_pb2_grpc.ChatServiceStub:
        """Once it serves."""
        eventually(lambda: " serving " in self.said or self.process.poll() is not None, "it serves")
        found = re.search(r"listening on 127\.0\.0\.1:(\d+)", self.said)
        assert found, self.said
        return chat_pb2_grpc.ChatServiceStub(grpc.insecure_channel(f"127.0.0.1:{found[1]}"))

    def left_behind(self) -> list[str]:
        return [path.name for path in self.temporary.iterdir() if path.name.startswith("mistralchat")]

    def executors(self) -> list[int]:
        """Processes that it started, by their temporary folder."""
        found = []
        for environment in Path("/proc").glob("[0-9]*/environ"):
            try:
                if f"TMPDIR={self.temporary}".encode() in environment.read_bytes():
                    found.append(int(environment.parent.name))
            except OSError:
                continue
        return [pid for pid in found if pid != self.process.pid]


@pytest.fixture
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts the command; whatever is left of it ends with the test."""
    commands: list[Command] = []

    def start(*arguments: str, **environment: str) -> Command:
        # A short name: the path of a socket is bounded to some hundred characters.
        commands.append(Command(tmp_path_factory.mktemp("c"), *arguments, **environment))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.poll() is None:
            command.process.kill()
            command.process.wait()


def test_a_folder_whose_path_is_too_long_for_a_socket_is_told(
    run: Callable[..., Command], tmp_path: Path
) -> None:
    folder = tmp_path / ("long" * 25)
    folder.mkdir()
    _assert_one_sentence(run(*_REPLAY, TMPDIR=str(folder)), 1, "TMPDIR", str(folder))
    assert list(folder.iterdir()) == []


def test_a_signal_lets_a_running_answer_finish(run: Callable[..., Command]) -> None:
    command = run(*_REPLAY)
    stream = command.stub().Chat(ask("x" * 200, max_completion_tokens=500), timeout=60)
    first = next(iter(stream))
    command.process.send_signal(signal.SIGTERM)
    assert text([first, *stream]) == "x" * 200
    assert command.exit_code() == 0
    assert command.left_behind() == []
    assert command.executors() == []
    assert "Traceback" not in command.said


def test_a_second_signal_ends_everything_at_once(run: Callable[..., Command]) -> None:
    command = run(*_REPLAY)
    stream = command.stub().Chat(ask(max_completion_tokens=30_000, min_tokens=30_000), timeout=60)
    next(iter(stream))
    command.process.send_signal(signal.SIGINT)
    eventually(lambda: "stopping" in command.said, "the first signal has been taken")
    command.process.send_signal(signal.SIGINT)
    assert command.exit_code() == 1
    eventually(lambda: not command.executors(), "the executor has ended")
    eventually(lambda: not command.left_behind(), "its folder is gone")


def test_a_front_end_that_is_killed_leaves_nothing_behind(run: Callable[..., Command]) -> None:
    command = run(*_REPLAY)
    stream = command.stub().Chat(ask(max_completion_tokens=30_000, min_tokens=30_000), timeout=60)
    next(iter(stream))
    # And its guardian.
    assert len(command.executors()) == 2
    assert len(command.left_behind()) == 1
    command.process.kill()
    command.process.wait()
    eventually(lambda: not command.executors(), "the executor has ended")
    eventually(lambda: not command.left_behind(), "its folder is gone")


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
    _assert_one_sentence(run(*_REPLAY, *flags), 1, f"Cannot read {names}: No such file")


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
