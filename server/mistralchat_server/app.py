"""A front end from start to end: listens, loads, serves one executor after the other, drains, stops."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from grpc_health.v1 import health, health_pb2
from smg_grpc_proto.generated import trtllm_service_pb2_grpc

from mistralchat.v1 import chat_pb2, chat_pb2_grpc

from . import model_files
from .admission.admission import Admission, Bounds
from .executor.child import ExecutorProcess
from .executor.client import ExecutorClient
from .executor.seam import StartError
from .listeners import Listeners, Service
from .places import places
from .rpc.chat import ChatService
from .rpc.readers import Readers
from .rpc.trtllm import service as trtllm
from .settings import Settings
from .siblings.fleet import Fleet
from .supervisor import Supervisor
from .text.byte_tokenizer import byte_tokenizer
from .text.tokenizer import ChatTokenizer, TokenizerError, load_tokenizer

log = logging.getLogger(__name__)

_SERVICES = (chat_pb2.DESCRIPTOR.services_by_name["ChatService"].full_name, trtllm.SERVICE_NAME)
#: Objects more than at the last look, before the garbage collector looks for cycles among them, which holds
#: everybody up: for some 10 ms where all of them are garbage.
_COLLECT_AFTER = 20_000
#: Seconds in which the last messages of calls that have ended go out.
_FAREWELL = 1.0
#: Seconds in which a stopping server still listens, and refuses calls itself.
_LAST_CALLS = 0.2


class Executors(Protocol):
    """Where a front end gets its connections to executor processes from."""

    async def next(self, model: Path | None) -> ExecutorClient:
        """The next one, once it is ready. Raises `StartError` if there will be none."""

    async def close(self) -> None:
        """Ends what the present connection needs."""


class App:
    """One front end. `start`, then `run` until `stop` is called or there is no executor to be had.

    The first one of a server starts the executor process, and its siblings.
    """

    def __init__(
        self,
        settings: Settings,
        executors: Executors | None = None,
        on_serving: Callable[[], object] = lambda: None,
    ) -> None:
        """A sibling is given its `executors`, and calls `on_serving` each time that it begins to answer."""
        self._settings = settings
        self._on_serving = on_serving
        self._health = health.aio.HealthServicer()
        self._admission = Admission(_bounds(settings))
        readers = Readers(settings.reader_timeout_seconds)
        self._chat = ChatService(self._admission, readers)
        self._trtllm = trtllm.TrtllmService(self._chat, self._admission, readers)
        self._supervisor: Supervisor | None = None
        siblings = 0
        if executors is None:
            executors = self._supervisor = Supervisor(settings, self._chat.outage)
            siblings = settings.front_ends - 1
        self._executors = executors
        self._fleet = Fleet(siblings)
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
        """The executor process that runs at present, where it is this front end's own."""
        return None if self._supervisor is None else self._supervisor.process

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
            sibling=self._supervisor is None,
        )
        await self._listeners.start()

    async def run(self) -> None:
        """Loads the model and serves until `stop` is called. Raises `StartError`."""
        tasks = [
            asyncio.create_task(self._serve(), name="serve"),
            asyncio.create_task(self._stopping.wait(), name="stopping"),
            asyncio.create_task(self._fleet.failed(), name="siblings"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._drain()

    def stop(self) -> None:
        """Makes `run` drain and return."""
        self._stopping.set()

    async def _serve(self) -> None:
        started = time.monotonic()
        model, tokenizer, executor = await self._load()
        # What was loaded stays: the collector need not look through it again and again while tokens flow. And
        # one iteration brings thousands of objects that are gone with the next: they are no reason to look.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_COLLECT_AFTER)
        name = self._settings.model_name or self._default_name(model)
        while True:
            self._trtllm.open(name, model)
            self._chat.open(name, tokenizer, executor)
            if executor.description is not None:
                self._admission.open(executor.description.max_batch_size)
            if self.executor is not None:
                await self._fleet.connect(self.executor)
            await self._set_health(health_pb2.HealthCheckResponse.SERVING)
            self._on_serving()
            seconds = time.monotonic() - started
            log.info("serving %s on %s, ready after %.1f s", name, self._settings.executor, seconds)
            await executor.gone()
            started = time.monotonic()
            self._admission.close("the executor has stopped; it may be back soon")
            await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
            executor = await self._executors.next(model)

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
        self._fleet.start(self._settings_of_siblings(path))
        starting = asyncio.create_task(self._executors.next(path))
        try:
            tokenizer = await asyncio.to_thread(_load_tokenizer, path)
        except TokenizerError as error:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            raise StartError(str(error)) from error
        return path, tokenizer, await starting

    def _settings_of_siblings(self, model: Path | None) -> Settings:
        """The same, with what was found out."""
        assert self._listeners is not None, "not started"
        addresses = dict(zip(("listen", "token_listen"), self._listeners.addresses, strict=False))
        name = self._settings.model_name or self._default_name(model)
        found = {"engine": None, "model": model and str(model), "model_name": name, **addresses}
        return self._settings.model_copy(update=found)

    async def _drain(self) -> None:
        """Refuses new calls and those that wait, gives running ones the grace period, ends the rest."""
        self._fleet.drain()
        self._chat.drain()
        self._admission.close("the server is shutting down")
        await self._health.enter_graceful_shutdown()
        # When gRPC stops, calls that have arrived and were not taken up yet would end with CANCELLED.
        await asyncio.sleep(_LAST_CALLS)
        # Sends GOAWAY and closes the port. Not awaited, since it waits for watchers of the health, too.
        assert self._listeners is not None, "not started"
        stopping = asyncio.create_task(self._listeners.stop(self._settings.grace_seconds + _FAREWELL))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._settings.grace_seconds):
                await self._admission.idle()
                await self._fleet.ended()
        await self._executors.close()
        await self._fleet.close()
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
    loop.set_exception_handler(_log_lost)

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


def _log_lost(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Logs what nobody has caught."""
    error = context.get("exception")
    log.error("%s: %s", context["message"], "no exception" if error is None else places(error))


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
