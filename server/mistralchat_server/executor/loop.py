"""The one loop that feeds all requests to the engine and publishes each iteration as one message."""

import time
from collections.abc import Callable, Iterable

from .messages import Cancel, Close, Command, Failure, Iteration, Request
from .seam import Executor, RequestError, StepResult

#: Seconds of stepping for one exchange with the front ends, at least: what is shorter than a step of any real
#: engine. An executor that only replays would spend nearly all of its time on exchanges.
_LEAST = 0.0005


class ExecutorLoop:
    """Alternates between taking what has arrived and one step of the engine, or several very short ones.

    `receive(wait)` gives the commands that have arrived; with `wait` it blocks until there is one.
    `publish` sends an iteration to the front end. `least` seconds are spent on steps before the next exchange.
    """

    def __init__(
        self,
        executor: Executor,
        receive: Callable[[bool], Iterable[Command]],
        publish: Callable[[Iteration], None],
        least: float = _LEAST,
    ) -> None:
        self._executor = executor
        self._least = least
        self._receive = receive
        self._publish = publish
        self._closed = False
        self._step = 0
        self._published_active = 0

    def run(self) -> None:
        """Runs until a `Close` arrives."""
        while not self._closed:
            self._turn(self._take(self._receive(self._executor.active == 0)))
        self._executor.close()

    def _take(self, commands: Iterable[Command]) -> list[Failure]:
        failures = []
        for command in commands:
            match command:
                case Request():
                    try:
                        self._executor.submit(command)
                    except RequestError as error:
                        failures.append(_failure(command.id, error))
                case Cancel():
                    self._executor.cancel(command.id)
                case Close():
                    self._closed = True
        return failures

    def _turn(self, failures: list[Failure]) -> None:
        result = self._stepped()
        failures.extend(_failure(request_id, error) for request_id, error in result.failures)
        active = self._executor.active
        # A step that changes nothing that anybody can see (a chunk of a long prompt) is not a message.
        if result.outputs or failures or result.started or active != self._published_active:
            self._published_active = active
            self._publish(Iteration(self._step, active, result.started, result.outputs, failures))

    def _stepped(self) -> StepResult:
        until = time.monotonic() + self._least
        result = self._executor.step()
        self._step += 1
        while time.monotonic() < until and self._executor.active:
            result.extend(self._executor.step())
            self._step += 1
        return result


def _failure(request_id: int, error: RequestError) -> Failure:
    return Failure(request_id, error.kind, str(error), error.parameter)
