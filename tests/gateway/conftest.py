"""Gateways to test: the real SMG, started by `mistralchat gateway`, and OpenAI's client."""

import http.client
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from ..conftest import Server, eventually

__all__ = ["Gateway", "Server", "Worker", "chat", "eventually"]

_COMMAND = "import sys; from mistralchat.cli import main; sys.exit(main())"
#: SMG starts in less than a second; a busy machine is given more.
_START_SECONDS = 60.0


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    # No proxy of the machine's stands between processes on it; nothing is asked of a hub.
    environment = {
        name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
    } | {"HF_HUB_OFFLINE": "1"}
    if arguments[0] == "gateway":
        # One that is killed leaves its folder behind. A server could make no socket in so long a path.
        environment["TMPDIR"] = str(log.parent)
    with log.open("wb") as file:
        return subprocess.Popen(
            [sys.executable, "-c", _COMMAND, *arguments], stdout=file, stderr=file, env=environment
        )


class Gateway:
    """A `mistralchat gateway` in front of these addresses."""

    def __init__(self, log: Path, workers: list[str], *flags: str, wait: bool = True) -> None:
        """Returns once it is ready, or at once without `wait`."""
        self._log = log
        self.port = free_port()
        addresses = (part for worker in workers for part in ("--worker", worker))
        smg = ("--prometheus-port", str(free_port()), *flags)
        self.process = _start(log, "gateway", *addresses, "--listen", f"127.0.0.1:{self.port}", "--", *smg)
        if wait:
            self.await_ready()

    @property
    def log(self) -> str:
        """What it has written."""
        return re.sub(r"\x1b\[[0-9;]*m", "", self._log.read_text("utf-8", "replace"))

    def await_ready(self) -> None:
        eventually(
            lambda: "ready: OpenAI's API" in self.log or self.process.poll() is not None,
            "the gateway is ready",
            _START_SECONDS,
        )
        assert self.process.poll() is None, self.log

    def client(self, **options: Any) -> openai.OpenAI:
        """OpenAI's client, which does not repeat what fails."""
        defaults = {"api_key": "none", "max_retries": 0, "timeout": 60.0}
        return openai.OpenAI(base_url=f"http://127.0.0.1:{self.port}/v1", **{**defaults, **options})

    def post(self, body: bytes, path: str = "/v1/chat/completions") -> tuple[int, str]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request("POST", path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def stop(self) -> None:
        """At once: SMG alone would keep its port open for five seconds more."""
        for _ in range(2):
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                _gone(self.process, 0.3)
        self.process.wait(_START_SECONDS)


class Worker:
    """A `mistralchat serve` of its own, which can be killed."""

    def __init__(self, log: Path, *flags: str) -> None:
        """Returns once it listens."""
        self.address = f"127.0.0.1:{free_port()}"
        arguments = ("--executor", "replay", "--listen", self.address, *flags)
        self.process = _start(log, "serve", *arguments)
        eventually(lambda: b" serving " in log.read_bytes(), "the worker serves", _START_SECONDS)

    def stop(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(_START_SECONDS)


def _gone(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return


def chat(client: openai.OpenAI, content: str = "Hello", **parameters: Any) -> Any:
    """A completion of one message, greedy unless said otherwise."""
    model = parameters.pop("model", "replay")
    return client.chat.completions.create(
        **{
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "temperature": 0,
            **parameters,
        }
    )


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="session")
def replay_gateway(replay_server: Server, logs: Path) -> Iterator[Gateway]:
    gateway = Gateway(logs / "replay", [replay_server.address])
    yield gateway
    gateway.stop()


@pytest.fixture(scope="session")
def openvino_gateway(openvino_server: Server, logs: Path) -> Iterator[Gateway]:
    gateway = Gateway(logs / "openvino", [openvino_server.address])
    yield gateway
    gateway.stop()


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    """Starts further gateways; they end with the test."""
    gateways: list[Gateway] = []

    def start(workers: list[str], *flags: str, wait: bool = True) -> Gateway:
        gateways.append(Gateway(tmp_path / f"gateway-{len(gateways)}", workers, *flags, wait=wait))
        return gateways[-1]

    yield start
    for each in gateways:
        each.stop()


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts servers as processes; they end with the test."""
    workers: list[Worker] = []

    def start(*flags: str) -> Worker:
        workers.append(Worker(tmp_path / f"worker-{len(workers)}", *flags))
        return workers[-1]

    yield start
    for each in workers:
        each.stop()
