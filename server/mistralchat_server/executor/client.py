"""A front end's connection to the executor process: submits requests, hands out their tokens."""

import asyncio
import logging
import socket

from .channel import Channel
from .messages import (
    Cancel,
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
    request_ids,
)
from .seam import StartError
from .stream import ExecutorGoneError, GenerationError, TokenStream
from .suspects import Suspects

log = logging.getLogger(__name__)


class ExecutorClient:
    """The connection of one front end, and the streams of its open requests.

    It ends with the executor process, of which `lose` tells it.
    """

    def __init__(self, folder: str, suspects: Suspects, number: int = 0) -> None:
        """`number` is 0 for the front end that starts the process, else what it attaches this one as.

        `suspects` outlives the process. Raises `StartError` if there can be no socket in `folder`.
        """
        self.endpoint = self.endpoint_of(folder, number)
        self._loop = asyncio.get_running_loop()
        self._suspects = suspects
        self._streams: dict[int, TokenStream] = {}
        self._requests: dict[int, Request] = {}
        #: Requests whose reader has left, until the executor has gone on without them.
        self._leaving: list[tuple[Request, TokenStream]] = []
        self._ids = request_ids(number)
        self._description: Description | None = None
        self._last_iteration: Iteration | None = None
        self._ready: asyncio.Future[Description] = self._loop.create_future()
        self._disconnected: asyncio.Future[None] = self._loop.create_future()
        self._gone: asyncio.Future[None] = self._loop.create_future()
        self._channel: Channel | None = None
        self._listener = socket.socket(socket.AF_UNIX)
        try:
            self._listener.bind(self.endpoint)
        except OSError as error:
            self._listener.close()
            raise StartError(
                f"No socket can be made in {folder} ({error.strerror or error}): "
                "set TMPDIR to a folder with a short path that can be written to."
            ) from error
        self._listener.listen(1)
        self._loop.add_reader(self._listener, self._accept)

    @staticmethod
    def endpoint_of(folder: str, number: int) -> str:
        """The path of the socket where a front end awaits the executor process."""
        return f"{folder}/front-end-{number}"

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

    async def ready(self) -> Description:
        """Waits until the model is loaded. Raises `StartError` if it cannot be."""
        return await asyncio.shield(self._ready)

    async def disconnected(self) -> None:
        """Waits until the executor process is not at the other end any more."""
        await asyncio.shield(self._disconnected)

    async def gone(self) -> None:
        """Waits for `lose`. All streams have failed then."""
        await asyncio.shield(self._gone)

    def open(self, request: Request) -> TokenStream:
        """Submits a request, which is to be left with `leave` whatever becomes of it.

        `request.id` must come from `new_id`. Raises `ExecutorGoneError` if there is no executor, and
        `GenerationError` for a request that may have ended the one before.
        """
        if self._description is None:
            raise ExecutorGoneError
        stream = TokenStream()
        self._suspects.admit(request, stream)
        self._streams[request.id] = stream
        self._requests[request.id] = request
        self.send(request)
        return stream

    def leave(self, request: Request) -> None:
        """Nobody reads the request's tokens any more: cancels it before its last output."""
        stream = self._streams.pop(request.id)
        del self._requests[request.id]
        if not stream.ended:
            self._leaving.append((request, stream))
            self.send(Cancel(request.id))

    def new_id(self) -> int:
        """An id that no other request of this process has."""
        return next(self._ids)

    def send(self, command: Command) -> None:
        """Sends a command; what nobody receives any more is dropped."""
        if self._channel is None:
            return
        self._channel.send(command_encoder.encode(command))
        if self._channel.unsent:
            self._loop.add_writer(self._channel, self._flush)

    def lose(self) -> None:
        """Ends the connection, since the process has ended or is about to be killed: every stream fails."""
        if self._gone.done():
            return
        self._gone.set_result(None)
        self._description = None
        running = [(self._requests[request_id], stream) for request_id, stream in self._streams.items()]
        for request_id in self._suspects.died(running + self._leaving):
            log.error("request %d has ended the executor twice: its like are refused for now", request_id)
        for stream in self._streams.values():
            stream.fail(ExecutorGoneError())
        self._stop_listening()
        if self._channel is not None:
            self._loop.remove_reader(self._channel)
            self._loop.remove_writer(self._channel)
            self._channel.close()
            self._channel = None

    def _accept(self) -> None:
        connected, _ = self._listener.accept()
        self._stop_listening()
        self._channel = Channel(connected)
        self._loop.add_reader(self._channel, self._receive)

    def _stop_listening(self) -> None:
        if self._listener.fileno() != -1:
            self._loop.remove_reader(self._listener)
            self._listener.close()

    def _flush(self) -> None:
        assert self._channel is not None, "its writer is removed with it"
        self._channel.flush()
        if not self._channel.unsent:
            self._loop.remove_writer(self._channel)

    def _receive(self) -> None:
        assert self._channel is not None, "its reader is removed with it"
        try:
            arrived = self._channel.receive()
        except EOFError:
            self._loop.remove_reader(self._channel)
            self._disconnected.set_result(None)
            return
        for event in arrived:
            self._handle(event_decoder.decode(event))

    def _handle(self, event: Event) -> None:
        match event:
            case Iteration():
                self._dispatch(event)
            case Ready(description):
                self._description = description
                self._ready.set_result(description)
            case StartFailed(message):
                self._ready.set_exception(StartError(message))

    def _dispatch(self, iteration: Iteration) -> None:
        """Hands every token to its stream. Nothing else loops over the outputs of an iteration."""
        self._last_iteration = iteration
        if self._leaving:
            for _, left in self._leaving:
                self._suspects.left(left)
            self._leaving.clear()
        streams = self._streams
        for request_id, moment in iteration.started:
            if (stream := streams.get(request_id)) is not None:
                stream.started_at = moment
        for output in iteration.outputs:
            # Tokens of a request whose caller has left are still on their way: nobody wants them.
            if (stream := streams.get(output.request_id)) is not None:
                stream.push(output)
        for failure in iteration.failures:
            self._fail(failure)

    def _fail(self, failure: Failure) -> None:
        if (stream := self._streams.get(failure.request_id)) is not None:
            stream.fail(GenerationError(failure))
