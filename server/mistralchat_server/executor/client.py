"""The front end's side of the executor process: starts it, submits requests, hands out their tokens."""

import asyncio
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

import zmq
import zmq.asyncio

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

#: Seconds that an executor process may take to end when asked to.
_CLOSE_SECONDS = 5.0
#: Iterations handed out before the readers of their tokens get to run; it may have run far ahead of them.
_ITERATIONS_IN_A_ROW = 64


class ExecutorClient:
    """One executor process, from its start to its end, and the streams of all open requests."""

    def __init__(self, settings: ExecutorSettings) -> None:
        self._settings = settings
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
        # A session of its own keeps a terminal's Ctrl-C from it: the front end decides when it ends.
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "mistralchat_server.executor.process",
            self._folder,
            stdin=asyncio.subprocess.PIPE,
            start_new_session=True,
            # What it leaves behind when it is killed is removed with the folder.
            env={**os.environ, "TMPDIR": self._folder},
        )
        assert self._process.stdin is not None
        orders = Orders(endpoint=endpoint, settings=self._settings)
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
        return event.description

    async def gone(self) -> str:
        """Waits for the process to end and says how it did. All streams have failed then."""
        assert self._process is not None, "not started"
        code = await self._process.wait()
        self._lose_streams()
        return _exit(code)

    @asynccontextmanager
    async def generate(self, request: Request) -> AsyncIterator[TokenStream]:
        """Submits a request; leaving the context before its last output cancels it.

        `request.id` must come from `new_id`. Raises `ExecutorGoneError` if there is no executor.
        """
        if self._description is None:
            raise ExecutorGoneError
        stream = self._streams[request.id] = TokenStream()
        self._send(request)
        try:
            yield stream
        finally:
            del self._streams[request.id]
            if not stream.ended:
                self._send(Cancel(request.id))

    def new_id(self) -> int:
        """An id that no other request of this process has."""
        return next(self._ids)

    async def close(self) -> None:
        """Ends the process, waiting a few seconds before it is killed. What is still open fails."""
        if self._folder is None:
            return
        # Without a process it was cancelled before there was one.
        if self._process is not None and self._process.returncode is None:
            self._send(Close())
            try:
                await asyncio.wait_for(self._process.wait(), _CLOSE_SECONDS)
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        self._lose_streams()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._socket.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _send(self, command: Command) -> None:
        # The socket has no high-water mark, so this is done at once and needs no awaiting.
        self._socket.send(command_encoder.encode(command))

    async def _receive(self) -> Event:
        return event_decoder.decode(await self._socket.recv())

    async def _dispatch(self) -> None:
        """Hands every token to its stream. Nothing else loops over the outputs of an iteration."""
        for number in count(1):
            event = await self._receive()
            assert isinstance(event, Iteration), event
            if not number % _ITERATIONS_IN_A_ROW:
                # Receiving what is there already does not give way to anybody by itself.
                await asyncio.sleep(0)
            self._last_iteration = event
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
    return f"signal {-code}" if code < 0 else f"exit code {code}"
