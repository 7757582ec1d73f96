"""Errors as gRPC carries them: what is packed can be read by anybody."""

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2

from mistralchat_server.rpc.errors import (
    CallError,
    Violation,
    exhausted,
    internal,
    invalid,
    malformed,
    unavailable,
    unsupported,
)


def _status(error: CallError) -> status_pb2.Status:
    ((key, value),) = error.trailing_metadata()
    assert key == "grpc-status-details-bin"
    return status_pb2.Status.FromString(value)


@pytest.mark.parametrize(
    ("error", "code", "details"),
    [
        (invalid([Violation("a", "b")]), "INVALID_ARGUMENT", [error_details_pb2.BadRequest]),
        (malformed(), "INVALID_ARGUMENT", []),
        (unsupported("seed", "no"), "UNIMPLEMENTED", [error_details_pb2.ErrorInfo]),
        (
            exhausted("calls", "too many", 1.0),
            "RESOURCE_EXHAUSTED",
            [error_details_pb2.RetryInfo, error_details_pb2.QuotaFailure],
        ),
        (unavailable("later", 2.0), "UNAVAILABLE", [error_details_pb2.RetryInfo]),
        (internal("1a2b"), "INTERNAL", [error_details_pb2.RequestInfo]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_carries_its_code_message_and_details(
    error: CallError, code: str, details: list[type]
) -> None:
    status = _status(error)
    assert error.code is grpc.StatusCode[code]
    assert status.code == code_pb2.Code.Value(code)
    assert status.message == str(error)
    assert len(status.details) == len(details)
    for packed, kind in zip(status.details, details, strict=True):
        assert packed.Unpack(kind())


def test_violations_of_one_field_become_one() -> None:
    error = invalid([Violation("a", "one"), Violation("b", "two"), Violation("a", "three")])
    (bad_request,) = error.details
    assert isinstance(bad_request, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad_request.field_violations] == [
        ("a", "one; three"),
        ("b", "two"),
    ]
    assert str(error) == "a: one; three. b: two"


def test_violations_fit_into_trailing_metadata_however_many_and_long() -> None:
    # gRPC's least limit on metadata is eight KiB; longest are those that quote what was sent.
    many = invalid(Violation(f"messages[{i}].content", "must not be empty") for i in range(2_000))
    long = invalid([Violation("response_format.grammar", "é" * 60_000)])
    for error in (many, long):
        ((_, value),) = error.trailing_metadata()
        assert len(value) < 6_000
        assert len(str(error).encode()) < 2_000


@pytest.mark.parametrize("seconds", [0.0, 0.5, 1.0, 2.25, 90.125])
def test_a_delay_survives_its_packing(seconds: float) -> None:
    (retry,) = unavailable("later", seconds).details
    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert retry.retry_delay.ToNanoseconds() == int(seconds * 1e9)


def test_an_unsupported_parameter_is_named_with_the_reason() -> None:
    (info,) = unsupported("seed", "there is no dice").details
    assert isinstance(info, error_details_pb2.ErrorInfo)
    assert (info.reason, info.domain) == ("PARAMETER_NOT_SUPPORTED", "mistralchat.v1")
    assert dict(info.metadata) == {"parameter": "seed", "reason": "there is no dice"}
