"""The executor's sockets to its front ends."""

import select
import socket
from collections.abc import Iterator

from .channel import Channel
from .heartbeat import Heartbeat
from .messages import (
    Attach,
    Cancel,
    Command,
    Description,
    Detach,
    Event,
    Iteration,
    Ready,
    Request,
    StartFailed,
    command_decoder,
    event_encoder,
    front_end_of,
)


class FrontEnds:
    """All front ends: the one that started this process, and those that it attaches.

    Each gets every iteration, with what concerns its own requests. One that holds nothing for it tells it
    still that the executor has gone on, without the requests that it has cancelled.
    """

    def __init__(self, endpoint: str, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._owner = _FrontEnd(endpoint)
        self._attached: dict[int, _FrontEnd] = {}
        self._description: Description | None = None

    def ready(self, description: Description) -> None:
        """Says that requests can come."""
        self._description = description
        self._owner.send(Ready(description))

    def start_failed(self, message: str) -> None:
        """Says why none will ever come."""
        self._owner.send(StartFailed(message))
        self._owner.close()

    def receive(self, wait: bool) -> Iterator[Command]:
        """Gives the sign of life, then the commands that have arrived; with `wait`, once there is one."""
        self._heartbeat.beat()
        if wait:
            while not self._poll():
                self._heartbeat.beat()
        for command in self._owner.arrived():
            match command:
                case Attach(number, endpoint):
                    self._attach(number, endpoint)
                case Detach(number):
                    yield from self._detach(number)
                case _:
                    yield command
        for front_end in self._attached.values():
            for command in front_end.arrived():
                match command:
                    case Request(id=request_id):
                        front_end.open.add(request_id)
                    case Cancel(request_id):
                        front_end.open.discard(request_id)
                yield command

    def publish(self, iteration: Iteration) -> None:
        """Sends each front end its part of an iteration."""
        if not self._attached:
            self._owner.send(iteration)
            return
        parts = {
            number: Iteration(iteration.step, iteration.active, [], [], []) for number in (0, *self._attached)
        }
        for started in iteration.started:
            if (part := parts.get(front_end_of(started[0]))) is not None:
                part.started.append(started)
        for output in iteration.outputs:
            if (part := parts.get(front_end_of(output.request_id))) is not None:
                part.outputs.append(output)
        for failure in iteration.failures:
            if (part := parts.get(front_end_of(failure.request_id))) is not None:
                part.failures.append(failure)
        self._owner.send(parts.pop(0))
        for number, part in parts.items():
            self._attached[number].send_part(part)

    def _poll(self) -> bool:
        """Waits until something has arrived, though not for long; false if nothing has."""
        poll = select.poll()
        for front_end in (self._owner, *self._attached.values()):
            if not front_end.gone:
                poll.register(front_end, front_end.awaited)
        # Whatever else it tells is for the next look: there is room again, or an end.
        return bool(poll.poll(Heartbeat.IDLE))

    def _attach(self, number: int, endpoint: str) -> None:
        assert self._description is not None, "not ready"
        front_end = self._attached[number] = _FrontEnd(endpoint)
        front_end.send(Ready(self._description))

    def _detach(self, number: int) -> Iterator[Cancel]:
        """Forgets a front end that has ended; nobody waits for its requests."""
        if (front_end := self._attached.pop(number, None)) is None:
            # It ended before it awaited anything.
            return
        front_end.close()
        yield from map(Cancel, front_end.open)


class _FrontEnd:
    def __init__(self, endpoint: str) -> None:
        connected = socket.socket(socket.AF_UNIX)
        # One that has ended meanwhile is about to be detached, or this process to end with it.
        self.gone = connected.connect_ex(endpoint) != 0
        # What does not fit the socket is kept without a bound: the engine must not wait for a front end, and
        # what can pile up is what has been admitted.
        self._channel = Channel(connected)
        #: Requests without a last output. Kept of attached front ends only.
        self.open: set[int] = set()

    @property
    def awaited(self) -> int:
        """The events to wake up for."""
        return select.POLLIN | (select.POLLOUT if self._channel.unsent else 0)

    def fileno(self) -> int:
        return self._channel.fileno()

    def arrived(self) -> Iterator[Command]:
        if self._channel.unsent:
            self._channel.flush()
        if self.gone:
            return
        try:
            arrived = self._channel.receive()
        except EOFError:
            self.gone = True
            return
        for command in arrived:
            yield command_decoder.decode(command)

    def send(self, event: Event) -> None:
        self._channel.send(event_encoder.encode(event))

    def send_part(self, part: Iteration) -> None:
        self.open.difference_update(output.request_id for output in part.outputs if output.last)
        self.open.difference_update(failure.request_id for failure in part.failures)
        self.send(part)

    def close(self) -> None:
        self._channel.close()
