"""How a call gets a slot of the executor, and what its caller is told when it gets none."""

import time
from typing import TYPE_CHECKING, Any

import grpc

from ..admission.admission import Admission, Place
from ..admission.errors import AdmissionError, ClosedError, ExpiredError, RefusedError
from ..executor.client import ExecutorClient
from ..executor.messages import Request
from ..executor.stream import TokenStream
from .caller import caller
from .errors import CallError, exhausted, unavailable
from .outage import Outage

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


def admit(admission: Admission, outage: Outage, context: "Context") -> Place:
    """A place for a call, which leaves it at the end of its `with`. Raises `CallError` when it is refused."""
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    try:
        return admission.call(caller(context), deadline)
    except AdmissionError as error:
        raise _refusal(error, outage) from error


async def slot(place: Place, outage: Outage, prompt_tokens: int) -> None:
    """Waits for a slot of the executor. Raises `CallError` when the call is refused meanwhile."""
    try:
        await place.slot(prompt_tokens)
    except AdmissionError as error:
        raise _refusal(error, outage) from error


class Generation:
    """A request that has a slot, open for the length of a `with`.

    The slot is free again as soon as the executor is done, however far the reader of the tokens is.
    """

    __slots__ = ("_executor", "_place", "_request", "_stream")

    def __init__(self, place: Place, executor: ExecutorClient, request: Request) -> None:
        self._place = place
        self._executor = executor
        self._request = request

    def __enter__(self) -> TokenStream:
        """Submits it. Raises what `ExecutorClient.open` raises."""
        self._stream = self._executor.open(self._request)
        self._stream.on_end = self._place.free
        return self._stream

    def __exit__(self, *_: object) -> None:
        stream = self._stream
        # With beam search, the first token comes with the last.
        first_token_at = stream.first_token_at if self._request.beam_width == 1 else None
        self._place.settle(stream.tokens, first_token_at)
        self._executor.leave(self._request)


def _refusal(error: AdmissionError, outage: Outage) -> CallError:
    match error:
        case RefusedError():
            return exhausted(error.subject, str(error), error.retry_after)
        case ClosedError():
            return unavailable(str(error), outage.retry_after)
        case ExpiredError():
            return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
    raise AssertionError(error)
