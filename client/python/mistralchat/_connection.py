"""Where a client connects to and how: target, encryption, options, metadata, pauses between attempts."""

import os
from collections.abc import Callable, Mapping
from importlib.metadata import version

import grpc

from mistralchat.errors import Unavailable
from mistralchat.tls import TLS

#: A bearer token, or what gives the current one where tokens are renewed.
Token = str | Callable[[], str]

_CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
    ("grpc.primary_user_agent", f"mistralchat-python/{version('mistralchat')}"),
    # A long answer with twenty log-probabilities per token, in one message per beam, passes the usual 4 MiB.
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    # A call can wait long for its first token: notice within 80 s that the server is gone without a word,
    # and keep NAT tables warm. The call sends nothing after its request, hence the unlimited pings.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    # The default waits up to two minutes before it looks for a server that went away.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 5_000),
]

_LONGEST_PAUSE_S = 1.0


def target_or_default(target: str | None) -> str:
    return target or os.environ.get("MISTRALCHAT_TARGET") or "localhost:50051"


def channel_credentials(
    credentials: grpc.ChannelCredentials | None, tls: bool | TLS
) -> grpc.ChannelCredentials | None:
    if credentials is not None and tls:
        raise ValueError("credentials and tls exclude each other")
    if tls:
        return (TLS() if isinstance(tls, bool) else tls).credentials()
    return credentials


def channel_options(tls: bool | TLS) -> list[tuple[str, str | int]]:
    if isinstance(tls, TLS) and tls.server_name is not None:
        return [*_CHANNEL_OPTIONS, ("grpc.ssl_target_name_override", tls.server_name)]
    return _CHANNEL_OPTIONS


class CallMetadata:
    """What goes with every call, the caller's token as of now included."""

    def __init__(self, metadata: Mapping[str, str] | None, token: Token | None) -> None:
        self._fixed = tuple((key.lower(), value) for key, value in (metadata or {}).items())
        self._token = token

    def __call__(self) -> tuple[tuple[str, str | bytes], ...]:
        if self._token is None:
            return self._fixed
        token = self._token if isinstance(self._token, str) else self._token()
        return (*self._fixed, ("authorization", f"Bearer {token}"))


def pause_before_retry(error: Unavailable, remaining: float) -> float:
    """Seconds to wait before a server that is starting is asked again."""
    return max(0.0, min(error.retry_after or 0.2, _LONGEST_PAUSE_S, remaining))
