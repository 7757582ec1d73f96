"""The server from start to end: listens, loads the model, keeps an executor running, drains, stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat.v1 import chat_pb2, chat_pb2_grpc

from . import model_files
from .executor.client import ExecutorClient
from .executor.seam import StartError
from .rpc import reflection
from .rpc.admission import Admission
from .rpc.chat import ChatService
from .rpc.faults import FaultInterceptor
from .rpc.trtllm import service as trtllm
from .settings import Settings
from .text.byte_tokenizer import byte_tokenizer
from .text.tokenizer import ChatTokenizer, TokenizerError, load_tokenizer

log = logging.getLogger(__name__)

_SERVICES = (chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name, trtllm.SERVICE_NAME)
#: Seconds before an executor that has ended is started again; after the last the server gives up.
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)
#: An executor that has run so many seconds was well: the next end is a new one, not part of a loop.
_WELL = 60.0
#: Seconds in which the last messages of calls that have ended go out.
_FAREWELL = 1.0
#: Clients ping idle connections, so that a NAT or a mesh does not forget them; they must be allowed to.
#: Beyond 1,000 calls that Python has not yet seen, gRPC would cancel some at random, with no word of why.
_CHANNEL_OPTIONS = (
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.so_reuseport", 0),
)


class App:
    """One server. `start`, then `run` until `stop` is called or the executor cannot be kept running."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._server = grpc.aio.server(interceptors=[FaultInterceptor()], options=_CHANNEL_OPTIONS)
        self._health = health.aio.HealthServicer()
        self._admission = Admission(settings.max_open_calls)
        self._chat = ChatService(self._admission)
        self._trtllm = trtllm.TrtllmService(self._chat, self._admission)
        self._executor: ExecutorClient | None = None
        self._stopping = asyncio.Event()
        #: The port that is listened on.
        self.port = 0

    @property
    def executor(self) -> ExecutorClient | None:
        """The executor that runs at present."""
        return self._executor

    async def start(self) -> None:
        """Begins to listen; every call is answered with UNAVAILABLE as yet. Raises `StartError`."""
        chat_pb2_grpc.add_ChatServiceServicer_to_server(self._chat, self._server)
        trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server(self._trtllm, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        if self._settings.reflection:
            reflection.enable((*_SERVICES, health.SERVICE_NAME), self._server)
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        try:
            self.port = self._server.add_insecure_port(self._settings.listen)
        except RuntimeError as error:
            raise StartError(
                f"Cannot listen on {self._settings.listen}: is another program there?"
            ) from error
        await self._server.start()

    async def run(self) -> None:
        """Loads the model and serves until `stop` is called. Raises `StartError`."""
        serving = asyncio.create_task(self._serve(), name="serve")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                serving.result()
        finally:
            serving.cancel()
            stopping.cancel()
            await asyncio.gather(serving, stopping, return_exceptions=True)
            await self._drain()

    def stop(self) -> None:
        """Makes `run` drain and return."""
        self._stopping.set()

    async def _serve(self) -> None:
        started = time.monotonic()
        model, tokenizer, executor = await self._load()
        # What was loaded stays: the collector need not look through it again and again while tokens flow.
        gc.collect()
        gc.freeze()
        name = self._settings.model_name or self._default_name(model)
        attempts = 0
        while True:
            self._trtllm.open(name, model)
            self._chat.open(name, tokenizer, executor)
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            since = time.monotonic()
            log.info("serving %s on %s, ready after %.1f s", name, self._settings.executor, since - started)
            how = await executor.gone()
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            await executor.close()
            attempts = 0 if time.monotonic() - since > _WELL else attempts
            started = time.monotonic()
            executor, attempts = await self._restart(model, how, attempts)

    def _default_name(self, model: Path | None) -> str:
        """As the model's files are named; a download lies in a folder that is named after its revision."""
        if model is None or self._settings.model is None:
            return self._settings.executor
        given = Path(self._settings.model)
        return (given if not given.exists() else model).name.removesuffix(".gguf")

    async def _load(self) -> tuple[Path | None, ChatTokenizer, ExecutorClient]:
        """Finds the model, then loads its tokenizer here while the executor process loads the rest."""
        model = self._settings.model
        path = None if model is None else await asyncio.to_thread(model_files.find, model)
        starting = asyncio.create_task(self._start_executor(path))
        try:
            tokenizer = await asyncio.to_thread(_load_tokenizer, path)
        except TokenizerError as error:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise StartError(str(error)) from error
        return path, tokenizer, await starting

    async def _start_executor(self, model: Path | None) -> ExecutorClient:
        executor = ExecutorClient(self._settings.executor_settings(model))
        try:
            await executor.start()
        except BaseException:
            await executor.close()
            raise
        self._executor = executor
        return executor

    async def _restart(self, model: Path | None, how: str, attempts: int) -> tuple[ExecutorClient, int]:
        while attempts < len(_BACK_OFF):
            log.error("the executor ended with %s; starting it again in %.1f s", how, _BACK_OFF[attempts])
            await asyncio.sleep(_BACK_OFF[attempts])
            attempts += 1
            try:
                return await self._start_executor(model), attempts
            except StartError as error:
                how = f"the message: {error}"
        raise StartError(f"The executor does not keep running (it ended {attempts + 1} times): {how}.")

    async def _drain(self) -> None:
        """Refuses new calls, gives open ones the grace period, ends the rest with UNAVAILABLE."""
        self._chat.drain()
        await self._health.enter_graceful_shutdown()
        # The server itself is stopped afterwards: it would wait for watchers of the health, too.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), self._settings.grace_seconds)
        if self._executor is not None:
            await self._executor.close()
        await self._server.stop(_FAREWELL)

    async def _set_health(self, status: int) -> None:
        for service in ("", *_SERVICES):
            await self._health.set(service, status)


def main(argv: list[str]) -> int:
    """The command `mistralchat serve`. Returns the exit code."""
    settings = Settings.from_command_line(argv)
    logging.basicConfig(
        level=settings.log_level, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr
    )
    try:
        return asyncio.run(_main(settings))
    except StartError as error:
        log.error("%s", error)
        return 1


async def _main(settings: Settings) -> int:
    app = App(settings)
    loop = asyncio.get_running_loop()

    def on_signal() -> None:
        # A second signal ends everything at once; the executor notices by its standard input.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, os._exit, 1)
        log.info("stopping: open calls have %.0f s to end; once more ends at once", settings.grace_seconds)
        app.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    await app.start()
    host = settings.listen.rpartition(":")[0]
    log.info("listening on %s:%d; loading the model", host, app.port)
    await app.run()
    return 0


def _load_tokenizer(model: Path | None) -> ChatTokenizer:
    return byte_tokenizer() if model is None else load_tokenizer(model)
