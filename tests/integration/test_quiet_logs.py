"""What callers write, and what is answered, is in no log: not at any level, and not when something fails."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from mistralchat.v1 import chat_pb2 as pb
from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server.places import places
from mistralchat_server.security.keys import line, new_key

from .conftest import ask, eventually, user

_MARK = "zanzibar"
_KEY = new_key()
_FLAGS = ("--listen", "127.0.0.1:0", "--log-level", "DEBUG")
#: Serves, with a tokenizer that fails as libraries do: the text of the exception quotes the input.
_FAULTY_SERVER = """
import sys
from mistralchat.cli import main
from mistralchat_server.text.tokenizer import ChatTokenizer
prompt = ChatTokenizer.prompt
def faulty(self, turns):
    if "FAULT" in turns[0].content:
        try:
            int(turns[0].content)
        except ValueError as error:
            raise RuntimeError(f"cannot encode {turns!r}") from error
    return prompt(self, turns)
ChatTokenizer.prompt = faulty
sys.exit(main(["serve", *sys.argv[1:]]))
"""


class _Server:
    def __init__(self, folder: Path, *flags: str) -> None:
        keys = folder / "keys"
        keys.write_text(line("alice", _KEY))
        self._said = folder / "said"
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", _FAULTY_SERVER, *_FLAGS, "--keys", str(keys), *flags],
                stdout=said,
                stderr=said,
            )
        eventually(lambda: " serving " in self.said or self.process.poll() is not None, "it serves")
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", self.said)
        assert found, self.said
        self._channel = grpc.insecure_channel(found[1])
        self._chat = chat_pb2_grpc.ChatServiceStub(self._channel)

    @property
    def said(self) -> str:
        return self._said.read_text(encoding="utf-8")

    def chat(self, request: pb.ChatRequest, key: str = _KEY, seconds: float = 60) -> grpc.StatusCode:
        """How it ends."""
        metadata = (("authorization", f"Bearer {key}"),)
        call = self._chat.Chat(request, seconds, metadata)
        try:
            for _ in call:
                pass
        except grpc.RpcError:
            pass
        code = call.code()
        assert isinstance(code, grpc.StatusCode)
        return code

    def stop(self) -> str:
        """Everything that it has said."""
        self._channel.close()
        self.process.terminate()
        self.process.wait(60)
        return self.said


@pytest.fixture
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., _Server]]:
    servers: list[_Server] = []

    def start(*flags: str) -> _Server:
        servers.append(_Server(tmp_path_factory.mktemp("c"), *flags))
        return servers[-1]

    yield start
    for server in servers:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()


def _hold_no_secret(said: str) -> None:
    assert " executor: " in said or "serving" in said
    assert [line for line in said.splitlines() if _MARK in line.lower()] == []
    assert _KEY not in said
    assert _KEY[4:20] not in said


_REFUSING = """{%- set said = messages[-1]['content'] -%}
{%- if 'REFUSE' in said %}{{ raise_exception('no: ' ~ said) }}{% endif -%}{{ said }}"""


def test_the_front_end_keeps_prompts_answers_and_keys_to_itself(
    start: Callable[..., _Server], tmp_path: Path, tokenizer_directory: Callable[..., Path]
) -> None:
    model = tokenizer_directory(tmp_path / "model", _REFUSING)
    server = start("--executor", "replay", "--replay.step-seconds", "0.001", "--model", str(model))
    answered = ask(_MARK)
    assert server.chat(answered) is grpc.StatusCode.OK
    assert server.chat(ask(_MARK, stop_words_list=[_MARK])) is grpc.StatusCode.OK
    assert server.chat(answered, key="mck_" + _MARK) is grpc.StatusCode.UNAUTHENTICATED
    assert server.chat(answered, key=f"{_MARK}.{_MARK}.{_MARK}") is grpc.StatusCode.UNAUTHENTICATED
    assert (
        server.chat(ask(_MARK, max_completion_tokens=2_000, min_tokens=2_000), seconds=0.2)
        is grpc.StatusCode.DEADLINE_EXCEEDED
    )
    assert server.chat(ask(f"FAULT {_MARK}")) is grpc.StatusCode.INTERNAL
    assert server.chat(ask(_MARK, temperature=9)) is grpc.StatusCode.INVALID_ARGUMENT
    assert server.chat(ask(_MARK, bad_words_list=[_MARK])) is grpc.StatusCode.UNIMPLEMENTED
    assert server.chat(ask(f"REFUSE {_MARK}")) is grpc.StatusCode.INVALID_ARGUMENT
    said = server.stop()
    _hold_no_secret(said)
    # The fault is told all the same, with its cause and where both arose.
    assert re.search(r"Chat failed as [0-9a-f]{32}: RuntimeError", said)
    assert "from ValueError" in said
    assert "in faulty" in said


_REFUSED: list[dict[str, Any]] = [
    {"regex": f"({_MARK}"},
    {"regex": f"{_MARK}(?<=a)b\\"},
    {"grammar": f'root ::= {_MARK} "'},
    {"grammar": f'other ::= "{_MARK}"'},
    {"json_schema": json.dumps({"type": _MARK})},
    {"json_schema": json.dumps({"$ref": f"#/definitions/{_MARK}"})},
    {"json_schema": f'{{"const": "{_MARK}"'},
    {"json_schema": json.dumps({"type": "string", "pattern": f"({_MARK}"})},
]


def test_so_does_the_engine(start: Callable[..., _Server], model_path: Path) -> None:
    server = start("--model", str(model_path))
    for form in _REFUSED:
        request = ask(_MARK, max_completion_tokens=2, response_format=pb.ResponseFormat(**form))
        assert server.chat(request) is grpc.StatusCode.INVALID_ARGUMENT, form
    allowed = pb.ResponseFormat(regex=f"{_MARK}!")
    assert server.chat(ask("Hi", max_completion_tokens=20, response_format=allowed)) is grpc.StatusCode.OK
    assert server.chat(ask(_MARK, max_completion_tokens=2, bad_words_list=[_MARK])) is grpc.StatusCode.OK
    system = pb.ChatRequest(messages=[user(_MARK), user(_MARK)], max_completion_tokens=1)
    server.chat(system)
    _hold_no_secret(server.stop())


def test_places_name_types_files_and_functions_but_no_text() -> None:
    def inner() -> None:
        raise KeyError(_MARK)

    def outer() -> None:
        try:
            inner()
        except KeyError as error:
            raise ValueError(_MARK) from error

    with pytest.raises(ValueError) as caught:
        outer()
    told = places(caught.value)
    assert _MARK not in told
    assert [
        part for part in ("ValueError", "KeyError", "in inner", "in outer", __file__) if part not in told
    ] == []
    assert told.index("ValueError") < told.index("KeyError")
