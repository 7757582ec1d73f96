"""Ends every failed call with its status, and a fault of the server without telling about its inside."""

import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc

from ..places import places
from .errors import CallError, internal, malformed

log = logging.getLogger(__name__)

#: Services with these beginnings are ours; health and reflection have their own ways.
_OURS = ("/mistralchat.", "/trtllm.")
_MALFORMED = object()

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]
    #: Raises `CallError` where the caller of a method, by its connection, may not go on.
    Proof = Callable[[Context, str], None]


class FaultInterceptor(grpc.aio.ServerInterceptor):
    """Turns exceptions of a service into statuses.

    `CallError` ends the call as it says, anything else with INTERNAL and an id that the log explains.
    `proof` is asked before a service is, here since a second wrapper would cost each message its time.
    """

    def __init__(self, proof: "Proof | None" = None) -> None:
        self._proof = proof
        #: By the name of the method: each call would wrap it anew.
        self._wrapped: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wraps the handlers of this project's services."""
        method = handler_call_details.method
        if (wrapped := self._wrapped.get(method)) is not None:
            return wrapped
        handler = await continuation(handler_call_details)
        if handler is None or not method.startswith(_OURS):
            return handler
        wrapped = self._wrapped[method] = self._wrap(handler, method)
        return wrapped

    def _wrap(self, handler: "Handler", method: str) -> "Handler":
        deserialize = _tolerant(handler.request_deserializer)
        if handler.response_streaming:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(handler.unary_stream, method, self._proof),
                deserialize,
                handler.response_serializer,
            )
        return grpc.unary_unary_rpc_method_handler(
            _single(handler.unary_unary, method, self._proof), deserialize, handler.response_serializer
        )


def _tolerant(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any]:
    # gRPC calls a request that it cannot parse INTERNAL; it is the caller's fault, not the server's.
    def tolerant(message: bytes) -> Any:
        try:
            return message if deserialize is None else deserialize(message)
        except Exception:
            return _MALFORMED

    return tolerant


def _streaming(behavior: Any, method: str, proof: "Proof | None") -> Any:
    async def stream(request: Any, context: "Context") -> None:
        try:
            if proof is not None:
                proof(context, method)
            if request is _MALFORMED:
                raise malformed()
            await behavior(request, context)
        except Exception as error:
            _end(context, _call_error(error, method))

    return stream


def _single(behavior: Any, method: str, proof: "Proof | None") -> Any:
    async def single(request: Any, context: "Context") -> Any:
        try:
            if proof is not None:
                proof(context, method)
            if request is _MALFORMED:
                raise malformed()
            return await behavior(request, context)
        except Exception as error:
            failure = _call_error(error, method)
            await context.abort(failure.code, str(failure), failure.trailing_metadata())

    return single


def _end(context: "Context", error: CallError) -> None:
    # Not with `abort`, whose exception would stay in a cycle with all its frames; nor may a frame of the
    # traceback have the error in a variable. 60 objects for each refused call kept the garbage collector
    # busy for a fifth of a second at a time, and everybody else waiting.
    context.set_code(error.code)
    context.set_details(str(error))
    context.set_trailing_metadata(error.trailing_metadata())


def _call_error(error: Exception, method: str) -> CallError:
    """What the caller is told. Raises what is not for it."""
    if isinstance(error, grpc.aio.BaseError):
        # The call is over already: its caller left in the middle of a write.
        raise error
    if isinstance(error, CallError):
        return error
    request_id = uuid.uuid4().hex
    log.error("%s failed as %s: %s", method, request_id, places(error))
    return internal(request_id)
