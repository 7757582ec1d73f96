"""Where a client connects to and how: target, channel options, metadata, pauses between attempts."""

import os
from collections.abc import Mapping
from importlib.metadata import version

from mistralchat.errors import Unavailable

CHANNEL_OPTIONS: list[tuple[str, str | int]] = [
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


def wire_metadata(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str | bytes], ...]:
    return tuple((key.lower(), value) for key, value in (metadata or {}).items())


def pause_before_retry(error: Unavailable, remaining: float) -> float:
    """Seconds to wait before a server that is starting is asked again."""
    return max(0.0, min(error.retry_after or 0.2, _LONGEST_PAUSE_S, remaining))
