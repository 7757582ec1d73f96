"""What one connection may ask of the server below the calls: sizes, numbers, pings, times."""

from pydantic import BaseModel, Field

#: Kept from callers whatever the settings, each for its reason.
_FIXED = (
    # A header of a call is at most this long, with all others: a JSON Web Token takes one to four KiB.
    ("grpc.max_metadata_size", 8 * 1024),
    ("grpc.absolute_max_metadata_size", 16 * 1024),
    # Who connects and says nothing, or lets TLS take its time, holds a connection no longer than this.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Clients ping idle connections, so that a NAT or a mesh does not forget them; they must be allowed to.
    ("grpc.keepalive_permit_without_calls", 1),
    # Not more often than this, though: at the third that comes too early the connection ends, with
    # GOAWAY and ENHANCE_YOUR_CALM.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.http2.max_ping_strikes", 2),
    # Beyond 1,000 calls that Python has not yet seen, gRPC would cancel some at random, with no word of why.
    ("grpc.server.max_pending_requests", 100_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # A caller that vanished without a word gives its connection, and its slots, back within 80 s.
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


class Limits(BaseModel, extra="forbid", frozen=True):
    """Bounds on connections, of each listener by itself."""

    message_bytes: int = Field(
        4 * 1024 * 1024, ge=1_024, description="Size of a request at most, decompressed; RESOURCE_EXHAUSTED."
    )
    connections: int = Field(
        4_096, ge=1, description="Connections that are open at once; more are closed before any byte."
    )
    streams_per_connection: int = Field(
        4_096, ge=1, description="Calls that are open on a connection at once; clients hold more back."
    )
    connection_age_seconds: float = Field(
        0.0,
        ge=0,
        description="After about this long a connection takes no new calls, so that clients behind a "
        "balancer of connections spread anew; open calls end in peace. 0: never.",
    )

    def channel_options(self) -> list[tuple[str, int]]:
        """As gRPC has them."""
        options = [
            *_FIXED,
            ("grpc.max_receive_message_length", self.message_bytes),
            ("grpc.max_allowed_incoming_connections", self.connections),
            ("grpc.max_concurrent_streams", self.streams_per_connection),
        ]
        if self.connection_age_seconds:
            # Without a grace, which would cut answers off.
            options.append(("grpc.max_connection_age_ms", int(self.connection_age_seconds * 1_000)))
        return options
