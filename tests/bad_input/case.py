"""One way to call the server wrong, and what comes of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from ..conftest import Server

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
    """How a call ends: its status, and what the details name."""
    try:
        call()
    except grpc.RpcError as error:
        assert isinstance(error, grpc.Call)
        named = _named(error)
        return error.code().name + (f": {named}" if named else "")
    return "OK"


def each(attempts: list[Attempt]) -> Attempt:
    """All of them, which must end the same."""

    def attempt(server: Server) -> str:
        return " or ".join(dict.fromkeys(attempt(server) for attempt in attempts))

    return attempt


def _named(error: Any) -> str:
    """The fields at fault, or the parameter that is not supported."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            status.ParseFromString(value)
    for detail in status.details:
        bad_request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
        if detail.Unpack(bad_request):
            fields = sorted(violation.field for violation in bad_request.field_violations)
            return f"{len(fields)} fields" if len(fields) > 3 else ", ".join(f"`{field}`" for field in fields)
        if detail.Unpack(info):
            return f"`{info.metadata['parameter']}`"
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            return "with `RetryInfo`"
    return ""
