"""The seam between the executor loop and an engine: five calls, implemented three times."""

from dataclasses import dataclass, field
from typing import Protocol

from .messages import Description, FailureKind, Output, Request


class StartError(Exception):
    """The executor cannot start. The message is one clear sentence for the operator."""


class EngineDiedError(Exception):
    """The engine cannot go on, and the process must end. The message is one sentence for the operator."""


class RequestError(Exception):
    """A request that this executor refuses or that failed. The message is for the caller to read."""

    def __init__(self, kind: FailureKind, message: str, parameter: str | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.parameter = parameter


@dataclass(slots=True)
class StepResult:
    """What one step produced, requests that it took up and when (monotonic seconds), and failed ones."""

    outputs: list[Output] = field(default_factory=list)
    started: list[tuple[int, float]] = field(default_factory=list)
    failures: list[tuple[int, RequestError]] = field(default_factory=list)

    def extend(self, later: "StepResult") -> None:
        """Adds what the next step produced."""
        self.outputs += later.outputs
        self.started += later.started
        self.failures += later.failures


class Executor(Protocol):
    """An engine behind the loop. All calls come from one thread.

    A constructor loads the model and raises `StartError`; afterwards the executor is ready.
    """

    def describe(self) -> Description:
        """What this executor is and can do."""

    @property
    def active(self) -> int:
        """How many requests hold or await a slot in the engine."""

    def submit(self, request: Request) -> None:
        """Takes a request. Raises `RequestError` for one that it cannot honour, and keeps nothing of it."""

    def cancel(self, request_id: int) -> None:
        """Forgets a request; its slot is free by the end of the next step. Unknown ids are ignored."""

    def step(self) -> StepResult:
        """Runs one iteration for all requests. Waits for at most a few milliseconds when none can run.

        Raises `EngineDiedError`, as `submit` may.
        """

    def close(self) -> None:
        """Frees the engine."""
