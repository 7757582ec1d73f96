"""How a call gets a slot of the executor, and what its caller is told when it gets none."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def admitted(admission: Admission, outage: Outage, context: "Context") -> Iterator[Place]:
    """Counts a call while it is open. Raises `CallError` when it is refused, now or while it waits."""
    remaining = context.time_remaining()
    deadline = None if remaining is None else time.monotonic() + remaining
    try:
        with admission.call(caller(context), deadline) as place:
            yield place
    except AdmissionError as error:
        raise _refusal(error, outage) from error


@contextmanager
def generation(place: Place, executor: ExecutorClient, request: Request) -> Iterator[TokenStream]:
    """Submits a request that has a slot, which is free again as soon as the executor is done.

    Raises what `ExecutorClient.generate` raises.
    """
    with executor.generate(request) as stream:
        stream.on_end = place.free
        try:
            yield stream
        finally:
            # With beam search, the first token comes with the last.
            first_token_at = stream.first_token_at if request.beam_width == 1 else None
            place.settle(stream.tokens, first_token_at)


def _refusal(error: AdmissionError, outage: Outage) -> CallError:
    match error:
        case RefusedError():
            return exhausted(error.subject, str(error), error.retry_after)
        case ClosedError():
            return unavailable(str(error), outage.retry_after)
        case ExpiredError():
            return CallError(grpc.StatusCode.DEADLINE_EXCEEDED, str(error))
    raise AssertionError(error)
