"""`mistralchat serve` as a process of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import grpc

from mistralchat.v1 import chat_pb2_grpc

from ..conftest import eventually

_PROGRAM = "import sys; from mistralchat.cli import main; sys.exit(main())"
REPLAY = ["--executor", "replay", "--listen", "127.0.0.1:0", "--replay.step-seconds", "0.005"]


class Command:
    """A started `mistralchat serve`, and what it has said."""

    def __init__(self, folder: Path, *arguments: str, before: str = "", **environment: str) -> None:
        """`before` is Python code that runs first in its process."""
        self._said = folder / "said"
        #: Where it and its executor make their temporary files, and nobody else.
        self.temporary = folder / "temporary"
        self.temporary.mkdir()
        with self._said.open("wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", f"{before}\n{_PROGRAM}", "serve", *arguments],
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

    def address(self) -> str:
        """Once it serves."""
        self.await_said(" serving ")
        found = re.search(r"listening on (127\.0\.0\.1:\d+)", self.said)
        assert found, self.said
        return found[1]

    def await_said(self, words: str) -> None:
        eventually(lambda: words in self.said or self.process.poll() is not None, f"it says {words}")

    def stub(self) -> chat_pb2_grpc.ChatServiceStub:
        """Once it serves."""
        return chat_pb2_grpc.ChatServiceStub(grpc.insecure_channel(self.address()))

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
