"""What listens: an address each, what protects it, and the services that it offers."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from .executor.seam import StartError
from .rpc import reflection
from .rpc.authentication import CertificateProof, TokenInterceptor
from .rpc.faults import FaultInterceptor
from .security import tls
from .security.access import AccessTable
from .security.addresses import UNIX, is_local
from .security.bearer import Bearer
from .security.jwks import TokenVerifier
from .security.keys import Keys
from .security.watched import UnusableFileError
from .settings import Settings

log = logging.getLogger(__name__)

#: A second server on the same port is an error, not a competitor for its connections.
_ALONE = ("grpc.so_reuseport", 0)


@dataclass(frozen=True)
class Service:
    """A service, by its full name, and how it becomes part of a server."""

    name: str
    add_to: Callable[[grpc.aio.Server], None]


@dataclass(frozen=True)
class _Protection:
    """What callers of one listener must have. Nothing by default."""

    credentials: grpc.ServerCredentials | None = None
    bearer: Bearer | None = None
    by_certificate: bool = False

    @property
    def missing(self) -> list[str]:
        """What a listener that others reach should have."""
        return [
            *([] if self.credentials is not None else ["TLS"]),
            *([] if self.bearer is not None or self.by_certificate else ["credentials"]),
        ]


class Listeners:
    """The servers of one process: the one that callers use, and perhaps one of the gateway's own."""

    def __init__(
        self, settings: Settings, chat: Service, tokens: Service, health_servicer: health.aio.HealthServicer
    ) -> None:
        """Nothing listens yet. Raises `StartError` for files that cannot be used."""
        self._settings = settings
        self._health = health_servicer
        protection = _protection(settings)
        services = [chat] if settings.token_listen else [chat, tokens]
        self._listeners = [_Listener(settings.listen, protection, services)]
        if settings.token_listen:
            # The gateway can neither speak TLS to its workers nor send them a token.
            self._listeners.append(_Listener(settings.token_listen, _Protection(), [tokens]))
        self._servers: list[grpc.aio.Server] = []
        #: What is listened on, with the ports that were given out, in the order of the settings.
        self.addresses: list[str] = []

    async def start(self) -> None:
        """Begins to listen. Raises `StartError`."""
        for listener in self._listeners:
            self._add(listener)
        for server in self._servers:
            await server.start()

    async def stop(self, grace_seconds: float) -> None:
        """Stops listening, and ends what is open after the grace."""
        await asyncio.gather(*(server.stop(grace_seconds) for server in self._servers))

    def _add(self, listener: "_Listener") -> None:
        address, protection = listener.address, listener.protection
        local = self._is_local(address)
        if not local and protection.missing:
            self._accept_exposure(address, protection.missing)
        access = AccessTable(self._settings.access)
        server = grpc.aio.server(
            interceptors=[
                *([] if protection.bearer is None else [TokenInterceptor(protection.bearer, access)]),
                FaultInterceptor(CertificateProof(access) if protection.by_certificate else None),
            ],
            options=[*self._settings.limits.channel_options(), _ALONE],
        )
        for service in listener.services:
            service.add_to(server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._settings.reflection or (self._settings.reflection is None and local):
            reflection.enable((*(service.name for service in listener.services), health.SERVICE_NAME), server)
        try:
            if protection.credentials is None:
                port = server.add_insecure_port(address)
            else:
                port = server.add_secure_port(address, protection.credentials)
        except RuntimeError as error:
            raise StartError(f"Cannot listen on {address}: is another program there?") from error
        self._servers.append(server)
        self.addresses.append(address if address.startswith(UNIX) else f"{address.rpartition(':')[0]}:{port}")

    @staticmethod
    def _is_local(address: str) -> bool:
        try:
            return is_local(address)
        except OSError as error:
            raise StartError(f"Cannot listen on {address}: the name has no address.") from error

    def _accept_exposure(self, address: str, missing: Sequence[str]) -> None:
        lacks = f"{address} can be reached from other machines and has no {' and no '.join(missing)}"
        if not self._settings.insecure_listen:
            raise StartError(
                f"Not listening: {lacks}. Give --tls.certificate with --tls.private-key, and --keys, --jwt "
                "or --tls.client-ca; or say --insecure-listen where a mesh or a firewall does that."
            )
        log.warning("%s (--insecure-listen)", lacks)


@dataclass(frozen=True)
class _Listener:
    address: str
    protection: _Protection
    services: Sequence[Service]


def _protection(settings: Settings) -> _Protection:
    tls_files, jwt = settings.tls, settings.jwt
    try:
        credentials = keys = verifier = None
        if tls_files.certificate is not None and tls_files.private_key is not None:
            credentials = tls.credentials(tls_files.certificate, tls_files.private_key, tls_files.client_ca)
        if settings.keys is not None:
            keys = Keys(settings.keys)
        if jwt.jwks is not None and jwt.issuer is not None and jwt.audience is not None:
            verifier = TokenVerifier(jwt.jwks, jwt.issuer, jwt.audience)
    except UnusableFileError as error:
        raise StartError(str(error)) from error
    bearer = Bearer(keys, verifier) if keys is not None or verifier is not None else None
    # Where tokens are asked for, a certificate lets the connection in and the token says who calls.
    return _Protection(credentials, bearer, tls_files.client_ca is not None and bearer is None)
