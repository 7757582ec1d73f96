"""What a failed call raises: one class per status that a caller treats differently."""

# The names are those of the statuses.
# ruff: noqa: N818

from collections.abc import Sequence
from typing import NamedTuple

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2

from mistralchat._duration import seconds


class ChatError(Exception):
    """A call that ended with a status other than OK.

    `code` is the gRPC status, `message` the server's sentence, `details` the google.rpc messages that it
    attached. `str()` is one line for a person.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[Message] = ()) -> None:
        super().__init__(code, message, details)
        self.code = code
        self.message = message
        self.details = tuple(details)

    def __str__(self) -> str:
        message = self.message or self.code.name
        # The server's sentence often says already what the details say again.
        remarks = [remark for remark in self._remarks() if remark not in message]
        return f"{message} ({'; '.join(remarks)})" if remarks else message

    def _remarks(self) -> list[str]:
        return []


class Violation(NamedTuple):
    """A field of the request and what is wrong with it."""

    field: str
    description: str


class InvalidRequest(ChatError):
    """INVALID_ARGUMENT: a field is out of range, two exclude each other, or the prompt does not fit."""

    @property
    def violations(self) -> list[Violation]:
        """One per offending field."""
        return [
            Violation(violation.field, violation.description)
            for detail in self.details
            if isinstance(detail, error_details_pb2.BadRequest)
            for violation in detail.field_violations
        ]

    def _remarks(self) -> list[str]:
        return [
            f"{violation.field}: {violation.description}"
            for violation in self.violations
            if violation.description not in self.message
        ]


class Unsupported(ChatError):
    """UNIMPLEMENTED: the loaded executor cannot honour a parameter; or the server lacks the method."""

    @property
    def parameter(self) -> str | None:
        """The parameter's name. None where the server named none."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.ErrorInfo) and "parameter" in detail.metadata:
                return str(detail.metadata["parameter"])
        return None

    def _remarks(self) -> list[str]:
        return [self.parameter] if self.parameter else []


class _Retryable(ChatError):
    @property
    def retry_after(self) -> float | None:
        """Seconds after which the server wants to be asked again. None where it did not say."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.RetryInfo) and detail.HasField("retry_delay"):
                return max(0.0, seconds(detail.retry_delay))
        return None

    def _remarks(self) -> list[str]:
        return [] if self.retry_after is None else [f"retry in {self.retry_after:.3g} s"]


class Overloaded(_Retryable):
    """RESOURCE_EXHAUSTED: the server is busy; or, without `retry_after`, a message is too large."""


class Unavailable(_Retryable):
    """UNAVAILABLE: no server there, or one that is starting, draining or restarting its executor.

    Asking again is safe as long as no text of the answer has arrived.
    """


class DeadlineExceeded(ChatError):
    """DEADLINE_EXCEEDED: the timeout passed before the end of the answer."""


class Cancelled(ChatError):
    """CANCELLED: the call was cancelled, here or by the server."""


class Unauthenticated(ChatError):
    """UNAUTHENTICATED: no credentials, or wrong ones."""


class PermissionDenied(ChatError):
    """PERMISSION_DENIED: the credentials do not allow this call."""


class ServerFault(ChatError):
    """INTERNAL or UNKNOWN: a fault of the server."""

    @property
    def request_id(self) -> str | None:
        """What to name when reporting the fault. None where the server named nothing."""
        for detail in self.details:
            if isinstance(detail, error_details_pb2.RequestInfo) and detail.request_id:
                return str(detail.request_id)
        return None

    def _remarks(self) -> list[str]:
        return (
            [f"request {self.request_id}"] if self.request_id and self.request_id not in self.message else []
        )
