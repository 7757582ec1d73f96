"""The front end's side of the executor process: starts it, submits requests, hands out their tokens."""

import asyncio
import contextlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import ClassVar

import zmq
import zmq.asyncio

from . import heartbeat
from .heartbeat import Heartbeat
from .messages import (
    Cancel,
    Close,
    Command,
    Description,
    Event,
    Failure,
    Iteration,
    Ready,
    Request,
    StartFailed,
    command_encoder,
    event_decoder,
)
from .orders import ExecutorSettings, Orders
from .seam import StartError
from .stream import ExecutorGoneError, GenerationError, TokenStream
from .suspects import Suspects
from .watchdog import Watchdog, end_hung

log = logging.getLogger(__name__)

#: Seconds that an executor process may take to end when asked to.
_CLOSE_SECONDS = 5.0
#: Seconds from the loss of its socket within which a process that is ending has ended.
_LOST_SECONDS = 0.5


class ExecutorClient:
    """One executor process, from its start to its end, and the streams of all open requests.

    `step_timeout` in seconds: a process whose loop stands still for longer hangs, and is killed. `suspects`
    outlives the process.
    """

    #: What is started; the process's folder is added.
    command: ClassVar[tuple[str, ...]] = (sys.executable, "-m", "mistralchat_server.executor.process")

    def __init__(
        self, settings: ExecutorSettings, *, step_timeout: float = 120.0, suspects: Suspects | None = None
    ) -> None:
        self._settings = settings
        self._step_timeout = step_timeout
        self._suspects = suspects or Suspects()
        self._requests: dict[int, Request] = {}
        #: Requests whose reader has left, until the executor has gone on without them.
        self._leaving: list[tuple[Request, TokenStream]] = []
        self._supervision: asyncio.Task[None] | None = None
        self._hung = False
        self._streams: dict[int, TokenStream] = {}
        self._ids = count(1)
        self._description: Description | None = None
        self._folder: str | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._last_iteration: Iteration | None = None

    @property
    def description(self) -> Description | None:
        """What the executor is; None while it is starting and once it has gone."""
        return self._description

    @property
    def open_streams(self) -> int:
        """Requests that have a reader."""
        return len(self._streams)

    @property
    def last_iteration(self) -> Iteration | None:
        """The executor's latest report, with its own count of active requests."""
        return self._last_iteration

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process is not None, "not started"
        return self._process.pid

    async def start(self) -> Description:
        """Starts the process and waits until the model is loaded. Raises `StartError`."""
        self._folder = tempfile.mkdtemp(prefix="mistralchat-")
        endpoint = f"ipc://{self._folder}/executor"
        self._socket = zmq.asyncio.Context.instance().socket(zmq.PAIR)
        self._socket.set_hwm(0)
        self._socket.linger = 0
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise StartError(
                f"No socket can be made in {self._folder} ({error.strerror}): "
                "set TMPDIR to a folder with a short path that can be written to."
            ) from error
        memory = heartbeat.create()
        try:
            # A session of its own keeps a terminal's Ctrl-C from it: the front end decides when it ends.
            self._process = await asyncio.create_subprocess_exec(
                *self.command,
                self._folder,
                stdin=asyncio.subprocess.PIPE,
                start_new_session=True,
                pass_fds=(memory,),
                # What it leaves behind when it is killed is removed with the folder.
                env={**os.environ, "TMPDIR": self._folder},
            )
            pulse = Heartbeat(memory)
        finally:
            os.close(memory)
        assert self._process.stdin is not None
        orders = Orders(endpoint=endpoint, heartbeat=memory, settings=self._settings)
        self._process.stdin.write(orders.model_dump_json().encode() + b"\n")
        first = asyncio.ensure_future(self._receive())
        ended = asyncio.ensure_future(self._process.wait())
        try:
            await asyncio.wait((first, ended), return_when=asyncio.FIRST_COMPLETED)
            if not first.done():
                raise StartError(f"The executor process ended while loading, with {_exit(ended.result())}.")
            event = first.result()
            if isinstance(event, StartFailed):
                raise StartError(event.message)
            assert isinstance(event, Ready), event
        finally:
            first.cancel()
            ended.cancel()
        self._description = event.description
        self._tasks = [asyncio.create_task(self._dispatch(), name="executor-dispatch")]
        watchdog = Watchdog(lambda: pulse.beats, self._step_timeout)
        self._supervision = asyncio.create_task(
            self._supervise(self._process, watchdog), name="executor-supervision"
        )
        return event.description

    async def gone(self) -> None:
        """Waits until the process has ended, hangs or cannot be reached. All streams have failed then."""
        assert self._supervision is not None, "not started"
        await asyncio.shield(self._supervision)

    async def _supervise(self, process: asyncio.subprocess.Process, watchdog: Watchdog) -> None:
        ended = asyncio.create_task(process.wait())
        hung = asyncio.create_task(watchdog.hung())
        lost = asyncio.create_task(self._disconnected())
        try:
            await asyncio.wait((ended, hung, lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (ended, hung, lost):
                task.cancel()
        self._hung = hung.done() and not hung.cancelled()
        self._judge_requests()
        self._lose_streams()

    async def _disconnected(self) -> None:
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        await monitor.recv_multipart()

    def _judge_requests(self) -> None:
        running = [(self._requests[request_id], stream) for request_id, stream in self._streams.items()]
        for request_id in self._suspects.died(running + self._leaving):
            log.error("request %d has ended the executor twice: its like are refused for now", request_id)

    @asynccontextmanager
    async def generate(self, request: Request) -> AsyncIterator[TokenStream]:
        """Submits a request; leaving the context before its last output cancels it.

        `request.id` must come from `new_id`. Raises `ExecutorGoneError` if there is no executor, and
        `GenerationError` for a request that may have ended the one before.
        """
        if self._description is None:
            raise ExecutorGoneError
        stream = TokenStream()
        self._suspects.admit(request, stream)
        self._streams[request.id] = stream
        self._requests[request.id] = request
        self._send(request)
        try:
            yield stream
        finally:
            del self._streams[request.id]
            del self._requests[request.id]
            if not stream.ended:
                self._leaving.append((request, stream))
                self._send(Cancel(request.id))

    def new_id(self) -> int:
        """An id that no other request of this process has."""
        return next(self._ids)

    async def close(self) -> str:
        """Ends the process, waiting a few seconds before it is killed, and says how it ended.

        What is still open fails.
        """
        if self._folder is None:
            return "nothing"
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        # Without a process it was cancelled before there was one.
        how = "nothing" if self._process is None else await self._end(self._process)
        self._lose_streams()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        return how

    async def _end(self, process: asyncio.subprocess.Process) -> str:
        if process.returncode is not None:
            return _exit(process.returncode)
        if self._hung:
            await end_hung(process)
            return f"a kill, since no step came to its end within {self._step_timeout:g} s"
        if self._description is not None:
            self._send(Close())
            patience = _CLOSE_SECONDS
        else:
            # It is loading and does not listen, or is ending, for which its connection is the first to go.
            patience = _LOST_SECONDS if self._supervision is not None else 0.0
        try:
            return _exit(await asyncio.wait_for(process.wait(), patience))
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            return "a kill, since it did not end by itself"

    def _send(self, command: Command) -> None:
        # The socket has no high-water mark, so this is done at once and needs no awaiting.
        self._socket.send(command_encoder.encode(command))

    async def _receive(self) -> Event:
        return event_decoder.decode(await self._socket.recv())

    async def _dispatch(self) -> None:
        """Hands every token to its stream. Nothing else loops over the outputs of an iteration."""
        while True:
            event = await self._receive()
            assert isinstance(event, Iteration), event
            self._last_iteration = event
            if self._leaving:
                for _, left in self._leaving:
                    self._suspects.left(left)
                self._leaving.clear()
            streams = self._streams
            for request_id, moment in event.started:
                if (stream := streams.get(request_id)) is not None:
                    stream.started_at = moment
            for output in event.outputs:
                # Tokens of a request whose caller has left are still on their way: nobody wants them.
                if (stream := streams.get(output.request_id)) is not None:
                    stream.push(output)
            for failure in event.failures:
                self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        if (stream := self._streams.get(failure.request_id)) is not None:
            stream.fail(GenerationError(failure))

    def _lose_streams(self) -> None:
        self._description = None
        for stream in self._streams.values():
            stream.fail(ExecutorGoneError())


def _exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    by_whom = " (by hand, or for lack of memory: the kernel's log knows)" if code == -signal.SIGKILL else ""
    return f"signal {-code}{by_whom}"
