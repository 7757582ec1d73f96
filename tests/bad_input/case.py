"""One way to call the server wrong, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import grpc

from ..conftest import Server
from ..integration.conftest import Refusal, refusal

Attempt = Callable[[Server], str]


@dataclass(frozen=True)
class Case:
    """A row of the table, and a test."""

    what: str
    #: What a caller sees, as `attempt` says it.
    outcome: str
    attempt: Attempt
    #: The fixture that it is tried on.
    server: str = "replay_server"
    #: Whether an executor may hear of it.
    reaches_executor: bool = True


def said(call: Callable[[], object]) -> str:
    """How a call ends: its status, and what the details name. No failure may tell of the server's inside."""
    try:
        call()
    except grpc.RpcError as error:
        named = _named(refused := refusal(partial(_again, error)))
        return refused.code.name + (f": {named}" if named else "")
    return "OK"


def each(attempts: list[Attempt]) -> Attempt:
    """All of them, which must end the same."""

    def attempt(server: Server) -> str:
        return " or ".join(dict.fromkeys(attempt(server) for attempt in attempts))

    return attempt


def _again(error: grpc.RpcError) -> None:
    raise error


def _named(refused: Refusal) -> str:
    """The fields at fault, or the parameter that is not supported."""
    if fields := refused.fields:
        return f"{len(fields)} fields" if len(fields) > 3 else ", ".join(f"`{field}`" for field in fields)
    if "ErrorInfo" in refused.details:
        return f"`{refused.details['ErrorInfo'].metadata['parameter']}`"
    return "with `RetryInfo`" if "RetryInfo" in refused.details else ""
