"""The executor's sockets to its front ends."""

import contextlib
from collections.abc import Iterator

import zmq

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

# As plain numbers: pyzmq's enumerations cost more than what they are passed to.
_EVENTS = int(zmq.EVENTS)
_READABLE = int(zmq.POLLIN)
_AT_ONCE = int(zmq.NOBLOCK)


class FrontEnds:
    """All front ends: the one that started this process, and those that it attaches.

    Each gets every iteration, with what concerns its own requests. One that holds nothing for it tells it
    still that the executor has gone on, without the requests that it has cancelled.
    """

    def __init__(self, endpoint: str, heartbeat: Heartbeat) -> None:
        self._heartbeat = heartbeat
        self._owner = _FrontEnd(endpoint)
        self._attached: dict[int, _FrontEnd] = {}
        self._poller = zmq.Poller()
        self._poller.register(self._owner.socket, zmq.POLLIN)
        self._description: Description | None = None

    def ready(self, description: Description) -> None:
        """Says that requests can come."""
        self._description = description
        self._owner.send(Ready(description))

    def start_failed(self, message: str) -> None:
        """Says why none will ever come; returns once that is on its way."""
        self._owner.send(StartFailed(message))
        self._owner.socket.close()
        zmq.Context.instance().term()

    def receive(self, wait: bool) -> Iterator[Command]:
        """Gives the sign of life, then the commands that have arrived; with `wait`, once there is one."""
        self._heartbeat.beat()
        if wait:
            while not self._poller.poll(Heartbeat.IDLE):
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

    def _attach(self, number: int, endpoint: str) -> None:
        assert self._description is not None, "not ready"
        front_end = self._attached[number] = _FrontEnd(endpoint)
        self._poller.register(front_end.socket, zmq.POLLIN)
        front_end.send(Ready(self._description))

    def _detach(self, number: int) -> Iterator[Cancel]:
        """Forgets a front end that has ended; nobody waits for its requests."""
        front_end = self._attached.pop(number)
        self._poller.unregister(front_end.socket)
        front_end.socket.close(linger=0)
        return map(Cancel, front_end.open)


class _FrontEnd:
    def __init__(self, endpoint: str) -> None:
        self.socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PAIR)
        # Without a bound: the engine must not wait for a front end, and what can pile up is what has been
        # admitted.
        self.socket.set_hwm(0)
        self.socket.connect(endpoint)
        #: Requests without a last output. Kept of attached front ends only.
        self.open: set[int] = set()

    def arrived(self) -> Iterator[Command]:
        socket = self.socket
        while int(socket.getsockopt(_EVENTS)) & _READABLE:
            yield command_decoder.decode(socket.recv(_AT_ONCE))

    def send(self, event: Event) -> None:
        # One that has ended is about to be detached, or this process to end with it: no step waits for it.
        with contextlib.suppress(zmq.Again):
            self.socket.send(event_encoder.encode(event), _AT_ONCE)

    def send_part(self, part: Iteration) -> None:
        self.open.difference_update(output.request_id for output in part.outputs if output.last)
        self.open.difference_update(failure.request_id for failure in part.failures)
        self.send(part)
