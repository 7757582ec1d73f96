"""The conversation, on a terminal of its own."""

import codecs
import contextlib
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import grpc
import pytest

from mistralchat.v1 import chat_pb2

from .conftest import FakeChatService, fails, running, says

# The terminal must be the controlling one of the command, or Ctrl-C would signal nobody.
COMMAND = """
import fcntl, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from mistralchat.cli import main
sys.exit(main())
"""
PROMPT = "> "


class Terminal:
    """A person at the command: types, and reads what the screen shows."""

    def __init__(self, *arguments: str) -> None:
        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "chat", *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm"},
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._unread = ""

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def see(self, text: str) -> str:
        """Waits for the text; returns the screen's text up to it, without colours."""
        end = time.monotonic() + 10
        while (at := self._unread.find(text)) < 0:
            if not select.select([self._ours], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"no {text!r} in {self._unread!r}")
            self._read()
        seen, self._unread = self._unread[: at + len(text)], self._unread[at + len(text) :]
        return seen

    def leave(self, keys: str = "") -> tuple[int, str]:
        """Types, and waits for the end of the command: its exit status and the last it printed."""
        for _ in range(3):
            # Python misses a signal in the instant between showing a prompt and waiting for keys.
            time.sleep(0.1)
            self.type(keys)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
                break
        status = self.process.wait(0)
        while select.select([self._ours], [], [], 0)[0] and self._read():
            pass
        return status, self._unread

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(10)
        os.close(self._ours)

    def _read(self) -> bool:
        try:
            chunk = os.read(self._ours, 65536)
        except OSError:  # Linux says EIO once the other side is closed.
            return False
        # A sequence can come in two parts, hence not the chunk alone.
        shown = self._unread + self._decoder.decode(chunk)
        self._unread = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]|\r", "", shown)
        return bool(chunk)


@pytest.fixture
def terminal(target: str) -> Iterator[Terminal]:
    terminal = Terminal("--target", target)
    try:
        yield terminal
    finally:
        terminal.close()


def said(request: chat_pb2.ChatRequest) -> list[str]:
    return [message.content for message in request.messages]


def test_keeps_what_was_said(service: FakeChatService, terminal: Terminal, target: str) -> None:
    assert f"fake-7b Q4_1, replay · context 32,768 tokens · {target}" in terminal.see(PROMPT)
    terminal.type("one\n")
    seen = terminal.see("\n> ")
    assert "Hello, world\n" in seen
    assert "5 prompt + 3 completion tokens" in seen
    terminal.type("two\n")
    terminal.see("\n> ")
    terminal.type("/new\n")
    terminal.see("\n> ")
    terminal.type("three\n")
    terminal.see("\n> ")
    assert [said(request) for request in service.requests] == [
        ["one"],
        ["one", "Hello, world", "two"],
        ["three"],
    ]
    assert terminal.leave("/exit\n")[0] == 0


def test_ctrl_c_ends_the_answer_and_keeps_its_part(service: FakeChatService, terminal: Terminal) -> None:
    service.script = service.until_cancelled
    terminal.see(PROMPT)
    terminal.type("one\n")
    terminal.see("partial")
    assert not service.ended.is_set()
    terminal.type("\x03")
    assert "interrupted" in terminal.see("\n> ")
    assert service.ended.wait(3)
    service.script = says("fine")
    terminal.type("two\n")
    assert "fine" in terminal.see("\n> ")
    assert said(service.requests[1]) == ["one", "partial", "two"]
    status, last = terminal.leave("\x03")
    assert (status, last.lstrip("^C")) == (0, "\n")


def test_ctrl_c_before_the_first_token(service: FakeChatService, terminal: Terminal) -> None:
    def script(_: chat_pb2.ChatRequest, __: object) -> Iterator[chat_pb2.ChatResponse]:
        service.ended.wait(10)
        yield chat_pb2.ChatResponse()

    service.script = script
    terminal.see(PROMPT)
    terminal.type("one\n")
    terminal.see("waiting")
    terminal.type("\x03")
    terminal.see("interrupted")
    assert service.ended.wait(3)
    service.script = says("fine")
    terminal.see("\n> ")
    terminal.type("two\n")
    terminal.see("\n> ")
    assert said(service.requests[-1]) == ["two"]
    assert terminal.leave("\x04")[0] == 0


def test_an_unanswered_question_is_forgotten(service: FakeChatService, terminal: Terminal) -> None:
    terminal.see(PROMPT)
    service.script = fails(grpc.StatusCode.INTERNAL, "the executor failed", after=("half",))
    terminal.type("one\n")
    assert "error: the executor failed\n" in terminal.see("\n> ")
    service.script = says()  # An empty turn would be refused with every later question.
    terminal.type("two\n")
    terminal.see("\n> ")
    service.script = says("fine")
    terminal.type("three\n")
    assert "fine" in terminal.see("\n> ")
    assert said(service.requests[-1]) == ["three"]


def test_the_conversation_survives_the_server(service: FakeChatService) -> None:
    with running(service) as target:
        terminal = Terminal("--target", target, "--system", "be brief")
        try:
            terminal.see(PROMPT)
            terminal.type("one\n")
            terminal.see("\n> ")
        except BaseException:
            terminal.close()
            raise
    try:
        terminal.type("two\n")
        assert f"error: no connection to {target}" in terminal.see("\n> ")
        with running(service, int(target.rpartition(":")[2])):
            deadline = time.monotonic() + 8
            while True:
                terminal.type("three\n")
                if "Hello, world" in terminal.see("\n> "):
                    break
                assert time.monotonic() < deadline
        assert said(service.requests[-1]) == ["be brief", "one", "Hello, world", "three"]
    finally:
        terminal.close()


def test_no_server_at_the_beginning() -> None:
    terminal = Terminal("--target", "127.0.0.1:1")
    try:
        status, shown = terminal.leave()
        assert status == 1
        assert shown.startswith("error: no connection to 127.0.0.1:1")
        assert shown.count("\n") == 1
    finally:
        terminal.close()


def test_an_answer_cannot_steer_the_terminal(service: FakeChatService, terminal: Terminal) -> None:
    service.script = says("a\x1b]0;title\x07b\tc")
    terminal.see(PROMPT)
    terminal.type("one\n")
    seen = terminal.see("\n> ")
    assert "a�]0;title�b" in seen


def test_other_commands(service: FakeChatService, terminal: Terminal) -> None:
    terminal.see(PROMPT)
    terminal.type("\n")
    terminal.see("\n> ")
    terminal.type("/help\n")
    assert "/exit" in terminal.see("\n> ")
    terminal.type("/what\n")
    assert "no such command: /what" in terminal.see("\n> ")
    assert service.requests == []
