"""Refuses calls whose caller has not proven who it is, or may not call the service.

Health is open to everybody, since the probes of orchestrators have no credentials.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health

from ..security.access import AccessTable
from ..security.bearer import Bearer
from ..security.jwks import ExpiredTokenError
from .caller import identify
from .errors import CallError, denied, unauthenticated

_OPEN = f"/{health.SERVICE_NAME}/"
#: What an access table calls the services, by how their methods begin. It is silent on all others.
_SERVICES = {"/mistralchat.": "chat", "/trtllm.": "tokens"}
_SCHEME = "bearer "

if TYPE_CHECKING:
    # Generic for a type checker only.
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]


class TokenInterceptor(grpc.aio.ServerInterceptor):
    """Lets calls pass that carry a valid bearer token.

    It decides by the headers alone: the request of a refused call is not even read, nor does it matter
    whether there is such a method.
    """

    def __init__(self, bearer: Bearer, access: AccessTable) -> None:
        self._bearer = bearer
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Notes who calls; the handler runs in the same task."""
        method = handler_call_details.method
        if not method.startswith(_OPEN):
            try:
                identity = self._identity(handler_call_details.invocation_metadata or ())
                _admit(identity, method, self._access)
            except CallError as error:
                return _refusal(error)
        return await continuation(handler_call_details)

    def _identity(self, metadata: Iterable[tuple[str, str | bytes]]) -> str:
        values = [value for key, value in metadata if key == "authorization"]
        if len(values) != 1 or not isinstance(value := values[0], str):
            raise unauthenticated("send one header `authorization: Bearer TOKEN` with the call")
        try:
            identity = (
                self._bearer.identity(value[len(_SCHEME) :].strip())
                if value[: len(_SCHEME)].lower() == _SCHEME
                else None
            )
        except ExpiredTokenError as error:
            raise unauthenticated("the token has expired") from error
        if identity is None:
            raise unauthenticated("the authorization is not valid")
        return identity


class CertificateProof:
    """Knows the caller by the certificate of its connection, which TLS has verified."""

    def __init__(self, access: AccessTable) -> None:
        self._access = access

    def __call__(self, context: "Context", method: str) -> None:
        """Notes who calls. Raises `CallError`."""
        presented = context.auth_context()
        names = presented.get("peer_spiffe_id") or presented.get("x509_common_name") or ()
        name = next(iter(names), b"").decode(errors="replace")
        if not name:
            raise unauthenticated(
                "the certificate names nobody: it has neither a SPIFFE id nor a common name"
            )
        _admit(f"cert:{name}", method, self._access)


def _admit(identity: str, method: str, access: AccessTable) -> None:
    for beginning, service in _SERVICES.items():
        if method.startswith(beginning) and not access.allows(identity, service):
            raise denied(identity, method.split("/")[1])
    identify(identity)


def _refusal(error: CallError) -> "Handler":
    async def refuse(requests: AsyncIterator[bytes], context: "Context") -> AsyncIterator[bytes]:
        await context.abort(error.code, str(error), error.trailing_metadata())
        yield b""  # makes this a generator, which a streaming handler has to be

    # Streaming, whatever the method is: a handler of another shape gets a request, this one asks for none.
    return grpc.stream_stream_rpc_method_handler(refuse)
