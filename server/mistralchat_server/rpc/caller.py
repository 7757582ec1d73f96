"""Who makes the call at hand."""

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import grpc

_identity: ContextVar[str | None] = ContextVar("identity", default=None)

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]


def identify(identity: str) -> None:
    """Notes for the rest of this call who makes it, once that has been proven."""
    _identity.set(identity)


def caller(context: "Context") -> str:
    """The proven identity, else the address that the call comes from, without its port."""
    identity = _identity.get()
    return f"identity:{identity}" if identity is not None else context.peer().rpartition(":")[0]
