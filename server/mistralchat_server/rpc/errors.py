"""The errors that a call can end with, each with its gRPC status and details.

Details follow Google's error model (https://google.aip.dev/193), which generic clients understand.
"""

from collections.abc import Iterable
from itertools import islice
from typing import NamedTuple

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

_DOMAIN = "mistralchat.v1"
#: Violations that the message repeats; trailing metadata must stay small, so neither are all detailed.
_MOST_IN_MESSAGE = 5
_MOST_IN_DETAILS = 50
#: Characters of a description: one can quote what the caller sent.
_LONGEST_DESCRIPTION = 500
#: Where gRPC carries a google.rpc.Status, as grpcio-status has it.
_DETAILS_KEY = "grpc-status-details-bin"


class Violation(NamedTuple):
    """One field of a request that breaks a rule."""

    field: str
    description: str


class CallError(Exception):
    """Ends a call with a status other than OK. The message is for the caller to read."""

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.details = details

    def trailing_metadata(self) -> tuple[tuple[str, bytes], ...]:
        """The details as gRPC carries them."""
        status = status_pb2.Status(code=getattr(code_pb2, self.code.name), message=str(self))
        for detail in self.details:
            status.details.add().Pack(detail)
        return ((_DETAILS_KEY, status.SerializeToString()),)


def invalid(violations: Iterable[Violation]) -> CallError:
    """INVALID_ARGUMENT with one violation for each field at fault."""
    by_field: dict[str, list[str]] = {}
    for field, description in violations:
        by_field.setdefault(field, []).append(description)
    bad_request = error_details_pb2.BadRequest()
    for field, descriptions in islice(by_field.items(), _MOST_IN_DETAILS):
        description = "; ".join(descriptions)[:_LONGEST_DESCRIPTION]
        bad_request.field_violations.add(field=field, description=description)
    message = ". ".join(
        f"{v.field}: {v.description}" for v in bad_request.field_violations[:_MOST_IN_MESSAGE]
    )
    return CallError(grpc.StatusCode.INVALID_ARGUMENT, message, bad_request)


def malformed() -> CallError:
    """INVALID_ARGUMENT for bytes that are no message of the expected type."""
    return CallError(
        grpc.StatusCode.INVALID_ARGUMENT,
        "the request is not a message of the expected type, or a string in it is not UTF-8",
    )


def unsupported(parameter: str, reason: str) -> CallError:
    """UNIMPLEMENTED for a parameter that the loaded executor cannot honour."""
    info = error_details_pb2.ErrorInfo(
        reason="PARAMETER_NOT_SUPPORTED",
        domain=_DOMAIN,
        metadata={"parameter": parameter, "reason": reason},
    )
    return CallError(grpc.StatusCode.UNIMPLEMENTED, f"{parameter} is not supported: {reason}", info)


def exhausted(subject: str, description: str, retry_after: float) -> CallError:
    """RESOURCE_EXHAUSTED; `retry_after` in seconds."""
    quota = error_details_pb2.QuotaFailure()
    quota.violations.add(subject=subject, description=description)
    return CallError(grpc.StatusCode.RESOURCE_EXHAUSTED, description, _retry(retry_after), quota)


def unauthenticated(message: str) -> CallError:
    """UNAUTHENTICATED."""
    info = error_details_pb2.ErrorInfo(reason="CREDENTIALS_INVALID", domain=_DOMAIN)
    return CallError(grpc.StatusCode.UNAUTHENTICATED, message, info)


def denied(identity: str, service: str) -> CallError:
    """PERMISSION_DENIED for a service that the identity may not call."""
    info = error_details_pb2.ErrorInfo(
        reason="SERVICE_NOT_ALLOWED", domain=_DOMAIN, metadata={"identity": identity, "service": service}
    )
    return CallError(grpc.StatusCode.PERMISSION_DENIED, f"{identity} may not call {service}", info)


def unavailable(message: str, retry_after: float) -> CallError:
    """UNAVAILABLE; `retry_after` in seconds."""
    return CallError(grpc.StatusCode.UNAVAILABLE, message, _retry(retry_after))


def stalled(seconds: float) -> CallError:
    """ABORTED for a stream whose reader has taken nothing for so long.

    Not DEADLINE_EXCEEDED or CANCELLED, which are the caller's own doing, nor a status that generic clients
    answer by calling again.
    """
    info = error_details_pb2.ErrorInfo(reason="READER_STALLED", domain=_DOMAIN)
    message = f"the stream was given up: nothing was read from it for {seconds:g} s"
    return CallError(grpc.StatusCode.ABORTED, message, info)


def harmful(message: str) -> CallError:
    """FAILED_PRECONDITION for a request that ends the executor.

    The one status that asks callers not to retry before something has been mended: UNAVAILABLE invites them
    to, gateways repeat INTERNAL, and INVALID_ARGUMENT would blame a request that keeps every rule.
    """
    info = error_details_pb2.ErrorInfo(reason="REQUEST_ENDS_EXECUTOR", domain=_DOMAIN)
    return CallError(grpc.StatusCode.FAILED_PRECONDITION, message, info)


def internal(request_id: str) -> CallError:
    """INTERNAL, with nothing of the inside but an id that the logs know."""
    return CallError(
        grpc.StatusCode.INTERNAL,
        f"the server failed; its logs know this call as {request_id}",
        error_details_pb2.RequestInfo(request_id=request_id),
    )


def _retry(seconds: float) -> error_details_pb2.RetryInfo:
    return error_details_pb2.RetryInfo(
        retry_delay=Duration(nanos=int(seconds % 1 * 1e9), seconds=int(seconds))
    )
