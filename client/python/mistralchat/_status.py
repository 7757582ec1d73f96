"""From a gRPC status with its details to the exception that tells it."""

from collections.abc import Iterable
from typing import cast

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from mistralchat import errors

_DETAILS_KEY = "grpc-status-details-bin"

_CLASSES: dict[grpc.StatusCode, type[errors.ChatError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: errors.Cancelled,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.INTERNAL: errors.ServerFault,
    grpc.StatusCode.UNKNOWN: errors.ServerFault,
}

_DETAIL_TYPES: tuple[type[Message], ...] = (
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.QuotaFailure,
    error_details_pb2.ErrorInfo,
    error_details_pb2.RequestInfo,
)


def chat_error(error: grpc.RpcError) -> errors.ChatError:
    """The exception for a failed call. Details that cannot be read are left out, never raised."""
    details: list[Message] = []
    # Typed as what grpc yields; grpc.aio yields plain pairs, and each unpacks as one.
    metadata = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    for key, value in metadata:
        if key == _DETAILS_KEY and isinstance(value, bytes):
            details.extend(_details(value))
    return _CLASSES.get(error.code(), errors.ChatError)(error.code(), error.details() or "", details)


def _details(value: bytes) -> list[Message]:
    try:
        packed = status_pb2.Status.FromString(value).details
    except DecodeError:
        return []
    return [detail for any_detail in packed if (detail := _unpacked(any_detail)) is not None]


def _unpacked(packed: Any) -> Message | None:
    for detail_type in _DETAIL_TYPES:
        if packed.TypeName() == detail_type.DESCRIPTOR.full_name:
            try:
                return detail_type.FromString(packed.value)
            except DecodeError:
                return None
    return None
