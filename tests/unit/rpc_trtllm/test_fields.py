"""The table of the fields of a token-level request."""

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from smg_grpc_proto.generated import trtllm_service_pb2 as tl

from mistralchat_server.rpc.errors import CallError
from mistralchat_server.rpc.trtllm.fields import FIELDS, Plain, Refused, refuse_unsupported
from mistralchat_server.rpc.trtllm.service import TrtllmService

_REFUSED = [path for path, what in FIELDS.items() if isinstance(what, Refused)]


def _paths(descriptor: Any, prefix: str = "") -> Iterator[str]:
    for field in descriptor.fields:
        path = prefix + field.name
        yield path
        if FIELDS.get(path) is Plain.PARTS:
            yield from _paths(field.message_type, path + ".")


def _setting(path: str, value: Any = None) -> tl.GenerateRequest:
    """A request that sets one field, to something that is not its neutral value."""
    request = tl.GenerateRequest()
    holder = request
    *parents, name = path.split(".")
    for parent in parents:
        holder = getattr(holder, parent)
    field = holder.DESCRIPTOR.fields_by_name[name]
    if field.message_type is not None:
        getattr(holder, name).SetInParent()
    elif field.is_repeated:
        getattr(holder, name).append(1)
    else:
        setattr(holder, name, (True if field.type == field.TYPE_BOOL else 3) if value is None else value)
    return request


def test_every_field_of_the_package_is_in_the_table() -> None:
    """A new release of smg-grpc-proto with a new field fails here until it is decided what becomes of it."""
    assert set(_paths(tl.GenerateRequest.DESCRIPTOR)) == set(FIELDS)


def test_every_method_of_the_package_is_implemented() -> None:
    methods = {method.name for method in tl.DESCRIPTOR.services_by_name["TrtllmService"].methods}
    assert methods <= set(vars(TrtllmService))


@pytest.mark.parametrize("path", _REFUSED)
def test_a_refused_field_is_named(path: str) -> None:
    with pytest.raises(CallError) as refusal:
        refuse_unsupported(_setting(path))
    assert refusal.value.code is grpc.StatusCode.UNIMPLEMENTED
    assert str(refusal.value).startswith(path.rpartition(".")[2])


@pytest.mark.parametrize(
    ("path", "neutral"),
    [(path, what.neutral) for path, what in FIELDS.items() if isinstance(what, Refused)],
)
def test_a_value_that_asks_for_nothing_is_no_reason_to_refuse(path: str, neutral: float | None) -> None:
    if neutral is not None:
        refuse_unsupported(_setting(path, neutral))
    refuse_unsupported(tl.GenerateRequest())


@pytest.mark.parametrize("path", [path for path, what in FIELDS.items() if what is Plain.NEUTRAL])
def test_a_neutral_field_is_accepted(path: str) -> None:
    refuse_unsupported(_setting(path, "text" if path.endswith("text") else None))
