"""The server from start to end: listens, loads the model, keeps an executor running, drains, stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

from grpc_health.v1 import health, health_pb2
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat.v1 import chat_pb2, chat_pb2_grpc

from . import model_files
from .admission.admission import Admission, Bounds
from .executor.child import ExecutorProcess
from .executor.seam import StartError
from .executor.suspects import Suspects
from .listeners import Listeners, Service
from .rpc.chat import ChatService
from .rpc.readers import Readers
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
#: Seconds in which a stopping server still listens, and refuses calls itself.
_LAST_CALLS = 0.2


class App:
    """One server. `start`, then `run` until `stop` is called or the executor cannot be kept running."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._health = health.aio.HealthServicer()
        self._admission = Admission(_bounds(settings))
        readers = Readers(settings.reader_timeout_seconds)
        self._chat = ChatService(self._admission, readers)
        self._trtllm = trtllm.TrtllmService(self._chat, self._admission, readers)
        self._executor: ExecutorProcess | None = None
        self._suspects = Suspects()
        #: Seconds that the executor took to start, the last time.
        self._start_seconds = 0.0
        self._stopping = asyncio.Event()
        self._listeners: Listeners | None = None

    @property
    def addresses(self) -> list[str]:
        """What is listened on: for callers, then, if that is apart, for the gateway."""
        return [] if self._listeners is None else self._listeners.addresses

    @property
    def port(self) -> int:
        """Of the address for callers; 0 for a socket."""
        port = self.addresses[0].rpartition(":")[2]
        return int(port) if port.isdigit() else 0

    @property
    def executor(self) -> ExecutorProcess | None:
        """The executor process that runs at present."""
        return self._executor

    @property
    def admission(self) -> Admission:
        """What runs and waits at present."""
        return self._admission

    async def start(self) -> None:
        """Begins to listen; every call is answered with UNAVAILABLE as yet. Raises `StartError`."""
        chat, tokens = _SERVICES
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        self._listeners = Listeners(
            self._settings,
            Service(chat, partial(chat_pb2_grpc.add_ChatServiceServicer_to_server, self._chat)),
            Service(
                tokens, partial(trtllm_service_pb2_grpc.add_TrtllmServiceServicer_to_server, self._trtllm)
            ),
            self._health,
        )
        await self._listeners.start()

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
            self._chat.open(name, tokenizer, executor.client)
            self._chat.outage.over(_BACK_OFF[min(attempts, len(_BACK_OFF) - 1)] + self._start_seconds)
            if executor.client.description is not None:
                self._admission.open(executor.client.description.max_batch_size)
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            since = time.monotonic()
            log.info("serving %s on %s, ready after %.1f s", name, self._settings.executor, since - started)
            await executor.client.gone()
            self._admission.close("the executor has stopped; it may be back soon")
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            how = await executor.close()
            attempts = 0 if time.monotonic() - since > _WELL else attempts
            started = time.monotonic()
            executor, attempts = await self._restart(model, how, attempts)

    def _default_name(self, model: Path | None) -> str:
        """As the model's files are named; a download lies in a folder that is named after its revision."""
        if model is None or self._settings.model is None:
            return self._settings.executor
        given = Path(self._settings.model)
        return (given if not given.exists() else model).name.removesuffix(".gguf")

    async def _load(self) -> tuple[Path | None, ChatTokenizer, ExecutorProcess]:
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

    async def _start_executor(self, model: Path | None) -> ExecutorProcess:
        executor = ExecutorProcess(
            self._settings.executor_settings(model),
            step_timeout=self._settings.step_timeout_seconds,
            suspects=self._suspects,
        )
        began = time.monotonic()
        try:
            await executor.start()
        except BaseException:
            await executor.close()
            raise
        self._start_seconds = time.monotonic() - began
        self._executor = executor
        return executor

    async def _restart(self, model: Path | None, how: str, attempts: int) -> tuple[ExecutorProcess, int]:
        while attempts < len(_BACK_OFF):
            log.error("the executor ended with %s; starting it again in %.1f s", how, _BACK_OFF[attempts])
            self._chat.outage.lasts(_BACK_OFF[attempts] + self._start_seconds)
            await asyncio.sleep(_BACK_OFF[attempts])
            attempts += 1
            try:
                return await self._start_executor(model), attempts
            except StartError as error:
                how = f"the message: {error}"
        raise StartError(
            f"The executor does not keep running: it ended {attempts + 1} times in a row, last with {how}. "
            "See what it said itself, above."
        )

    async def _drain(self) -> None:
        """Refuses new calls and those that wait, gives running ones the grace period, ends the rest."""
        self._chat.drain()
        self._admission.close("the server is shutting down")
        await self._health.enter_graceful_shutdown()
        # When gRPC stops, calls that have arrived and were not taken up yet would end with CANCELLED.
        await asyncio.sleep(_LAST_CALLS)
        # Sends GOAWAY and closes the port. Not awaited, since it waits for watchers of the health, too.
        assert self._listeners is not None, "not started"
        stopping = asyncio.create_task(self._listeners.stop(self._settings.grace_seconds + _FAREWELL))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._admission.idle(), self._settings.grace_seconds)
        if self._executor is not None:
            await self._executor.close()
        # A second stop would wait for the first.
        stopping.cancel()
        await asyncio.gather(stopping, return_exceptions=True)
        await self._listeners.stop(_FAREWELL)

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
    log.info("listening on %s; loading the model", " and ".join(app.addresses))
    await app.run()
    return 0


def _bounds(settings: Settings) -> Bounds:
    options = settings.admission
    return Bounds(
        open_calls=settings.max_open_calls,
        queue_seconds=options.max_queue_seconds,
        queue_tokens=options.max_queue_tokens,
        calls_per_caller=options.max_calls_per_caller,
        tokens_per_minute=options.tokens_per_minute,
    )


def _load_tokenizer(model: Path | None) -> ChatTokenizer:
    return byte_tokenizer() if model is None else load_tokenizer(model)
