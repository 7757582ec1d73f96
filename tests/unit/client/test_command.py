"""The command: what it prints where, and its exit status."""

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2

from mistralchat.cli import main
from mistralchat.v1 import chat_pb2

from .conftest import FakeChatService, fails, says

COMMAND = "import sys; from mistralchat.cli import main; sys.exit(main())"


def run(*code_and_arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", *code_and_arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=20,
        env={**os.environ, **environment},
    )


@pytest.fixture(autouse=True)
def _at_the_fake_server(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALCHAT_TARGET", target)


def test_an_answer(service: FakeChatService, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "hi"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "Hello, world\n"
    assert captured.err.startswith("complete · 5 prompt + 3 completion tokens · first text after ")
    assert captured.err.endswith(" tokens/s\n")
    assert "\033" not in captured.err
    assert [message.content for message in service.requests[0].messages] == ["hi"]


def test_the_target_flag(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALCHAT_TARGET", "127.0.0.1:1")
    assert main(["chat", "hi", "--target", target]) == 0


def test_flags_reach_the_request(service: FakeChatService) -> None:
    flags = "--system brief --temperature 0.5 --seed 0 --top-k 4 --presence-penalty -0.5 --max-tokens 90"
    flags += " --bad-word a --bad-word b --stop-word END --regex x+"
    assert main(["chat", *flags.split(), "hi"]) == 0
    assert service.requests == [
        chat_pb2.ChatRequest(
            messages=[
                chat_pb2.Message(role=chat_pb2.ROLE_SYSTEM, content="brief"),
                chat_pb2.Message(role=chat_pb2.ROLE_USER, content="hi"),
            ],
            temperature=0.5,
            seed=0,
            top_k=4,
            presence_penalty=-0.5,
            max_tokens=90,
            bad_words_list=["a", "b"],
            stop_words_list=["END"],
            response_format=chat_pb2.ResponseFormat(regex="x+"),
        )
    ]


def test_the_best_beam_is_printed(service: FakeChatService, capsys: pytest.CaptureFixture[str]) -> None:
    def script(_: chat_pb2.ChatRequest, __: object) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(text="best", finish_reason=chat_pb2.FINISH_REASON_LENGTH)
        yield chat_pb2.ChatResponse(text="second", beam_index=1)

    service.script = script
    assert main(["chat", "--beam-width", "2", "hi"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "best\n"
    assert captured.err.startswith("cut at the token budget · first text after")


def test_a_question_from_standard_input(service: FakeChatService) -> None:
    done = run(COMMAND, "chat", stdin="was heißt das?\n")
    assert (done.returncode, done.stdout) == (0, "Hello, world\n")
    assert service.requests[0].messages[0].content == "was heißt das?"


def test_piped_text_is_left_as_it_is(service: FakeChatService, capsys: pytest.CaptureFixture[str]) -> None:
    service.script = says("\033[2Jé", "\n")
    assert main(["chat", "hi"]) == 0
    assert capsys.readouterr().out == "\033[2Jé\n"


def test_a_failed_call(service: FakeChatService, capsys: pytest.CaptureFixture[str]) -> None:
    retry = error_details_pb2.RetryInfo(retry_delay=Duration(seconds=2))
    service.script = fails(
        grpc.StatusCode.RESOURCE_EXHAUSTED, "too many\ncalls are open", retry, after=("half",)
    )
    assert main(["chat", "hi"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "half\n"
    assert captured.err == "error: too many calls are open (retry in 2 s)\n"


def test_no_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--target", "127.0.0.1:1", "hi"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: no connection to 127.0.0.1:1: ")
    assert error.count("\n") == 1


def test_a_reader_that_leaves_early(service: FakeChatService) -> None:
    def script(_: chat_pb2.ChatRequest, context: grpc.ServicerContext) -> Iterator[chat_pb2.ChatResponse]:
        while context.is_active():
            yield chat_pb2.ChatResponse(text="on and on\n" * 100)

    service.script = script
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "chat", "hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"on and on\n"
        process.stdout.close()
        assert process.wait(10) == 1
        assert process.stderr.read() == b""
    assert service.ended.wait(3)


def test_ctrl_c(service: FakeChatService) -> None:
    def script(_: chat_pb2.ChatRequest, __: object) -> Iterator[chat_pb2.ChatResponse]:
        yield chat_pb2.ChatResponse(text="partial\n")
        service.ended.wait(10)

    service.script = script
    with subprocess.Popen(
        [sys.executable, "-c", COMMAND, "chat", "hi"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"partial\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == b""
    assert service.ended.wait(3)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["chat", " "], "the question is empty"),
        (["chat", "--top-k", "99999999999", "hi"], "out of range"),
        (["chat", "--regex", "a", "--grammar", "b", "hi"], "exclude each other"),
        (["chat", "--temprature", "1", "hi"], "--temprature"),
        (["nonsense"], "nonsense"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_no_question_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"")))
    with pytest.raises(SystemExit) as ended:
        main(["chat"])
    assert ended.value.code == 2


@pytest.mark.parametrize(("flag", "said"), [("--version", "mistralchat 0."), ("--help", "run the server")])
def test_about(flag: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([flag])
    assert ended.value.code == 0
    assert said in capsys.readouterr().out


def server_package(folder: Path, app: str) -> str:
    package = folder / "mistralchat_server"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "app.py").write_text(app)
    return str(folder)


def test_serve_gets_its_arguments_untouched(tmp_path: Path) -> None:
    path = server_package(tmp_path, "def main(argv): print(argv); return 7")
    done = run(COMMAND, "serve", "--help", "--version", "--", "-x", "chat", PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (7, "['--help', '--version', '--', '-x', 'chat']\n")


def test_serve_without_its_packages(tmp_path: Path) -> None:
    path = server_package(tmp_path, "import a_missing_package.part")
    done = run(COMMAND, "serve", PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr == (
        "mistralchat serve needs a_missing_package, which is not installed: "
        'pip install "mistralchat[openvino]"\n'
    )


def test_a_fault_of_the_server_package_is_not_hidden(tmp_path: Path) -> None:
    done = run(COMMAND, "serve", PYTHONPATH=server_package(tmp_path, "import mistralchat_server.gone"))
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_chat_without_rich() -> None:
    done = run("import sys; sys.modules['rich.console'] = None; " + COMMAND, "chat", "hi")
    assert done.returncode == 1
    assert 'pip install "mistralchat[cli]"' in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_library_needs_only_the_light_install() -> None:
    code = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        light = {"mistralchat", "grpc", "google", "typing_extensions"} | sys.stdlib_module_names
        if name.partition(".")[0] not in light:
            raise ImportError(f"{name} is not in the light install")
sys.meta_path.insert(0, Blocker())
import mistralchat, mistralchat.cli
mistralchat.ChatClient().close()
heavy = {"rich", "pydantic", "msgspec", "mistralchat_server"} & sys.modules.keys()
assert not heavy, heavy
try:
    import rich
except ImportError:
    print("blocked")
"""
    done = run(code)
    assert done.stderr == ""
    assert done.stdout == "blocked\n"
